"""What an application sees through the gateway is what it sees straight from the upstream.

Every official SDK makes the same call twice, to the simulator and through a real gateway in front
of it; what it tells the application must be equal, and so must the two requests that reached the
upstream. What has to differ is named in `sdk_comparison`, and nothing else may. A stream that
breaks off is the exception: there the gateway says more than the upstream did.
"""

import pytest

from gateway.simulator import Simulator
from tests.harness import GatewayProcess
from tests.sdk.sdk_comparison import (
    BYOK,
    NOT_A_KEY,
    POOLED,
    Call,
    Direct,
    error_type,
    observe,
    what_was_asked,
)
from tests.sdk.sdk_process import SdkProcess

RELAYED = (
    Call("whole", "whole", "ok"),
    Call("whole tool call", "whole", "tool_use"),
    Call("stream", "stream", "ok:events=20"),
    Call("stream, undecorated", "raw_stream", "ok:events=20"),
    Call("stream with thinking", "stream", "ok:thinking=true", too_new_for=("python-0",)),
    Call("stream with thinking, undecorated", "raw_stream", "ok:thinking=true"),
    Call("stream beyond ASCII", "stream", "ok:utf8=true"),
    Call("stream of a tool call", "stream", "tool_use", too_new_for=("python-0",)),
    Call("stream of a tool call, undecorated", "raw_stream", "tool_use"),
    Call("stream of a large event", "raw_stream", "ok:big=1000000"),
    Call("stream of CRLF lines", "raw_stream", "ok:eol=crlf"),
    Call("stream of an unknown event", "raw_stream", "ok:unknown=true"),
    Call("stream of several data lines", "raw_stream", "ok:multiline=true"),
    Call("stream with comments", "raw_stream", "ok:comments=true"),
    Call("stream in gzip", "raw_stream", "ok:gzip=true"),
    Call("stream until the connection closes", "raw_stream", "ok:framing=close"),
    Call("stream in single bytes", "raw_stream", "split:size=1"),
    Call("token count", "count_tokens", "ok"),
    Call("list of models", "models", "ok"),
    Call("one model", "model", "ok"),
    Call("400 whole", "whole", "bad_request", "invalid_request_error"),
    Call("400 streamed", "stream", "bad_request", "invalid_request_error"),
    Call("404 of a model", "model", "not_found", "not_found_error"),
    Call("413 of a middle box", "whole", "too_large:html=true", ""),
    Call("500 whole", "whole", "server_error", "api_error"),
    Call("500 streamed", "stream", "server_error", "api_error"),
    Call("500 of a token count", "count_tokens", "server_error", "api_error"),
    Call("529 whole", "whole", "overloaded", "overloaded_error"),
    Call("529 streamed", "raw_stream", "overloaded", "overloaded_error"),
    Call(
        "error event in mid-stream",
        "stream",
        "error_event:type=overloaded_error,after=3",
        "overloaded_error",
    ),
    Call(
        "rate limit event in mid-stream",
        "raw_stream",
        "error_event:type=rate_limit_error,after=3",
        "rate_limit_error",
    ),
    Call("own key, whole", "whole", "ok", credential=BYOK),
    Call("own key, streamed", "stream", "ok", credential=BYOK),
    Call("own key, 401", "whole", "unauthorized", "authentication_error", BYOK),
    Call("own key, 403", "stream", "forbidden", "permission_error", BYOK),
    Call("own key, 429 whole", "whole", "rate_limited:retry-after=5", "rate_limit_error", BYOK),
    Call("own key, 429 streamed", "stream", "rate_limited:retry-after=5", "rate_limit_error", BYOK),
)

# Straight from the upstream some SDKs take the first for success; the gateway always tells.
BROKEN_OFF = (
    Call("ends without message_stop", "raw_stream", "cut_clean:after=5"),
    Call("ends in mid-event", "raw_stream", "cut_half:clean=true"),
    Call("connection closes in mid-stream", "raw_stream", "cut:after=5"),
    Call("connection closes in mid-event", "raw_stream", "cut_half"),
)


@pytest.mark.parametrize("call", RELAYED, ids=lambda call: call.id)
def test_sdk_understands_upstream(sdk: SdkProcess, call: Call, direct: Direct) -> None:
    """Given no gateway, then the SDK tells what the row says, and so can serve as a yardstick."""
    outcome = direct(sdk, call)
    if sdk.sdk.name in call.too_new_for:
        assert not outcome.telling["error"]["is_sdk_error"]
        return
    assert error_type(outcome.telling) == call.error
    assert outcome.telling["result"] or outcome.telling["events"] or outcome.telling["error"]
    assert sdk.sdk.credential_header in {name.lower() for name, _ in outcome.request.headers}


@pytest.mark.parametrize("call", RELAYED, ids=lambda call: call.id)
def test_sdk_sees_no_gateway(
    sdk: SdkProcess, call: Call, direct: Direct, simulator: Simulator, gateway: GatewayProcess
) -> None:
    """Given a usable key, when the call goes through the gateway, then neither end can tell."""
    paid_by = POOLED if call.credential == NOT_A_KEY else call.credential
    straight = direct(sdk, call)
    relayed = observe(simulator, sdk, call, gateway.url, call.credential, paid_by)
    assert relayed.telling == straight.telling
    assert what_was_asked(relayed.request) == what_was_asked(straight.request)


@pytest.mark.parametrize("mode", ["stream", "raw_stream"])
def test_error_before_any_event_is_a_status(
    sdk: SdkProcess, mode: str, simulator: Simulator, gateway: GatewayProcess
) -> None:
    """Given a stream that begins with an error, then the SDK gets a status, which it would retry; not so an event."""
    call = Call(f"error event first, {mode}", mode, "error_event:after=0")
    relayed = observe(simulator, sdk, call, gateway.url, call.credential, POOLED)
    assert relayed.telling["error"]["status"] == 529
    assert error_type(relayed.telling) == "overloaded_error"
    assert relayed.telling["events"] in (None, [])


@pytest.mark.parametrize("call", BROKEN_OFF, ids=lambda call: call.id)
def test_broken_stream_is_an_error_after_the_same_events(
    sdk: SdkProcess, call: Call, direct: Direct, simulator: Simulator, gateway: GatewayProcess
) -> None:
    """Given a stream that breaks off, then an error ends it after the events that came."""
    straight = direct(sdk, call)
    relayed = observe(simulator, sdk, call, gateway.url, call.credential, POOLED)
    assert straight.telling["events"]
    assert relayed.telling["events"] == straight.telling["events"]
    assert relayed.telling["error"]["is_sdk_error"]
    assert error_type(relayed.telling) == "api_error"

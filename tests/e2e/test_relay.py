"""The relay, end to end: every sentence of the design's section 3.3, over plain HTTP and TLS to the upstream.

What a client gets through the gateway is compared with what the same request gets straight from the simulator.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from gateway.relay.pace import HEAD_GRACE_SECONDS
from gateway.simulator import Simulator
from tests.e2e.clients import Client, Received, ask, events_of, message_body
from tests.e2e.rig import Rig
from tests.harness import GatewayProcess, wait_until

STREAMED, WHOLE = message_body(is_streamed=True), message_body(is_streamed=False)
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
PING_SECONDS = 0.5
IDLE_SECONDS = 2.0
# More than the kernel's buffers of both ends hold.
BULK = message_body(is_streamed=True, metadata={"bulk": "x" * 16_000_000})

both_modes = pytest.mark.parametrize("body", [STREAMED, WHOLE], ids=["streamed", "whole"])


@pytest.fixture(scope="module", params=[False, True], ids=["http", "tls"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Rig(is_tls=request.param) as rig:
        yield rig


@pytest.fixture(scope="module", params=[False, True], ids=["http", "tls"])
def hasty_rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A gateway that pings early and gives silent upstreams up soon."""
    settings = {
        "ping_seconds": PING_SECONDS,
        "read_idle_timeout_seconds": IDLE_SECONDS,
        "idle_connection_seconds": 1,
    }
    with Rig(is_tls=request.param, **settings) as rig:
        yield rig


def _relayed(rig: Rig, body: bytes) -> Received:
    return ask(rig.gateway.url, body)


def _assert_own_error(answer: Received, status: int, kind: str) -> None:
    assert answer.status == status
    assert answer.header("content-type") == "application/json"
    document = answer.json()
    assert document["type"] == "error"
    assert document["error"]["type"] == kind
    assert document["request_id"] == answer.header("request-id")
    assert document["error"]["message"]


def _assert_ends_in_error(answer: Received, good: bytes, kind: str = "api_error") -> None:
    """The stream is `good`, then one `event: error`, then a proper end."""
    assert answer.status == 200
    assert answer.is_complete
    assert answer.body.startswith(good)
    [(name, document)] = events_of(answer.body[len(good) :])
    assert name == "error"
    assert document["type"] == "error"
    assert document["error"]["type"] == kind
    assert document["request_id"] == answer.header("request-id")


def _assert_no_event_came(answer: Received, seconds: float) -> None:
    """A JSON 502; or an error event, if the machine was so slow that the head had to go out before."""
    if answer.status == 200 and seconds > HEAD_GRACE_SECONDS:
        _assert_ends_in_error(answer, b"")
    else:
        _assert_own_error(answer, 502, "api_error")


# The request.


ODD_BODIES = {
    "duplicate_keys": b'{"model":"first","model":"claude-simulated","x":1,"x":2,"messages":[],"messages":[{}]}',
    "lone_surrogates": rb'{"model":"claude-simulated","messages":[{"role":"user","content":"\ud83d and \udc00"}]}',
    "unknown_fields": b'{"zeta":{"b":1,"a":[null,true,{}]},"model":"claude-simulated","alpha":0,"stream":"maybe"}',
    "unicode": '{"model":"claude-simulated","raw":"Gr\u00fc\u00dfe \U0001f99c","escaped":"\\u00fc\\/"}'.encode(),
    "white_space": b' \r\n\t{ "model" :\t"claude-simulated" ,\r\n "stream"  : true }\n\n ',
    "odd_numbers": b'{"model":"claude-simulated","i":123456789012345678901234567890,"f":1.0E+2,"z":-0.0,"e":1e999}',
    "deep": b'{"model":"claude-simulated","deep":' + b"[" * 300 + b"]" * 300 + b"}",
    "large": message_body(is_streamed=True, metadata={"bulk": "\u00fc" * 1_500_000}),
    "system_role": b'{"model":"claude-simulated","messages":[{"role":"system","content":[]},{"role":"owl"}]}',
    "thinking": b'{"messages":[{"role":"assistant","content":[{"signature":"Er+/==","thinking":"\\u0041"}]}], '
    b'"model":"claude-simulated" }',
}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES)
def test_the_request_body_goes_upstream_byte_for_byte(rig: Rig, body: bytes, path: str) -> None:
    """Given an odd but valid body, then the upstream gets the very same bytes."""
    rig.keys("ok")
    assert ask(rig.gateway.url, body, path=path).status == 200
    [seen] = rig.simulator.requests
    assert seen.body == body
    assert seen.header("content-length") == str(len(body))


def test_a_chunked_request_body_goes_upstream_byte_for_byte(rig: Rig) -> None:
    """Given a client that sends its body in chunks, then the upstream gets the same bytes with their length."""
    rig.keys("ok")
    with Client(rig.gateway.url) as client:
        head = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        pieces = [STREAMED[start : start + 7] for start in range(0, len(STREAMED), 7)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        client.socket.sendall(head.encode() + chunks + b"0\r\n\r\n")
        assert client.read_answer().status == 200
    [seen] = rig.simulator.requests
    assert seen.body == STREAMED
    assert seen.header("transfer-encoding") == ""
    assert seen.header("content-length") == str(len(STREAMED))


def test_headers_upstream_are_the_clients_less_what_stops_here(rig: Rig) -> None:
    """Given a client's headers of every kind, then the upstream sees exactly those that concern it."""
    rig.keys("ok")
    passed = {
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "one-2025-01-01,two-2025-02-02, three",
        "anthropic-unheard-of": "x; y=z",
        "user-agent": "claude-cli/9.9 (external, cli)",
        "accept": "application/json",
        "x-app": "cli",
        "x-stainless-retry-count": "0",
        "x-claude-code-session-id": "57a121ec-f78c-48c3-a745-e3036a3ecc33",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-nobody-knows": "1",
    }
    stopped = [
        "Connection: keep-alive, X-Hop",
        "X-Hop: of this hop",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Trailer: x-checksum",
        "Proxy-Authorization: Basic eDp5",
        "Accept-Encoding: gzip, br",
        "x-api-key: not-a-real-credential",
        "Authorization: Bearer dummy",
        "X-Gateway-Token: dummy",
        "X-Gateway-Anything: at all",
        "Content-Encoding: identity",
        "Cookie: session=of-a-sign-on",
        "Api-Key: of another API",
        "Remote-User: ann",
        "X-Auth-Request-Access-Token: planted",
        "X-Amzn-Oidc-Data: planted",
        "X-Ms-Client-Principal: planted",
        "X-Goog-Iap-Jwt-Assertion: planted",
        "Referer: http://localhost/page",
        "Origin: http://localhost",
        "Sec-Fetch-Mode: cors",
        "anthropic-dangerous-direct-browser-access: true",
    ]
    headers = [f"{name}: {value}" for name, value in passed.items()]
    assert ask(rig.gateway.url, STREAMED, headers=[*headers, *stopped]).status == 200
    [seen] = rig.simulator.requests
    expected = passed | {
        "host": rig.simulator.url.partition("://")[2],
        "content-type": "application/json",
        "content-length": str(len(STREAMED)),
        "accept-encoding": "identity",
        "x-api-key": rig.secrets[0],
    }
    assert {name.lower(): value for name, value in seen.headers} == expected
    assert len(seen.headers) == len(expected)


QUERIES = ["beta=true", "beta=true&after_id=a%2Fb%20c&limit=10", "empty=&x", "q=%C3%BC+%2B"]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/v1/models/claude-x"])
def test_the_query_string_is_kept(rig: Rig, path: str, query: str) -> None:
    """Given a query string, then it reaches the upstream as it was written."""
    rig.keys("ok")
    method, body = ("GET", b"") if "models" in path else ("POST", STREAMED)
    assert ask(rig.gateway.url, body, method=method, path=f"{path}?{query}").status == 200
    [seen] = rig.simulator.requests
    assert (seen.method, seen.path, seen.query) == (method, path, query)


# Answers that arrive as they were sent.


GOOD = {
    "plain": "ok",
    "length": "ok:framing=length",
    "close_delimited": "ok:framing=close",
    "crlf": "ok:eol=crlf",
    "cr": "ok:eol=cr",
    "byte_order_mark": "ok:bom=true",
    "comments": "ok:comments=true",
    "multiline": "ok:multiline=true",
    "unknown_event": "ok:unknown=true",
    "thinking": "ok:thinking=true",
    "all_oddities_crlf": "ok:eol=crlf,bom=true,comments=true,multiline=true,unknown=true,utf8=true",
    "all_oddities_cr": "ok:eol=cr,bom=true,comments=true,multiline=true,unknown=true,utf8=true,framing=close",
    "megabyte_event": "ok:big=1200000",
    "megabyte_event_length": "ok:big=1200000,utf8=true,framing=length,eol=crlf",
    "many_large_events": "ok:events=60,bytes=9000",
    "utf8": "ok:utf8=true",
    "gzip": "ok:gzip=true",
    "gzip_length": "ok:gzip=true,framing=length,big=300000",
    "gzip_close_delimited": "ok:gzip=true,framing=close,eol=cr",
    "deflate": "ok:deflate=true",
    "byte_by_byte": "split",
    "byte_by_byte_gzip": "split:gzip=true,utf8=true",
    "three_bytes_crlf_utf8": "split:size=3,utf8=true,eol=crlf,comments=true",
    "five_bytes_length_cr": "split:size=5,framing=length,eol=cr,bom=true",
    "one_segment": "one_segment:events=150",
    "one_segment_head_apart": "one_segment:events=150,apart=true",
    "one_segment_close_delimited": "one_segment:events=150,framing=close",
    "one_record": "one_record:events=100",
    "one_record_head_apart": "one_record:events=100,apart=true,gzip=true",
    "tool_use": "tool_use:calls=2,text=let me see",
    "early_hints": "early_hints",
    "drip_head": "drip_head:delay=0.001",
    "set_cookie": "set_cookie",
    "whole_although_streamed": "json_to_stream",
    "whole_although_streamed_gzip": "json_to_stream:gzip=true,framing=chunked",
    "slow_head": "slow_head:seconds=0.3",
    "hangs_up_after": "ok:hang-up=true",
}


@both_modes
@pytest.mark.parametrize("script", GOOD.values(), ids=GOOD)
def test_a_good_answer_arrives_byte_for_byte(rig: Rig, script: str, body: bytes) -> None:
    """Given an answer, however framed, coded and cut, then the client gets the bytes that a direct client gets."""
    rig.keys(script)
    answer = _relayed(rig, body)
    direct = rig.direct(body)
    assert answer.status == direct.status == 200
    assert answer.is_complete
    assert answer.header("content-encoding") is None
    assert answer.raw_body == direct.body
    assert answer.header("content-type") == direct.header("content-type")
    assert rig.calls == [0, 0]


@both_modes
@pytest.mark.parametrize("script", ["set_cookie", "set_cookie:gzip=true,framing=length"])
def test_headers_to_the_client_are_the_upstreams(rig: Rig, script: str, body: bytes) -> None:
    """Given an answer with headers of every kind, then those of this hop and cookies stop, the others pass."""
    rig.keys(script)
    answer = _relayed(rig, body)
    seen = rig.simulator.requests[0]
    direct = {name.lower(): value for name, value in rig.direct(body).headers}
    got = {name.lower(): value for name, value in answer.headers}
    assert len(got) == len(answer.headers)
    assert got["request-id"] == seen.request_id
    for name, value in direct.items():
        if name.startswith("anthropic-") and not name.endswith("-reset"):
            assert got[name] == value
    assert got["anthropic-organization-id"].startswith("org-")
    assert {"set-cookie", "content-encoding"}.isdisjoint(got)
    if body == STREAMED:
        assert got["content-type"] == "text/event-stream; charset=utf-8"
        assert got["cache-control"] == "no-cache"
        assert got["x-accel-buffering"] == "no"
        assert "content-length" not in got
    else:
        assert got["content-length"] == str(len(answer.raw_body))
        assert "x-accel-buffering" not in got


# Promptness.


STALLS = {
    "chunked": "",
    "length": ",framing=length",
    "close_delimited": ",framing=close",
    "crlf": ",eol=crlf",
    "cr": ",eol=cr,framing=length",
    "gzip": ",gzip=true",
    "gzip_length": ",gzip=true,framing=length",
    "comments": ",comments=true",
    "tiny_after_large": ",events=3,big=100000",
}


@pytest.mark.parametrize("options", STALLS.values(), ids=STALLS)
@pytest.mark.parametrize("after", [1, 4])
@pytest.mark.parametrize("stall", ["stall", "stall_half"])
def test_an_event_is_with_the_client_before_the_next_is_sent(rig: Rig, stall: str, after: int, options: str) -> None:
    """Given an upstream that says nothing more after some events, then the client has all of them, and no half."""
    rig.keys(f"ok:{options.removeprefix(',')}".rstrip(":"))
    whole = rig.direct(STREAMED).body
    expected = _first_events(whole, after)
    rig.script(f"{stall}:after={after}{options}")
    with Client(rig.gateway.url) as client:
        client.send(STREAMED)
        answer = client.read_body(client.read_head(), lambda body: len(body) >= len(expected))
    # A comment that stands by itself before the next event may have come, too.
    assert whole.startswith(answer.raw_body)
    assert answer.raw_body.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))
    assert answer.events == events_of(expected)


def _first_events(stream: bytes, number: int) -> bytes:
    """The first so many events of a stream as bytes, with the comments before them."""
    ends = [end for end in range(1, len(stream) + 1) if stream[end - 2 : end] in (b"\n\n", b"\r\r")]
    ends += [end for end in range(1, len(stream) + 1) if stream[end - 4 : end] == b"\r\n\r\n"]
    return next(stream[:end] for end in sorted(ends) if len(events_of(stream[:end])) == number)


@pytest.mark.parametrize("script", ["ok:events=3,delay=0.15", "ok:events=3,delay=0.15,framing=length,gzip=true"])
def test_events_come_one_by_one(rig: Rig, script: str) -> None:
    """Given a pause between any two events, then each comes when it was sent; a busy machine may join some."""
    rig.keys(script)
    answer = _relayed(rig, STREAMED)
    times = [at for at, _ in answer.arrivals]
    counts = [len(events_of(answer.raw_body[:length])) for _, length in answer.arrivals]
    assert counts == sorted(set(counts))
    assert counts[-1] == 9
    assert len(counts) > 3
    assert times[-1] - times[0] > 2 * 0.15


def test_the_head_comes_with_the_first_event(rig: Rig) -> None:
    """Given a first event soon after the upstream's head, then the client's head waits for it."""
    rig.keys("ok:first=0.25")
    asked_at = time.monotonic()
    answer = _relayed(rig, STREAMED)
    assert answer.head_at - asked_at >= 0.25


def test_the_head_does_not_wait_long_for_the_first_event(rig: Rig) -> None:
    """Given a first event long after the upstream's head, then the client's head comes half a second after that."""
    rig.keys("ok:first=1.5")
    asked_at = time.monotonic()
    answer = _relayed(rig, STREAMED)
    assert answer.head_at - asked_at >= 0.5
    assert answer.arrivals[0][0] - answer.head_at >= 0.4
    rig.script("ok")
    assert answer.raw_body == rig.direct(STREAMED).body


# Silence.


def _at_once(rig: Rig, cases: list[tuple[str, bytes]]) -> Iterator[Received]:
    """The answers to requests that all wait together, each for its own behaviour of the upstream."""
    rig.keys("ok")
    with ExitStack() as stack:
        clients = []
        for number, (script, body) in enumerate(cases, 1):
            rig.simulator.script(rig.secrets[0], script)
            clients.append(stack.enter_context(Client(rig.gateway.url)))
            clients[-1].send(body)
            assert rig.simulator.wait_until(lambda wanted=number: len(rig.calls) == wanted, 30)
        yield from (client.read_answer() for client in clients)


EOLS = ["", ",eol=crlf", ",eol=cr,framing=length"]
SILENT = [(stall, after, eol) for stall in ("stall", "stall_half") for after in (1, 4) for eol in EOLS]


def test_a_silent_stream_gets_pings_and_at_last_an_error(hasty_rig: Rig) -> None:
    """Given a stream that falls silent, in an event or between two, then pings on a boundary, then `event: error`."""
    rig = hasty_rig
    whole = {}
    for eol in EOLS:
        rig.keys(f"ok:{eol.removeprefix(',')}".rstrip(":"))
        whole[eol] = rig.direct(STREAMED).body
    ended = rig.gateway.counted("streams_ended_total", outcome="idle_timeout")

    answers = _at_once(rig, [(f"{stall}:after={after}{eol}", STREAMED) for stall, after, eol in SILENT])

    for (_, after, eol), answer in zip(SILENT, answers, strict=True):
        good = _first_events(whole[eol], after)
        pings = answer.raw_body.count(PING, len(good))
        assert 1 <= pings <= IDLE_SECONDS / PING_SECONDS
        _assert_ends_in_error(answer, good + PING * pings, "timeout_error")
    assert wait_until(
        lambda: rig.gateway.metric("streams_ended_total", outcome="idle_timeout") == ended + len(SILENT), 6
    )
    assert rig.simulator.wait_until(lambda: rig.simulator.open_connections == 0, 6)


def test_a_stream_that_goes_dark_ends_sooner_than_one_that_has_not_begun(
    gateway_process: Callable[..., GatewayProcess],
) -> None:
    """Given a stream without a byte behind its first event, then it ends past its own limit, not the longer one."""
    with Simulator(keys={"sk-sim-dark": "stall:after=2"}) as simulator:
        gateway = gateway_process(
            simulator.url,
            ["sk-sim-dark"],
            stream_idle_timeout_seconds="1",
            read_idle_timeout_seconds="600",
            ping_seconds="0.3",
        )
        answer = ask(gateway.url, STREAMED)
        assert answer.status == 200
        assert answer.is_complete
        assert PING in answer.raw_body
        assert answer.events[-1][0] == "error"
        assert answer.events[-1][1]["error"]["type"] == "timeout_error"
        assert simulator.wait_until(lambda: simulator.open_connections == 0, 6)


def test_there_is_no_ping_before_the_stream_has_begun(hasty_rig: Rig) -> None:
    """Given an upstream that is slow to send its head, then the first that the client hears is the first event."""
    hasty_rig.keys("slow_head:seconds=1.2")
    answer = _relayed(hasty_rig, STREAMED)
    hasty_rig.script("ok")
    assert answer.raw_body == hasty_rig.direct(STREAMED).body


def _assert_pings(answer: Received, good: bytes, at_least: int) -> None:
    """The stream is so many pings or more, and then `good`."""
    pings = answer.raw_body.count(PING)
    assert pings >= at_least
    assert answer.raw_body == PING * pings + good


def test_there_are_pings_between_head_and_first_event(hasty_rig: Rig) -> None:
    """Given an upstream that is slow to send its first event, then pings fill the silence behind the head."""
    hasty_rig.keys("ok:first=1.25")
    answer = _relayed(hasty_rig, STREAMED)
    hasty_rig.script("ok")
    _assert_pings(answer, hasty_rig.direct(STREAMED).body, at_least=1)


def test_there_are_pings_while_the_next_key_is_slow(hasty_rig: Rig) -> None:
    """Given the head has gone out for a key that was then limited, then pings fill the next key's silence."""
    hasty_rig.keys("error_event:type=rate_limit_error,first=1.4", "slow_head:seconds=1.4")
    answer = _relayed(hasty_rig, STREAMED)
    assert hasty_rig.calls == [0, 1]
    assert answer.arrivals[1][0] - answer.arrivals[0][0] > 0.15
    hasty_rig.script("ok")
    # Behind its head, half a second in, the first key's silence has room for one.
    _assert_pings(answer, hasty_rig.direct(STREAMED).body, at_least=2)


TIMED_OUT = [
    ("silent", STREAMED),
    ("silent", WHOLE),
    ("slow_head:seconds=10", STREAMED),
    ("slow_head:seconds=10", WHOLE),
    ("server_error:hang=true", STREAMED),
    ("server_error:hang=true", WHOLE),
    ("stall:after=3", WHOLE),
    ("stall_half:after=0", WHOLE),
    ("no_read", BULK),
]


def test_an_upstream_that_does_not_answer_is_a_504(hasty_rig: Rig) -> None:
    """Given an upstream that is silent past the limit before the client got a byte, then 504 `timeout_error`.

    Silent before the head, in a body that must be whole, and while the request is being sent.
    """
    for answer in _at_once(hasty_rig, TIMED_OUT):
        _assert_own_error(answer, 504, "timeout_error")
    assert hasty_rig.calls == [0] * len(TIMED_OUT)
    assert hasty_rig.states == ["valid"]
    assert hasty_rig.simulator.wait_until(lambda: hasty_rig.simulator.open_connections == 0, 6)


def test_a_stream_that_is_not_ended_ends_behind_its_last_event(rig: Rig) -> None:
    """Given `message_stop` and then a body that stays open, then the client's stream ends all the same, whole."""
    rig.keys("late_end")
    answer = _relayed(rig, STREAMED)
    rig.script("ok")
    assert answer.is_complete
    assert answer.raw_body == rig.direct(STREAMED).body
    assert rig.simulator.wait_until(lambda: rig.simulator.open_connections <= 1, 6)


# Breaks.


BROKEN = {
    "cut": ("cut:after=3", 3),
    "cut_ragged": ("cut:after=3,ragged=true", 3),
    "cut_length": ("cut:after=3,framing=length", 3),
    "cut_close_delimited": ("cut:after=3,framing=close", 3),
    "cut_close_delimited_ragged": ("cut:after=3,framing=close,ragged=true", 3),
    "cut_gzip": ("cut:after=3,gzip=true", 3),
    "cut_before_message_stop": ("cut:after=10", 10),
    "cut_before_any_event": ("cut:after=0", 0),
    "cut_before_any_event_ragged": ("cut:after=0,ragged=true,framing=close", 0),
    "cut_clean": ("cut_clean:after=5", 5),
    "cut_clean_length": ("cut_clean:after=5,framing=length", 5),
    "cut_clean_gzip": ("cut_clean:after=5,gzip=true", 5),
    "cut_clean_before_message_stop": ("cut_clean:after=10", 10),
    "cut_clean_before_any_event": ("cut_clean:after=0", 0),
    "half": ("cut_half:after=2", 2),
    "half_ragged": ("cut_half:after=2,ragged=true", 2),
    "half_clean": ("cut_half:after=2,clean=true", 2),
    "half_clean_length": ("cut_half:after=2,clean=true,framing=length", 2),
    "half_close_delimited": ("cut_half:after=2,framing=close,eol=crlf", 2),
    "half_of_message_stop": ("cut_half:after=10", 10),
    "half_of_the_first": ("cut_half:after=0", 0),
    "reset": ("reset:after=3,hold=0.2", 3),
    "reset_before_any_event": ("reset:after=0", 0),
    "bad_chunk": ("bad_chunk:after=3", 3),
    "bad_chunk_later": ("bad_chunk:after=3,hold=0.2", 3),
    "bad_chunk_before_any_event": ("bad_chunk:after=0", 0),
    "close": ("close", 0),
    "close_reset": ("close:reset=true", 0),
    "garbage": ("garbage", 0),
    "empty": ("empty", 0),
    "empty_length": ("empty:framing=length", 0),
    "empty_close_delimited": ("empty:framing=close", 0),
    "html": ("html", 0),
}


@pytest.mark.parametrize(("script", "after"), BROKEN.values(), ids=BROKEN)
def test_a_broken_stream_ends_in_one_error_and_no_half_event(rig: Rig, script: str, after: int) -> None:
    """Given a stream that breaks, then its whole events and one error; a JSON 502 if there was no event."""
    eol = ":eol=crlf" if "crlf" in script else ""
    rig.keys(f"ok{eol}")
    whole = rig.direct(STREAMED).body
    rig.script(script)
    began_at = time.monotonic()
    answer = _relayed(rig, STREAMED)
    if after:
        _assert_ends_in_error(answer, _first_events(whole, after))
    else:
        _assert_no_event_came(answer, time.monotonic() - began_at)
    assert set(rig.calls) == {0}
    assert rig.states == ["valid"]


BROKEN_WHOLE = {name: script for name, (script, after) in BROKEN.items() if after < 10}


@pytest.mark.parametrize("script", BROKEN_WHOLE.values(), ids=BROKEN_WHOLE)
def test_a_broken_whole_answer_is_a_502(rig: Rig, script: str) -> None:
    """Given a whole answer that breaks, wherever, then 502 `api_error` and nothing of it."""
    rig.keys(script)
    _assert_own_error(_relayed(rig, WHOLE), 502, "api_error")
    assert set(rig.calls) == {0}
    assert rig.states == ["valid"]


LATE_BREAKS = ["cut:after=0,hold=2.5", "reset:after=0,hold=2.5", "empty:first=2.5", "cut_half:after=0,first=2.5"]


@pytest.mark.parametrize("script", LATE_BREAKS)
def test_a_stream_that_breaks_behind_its_head_is_an_error_event(rig: Rig, script: str) -> None:
    """Given the client's head has gone out and the stream breaks before any event, then one `event: error`."""
    rig.keys(script)
    _assert_ends_in_error(_relayed(rig, STREAMED), b"")


def test_a_short_body_behind_message_stop_harms_nobody(rig: Rig) -> None:
    """Given a whole message in a body that promised more, then streamed it is good, and whole it is a 502."""
    rig.keys("ok")
    expected = rig.direct(STREAMED).body
    rig.script("short_length")
    answer = _relayed(rig, STREAMED)
    assert answer.is_complete
    assert answer.raw_body == expected
    _assert_own_error(_relayed(rig, WHOLE), 502, "api_error")


CUT_FRAMINGS = {
    "chunked": "",
    "chunked_crlf": ",eol=crlf",
    "length_cr": ",framing=length,eol=cr",
    "close_delimited": ",framing=close,utf8=true,comments=true",
}


def _completed(stream: bytes) -> bytes:
    """With a blank line behind the last event, if that alone is missing: its data are whole."""
    last = stream.rpartition(b"\n\n")[2]
    data = last.rstrip(b"\n").rpartition(b"data: ")[2]
    try:
        return stream + b"\n\n" if isinstance(json.loads(data), dict) else stream
    except ValueError:
        return stream


@pytest.mark.parametrize("options", CUT_FRAMINGS.values(), ids=CUT_FRAMINGS)
def test_a_stream_cut_at_any_byte_is_never_cut_in_silence(rig: Rig, options: str) -> None:
    """Given a short stream cut at every one of its bytes, then its whole events and one error, or a JSON 502."""
    shape = f"events=1{options}"
    rig.keys(f"ok:{shape}")
    whole = rig.direct(STREAMED).body
    # Over TLS every cut costs a handshake, and the bytes within an event are all alike: there every third.
    offsets = range(0, len(whole), 3 if rig.simulator.ca_file or options else 1)
    with Client(rig.gateway.url) as client:
        for offset in offsets:
            rig.simulator.script(rig.secrets[0], f"cut_at:byte={offset},{shape}")
            began_at = time.monotonic()
            client.send(STREAMED)
            answer = client.read_answer()
            has_proper_end = "close" in options
            events = events_of(_completed(whole[:offset]) if has_proper_end else whole[:offset])
            if not events:
                _assert_no_event_came(answer, time.monotonic() - began_at)
            elif events[-1][0] == "message_stop":
                assert whole.startswith(answer.raw_body)
                assert answer.events == events
            else:
                assert answer.is_complete, offset
                assert answer.events[:-1] == events, offset
                assert answer.events[-1][0] == "error", offset
                relayed, _, _ = answer.raw_body.rpartition(b"event: error\n")
                assert whole.startswith(relayed), offset


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/models"])
def test_a_whole_answer_cut_anywhere_is_a_502(rig: Rig, framing: str, path: str) -> None:
    """Given a whole answer cut at its bytes, then 502 `api_error`: half a document is never relayed."""
    rig.keys(f"ok:framing={framing}")
    method, body = ("GET", b"") if "models" in path else ("POST", WHOLE)
    whole = rig.direct(body, path=path, method=method).body
    with Client(rig.gateway.url) as client:
        for offset in [*range(0, len(whole), 1 + len(whole) // 25), len(whole) - 1]:
            rig.simulator.script(rig.secrets[0], f"cut_at:byte={offset},framing={framing}")
            client.send(body, method=method, path=path)
            _assert_own_error(client.read_answer(), 502, "api_error")


# Errors and other answers that are no message.


UNCHANGED = {
    "413_html": ("too_large:html=true", 413),
    "413": ("too_large", 413),
    "502_html": ("html_502", 502),
    "500_chunked": ("server_error:framing=chunked", 500),
    "529_close_delimited": ("overloaded:framing=close", 529),
    "400_large": ("bad_request:bytes=300000", 400),
    "405": ("method_not_allowed", 405),
    "418": ("status:code=418,type=teapot_error,message=short and stout", 418),
    "503_html": ("unavailable:html=true", 503),
    "404": ("not_found", 404),
}


@both_modes
@pytest.mark.parametrize(("script", "status"), UNCHANGED.values(), ids=UNCHANGED)
def test_an_error_of_the_upstream_is_relayed_unchanged(rig: Rig, script: str, status: int, body: bytes) -> None:
    """Given an error that says nothing about the key, then status, body and headers reach the client as they are."""
    rig.keys(script)
    answer = _relayed(rig, body)
    [seen] = rig.simulator.requests
    direct = rig.direct(body)
    direct_id = rig.simulator.requests[1].request_id
    assert answer.status == direct.status == status
    assert answer.raw_body == direct.raw_body.replace(direct_id.encode(), seen.request_id.encode())
    for name in ("content-type", "x-should-retry", "retry-after"):
        assert answer.header(name) == direct.header(name)
    if "html" not in script:
        assert answer.header("request-id") == seen.request_id
    assert rig.states == ["valid"]


@both_modes
def test_a_redirect_is_relayed_and_not_followed(rig: Rig, body: bytes) -> None:
    """Given a redirect, then the client gets it, and the gateway's keys go nowhere else."""
    rig.keys("redirect then ok")
    answer = _relayed(rig, body)
    assert answer.status == 307
    assert answer.header("location") == "/v1/messages?redirected=true"
    assert rig.calls == [0]


@both_modes
def test_no_cookie_is_kept(rig: Rig, body: bytes) -> None:
    """Given an upstream that sets a cookie, then the next call over the same connection brings none."""
    rig.keys("set_cookie")
    for _ in range(2):
        assert _relayed(rig, body).header("set-cookie") is None
    assert [seen.header("cookie") for seen in rig.simulator.requests] == ["", ""]


def test_an_error_inside_a_whole_200_is_relayed(rig: Rig) -> None:
    """Given a 200 whose body is an error document, then it is relayed as it came, and marks nothing."""
    rig.keys("error_event:type=rate_limit_error", "ok")
    answer = _relayed(rig, WHOLE)
    assert (answer.status, answer.json()["error"]["type"]) == (200, "rate_limit_error")
    assert rig.states == ["valid", "valid"]


EARLY = {
    "large": ("early_answer", BULK),
    "large_then_closed": ("early_answer:close=true", BULK),
    "small_then_closed": ("early_answer:close=true", STREAMED),
}


@pytest.mark.parametrize(("script", "body"), EARLY.values(), ids=EARLY)
def test_an_answer_before_the_request_was_read_is_relayed(rig: Rig, script: str, body: bytes) -> None:
    """Given an upstream that refuses a request while it is being sent, then its refusal reaches the client."""
    rig.keys(script)
    answer = _relayed(rig, body)
    assert answer.status == 413
    assert answer.json()["error"]["type"] == "request_too_large"
    rig.script("ok")
    assert _relayed(rig, STREAMED).status == 200


def test_an_upstream_that_breaks_off_a_large_request_is_a_502(rig: Rig) -> None:
    """Given an upstream that resets the connection while the request is being sent, then 502 `api_error`."""
    rig.keys("no_read:seconds=0.3")
    _assert_own_error(_relayed(rig, BULK), 502, "api_error")


# Connections to the upstream.


@both_modes
def test_a_kept_connection_that_the_upstream_closed_is_replaced(rig: Rig, body: bytes) -> None:
    """Given an upstream that closes every connection behind its answer, then no request notices."""
    rig.keys("ok:hang-up=true")
    assert [_relayed(rig, body).status for _ in range(5)] == [200] * 5
    assert rig.calls == [0] * 5


@both_modes
@pytest.mark.parametrize("script", ["ok then close then ok", "ok then close:reset=true then ok"], ids=["fin", "reset"])
def test_a_kept_connection_that_closes_on_the_next_request_is_replaced_once(rig: Rig, script: str, body: bytes) -> None:
    """Given a kept connection that closes without a byte of an answer, then the request is sent once more: same key."""
    rig.keys(script, "ok")
    attempts = rig.gateway.counted("key_attempts_total", key="k0", outcome="ok")
    errors = rig.gateway.counted("key_attempts_total", key="k0", outcome="transport_error")
    assert _relayed(rig, body).status == 200
    assert _relayed(rig, body).status == 200
    assert rig.calls == [0, 0, 0]
    assert [seen.body for seen in rig.simulator.requests] == [body] * 3
    assert rig.gateway.counted("key_attempts_total", key="k0", outcome="ok") == attempts + 2
    assert rig.gateway.counted("key_attempts_total", key="k0", outcome="transport_error") == errors


@both_modes
def test_a_request_is_sent_twice_at_most(rig: Rig, body: bytes) -> None:
    """Given an upstream that closes without a byte of an answer for good, then 502 after the second time."""
    rig.keys("ok then close")
    assert _relayed(rig, body).status == 200
    _assert_own_error(_relayed(rig, body), 502, "api_error")
    assert rig.calls == [0, 0, 0]


@both_modes
def test_a_request_that_was_answered_by_garbage_is_not_sent_again(rig: Rig, body: bytes) -> None:
    """Given a kept connection on which bytes came that are no answer, then the request is not repeated."""
    rig.keys("ok then garbage then ok")
    assert _relayed(rig, body).status == 200
    _assert_own_error(_relayed(rig, body), 502, "api_error")
    assert rig.calls == [0, 0]


@both_modes
def test_good_answers_share_one_connection(rig: Rig, body: bytes) -> None:
    """Given one request after the other, then they go over one upstream connection."""
    rig.keys("ok")
    assert _relayed(rig, body).status == 200
    before = rig.simulator.opened_connections
    assert [_relayed(rig, body).status for _ in range(10)] == [200] * 10
    assert rig.simulator.opened_connections == before


def test_idle_connections_are_dropped(hasty_rig: Rig) -> None:
    """Given an upstream connection idle for longer than the setting, then it is closed, without a new request."""
    hasty_rig.keys("ok")
    assert _relayed(hasty_rig, STREAMED).status == 200
    assert hasty_rig.simulator.open_connections == 1
    assert hasty_rig.simulator.wait_until(lambda: hasty_rig.simulator.open_connections == 0, 6)


def test_broken_answers_leave_no_connection_behind(rig: Rig) -> None:
    """Given all that went wrong before, then at most the idle connections of good answers are open."""
    rig.keys("ok")
    for script in ("cut:after=2", "stall:after=2", "bad_chunk", "late_end", "garbage", "empty"):
        rig.script(script)
        with Client(rig.gateway.url) as client:
            client.send(STREAMED)
            client.read_head()
    assert rig.simulator.wait_until(lambda: rig.simulator.open_connections <= 1, 6)
    assert wait_until(lambda: rig.gateway.metric("requests_inflight", route="messages") == 0, 6)


# An upstream that is not there.


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on and nobody else gets."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def _assert_unreachable(gateway: GatewayProcess, wording: str) -> None:
    for body in (STREAMED, WHOLE):
        answer = ask(gateway.url, body)
        _assert_own_error(answer, 502, "api_error")
        assert wording in answer.json()["error"]["message"]
    _assert_own_error(ask(gateway.url, method="GET", path="/v1/models"), 502, "api_error")
    assert gateway.metric("key_state", key="key-1", state="valid") == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_upstream_that_refuses_connections_is_a_502(
    gateway_process: Callable[..., GatewayProcess], closed_port: int, scheme: str
) -> None:
    """Given an upstream that refuses connections, then 502 `api_error` that says so, and no key is to blame."""
    gateway = gateway_process(f"{scheme}://127.0.0.1:{closed_port}", keys=["sk-a", "sk-b"])
    _assert_unreachable(gateway, "cannot be reached: Connection refused")


def test_an_upstream_whose_name_is_unknown_is_a_502(gateway_process: Callable[..., GatewayProcess]) -> None:
    """Given an upstream whose name cannot be resolved, then 502 `api_error` that says so."""
    _assert_unreachable(gateway_process("http://upstream.invalid", keys=["sk-a"]), "name cannot be resolved")


def test_an_upstream_that_is_not_trusted_is_a_502(gateway_process: Callable[..., GatewayProcess]) -> None:
    """Given an upstream with a certificate of an unknown authority, then 502, and no request goes over it."""
    with Simulator(keys={"sk-a": "ok"}, tls=True) as simulator:
        _assert_unreachable(gateway_process(simulator.url, keys=["sk-a"]), "certificate is not trusted")
        assert simulator.requests == []

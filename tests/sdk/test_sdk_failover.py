"""An SDK does not notice a failover, and meets the end of a pool as an error that it knows."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gateway.simulator import Simulator
from tests.harness import GatewayProcess
from tests.sdk.sdk_comparison import NOT_A_KEY, POOLED, Call, Direct, comparable, what_was_asked
from tests.sdk.sdk_process import SdkProcess


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A pool that is used up by one call, and the error that the gateway then makes itself."""

    id: str
    mode: str
    behaviours: tuple[str, ...]
    exception: str
    status: int
    error: str
    message: str
    retry_after_at_most: int | None


EXHAUSTED = tuple(
    Exhausted(f"{words} {mode}", mode, behaviours, exception, status, error, message, at_most)
    for words, behaviours, exception, status, error, message, at_most in (
        (
            "all keys 429",
            ("rate_limited:retry-after=60", "rate_limited:retry-after=30"),
            "RateLimitError",
            429,
            "rate_limit_error",
            "all configured keys are rate-limited",
            30,
        ),
        (
            "all keys 401",
            ("unauthorized", "unauthorized"),
            "InternalServerError",
            502,
            "api_error",
            "all configured keys failed authentication",
            None,
        ),
    )
    for mode in ("whole", "stream", "count_tokens")
)


@pytest.mark.parametrize("case", EXHAUSTED, ids=lambda case: case.id)
def test_exhaustion_is_an_error_that_sdk_knows(
    sdk: SdkProcess, case: Exhausted, gateway_process: Callable[..., GatewayProcess]
) -> None:
    """Given keys that are all refused, then the SDK raises its class for the gateway's error."""
    keys = {f"sk-ant-{index}": behaviour for index, behaviour in enumerate(case.behaviours)}
    with Simulator(keys=keys) as simulator:
        gateway = gateway_process(simulator.url, keys=list(keys))
        telling = sdk.tell(case.mode, gateway.url, NOT_A_KEY)
        gateway.stop()
        assert simulator.keys_seen == list(keys)
    error = telling["error"]
    assert (error["class"], error["status"]) == (case.exception, case.status)
    assert error["body"]["error"]["type"] == case.error
    assert error["body"]["error"]["message"].startswith(f"{case.message}: ")
    assert error["body"]["request_id"] == telling["request_id"]
    if case.retry_after_at_most is None:
        assert error["retry_after"] is None
    else:
        assert 1 <= int(error["retry_after"]) <= case.retry_after_at_most


@pytest.mark.parametrize("mode", ["whole", "stream", "count_tokens", "models"])
def test_failover_is_not_seen(
    sdk: SdkProcess,
    mode: str,
    direct: Direct,
    simulator: Simulator,
    gateway_process: Callable[..., GatewayProcess],
) -> None:
    """Given a limited, a revoked and a good key, then the SDK sees the good one's answer."""
    straight = direct(sdk, Call(f"failover, {mode}", mode, "ok"))
    keys = {"sk-ant-limited": "rate_limited:retry-after=30", "sk-ant-revoked": "unauthorized"}
    with Simulator(keys={**keys, POOLED: "ok"}) as upstream:
        gateway = gateway_process(upstream.url, keys=[*keys, POOLED])
        telling = sdk.tell(mode, gateway.url, NOT_A_KEY)
        gateway.stop()
        assert upstream.keys_seen == [*keys, POOLED]
        answered = upstream.requests[-1]
    assert comparable(telling, answered) == straight.telling
    assert what_was_asked(answered) == what_was_asked(straight.request)

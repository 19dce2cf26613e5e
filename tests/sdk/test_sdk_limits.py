"""The official SDKs over their limits: they stop at once when money is spent, and wait for what comes back soon."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.simulator import Simulator
from tests.sdk.limited_gateway import SPENT, TOKEN, WHOSE, LimitedGateway
from tests.sdk.sdk_process import SdkProcess

RETRIES = 4  # more than the SDKs' own default of 2


@pytest.fixture(scope="module")
def budgeted(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LimitedGateway]:
    """A group with a dollar a day."""
    gateway = LimitedGateway(tmp_path_factory.mktemp("budget"), simulator, "dollars_per_day = 1")
    yield gateway
    gateway.process.stop()


@pytest.fixture(scope="module")
def one_at_a_time(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LimitedGateway]:
    """A group with one running request."""
    gateway = LimitedGateway(tmp_path_factory.mktemp("concurrent"), simulator, "concurrent = 1")
    yield gateway
    gateway.process.stop()


@pytest.mark.parametrize("mode", ["whole", "stream", "raw_stream"])
def test_spent_budget_stops_sdk_at_once(sdk: SdkProcess, mode: str, budgeted: LimitedGateway) -> None:
    """Given a spent budget and an SDK that may retry, when it asks, then it asks once and raises our words."""
    budgeted.spend()
    refused, asked = budgeted.refused, len(budgeted.upstream.requests)
    telling = sdk.tell(mode, budgeted.url, TOKEN, max_retries=RETRIES)
    error = telling["error"]
    assert (error["class"], error["status"]) == ("RateLimitError", 429)
    assert error["body"]["error"]["type"] == "billing_error"
    assert error["body"]["error"]["message"].startswith(SPENT)
    assert SPENT in error["message"]
    assert WHOSE in error["message"]
    assert telling["headers"]["x-should-retry"] == "false"
    assert int(error["retry_after"]) >= 1
    assert (budgeted.refused, len(budgeted.upstream.requests)) == (refused + 1, asked)


@pytest.mark.parametrize("mode", ["count_tokens", "models"])
def test_spent_budget_stops_nothing_that_is_free(sdk: SdkProcess, mode: str, budgeted: LimitedGateway) -> None:
    """Given a spent budget, when an SDK asks for what costs nothing, then it is answered."""
    budgeted.spend()
    assert sdk.tell(mode, budgeted.url, TOKEN)["error"] is None


@pytest.mark.parametrize("mode", ["whole", "stream"])
def test_sdk_waits_for_a_place_and_is_answered(sdk: SdkProcess, mode: str, one_at_a_time: LimitedGateway) -> None:
    """Given a limit that is reached, when it is free again before the SDK retries, then the SDK gets its answer."""
    before = one_at_a_time.refused
    with ThreadPoolExecutor() as pool:
        with one_at_a_time.one_running():
            telling = pool.submit(sdk.tell, mode, one_at_a_time.url, TOKEN, max_retries=RETRIES)
            one_at_a_time.wait_for_refusal(before)
        assert telling.result()["error"] is None


def test_reached_limit_is_a_rate_limit_with_a_time(sdk: SdkProcess, one_at_a_time: LimitedGateway) -> None:
    """Given a limit that stays reached and an SDK that does not retry, then it raises when to come back, and why."""
    with one_at_a_time.one_running():
        telling = sdk.tell("whole", one_at_a_time.url, TOKEN)
    error = telling["error"]
    assert (error["class"], error["status"], error["retry_after"]) == ("RateLimitError", 429, "1")
    assert error["body"]["error"]["type"] == "rate_limit_error"
    assert "group research has used its 1 running requests; try again in 1 s" in error["message"]
    assert "x-should-retry" not in telling["headers"]

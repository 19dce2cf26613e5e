"""Claude Code through the gateway.

It answers; over a budget it stops at once and shows our words; it waits for a place. What it makes of the other errors
stands in `docs/clients.md`.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.talk import token_line
from tests.harness import GatewayProcess, wait_until
from tests.sdk.claude_code import ClaudeCode
from tests.sdk.limited_gateway import BOUND_SECONDS, SPENT, TOKEN, WHOSE, LimitedGateway
from tests.sdk.sdk_comparison import POOLED

EVENTS = ("--output-format", "stream-json", "--verbose", "--include-partial-messages")
# Costs more than a cent, and leaves room in the context: Claude Code would have it compacted, and ask for that.
EXPENSIVE_CALL = 'tool_use:name=Read,input={"file_path":"absent"},output-tokens=10000 then ok'

GatewayWith = Callable[[str], LimitedGateway]


@pytest.fixture
def claude_code(sdk_environments: None) -> ClaudeCode:
    """The installed Claude Code."""
    return ClaudeCode()


@pytest.fixture
def gateway_with(simulator: Simulator, tmp_path: Path) -> Iterator[GatewayWith]:
    """Starts a gateway with this limit, and stops it after the test."""
    started: list[LimitedGateway] = []

    def start(limit: str) -> LimitedGateway:
        started.append(LimitedGateway(tmp_path, simulator, limit))
        return started[-1]

    yield start
    for gateway in started:
        gateway.process.stop()


def test_claude_code_answers(claude_code: ClaudeCode, gateway_with: GatewayWith, tmp_path: Path) -> None:
    """Given a budget that is not spent, when Claude Code asks, then it shows the streamed answer piece by piece."""
    gateway = gateway_with("dollars_per_day = 1000")
    gateway.upstream.script(POOLED, "ok:text=PONG,events=4")
    asked = len(gateway.upstream.requests)
    ended = claude_code.run(gateway.url, TOKEN, tmp_path, *EVENTS)
    assert ended.status == 0, ended
    told = [json.loads(line) for line in ended.output.splitlines()]
    events = [line["event"] for line in told if line["type"] == "stream_event"]
    pieces = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert pieces == ["P", "O", "N", "G"]
    assert told[-1]["result"] == "PONG"
    requests = gateway.upstream.requests[asked:]
    assert [(request.method, request.path) for request in requests] == [("POST", "/v1/messages")]
    assert TOKEN not in repr(requests)


def test_spent_budget_stops_claude_code_at_once(
    claude_code: ClaudeCode, gateway_with: GatewayWith, tmp_path: Path
) -> None:
    """Given a spent budget, when Claude Code asks, then it asks once, fails, and shows until when, and whose."""
    gateway = gateway_with("dollars_per_day = 1")
    gateway.spend()
    refused, asked = gateway.refused, len(gateway.upstream.requests)
    ended = claude_code.run(gateway.url, TOKEN, tmp_path)
    assert ended.status != 0
    assert SPENT in ended.output
    assert WHOSE in ended.output
    assert (gateway.refused, len(gateway.upstream.requests)) == (refused + 1, asked)


def test_budget_that_is_spent_meanwhile_stops_claude_code(
    claude_code: ClaudeCode, gateway_with: GatewayWith, tmp_path: Path
) -> None:
    """Given a first answer that spends the budget and calls a tool, then Claude Code stops at its second request."""
    gateway = gateway_with("dollars_per_day = 0.01")
    gateway.upstream.script(POOLED, EXPENSIVE_CALL)
    asked = len(gateway.upstream.requests)
    ended = claude_code.run(gateway.url, TOKEN, tmp_path, "--output-format", "json")
    assert ended.status != 0
    result = json.loads(ended.output)
    assert (result["is_error"], result["api_error_status"]) == (True, 429)
    assert SPENT in result["result"]
    assert WHOSE in result["result"]
    assert (gateway.refused, len(gateway.upstream.requests)) == (1, asked + 1)


def test_claude_code_waits_for_a_place_and_is_answered(
    claude_code: ClaudeCode, gateway_with: GatewayWith, tmp_path: Path
) -> None:
    """Given a limit that is reached, when it is free again, then Claude Code has waited and gets its answer."""
    gateway = gateway_with("concurrent = 1")
    with ThreadPoolExecutor() as pool:
        with gateway.one_running():
            running = pool.submit(claude_code.run, gateway.url, TOKEN, tmp_path)
            gateway.wait_for_refusal(before=0)
        ended = running.result()
    assert ended.status == 0, ended
    assert "API Error" not in ended.output


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong, and what Claude Code then shows, after so many requests to the gateway."""

    id: str
    behaviours: tuple[str, ...]
    shows: str
    requests: int
    status: int = 1
    token: str = TOKEN
    is_streamed_at_last: bool = True  # what it asks for in its last request


TROUBLES = (
    Trouble(
        "every key is rate limited for minutes",
        ("rate_limited:retry-after=300", "rate_limited:retry-after=120"),
        "API Error: Request rejected (429) · all configured keys are rate-limited: 2 cooling down",
        1,
    ),
    Trouble(
        "every key was refused",
        ("unauthorized", "unauthorized"),
        "API Error: 502 all configured keys failed authentication: 0 cooling down, 2 retired",
        1,
    ),
    Trouble(
        "a token that nobody knows",
        ("ok",),
        "Failed to authenticate. API Error: 401 the gateway token is not known here, or was revoked",
        1,
        token="another-token-0123456789abcdefgh",
    ),
    Trouble("an error before the first event", ("error_event",), "API Error: Repeated 529 Overloaded errors.", 3),
    Trouble("the same, once", ("error_event then ok:text=PONG",), "PONG", 2, status=0),
    Trouble(
        "a stream that breaks off, once",
        ("cut:after=4 then ok:text=PONG",),
        "PONG",
        2,
        status=0,
        is_streamed_at_last=False,
    ),
)


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.id)
def test_claude_code_shows_what_is_wrong(
    claude_code: ClaudeCode, gateway_process: Callable[..., GatewayProcess], tmp_path: Path, trouble: Trouble
) -> None:
    """Given an error of the upstream or of the gateway, then Claude Code says what it is, and goes on if it can."""
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("someone", TOKEN))
    tokens.chmod(0o600)
    keys = {f"sk-ant-{index}": behaviour for index, behaviour in enumerate(trouble.behaviours)}
    with Simulator(keys=keys) as simulator:
        gateway = gateway_process(simulator.url, keys=list(keys), client_tokens_file=str(tokens))
        ended = claude_code.run(gateway.url, trouble.token, tmp_path)
        assert ended.status == trouble.status, ended
        assert ended.output.startswith(trouble.shows), ended
        assert wait_until(lambda: gateway.total("requests_total") >= trouble.requests, BOUND_SECONDS)
        assert gateway.total("requests_total") == trouble.requests
        for last in simulator.requests[-1:]:  # none came where the gateway knows nobody of that token
            assert json.loads(last.body).get("stream", False) == trouble.is_streamed_at_last

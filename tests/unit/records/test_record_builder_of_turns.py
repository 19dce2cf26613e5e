"""What is recorded of an interception in which the gateway calls tools: every turn, every key, every call."""

from __future__ import annotations

import pytest

from gateway.protocol.errors import GatewayError
from gateway.records.interception_record import ToolCall
from gateway.relay.tool_loop import ToolPolicy
from tests.unit.loop_rig import FakeToolbox, Refusal, Rig, said
from tests.unit.messages_api import Answer, text, tool_use

LIMITED = Refusal(429, "rate_limit_error", "5")
CALL = Answer([text("Let me see."), tool_use("bmcp_box_now", "t1", zone="UTC")], "tool_use")
OWN_CALL = Answer([tool_use("Bash", "t2", command="ls")], "tool_use", usage={"input_tokens": 40, "output_tokens": 2})

both_modes = pytest.mark.parametrize("is_streaming", [False, True], ids=["whole", "streamed"])


@both_modes
def test_every_turn_has_its_attempts_its_usage_and_its_calls(is_streaming: bool) -> None:
    """Given a tool's call, a limited key and a call of the client's tool; then each is in the record, in its turn."""
    rig = Rig([CALL, LIMITED, OWN_CALL], FakeToolbox("now", run=lambda tool, arguments: said("noon")), count=2)
    rig.run(is_streaming)
    record = rig.builder.finished(200)
    assert [(each.turn, each.key, each.outcome, each.request_id) for each in record.attempts] == [
        (0, "k0", "ok", "req_1"),
        (1, "k0", "rate_limited", "req_2"),
        (1, "k1", "ok", "req_3"),
    ]
    assert [(each.turn, each.key, each.input_tokens, each.output_tokens, each.certainty) for each in record.usage] == [
        (0, "k0", 10, 5, "exact"),
        (1, "k1", 40, 2, "exact"),
    ]
    injected, own = record.tool_calls
    assert (injected.name, injected.is_injected, injected.outcome) == ("bmcp_box_now", True, "ok")
    assert injected.result_bytes == len('[{"type":"text","text":"noon"}]')
    assert injected.duration_seconds is not None
    assert (own.turn, own.name, own.is_injected, own.outcome) == (1, "Bash", False, None)
    assert injected.input_bytes > len("zoneUTC")
    assert own.input_bytes > len("commandls")
    assert (record.outcome, record.key) == ("completed", "k1")


@pytest.mark.parametrize(
    ("answers", "max_turns", "outcome", "error"),
    [
        pytest.param([CALL, LIMITED], 9, "exhausted", "all configured keys are rate-limited", id="exhausted"),
        pytest.param([CALL, CALL], 2, "turn_limit", "after 2 turns", id="turn-limit"),
    ],
)
@both_modes
def test_a_later_turn_s_end_is_told_alike_in_both_modes(
    is_streaming: bool, answers: list[Answer | Refusal], max_turns: int, outcome: str, error: str
) -> None:
    """Given turns that end with an error of the gateway's own; then the record says so, streamed and whole."""
    rig = Rig(answers, FakeToolbox("now"), policy=ToolPolicy(max_turns=max_turns))
    if is_streaming:
        rig.run(is_streaming)
    else:
        with pytest.raises(GatewayError) as info:
            rig.run(is_streaming)
        rig.builder.failed(info.value)  # as the route does
    record = rig.builder.finished(200 if is_streaming else 502)
    assert record.outcome == outcome
    assert error in str(record.error)
    assert [(call.turn, call.outcome) for call in record.tool_calls] == [(0, "ok"), (1, "not_made")][
        : len(record.tool_calls)
    ]
    assert all(call.is_injected for call in record.tool_calls)


def test_a_call_that_was_cut_short_was_cancelled() -> None:
    """Given a client that leaves while a tool runs; then the call is the gateway's, and has no result."""
    rig = Rig([CALL], FakeToolbox("now", run=lambda tool, arguments: None))
    _, running = rig.until_called()
    running.close()
    record = rig.builder.finished(200)
    [call] = record.tool_calls
    assert call == ToolCall(0, "bmcp_box_now", True, call.input_bytes, None, "cancelled", 100.0)
    assert record.outcome == "client_disconnected"
    rig.lifecycle.close()


@both_modes
def test_a_call_beside_the_client_s_own_is_not_made(is_streaming: bool) -> None:
    """Given a turn that calls a tool of the gateway's and one of the client's; then the record says which was made."""
    both = Answer([tool_use("bmcp_box_now", "t1"), tool_use("Bash", "t2")], "tool_use")
    rig = Rig([both], FakeToolbox("now"))
    rig.run(is_streaming)
    assert [(call.name, call.is_injected, call.outcome) for call in rig.builder.finished(200).tool_calls] == [
        ("bmcp_box_now", True, "not_made"),
        ("Bash", False, None),
    ]

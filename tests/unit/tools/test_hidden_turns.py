"""What the turns behind the client's back take over from each other, and what of them the client is told."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.protocol.outcomes import ToolOutcome
from gateway.tools.splicer import Splicer
from tests.unit.loop_rig import FakeToolbox, Rig, Streamed
from tests.unit.messages_api import (
    Answer,
    Block,
    fallback,
    server_tool_use,
    text,
    thinking,
    tool_use,
    web_result,
)
from tests.unit.protocol.test_accumulator import by_the_sdk
from tests.unit.relay.test_tool_loop import CALL, both_modes, message_of

HIDDEN = tool_use("bmcp_box_now", "t1")
DONE = Answer([text("It is noon.")], identity="msg_2")
CONTAINER = {"id": "container_011abc", "expires_at": "2026-12-01T00:00:00Z"}
RAN_CODE = Answer([text("x"), HIDDEN], "tool_use", container=CONTAINER)
BETA = "thinking-binding-controls-2026-08-01"
DROPS = {"prefix_mismatch_behavior": "drop_block"}


# Containers.


@both_modes
@pytest.mark.parametrize(
    ("asked", "continued"),
    [
        pytest.param({}, "container_011abc", id="none-asked-for"),
        pytest.param({"container": None}, "container_011abc", id="null"),
        pytest.param({"container": "container_old"}, "container_011abc", id="an-id"),
        pytest.param(
            {"container": {"skills": [{"type": "anthropic", "skill_id": "pdf"}]}},
            {"skills": [{"type": "anthropic", "skill_id": "pdf"}], "id": "container_011abc"},
            id="skills",
        ),
        pytest.param(
            {"container": {"id": None, "skills": []}}, {"id": "container_011abc", "skills": []}, id="id-null-and-skills"
        ),
    ],
)
def test_later_turn_goes_on_in_the_container_of_the_earlier_one(
    is_streaming: bool, asked: dict[str, object], continued: object
) -> None:
    """Given a turn that ran code and then calls a tool, then the next one names its container, beside the skills that
    the client sent, and the client is told of it at the end."""
    rig = Rig([RAN_CODE, DONE], FakeToolbox("now"))
    ran = rig.run(is_streaming, **asked)
    first, second = (request for _, request in rig.upstream.calls)
    assert first.get("container") == asked.get("container")
    assert second["container"] == continued
    assert message_of(ran, is_streaming)["container"] == CONTAINER
    if is_streaming:
        assert by_the_sdk(ran.stream)["container"]["id"] == "container_011abc"


@both_modes
@pytest.mark.parametrize("last", [None, CONTAINER | {"id": "container_2"}], ids=["untold", "another"])
def test_container_is_the_last_that_was_told(is_streaming: bool, last: dict[str, Any] | None) -> None:
    """Given three turns, then each names the container that was told last, and so does the client's message."""
    answers = [RAN_CODE, Answer([HIDDEN], "tool_use"), Answer([text("x")], container=last)]
    rig = Rig(answers, FakeToolbox("now"))
    message = message_of(rig.run(is_streaming), is_streaming)
    assert [request.get("container") for _, request in rig.upstream.calls] == [None, *["container_011abc"] * 2]
    assert message["container"] == (last or CONTAINER)


@both_modes
def test_without_a_container_none_is_spoken_of(is_streaming: bool) -> None:
    rig = Rig([Answer([HIDDEN], "tool_use"), DONE], FakeToolbox("now"))
    assert "container" not in message_of(rig.run(is_streaming), is_streaming)
    assert all("container" not in request for _, request in rig.upstream.calls)


# Thoughts that are bound to what stood before them.


@both_modes
@pytest.mark.parametrize(
    ("thinking_asked", "headers", "binding", "beta"),
    [
        pytest.param({"type": "adaptive"}, {}, DROPS, BETA, id="adaptive"),
        pytest.param({"type": "enabled", "budget_tokens": 1024}, {}, DROPS, BETA, id="enabled"),
        pytest.param({"type": "adaptive", "block_binding": None}, {}, DROPS, BETA, id="null"),
        pytest.param(
            {"type": "adaptive", "block_binding": {"new": 1}}, {}, {"new": 1} | DROPS, BETA, id="another-control"
        ),
        pytest.param({"type": "adaptive"}, {"anthropic-beta": "a, b"}, DROPS, f"a, b,{BETA}", id="beside-other-betas"),
        pytest.param({"type": "adaptive"}, {"anthropic-beta": f"a, {BETA}"}, DROPS, f"a, {BETA}", id="beta-is-there"),
        pytest.param(
            {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "error"}},
            {"anthropic-beta": BETA},
            {"prefix_mismatch_behavior": "error"},
            BETA,
            id="the-client-has-said",
        ),
        pytest.param({"type": "disabled"}, {}, None, None, id="disabled"),
        pytest.param({"type": "between_tools"}, {}, None, None, id="takes-no-controls"),
        pytest.param(None, {}, None, None, id="not-asked-for"),
    ],
)
def test_thoughts_that_do_not_fit_are_dropped(
    is_streaming: bool,
    thinking_asked: dict[str, object] | None,
    headers: dict[str, str],
    binding: dict[str, object] | None,
    beta: str | None,
) -> None:
    """Given a model that thinks and tools of the gateway's, then all turns ask for dropping blocks that are bound to
    something else, with the beta that this needs, unless the client has said what it wants."""
    rig = Rig([Answer([thinking("hm"), HIDDEN], "tool_use"), DONE], FakeToolbox("now"), headers=headers)
    rig.run(is_streaming, **({} if thinking_asked is None else {"thinking": thinking_asked}))
    for (_, request), sent in zip(rig.upstream.calls, rig.upstream.headers, strict=True):
        assert request.get("thinking", {}).get("block_binding") == binding
        assert {name: request["thinking"][name] for name in thinking_asked or () if name != "block_binding"} == {
            name: value for name, value in (thinking_asked or {}).items() if name != "block_binding"
        }
        assert sent.get("anthropic-beta") == beta


@both_modes
def test_request_without_tools_of_the_gateways_asks_for_nothing(is_streaming: bool) -> None:
    rig = Rig([DONE], FakeToolbox(), headers={"anthropic-beta": "a"})
    rig.run(is_streaming, thinking={"type": "adaptive"})
    assert rig.upstream.calls[0][1]["thinking"] == {"type": "adaptive"}
    assert rig.upstream.headers == [{"anthropic-beta": "a"}]


# Models that decline.

DECLINED = [thinking("no"), text("So: "), server_tool_use("s1"), web_result("s1")]
SERVED = [fallback("claude-other"), thinking("yes"), HIDDEN]


@both_modes
@pytest.mark.parametrize(
    ("blocks", "taken"),
    [
        pytest.param([*DECLINED, *SERVED], [*DECLINED[1:], *SERVED], id="thinking-is-left-out"),
        pytest.param(
            [{"type": "redacted_thinking", "data": "x"}, {"type": "connector_text", "text": "x"}, text("a"), *SERVED],
            [text("a"), *SERVED],
            id="other-thinking-too",
        ),
        pytest.param([server_tool_use("s2"), text("a"), *SERVED], [text("a"), *SERVED], id="a-call-without-a-result"),
        pytest.param([tool_use("bmcp_box_now", "t0"), text("a"), *SERVED], [text("a"), *SERVED], id="a-hidden-call"),
        pytest.param(
            [tool_use("read_file", "c0"), text("a"), *SERVED], [text("a"), *SERVED], id="a-call-of-the-clients"
        ),
        pytest.param(
            [thinking("1"), fallback("b"), thinking("2"), text("a"), *SERVED],
            [fallback("b"), text("a"), *SERVED],
            id="the-last-of-two",
        ),
        pytest.param([*SERVED, server_tool_use("s3")], [*SERVED, server_tool_use("s3")], id="what-follows-stays"),
    ],
)
def test_what_a_model_said_before_it_declined_is_taken_back_in_part(
    is_streaming: bool, blocks: list[Block], taken: list[Block]
) -> None:
    """Given a turn in which another model took over and calls a tool, then the next turn leaves out what the API does
    not take back, no call that is left out has a result or is made, and the client sees all but hidden calls."""
    rig = Rig([Answer(blocks, "tool_use"), DONE], FakeToolbox("now"))
    message = message_of(rig.run(is_streaming), is_streaming)
    said, results = (entry["content"] for entry in rig.upstream.calls[1][1]["messages"][-2:])
    assert said == taken
    assert [result["tool_use_id"] for result in results] == ["t1"]
    assert message["content"] == [block for block in blocks if block.get("name") != "bmcp_box_now"] + DONE.blocks
    calls = {("now", "ok"): 1.0}
    if blocks[0].get("id") == "t0":
        calls["now", ToolOutcome.NOT_MADE.value] = 1.0
    assert rig.tool_calls() == calls


@both_modes
def test_call_of_a_model_that_declined_asks_for_no_turn(is_streaming: bool) -> None:
    """Given a hidden call before another model took over and none after, then the turn is the last."""
    rig = Rig([Answer([HIDDEN, fallback("b"), text("No.")])], FakeToolbox("now"))
    message = message_of(rig.run(is_streaming), is_streaming)
    assert message["content"] == [fallback("b"), text("No.")]
    assert rig.toolbox.made == []


@both_modes
@pytest.mark.parametrize("token", ["fct_1", {"token": "fct_1", "mode": "best_effort"}], ids=["text", "object"])
def test_fallback_credit_is_claimed_once(is_streaming: bool, token: object) -> None:
    """Given a retry that claims a credit, then its hidden turns do not: their body is another."""
    rig = Rig([Answer([HIDDEN], "tool_use"), DONE], FakeToolbox("now"))
    rig.run(is_streaming, fallback_credit_token=token)
    first, second = (request for _, request in rig.upstream.calls)
    assert first["fallback_credit_token"] == token
    assert "fallback_credit_token" not in second


# Threads of the API's.


@both_modes
def test_request_with_tools_begins_no_thread(is_streaming: bool) -> None:
    """Given a client that begins a thread, then no turn does: the API would hold turns there that the client has not
    seen, and it could not go on. It finds no such thread then, and sends the whole conversation again."""
    rig = Rig([Answer([HIDDEN], "tool_use"), DONE], FakeToolbox("now"))
    rig.run(is_streaming, thread={"type": "create"})
    assert ["thread" in request for _, request in rig.upstream.calls] == [False, False]
    assert [request["tools"][0]["name"] for _, request in rig.upstream.calls] == ["bmcp_box_now"] * 2


@both_modes
@pytest.mark.parametrize(
    "thread",
    [{"type": "continue", "previous_message_id": "msg_0"}, {"type": "later"}, "x"],
    ids=["continue", "new", "odd"],
)
def test_thread_that_goes_on_keeps_the_tools_that_it_began_with(is_streaming: bool, thread: object) -> None:
    """Given a request that goes on with a thread, then it goes up as it came: the API refuses tools there."""
    rig = Rig([DONE], FakeToolbox("now"))
    rig.run(is_streaming, thread=thread, thinking={"type": "adaptive"})
    ((_, request),) = rig.upstream.calls
    assert request["thread"] == thread
    assert "tools" not in request
    assert request["thinking"] == {"type": "adaptive"}


# Tools that code may call.


@both_modes
@pytest.mark.parametrize(
    ("callers", "is_switched_off"),
    [
        (["code_execution_20260120"], False),
        (["direct", "code_execution_20250825"], False),
        (["direct"], True),
        ([], True),
    ],
)
def test_parallel_use_is_left_on_where_code_calls_tools(
    is_streaming: bool, callers: list[str], is_switched_off: bool
) -> None:
    """Given a client's tool that the model's code may call, then the API takes no `disable_parallel_tool_use`."""
    own = {"name": "own", "input_schema": {"type": "object"}, "allowed_callers": callers}
    rig = Rig([Answer([HIDDEN], "tool_use"), DONE], FakeToolbox("now"))
    rig.run(is_streaming, tools=[own])
    for _, request in rig.upstream.calls:
        assert (request.get("tool_choice", {}).get("disable_parallel_tool_use") is True) == is_switched_off


# What the turns have cost.


@both_modes
def test_usage_is_the_sum_and_tells_of_each_turn(is_streaming: bool) -> None:
    """Given three turns of which one has iterations of its own, then the client's usage is the sum, and its iterations
    are one message a turn and the turn's own, in order."""
    details = {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 0}
    own = [
        {"type": "compaction", "input_tokens": 70, "output_tokens": 7},
        {"type": "message", "input_tokens": 20, "output_tokens": 2},
    ]
    usages: list[dict[str, Any]] = [
        {"input_tokens": 10, "output_tokens": 1, "cache_creation_input_tokens": 3, "cache_creation": details},
        {"input_tokens": 20, "output_tokens": 2, "iterations": own},
        {"input_tokens": 30, "output_tokens": 3, "cache_read_input_tokens": 9, "iterations": None},
    ]
    answers = [
        Answer([HIDDEN], "tool_use", usages[0]),
        Answer([HIDDEN], "tool_use", usages[1]),
        Answer([], usage=usages[2]),
    ]
    rig = Rig(answers, FakeToolbox("now"))
    usage = message_of(rig.run(is_streaming), is_streaming)["usage"]
    assert {name: usage[name] for name in ("input_tokens", "output_tokens", "cache_read_input_tokens")} == {
        "input_tokens": 60,
        "output_tokens": 6,
        "cache_read_input_tokens": 9,
    }
    empty = {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    mine = {"type": "message", "model": "claude-test"} | empty
    assert usage["iterations"] == [
        mine | {"input_tokens": 10, "output_tokens": 1, "cache_creation_input_tokens": 3, "cache_creation": details},
        *own,
        mine | {"input_tokens": 30, "output_tokens": 3, "cache_read_input_tokens": 9},
    ]


@both_modes
def test_usage_of_one_turn_is_the_upstreams_own(is_streaming: bool) -> None:
    message = message_of(Rig([DONE], FakeToolbox("now")).run(is_streaming), is_streaming)
    assert message["usage"] == DONE.usage


# Upstreams that end a call in other words.


@both_modes
@pytest.mark.parametrize("reason", ["end_turn", "tool_use", "stop", "tool_calls", None])
def test_hidden_call_is_made_however_the_turn_says_that_it_is_complete(is_streaming: bool, reason: Any) -> None:
    """Given a compatible upstream that ends a call with another reason than `tool_use`, then the tool is called, and
    the client has the answer instead of nothing."""
    rig = Rig([Answer([HIDDEN], reason), DONE], FakeToolbox("now"))
    message = message_of(rig.run(is_streaming), is_streaming)
    assert (message["content"], message["stop_reason"]) == (DONE.blocks, "end_turn")
    assert rig.tool_calls() == {("now", "ok"): 1}


@both_modes
@pytest.mark.parametrize(
    "reason", ["max_tokens", "model_context_window_exceeded", "refusal", "pause_turn", "stop_sequence", "compaction"]
)
def test_hidden_call_of_a_turn_that_is_not_complete_is_not_made(is_streaming: bool, reason: str) -> None:
    rig = Rig([Answer([text("x"), HIDDEN], reason)], FakeToolbox("now"))
    message = message_of(rig.run(is_streaming), is_streaming)
    assert (message["content"], message["stop_reason"]) == ([text("x")], reason)
    assert rig.toolbox.made == []


@pytest.mark.parametrize("number", ["1e999", "NaN"])
def test_an_event_of_a_hidden_turn_that_cannot_be_read_exactly_is_not_shown(number: str) -> None:
    """Given a turn's ending with a number that no float holds, then an error is told, and no second ending."""
    begun, mark, ending = CALL.stream().rpartition(b'"usage": {')
    bad = begun + mark + b'"x": %s, ' % number.encode() + ending
    ran = Rig([Streamed([bad]), DONE], FakeToolbox("now")).run(is_streaming=True)
    assert b"message_delta" not in ran.stream
    assert b"numbers that cannot be passed on" in ran.stream


def cost_seconds(size: int) -> float:
    """What it takes this thread to splice a turn of so many blocks, each followed by an ending."""
    splicer = Splicer(lambda name: name.startswith("bmcp_"))
    splicer.splice({"type": "message_start", "message": {"usage": {}}})
    began_at = time.thread_time()
    for index in range(size):
        splicer.splice({"type": "content_block_start", "index": index, "content_block": text("")})
        splicer.splice({"type": "content_block_stop", "index": index})
        splicer.splice({"type": "message_delta", "delta": {}, "usage": {f"{index}_tokens": 1}})
    return time.thread_time() - began_at


def test_cost_is_proportional_to_the_events_of_a_turn() -> None:
    """Given a turn of endings and blocks, when it is twice as long, then it costs about twice as much."""
    ratios = []
    for _ in range(8):
        ratios.append(cost_seconds(8_000) / max(cost_seconds(4_000), 0.002))
        if ratios[-1] < 3.0:
            return
    pytest.fail(f"twice the events cost {min(ratios):.1f} times as much")

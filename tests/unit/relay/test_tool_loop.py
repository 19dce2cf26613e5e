"""The agentic loop, streamed and whole: what the upstream is asked, what the client is shown, what becomes of calls."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocol.accumulator import INVALID_INPUT
from gateway.protocol.errors import AuthenticationExhausted, RateLimited, Stopping, TurnLimitReached, UpstreamError
from gateway.protocol.outcomes import ToolOutcome
from gateway.protocol.sse import PING
from gateway.relay import tool_loop
from gateway.relay.tool_loop import ToolPolicy
from tests.unit.loop_rig import FakeToolbox, Ran, Refusal, Rig, said
from tests.unit.messages_api import Answer, event, server_tool_use, text, thinking, tool_use
from tests.unit.protocol.test_accumulator import accumulated, by_the_sdk

LIMITED = Refusal(429, "rate_limit_error", "5")
REVOKED = Refusal(401, "authentication_error")
FAILED = Refusal(500, "api_error")
CALL = Answer([text("Let me see."), tool_use("bmcp_box_now", "t1", zone="UTC")], "tool_use")
DONE = Answer([text("It is noon.")], identity="msg_2")

both_modes = pytest.mark.parametrize("is_streaming", [False, True], ids=["whole", "streamed"])


def message_of(ran: Ran, is_streaming: bool) -> dict[str, Any]:
    """The message that the client has in the end."""
    return accumulated(ran.stream) if is_streaming else ran.document


def events_in(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in stream.decode().split("\n") if line.startswith("data: ")]


def last_error(ran: Ran) -> dict[str, Any]:
    error: dict[str, Any] = events_in(ran.stream)[-1]
    assert error["type"] == "error"
    assert [data["type"] for data in events_in(ran.stream)].count("error") == 1
    return error["error"]  # type: ignore[no-any-return]


def results_in(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The results that a request of a later turn brings."""
    assert request["messages"][-1]["role"] == "user"
    results: list[dict[str, Any]] = request["messages"][-1]["content"]
    return results


# DESIGN's table: what later turns meet.


@both_modes
@pytest.mark.parametrize(
    ("answers", "keys", "states", "opened_by"),
    [
        pytest.param([CALL, DONE], ["k0", "k0"], ["valid", "valid"], "req_1", id="call-text"),
        pytest.param([CALL, LIMITED, DONE], ["k0", "k0", "k1"], ["temporary", "valid"], "req_1", id="call-429-text"),
        pytest.param([LIMITED, CALL, DONE], ["k0", "k1", "k1"], ["temporary", "valid"], "req_2", id="429-call-text"),
        pytest.param([CALL, REVOKED, DONE], ["k0", "k0", "k1"], ["permanent", "valid"], "req_1", id="call-401-text"),
    ],
)
def test_turns_make_one_message_each_failing_over_on_its_own(
    is_streaming: bool, answers: list[Any], keys: list[str], states: list[str], opened_by: str
) -> None:
    """Given turns on any keys, then one message; its head is the first turn's when streamed, the last one's whole."""
    rig = Rig(answers, FakeToolbox("now"), count=2)
    ran = rig.run(is_streaming)
    message = message_of(ran, is_streaming)
    assert [block["text"] for block in message["content"]] == ["Let me see.", "It is noon."]
    assert message["stop_reason"] == "end_turn"
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (20, 10)
    assert (rig.keys_seen, rig.states) == (keys, states)
    assert rig.toolbox.made == [("now", {"zone": "UTC"})]
    request_id = dict(ran.head.headers)["request-id"]
    assert request_id == (opened_by if is_streaming else f"req_{len(keys)}")


@pytest.mark.parametrize(
    ("answers", "error", "states"),
    [
        pytest.param(
            [CALL, LIMITED, Refusal(429, "rate_limit_error", "3")],
            ("rate_limit_error", "all configured keys are rate-limited", RateLimited, 3),
            ["temporary", "temporary"],
            id="429-429",
        ),
        pytest.param(
            [CALL, REVOKED, REVOKED],
            ("api_error", "all configured keys failed authentication", AuthenticationExhausted, None),
            ["permanent", "permanent"],
            id="401-401",
        ),
    ],
)
def test_later_turn_that_finds_no_key_ends_the_interception(
    answers: list[Any], error: tuple[str, str, type[Exception], int | None], states: list[str]
) -> None:
    """Streamed: one error event in the open stream; whole: the error, before anything was sent."""
    kind, words, raised, retry_after_seconds = error
    streamed = Rig(answers, FakeToolbox("now"), count=2)
    told = last_error(streamed.run(is_streaming=True))
    assert (told["type"], told["message"].partition(": ")[0]) == (kind, words)
    assert (streamed.keys_seen, streamed.states) == (["k0", "k0", "k1"], states)
    unstreamed = Rig(answers, FakeToolbox("now"), count=2)
    with pytest.raises(raised, match=words) as info:
        unstreamed.run(is_streaming=False)
    assert info.value.retry_after_seconds == retry_after_seconds  # type: ignore[attr-defined]
    assert (unstreamed.keys_seen, unstreamed.states) == (["k0", "k0", "k1"], states)


def test_later_turn_that_fails_upstream_ends_the_interception_with_its_error() -> None:
    streamed = Rig([CALL, FAILED], FakeToolbox("now"), count=2)
    assert last_error(streamed.run(is_streaming=True)) == {"type": "api_error", "message": "no"}
    unstreamed = Rig([CALL, FAILED], FakeToolbox("now"), count=2)
    ran = unstreamed.run(is_streaming=False)
    assert (ran.head.status, ran.head.body) == (500, FAILED.body())
    for rig in (streamed, unstreamed):
        assert (rig.keys_seen, rig.states) == (["k0", "k0"], ["valid", "valid"])


# What the upstream is asked.


@both_modes
def test_results_go_back_in_call_order_in_one_message(is_streaming: bool) -> None:
    """Given several calls in a turn, two of them of one tool, then each has its own result, in order, behind all that
    the model said, its thinking signed as it was."""
    said_first = [
        thinking("hm", "sig=="),
        tool_use("bmcp_box_now", "t1", zone="UTC"),
        text("and"),
        tool_use("bmcp_box_sum", "t2", a=1),
        tool_use("bmcp_box_now", "t3", zone="CET"),
    ]
    rig = Rig([Answer(said_first, "tool_use"), DONE], FakeToolbox("now", "sum"))
    message = message_of(rig.run(is_streaming), is_streaming)
    assert message["content"] == [said_first[0], said_first[2], *DONE.blocks]
    _, request = rig.upstream.calls[1]
    assert request["messages"][1] == {"role": "assistant", "content": said_first}
    assert [(result["tool_use_id"], result["content"][0]["text"]) for result in results_in(request)] == [
        ("t1", 'now {"zone": "UTC"}'),
        ("t2", 'sum {"a": 1}'),
        ("t3", 'now {"zone": "CET"}'),
    ]
    assert rig.tool_calls() == {("now", "ok"): 2, ("sum", "ok"): 1}


@both_modes
@pytest.mark.parametrize(
    ("block", "raw", "outcome", "words"),
    [
        pytest.param(tool_use("bmcp_box_none", "t1"), None, ToolOutcome.UNKNOWN, "no tool named", id="unknown"),
        pytest.param(tool_use("bmcp_box_now", "t1"), '{"a": ', ToolOutcome.INVALID_INPUT, "not a JSON", id="invalid"),
        pytest.param(tool_use("bmcp_box_now", "t1"), None, ToolOutcome.FAILED, "is down", id="failed"),
    ],
)
def test_call_that_fails_is_told_to_the_model(
    is_streaming: bool, block: dict[str, Any], raw: str | None, outcome: ToolOutcome, words: str
) -> None:
    """Given a call that cannot be made or fails, then the model reads why, and the interception goes on."""
    if raw is not None and not is_streaming:  # a whole answer holds an object in any case; this is how it tells
        block = block | {"input": {INVALID_INPUT: raw}}
    answer = Answer([block], "tool_use", raw_inputs={} if raw is None or not is_streaming else {"t1": raw})
    toolbox = FakeToolbox("now", run=lambda tool, arguments: said("The server is down.", ToolOutcome.FAILED))
    rig = Rig([answer, DONE], toolbox)
    assert message_of(rig.run(is_streaming), is_streaming)["content"] == DONE.blocks
    (result,) = results_in(rig.upstream.calls[1][1])
    assert result["is_error"] is True
    assert words in result["content"][0]["text"]
    assert sum(rig.tool_calls().values()) == 1
    assert {made for _, made in rig.tool_calls()} == {outcome.value}
    if raw is not None:
        assert rig.upstream.calls[1][1]["messages"][1]["content"][0]["input"] == {INVALID_INPUT: raw}


@both_modes
def test_last_turn_that_is_allowed_is_asked_for_without_tools(is_streaming: bool) -> None:
    rig = Rig([CALL, CALL, DONE], FakeToolbox("now"), policy=ToolPolicy(max_turns=3))
    assert message_of(rig.run(is_streaming), is_streaming)["stop_reason"] == "end_turn"
    assert [request["tool_choice"]["type"] for _, request in rig.upstream.calls] == ["auto", "auto", "none"]


def test_model_that_calls_tools_all_the_same_is_stopped() -> None:
    """Given calls in the last turn that is allowed, then an error says so, and no tool runs for it."""
    policy = ToolPolicy(max_turns=2)
    rig = Rig([CALL, CALL], FakeToolbox("now"), policy=policy)
    assert "after 2 turns" in last_error(rig.run(is_streaming=True))["message"]
    assert len(rig.toolbox.made) == 1
    assert rig.tool_calls() == {("now", "ok"): 1, ("now", "not_made"): 1}
    with pytest.raises(TurnLimitReached, match="after 2 turns"):
        Rig([CALL, CALL], FakeToolbox("now"), policy=policy).run(is_streaming=False)


@both_modes
@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"tool_choice": {"type": "none"}}, id="choice-none"),
        pytest.param({"tool_choice": {"type": "tool", "name": "x"}}, id="choice-named"),
        pytest.param({"model": "claude-haiku-9"}, id="excluded-model"),
    ],
)
def test_request_without_tools_is_relayed_as_it_comes(is_streaming: bool, members: dict[str, object]) -> None:
    """Given a request that is left alone, then even a call of a tool of that name is the client's."""
    policy = ToolPolicy(excluded_models=re.compile("haiku"))
    rig = Rig([CALL], FakeToolbox("now"), policy=policy)
    ran = rig.run(is_streaming, **members)
    assert (ran.stream if is_streaming else ran.head.body) == (CALL.stream() if is_streaming else CALL.body())
    assert "tools" not in rig.upstream.calls[0][1]
    assert rig.toolbox.made == []


# What the client is shown.


@both_modes
@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        pytest.param(
            Answer([text("x"), tool_use("read_file", "c1", path="a")], "tool_use"),
            [text("x"), tool_use("read_file", "c1", path="a")],
            id="the-clients-tool",
        ),
        pytest.param(
            Answer([tool_use("bmcp_box_now", "t1"), text("x"), tool_use("read_file", "c1", path="a")], "tool_use"),
            [text("x"), tool_use("read_file", "c1", path="a")],
            id="both",
        ),
        pytest.param(
            Answer([text("x"), tool_use("bmcp_box_now", "t1")], "max_tokens", raw_inputs={"t1": '{"zo'}),
            [text("x")],
            id="cut-in-a-tools-input",
        ),
        pytest.param(
            Answer([server_tool_use("s1"), text("x")], "pause_turn"), [server_tool_use("s1"), text("x")], id="pause"
        ),
        pytest.param(Answer([tool_use("bmcp_box_now", "t1")], "refusal"), [], id="refusal"),
    ],
)
def test_turn_that_does_not_stop_for_the_gateways_tools_alone_is_the_last(
    is_streaming: bool, answer: Answer, shown: list[dict[str, Any]]
) -> None:
    """Given a turn that ends the interception, then the client has what it can go on from, no tool of the gateway's
    is called, and a call that was not made is counted."""
    rig = Rig([answer], FakeToolbox("now"))
    message = message_of(rig.run(is_streaming), is_streaming)
    assert (message["content"], message["stop_reason"]) == (shown, answer.stop_reason)
    assert rig.toolbox.made == []
    withheld = len(answer.blocks) - len(shown)
    assert rig.tool_calls() == ({("now", "not_made"): withheld} if withheld else {})


@both_modes
def test_message_of_one_turn_is_shown_byte_for_byte(is_streaming: bool) -> None:
    """Given tools that the model does not call, then the client gets what the upstream sent, to the byte."""
    answer = Answer([text("caf\u00e9"), tool_use("read_file", "c1")], "tool_use")
    ran = Rig([answer], FakeToolbox("now")).run(is_streaming)
    assert (ran.stream if is_streaming else ran.head.body) == (answer.stream() if is_streaming else answer.body())


def test_turn_that_does_not_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an upstream that streams on and on, when the turn may have to be sent back, then it ends with an error."""
    monkeypatch.setattr(tool_loop, "LARGEST_TURN_BYTES", 1000)
    ran = Rig([Answer([text("word " * 300)])], FakeToolbox("now")).run(is_streaming=True)
    assert last_error(ran)["message"] == "the upstream's answer is too large"


def test_pings_comments_and_unknown_events_pass() -> None:
    extra = PING + b": a comment\n\n" + event("new_event", x=1) + b"data: no json\n\n"
    answers: list[Any] = [CALL, DONE]

    def cut(data: bytes) -> list[bytes]:
        return [
            data[: len(data) // 2],
            data[len(data) // 2 :].replace(b"event: message_delta", extra + b"event: message_delta"),
        ]

    stream = Rig(answers, FakeToolbox("now"), cut=cut).run(is_streaming=True).stream
    assert stream.count(PING) == stream.count(b": a comment") == stream.count(b"new_event\n") == 2
    assert b"data: no json\n\n" in stream


def test_whole_answers_to_a_streaming_client_become_events() -> None:
    """Given a client that asked for a stream and an upstream that answers whole, then the message is the same."""
    rig = Rig([CALL.body(), DONE], FakeToolbox("now"))
    ran = rig.run(is_streaming=True)
    assert ran.head.body is None
    assert [block["text"] for block in by_the_sdk(ran.stream)["content"]] == ["Let me see.", "It is noon."]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        pytest.param([b'{"type":"message"}'], "is not a message", id="no-content"),
        pytest.param([b'{"type":"message","content":["x"]}'], "malformed", id="odd-block"),
        pytest.param([b"[]"], "not a JSON object", id="no-object"),
    ],
)
def test_whole_answer_that_is_no_message_is_an_error(answers: list[Any], words: str) -> None:
    with pytest.raises(UpstreamError, match=words):
        Rig(answers, FakeToolbox("now")).run(is_streaming=False)


@both_modes
def test_error_in_the_form_of_a_success_is_relayed(is_streaming: bool) -> None:
    """Given a 200 whose body is an error, first or after a call, then the client has that error."""
    error = b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}'
    ran = Rig([error], FakeToolbox("now")).run(is_streaming)
    assert ran.head.body == error
    later = Rig([CALL, error], FakeToolbox("now")).run(is_streaming)
    assert (last_error(later) if is_streaming else later.document["error"])["type"] == "overloaded_error"


def test_stream_that_makes_no_message_ends_with_an_error() -> None:
    def cut(data: bytes) -> list[bytes]:
        return [data.replace(b'"index": 0', b'"index": 7', 1)]

    told = last_error(Rig([DONE], FakeToolbox("now"), cut=cut).run(is_streaming=True))
    assert told == {"type": "api_error", "message": "the upstream's answer is malformed: block 0 was never begun"}


def test_error_event_behind_a_withheld_call_ends_the_interception() -> None:
    """Given a stream that errs after its call was read, then the client has the error, and no tool is called."""

    def cut(data: bytes) -> list[bytes]:
        error = event("error", error={"type": "overloaded_error", "message": "busy"})
        return [data.replace(event("message_stop"), error)]

    rig = Rig([CALL], FakeToolbox("now"), cut=cut)
    assert last_error(rig.run(is_streaming=True))["type"] == "overloaded_error"
    assert rig.toolbox.made == []


# Waiting for a tool.


def test_pings_go_out_while_a_tool_runs_and_the_drain_ends_it() -> None:
    """Given a tool that never ends, when the client has heard nothing for the ping interval, then pings; when the
    drain time is over, then the call is cancelled and the stream says that the gateway stops."""
    toolbox = FakeToolbox("now", run=lambda tool, arguments: None)
    rig = Rig([CALL], toolbox)
    outputs, running = rig.until_called()
    for _ in range(3):
        rig.clock.advance(100.0)
        outputs.append(next(running))
    assert outputs[-3:] == [PING] * 3
    rig.lifecycle.end()
    outputs += list(running)
    assert last_error(Ran(outputs))["type"] == "overloaded_error"
    assert [call.closed > 0 for call in toolbox.calls] == [True]
    assert rig.tool_calls() == {("now", "cancelled"): 1}
    rig.lifecycle.close()


def test_client_that_leaves_while_a_tool_runs_cancels_the_call() -> None:
    toolbox = FakeToolbox("now", run=lambda tool, arguments: None)
    rig = Rig([CALL], toolbox)
    _, running = rig.until_called()
    running.close()
    assert [call.closed > 0 for call in toolbox.calls] == [True]
    assert rig.tool_calls() == {("now", "cancelled"): 1}
    rig.lifecycle.close()


def test_whole_answer_waits_for_its_tool_in_silence() -> None:
    """Given a client that asked for no stream, then nothing is yielded while a tool runs, until the drain ends it."""
    toolbox = FakeToolbox("now", run=lambda tool, arguments: rig.lifecycle.end())
    rig = Rig([CALL], toolbox)
    with pytest.raises(Stopping):
        rig.run(is_streaming=False)
    assert [call.closed > 0 for call in toolbox.calls] == [True]


def test_calls_that_fail_are_told_in_the_log_without_their_arguments(caplog: pytest.LogCaptureFixture) -> None:
    secret = "planted-argument"
    answer = Answer([tool_use("bmcp_box_now", "t1", secret=secret)], "tool_use")
    toolbox = FakeToolbox("now", run=lambda tool, arguments: said("planted-result", ToolOutcome.TIMED_OUT))
    with caplog.at_level(logging.DEBUG):
        Rig([answer, DONE], toolbox).run(is_streaming=False)
    assert "req_gw_1 (upstream req_1): tool now of box: timed_out" in caplog.text
    assert "planted" not in caplog.text
    assert "planted" not in repr(toolbox.tools()) + repr(said("planted-result"))


# The property: whatever the turns, both ways give one valid message.

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
counts = st.integers(0, 1000)
usages = st.fixed_dictionaries(
    {"input_tokens": counts, "output_tokens": counts},
    optional={"cache_read_input_tokens": counts, "cache_creation_input_tokens": counts},
)
arguments = st.dictionaries(st.sampled_from("abc"), words | st.integers() | st.none(), max_size=2)
SHOWN = st.one_of(words.map(text), words.map(thinking), st.just(server_tool_use("srvtoolu_1")))
OURS = st.builds(
    lambda name, given: tool_use(f"bmcp_box_{name}", "", **given), st.sampled_from(["now", "sum", "none"]), arguments
)
THEIRS = st.builds(lambda given: tool_use("read_file", "", **given), arguments)


def numbered(blocks: list[dict[str, Any]], turn: int) -> list[dict[str, Any]]:
    """The same blocks, each call under an id of its own."""
    return [
        block | {"id": f"t{turn}_{place}"} if block["type"] == "tool_use" else block
        for place, block in enumerate(blocks)
    ]


@st.composite
def conversations(draw: st.DrawFn) -> list[Answer]:
    """Turns that call the gateway's tools, and one that ends, perhaps with calls all the same."""
    answers = []
    for turn in range(draw(st.integers(0, 3))):
        blocks = [*draw(st.lists(SHOWN | OURS, max_size=4)), draw(OURS)]
        blocks = draw(st.permutations(blocks))
        answers.append(Answer(numbered(blocks, turn), "tool_use", draw(usages), f"msg_{turn}"))
    blocks = draw(st.lists(SHOWN | OURS | THEIRS, max_size=4))
    kinds = {block.get("name", "").startswith("bmcp_") for block in blocks if block["type"] == "tool_use"}
    reasons = ["max_tokens", "pause_turn", "stop_sequence"]
    reasons += ["tool_use"] if False in kinds else []
    reasons += ["end_turn"] if kinds != {True} else []
    answers.append(Answer(numbered(blocks, 9), draw(st.sampled_from(reasons)), draw(usages), "msg_9"))
    return answers


@settings(max_examples=300, deadline=None)
@given(answers=conversations(), data=st.data())
def test_spliced_stream_accumulates_to_the_message_of_whole_mode(answers: list[Answer], data: st.DataObject) -> None:
    """Given any turns, when they are streamed in any pieces, then the client's message is valid by the official SDK's
    accumulation, equals the one of whole mode, and shows all blocks but the gateway's calls, and their usage's sum."""

    def cut(stream: bytes) -> list[bytes]:
        places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
        return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]

    streamed = Rig(answers, FakeToolbox("now", "sum"), cut=cut)
    stream = streamed.run(is_streaming=True).stream
    unstreamed = Rig(answers, FakeToolbox("now", "sum"))
    message = unstreamed.run(is_streaming=False).document
    assert accumulated(stream) == message
    shown = [block for answer in answers for block in answer.blocks if not block.get("name", "").startswith("bmcp_")]
    assert message["content"] == shown
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
        given_counts = [answer.usage[name] for answer in answers if name in answer.usage]
        assert message["usage"].get(name) == (sum(given_counts) if given_counts else None)
    assert b"bmcp_" not in stream
    by_sdk = by_the_sdk(stream)
    assert [block["type"] for block in by_sdk["content"]] == [block["type"] for block in shown]
    assert by_sdk["usage"]["output_tokens"] == message["usage"]["output_tokens"]
    events = [entry for entry in events_in(stream) if entry["type"] != "ping"]
    begun = [entry["index"] for entry in events if entry["type"] == "content_block_start"]
    ended = [entry["index"] for entry in events if entry["type"] == "content_block_stop"]
    assert begun == ended == list(range(len(shown)))
    kinds = [entry["type"] for entry in events]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert [kinds.count(kind) for kind in ("message_start", "message_delta", "message_stop")] == [1, 1, 1]
    assert streamed.upstream.calls == [
        (key, request | {"stream": True}) for key, request in unstreamed.upstream.calls
    ], "both ways ask the same"
    for answer, (_, request) in zip(answers, streamed.upstream.calls[1:], strict=False):
        asked = [block["id"] for block in answer.blocks if block["type"] == "tool_use"]
        assert [result["tool_use_id"] for result in results_in(request)] == asked, "every call has its result"


@pytest.mark.parametrize("is_streaming", [True, False], ids=["streamed", "whole"])
def test_request_is_settled_before_the_client_is_told_the_end(is_streaming: bool) -> None:
    """Given a turn with a hidden call and one without, then the request is settled before its end goes out, not before
    the last turn."""
    rig = Rig([Answer([tool_use("bmcp_box_now", "t1")], "tool_use"), Answer([text("noon")])], FakeToolbox("now"))
    told = []
    for output in rig.outputs(is_streaming):
        data = output if isinstance(output, bytes) else output.body or b""
        told.append((b"message_stop" in data or (b"stop_reason" in data and not is_streaming), rig.settled))
    rig.lifecycle.close()
    assert [is_settled for is_end, is_settled in told if is_end] == [1]
    assert not any(is_settled for is_end, is_settled in told[:-1])


@pytest.mark.parametrize("is_streaming", [True, False], ids=["streamed", "whole"])
def test_request_of_one_turn_is_settled_before_the_client_is_told_the_end(is_streaming: bool) -> None:
    """Given an answer without hidden calls, then the request is settled once, before its last piece goes out."""
    answer = Answer([text("noon")])
    rig = Rig([answer], FakeToolbox())
    *_, last = ((rig.settled, output) for output in rig.outputs(is_streaming))
    rig.lifecycle.close()
    assert last[0] == rig.settled == 1

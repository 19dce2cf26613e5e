"""The agentic loop over streams as no upstream should send them: one message or one error, and no tool called amiss."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.protocol.errors import UpstreamError
from gateway.protocol.sse import PING
from tests.unit.loop_rig import FakeToolbox, Ran, Rig, Streamed
from tests.unit.messages_api import Answer, event, text, thinking, tool_use
from tests.unit.protocol.test_accumulator import accumulated, by_the_sdk

CALL = Answer([text("Let me see."), tool_use("bmcp_box_now", "t1", zone="UTC")], "tool_use")
DONE = Answer([text("It is noon.")], identity="msg_2")
BOM = b"\xef\xbb\xbf"

Change = Callable[[list[bytes]], list[bytes]]


def streamed(answer: Answer, change: Change) -> Streamed:
    return Streamed(change(list(answer.events())))


def kinds_in(ran: Ran) -> list[str]:
    lines = ran.stream.decode().replace("\r", "\n").split("\n")
    return [json.loads(line[6:])["type"] for line in lines if line.startswith("data: ")]


def error_of(ran: Ran) -> dict[str, Any]:
    """The one error that ends a stream."""
    assert kinds_in(ran).count("error") == 1
    assert kinds_in(ran)[-1] == "error"
    document = json.loads(ran.stream.rstrip().rsplit(b"data: ", 1)[1])
    return document["error"]  # type: ignore[no-any-return]


def without(kind: str, index: int = 0) -> Change:
    """Without the events of a kind about a block."""
    return lambda events: [raw for raw in events if kind.encode() not in raw or f'"index": {index}'.encode() not in raw]


def ended_early(events: list[bytes]) -> list[bytes]:
    """The message's ending before the end of its last block."""
    *head, block_stop, ending, stop = events
    return [*head, ending, block_stop, stop]


def interleaved(events: list[bytes]) -> list[bytes]:
    """The second block begun before the first has ended."""
    start, begun, *deltas, ended = events[:5]
    second = events[5:]
    return [start, begun, second[0], *deltas, second[1], ended, *second[2:]]


HARMLESS = [
    pytest.param(lambda events: [events[0], *events], id="begun-twice"),
    pytest.param(ended_early, id="ending-before-the-end-of-a-block"),
    pytest.param(interleaved, id="blocks-that-overlap"),
    pytest.param(lambda events: [raw.replace(b"\n", b"\r\n") for raw in events], id="crlf"),
    pytest.param(lambda events: [raw.replace(b"\n", b"\r") for raw in events], id="cr"),
    pytest.param(lambda events: [BOM + events[0], *events[1:]], id="byte-order-mark"),
    pytest.param(lambda events: [BOM + PING, *events], id="byte-order-mark-before-a-ping"),
    pytest.param(lambda events: [b": hello\n\n", PING, *events], id="comment-and-ping-first"),
    pytest.param(lambda events: [bytes([each]) for raw in events for each in raw], id="byte-by-byte"),
    pytest.param(
        lambda events: [*events[:-2], event("message_delta", delta={}, usage={"output_tokens": 4}), *events[-2:]],
        id="counts-before-the-ending",
    ),
]


@pytest.mark.parametrize("change", HARMLESS)
@pytest.mark.parametrize("turn", [0, 1])
def test_odd_stream_makes_one_message(turn: int, change: Change) -> None:
    """Given an odd stream as the first or the second of three turns, then the client has one message all the same."""
    answers: list[Answer | Streamed] = [CALL, CALL, DONE]
    answers[turn] = streamed(CALL, change)
    rig = Rig(answers, FakeToolbox("now"))
    ran = rig.run(is_streaming=True)
    clean = ran.stream.removeprefix(BOM)
    assert BOM not in clean, "in mid-stream it would be part of a name"
    events = [raw for raw in clean.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n") if b"data: " in raw]
    message = accumulated(b"\n\n".join(events))
    assert [block["text"] for block in message["content"]] == ["Let me see.", "Let me see.", "It is noon."]
    counts = (message["usage"]["input_tokens"], message["usage"]["output_tokens"])
    assert (message["stop_reason"], *counts) == ("end_turn", 30, 15)
    assert [entry["output_tokens"] for entry in message["usage"]["iterations"]] == [5, 5, 5]
    assert [kinds_in(ran).count(kind) for kind in ("message_start", "message_stop")] == [1, 1]
    assert rig.toolbox.made == [("now", {"zone": "UTC"})] * 2


MALFORMED = [
    pytest.param(without("content_block_stop", 1), "block 1 was never ended", id="call-never-ended"),
    pytest.param(without("content_block_stop", 0), "block 0 was never ended", id="text-never-ended"),
    pytest.param(without("content_block_start", 1), "block 1 was never begun", id="call-never-begun"),
    pytest.param(lambda events: events[:-1], "before message_stop", id="no-end"),
    pytest.param(lambda events: [*events[:-1], events[-1][:-9]], "before message_stop", id="half-an-end"),
    pytest.param(lambda events: events[:-4], "before message_stop", id="cut-in-the-call"),
    pytest.param(lambda events: [*events[:-4], events[-4][:30]], "before message_stop", id="half-an-event-in-the-call"),
]


@pytest.mark.parametrize(("change", "words"), MALFORMED)
@pytest.mark.parametrize("turn", [0, 1])
def test_stream_that_makes_no_turn_ends_with_one_error(turn: int, change: Change, words: str) -> None:
    """Given a turn that is cut or malformed, then its tool is not called, and one error ends the client's stream."""
    rig = Rig([*[CALL] * turn, streamed(CALL, change)], FakeToolbox("now"))
    error = error_of(rig.run(is_streaming=True))
    assert error["type"] == "api_error"
    assert words in error["message"]
    assert len(rig.toolbox.made) == turn
    assert rig.tool_calls().get(("now", "not_made"), 0) == ("never begun" not in words)
    calls = rig.builder.finished(200).tool_calls
    assert [call.is_injected for call in calls] == [True] * len(calls), "the client was asked to call none"


def test_blocks_of_one_index_make_no_turn() -> None:
    answer = streamed(CALL, lambda events: [raw.replace(b'"index": 1', b'"index": 0') for raw in events])
    rig = Rig([answer], FakeToolbox("now"))
    assert "block 0 was begun twice" in error_of(rig.run(is_streaming=True))["message"]
    assert rig.toolbox.made == []


@pytest.mark.parametrize(
    ("kind", "keys", "is_failed_over"),
    [
        pytest.param("rate_limit_error", ["k0", "k0", "k1"], True, id="limited"),
        pytest.param("overloaded_error", ["k0", "k0"], False, id="overloaded"),
    ],
)
def test_error_that_a_later_stream_begins_with(kind: str, keys: list[str], is_failed_over: bool) -> None:
    """Given a later turn whose stream is an error alone, then a limit fails over, and others are relayed."""
    error = Streamed([event("error", error={"type": kind, "message": "not now"})])
    rig = Rig([CALL, error, DONE], FakeToolbox("now"), count=2)
    ran = rig.run(is_streaming=True)
    assert rig.keys_seen == keys
    if is_failed_over:
        assert by_the_sdk(ran.stream)["stop_reason"] == "end_turn"
    else:
        assert error_of(ran) == {"type": kind, "message": "not now"}


def test_stream_that_nobody_asked_for_is_an_error() -> None:
    """Given a client that asked for no stream and an upstream that streams, then that is told, and no tool called."""
    rig = Rig([Streamed(list(CALL.events()))], FakeToolbox("now"))
    with pytest.raises(UpstreamError, match="not JSON"):
        rig.run(is_streaming=False)
    assert rig.toolbox.made == []


def test_pings_go_out_while_a_long_call_is_withheld() -> None:
    """Given a tool's input that takes long to write, then the client hears pings while it is shown nothing."""
    rig = Rig([Streamed(list(CALL.events())), DONE], FakeToolbox("now"))
    outputs = []
    for output in rig.outputs(is_streaming=True):
        outputs.append(output)
        rig.clock.advance(11.0)
    rig.lifecycle.close()
    stream = Ran(outputs).stream
    assert stream.count(PING) >= 4, "one for each event that is withheld"
    assert by_the_sdk(stream)["content"][0]["text"] == "Let me see."


def test_thinking_is_echoed_as_it_came() -> None:
    """Given thinking, signed, redacted and empty, and an input with odd numbers and letters, then all of it goes back
    as it came."""
    blocks = [
        thinking("h\u00e9 \U0001f600", "EqQB+/=="),
        {"type": "redacted_thinking", "data": "EmwKAhgB/+=="},
        thinking("", "sig2"),
        tool_use("bmcp_box_now", "t1", n=12345678901234567890123, x=0.1, y=-1e-7, e='\u00e9\u2028\\"', z=[None, True]),
    ]
    rig = Rig([Answer(blocks, "tool_use"), DONE], FakeToolbox("now"))
    rig.run(is_streaming=True)
    assert rig.upstream.calls[1][1]["messages"][1]["content"] == blocks
    assert rig.toolbox.made == [("now", blocks[3]["input"])]

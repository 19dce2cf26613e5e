"""Messages put together from events: held to the official SDK's own accumulation."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from gateway.protocol.accumulator import INVALID_INPUT, Accumulator, MalformedStream, events_of, usage_sum
from tests.unit.messages_api import Answer, server_tool_use, text, thinking, tool_use

_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def accumulated(stream: bytes) -> dict[str, Any]:
    """What the gateway makes of a stream."""
    accumulator = Accumulator()
    for data in data_of(stream):
        accumulator.add(data)
    return accumulator.message


def by_the_sdk(stream: bytes) -> dict[str, Any]:
    """What the official SDK makes of it."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for data in data_of(stream):
        if data["type"] != "ping":
            snapshot = accumulate_event(
                event=_EVENT.validate_python(data), current_snapshot=snapshot, json_bufs=buffers
            )
    document: dict[str, Any] = json.loads(snapshot.to_json(exclude_unset=False))
    return document


def data_of(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(block.split(b"data: ", 1)[1]) for block in stream.split(b"\n\n") if block]


ANSWERS = [
    pytest.param(Answer([text("Hello there")]), id="text"),
    pytest.param(Answer([]), id="nothing"),
    pytest.param(Answer([thinking("hm", "signed"), text("so")]), id="thinking"),
    pytest.param(Answer([text("I ask"), tool_use("a", "t1", x=[1, {"y": "é"}])], "tool_use"), id="tool"),
    pytest.param(Answer([tool_use("a", "t1"), tool_use("a", "t2", n=2)], "tool_use"), id="two-calls-of-one-tool"),
    pytest.param(Answer([server_tool_use("srvtoolu_1"), text("found")], "pause_turn"), id="server-tool"),
    pytest.param(Answer([{"type": "redacted_thinking", "data": "x"}, text("ok")]), id="redacted"),
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_stream_makes_the_message_that_it_was_made_of(answer: Answer) -> None:
    assert accumulated(answer.stream()) == answer.document()


@pytest.mark.parametrize("answer", ANSWERS)
def test_stream_makes_the_message_that_the_sdk_makes_of_it(answer: Answer) -> None:
    """Given a stream, then every member that the SDK has of the message is the same here."""
    ours, theirs = accumulated(answer.stream()), by_the_sdk(answer.stream())
    for name in ("id", "model", "role", "stop_reason", "stop_sequence", "type"):
        assert ours[name] == theirs[name]
    assert [unset(block) for block in theirs["content"]] == [unset(block) for block in ours["content"]]
    assert {name: theirs["usage"][name] for name in ours["usage"]} == ours["usage"]


def unset(block: dict[str, Any]) -> dict[str, Any]:
    """Without the members that the SDK fills up with nothing."""
    return {name: value for name, value in block.items() if value is not None}


@pytest.mark.parametrize("answer", ANSWERS)
def test_whole_message_makes_events_that_make_it_again(answer: Answer) -> None:
    document = answer.document() | {"container": {"id": "c"}, "context_management": {"applied_edits": []}}
    accumulator = Accumulator()
    for data in events_of(document):
        accumulator.add(data)
    assert accumulator.message == document


def test_citations_are_collected_and_unknown_deltas_taken_in() -> None:
    accumulator = Accumulator()
    for index, block in enumerate([{"type": "text", "text": "", "citations": None}, {"type": "new", "words": "a"}]):
        accumulator.add({"type": "content_block_start", "index": index, "content_block": block})
    for cited in ("x", "y"):
        delta = {"type": "citations_delta", "citation": {"cited_text": cited}}
        accumulator.add({"type": "content_block_delta", "index": 0, "delta": delta})
    for words in ("b", "c"):
        delta = {"type": "new_delta", "words": words, "rank": words}
        accumulator.add({"type": "content_block_delta", "index": 1, "delta": delta})
    assert accumulator.content == [
        {"type": "text", "text": "", "citations": [{"cited_text": "x"}, {"cited_text": "y"}]},
        {"type": "new", "words": "abc", "rank": "bc"},
    ]


def test_what_takes_a_texts_place_leaves_nothing_of_it() -> None:
    """Given a text that grows and is then replaced by what is none, then that alone is left of it."""
    accumulator = Accumulator()
    accumulator.add({"type": "message_start", "message": {"content": []}})
    accumulator.add({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    for said in ("a", "b", ["odd"]):
        accumulator.add({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": said}})
    accumulator.add({"type": "content_block_stop", "index": 0})
    assert accumulator.message["content"] == [{"type": "text", "text": ["odd"]}]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param('{"a": 1}', {"a": 1}, id="object"),
        pytest.param("", {}, id="nothing"),
        pytest.param('{"a": ', {INVALID_INPUT: '{"a": '}, id="cut-off"),
        pytest.param("[1]", {INVALID_INPUT: "[1]"}, id="no-object"),
        pytest.param('{"a": NaN}', {INVALID_INPUT: '{"a": NaN}'}, id="no-json-but-pythons"),
        pytest.param('{"a": 1e999}', {INVALID_INPUT: '{"a": 1e999}'}, id="larger-than-any-float"),
        pytest.param('{"a": [0.1, -12345678901234567890123]}', {"a": [0.1, -12345678901234567890123]}, id="numbers"),
    ],
)
def test_tools_input_is_what_was_written(written: str, expected: dict[str, Any]) -> None:
    answer = Answer([tool_use("a", "t1")], "tool_use", raw_inputs={"t1": written})
    assert accumulated(answer.stream())["content"][0]["input"] == expected


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta"}}, id="never-begun"),
        pytest.param({"type": "content_block_stop", "index": 3}, id="stop-of-none"),
        pytest.param({"type": "content_block_start", "content_block": {}}, id="no-index"),
        pytest.param({"type": "content_block_start", "index": "0", "content_block": {}}, id="odd-index"),
        pytest.param({"type": "content_block_start", "index": 0}, id="no-block"),
        pytest.param({"type": "message_start"}, id="no-message"),
        pytest.param({"type": "message_delta", "delta": 1}, id="odd-ending"),
    ],
)
def test_events_that_make_no_message_are_told(data: dict[str, Any]) -> None:
    with pytest.raises(MalformedStream):
        Accumulator().add(data)


def test_block_is_begun_once_and_ended() -> None:
    accumulator = Accumulator()
    begun = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    accumulator.add(begun)
    with pytest.raises(MalformedStream, match="block 0 was never ended"):
        accumulator.require_ended()
    with pytest.raises(MalformedStream, match="block 0 was begun twice"):
        accumulator.add(begun)
    accumulator.add({"type": "content_block_stop", "index": 0})
    accumulator.require_ended()


def test_long_text_costs_as_much_for_each_piece_as_a_short_one() -> None:
    """Given four times the pieces, then it takes about four times as long, and not sixteen times."""
    assert seconds_for(160_000) < 10 * seconds_for(40_000)


def seconds_for(pieces: int) -> float:
    """How long it takes to put a text together, in seconds of the processor."""
    accumulator = Accumulator()
    accumulator.add({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}}
    begun_at = time.process_time()
    for _ in range(pieces):
        accumulator.add(delta)
    assert accumulator.content == [{"type": "text", "text": "word " * pieces}]
    return time.process_time() - begun_at


@pytest.mark.parametrize("document", [{"type": "error"}, {"type": "message"}, {"type": "message", "content": "x"}])
def test_document_that_is_no_message_is_told(document: dict[str, Any]) -> None:
    with pytest.raises(MalformedStream):
        list(events_of(document))


def test_usage_adds_up_at_any_depth() -> None:
    one = {
        "input_tokens": 1,
        "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 0},
        "server_tool_use": None,
        "service_tier": "standard",
        "iterations": [{"type": "message"}],
        "only_before": 4,
    }
    other = {
        "input_tokens": 10,
        "cache_creation": {"ephemeral_5m_input_tokens": 20},
        "server_tool_use": {"web_search_requests": 1},
        "service_tier": "priority",
        "iterations": [{"type": "compaction"}],
        "cache_read_input_tokens": None,
    }
    assert usage_sum(one, other) == {
        "input_tokens": 11,
        "cache_creation": {"ephemeral_5m_input_tokens": 22, "ephemeral_1h_input_tokens": 0},
        "server_tool_use": {"web_search_requests": 1},
        "service_tier": "priority",
        "iterations": [{"type": "message"}, {"type": "compaction"}],
        "only_before": 4,
    }


@pytest.mark.parametrize("odd", [10**310, -(10**310), 10**100, 1e308, 0.5, math.nan, math.inf, True, "7", None])
def test_usage_that_is_no_count_is_added_to_nothing(odd: object) -> None:
    """Given numbers that no float holds, and others that are no counts, then the later word stands."""
    assert usage_sum({"output_tokens": odd}, {"output_tokens": 5}) == {"output_tokens": 5}
    total = usage_sum({"output_tokens": 5}, {"output_tokens": odd})["output_tokens"]
    assert total is (5 if odd is None else odd) or total == 5


def cost_seconds(deltas: list[dict[str, Any]]) -> float:
    """What it takes this thread to take in these deltas of one block."""
    accumulator = Accumulator()
    block = {"type": "text", "text": "", "signature": "", "citations": []}
    accumulator.add({"type": "content_block_start", "index": 0, "content_block": block})
    events = [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    began_at = time.thread_time()
    for data in events:
        accumulator.add(data)
    assert accumulator.content[0] is not block
    return time.thread_time() - began_at


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param([{"type": "citations_delta", "citation": {}}], id="citations"),
        pytest.param([{"type": "text_delta", "text": "x" * 200}], id="texts"),
        pytest.param(
            [{"type": "text_delta", "text": "x" * 200}, {"type": "signature_delta", "signature": "s"}],
            id="texts-and-signatures",
        ),
        pytest.param([{"type": "input_json_delta", "partial_json": "x" * 200}], id="inputs"),
    ],
)
def test_cost_is_proportional_to_the_deltas(deltas: list[dict[str, Any]]) -> None:
    """Given thousands of deltas, when there are twice as many, then they cost about twice as much, not four times."""
    ratios = []
    for _ in range(8):
        ratios.append(cost_seconds(deltas * 20_000) / max(cost_seconds(deltas * 10_000), 0.002))
        if ratios[-1] < 3.0:
            return
    pytest.fail(f"twice the deltas cost {min(ratios):.1f} times as much")


def test_what_is_no_object_is_no_usage_and_no_container():
    """Given a message that says nonsense of its usage and its container, then there is none; else there is."""
    for said, usage, container in (
        ({"usage": {"input_tokens": 1}, "container": {"id": "c"}}, {"input_tokens": 1}, {"id": "c"}),
        ({"usage": 7, "container": 7}, {}, None),
        ({"usage": None, "container": {"id": 7}}, {}, None),
    ):
        accumulator = Accumulator()
        accumulator.add({"type": "message_start", "message": {"type": "message", "content": [], **said}})
        assert (accumulator.usage, accumulator.container) == (usage, container)


def test_a_list_is_not_added_to_what_is_none():
    """Given a list beside something else, then the later one stands."""
    assert usage_sum({"a": [1]}, {"a": [2]}) == {"a": [1, 2]}
    assert usage_sum({"a": [1]}, {"a": 5}) == {"a": 5}
    assert usage_sum({"a": 5}, {"a": [2]}) == {"a": [2]}
    assert usage_sum({"a": [1]}, {"a": None}) == {"a": [1]}

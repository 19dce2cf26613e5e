"""Usage in the upstream's own words, tool calls by name and size, and what broken answers leave to guess."""

from __future__ import annotations

import json
import math
import tracemalloc

import pytest

from gateway.protocol.messages import Tally
from gateway.protocol.sse import split_events
from gateway.protocol.tool_uses import ToolUses
from gateway.protocol.usage import BilledUsage, Certainty, Usage
from gateway.upstream.event_stream import EventStream


def event(kind: str, **members: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | members, separators=(',', ':'))}\n\n".encode()


def start(index: int, **block: object) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def piece(index: int, text: str) -> bytes:
    return event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": text})


def text(words: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": words})


class Pieces:
    """A Reply that hands out these pieces, and then ends."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]

    def receive(self) -> bytes:
        return self._pieces.pop(0)


def tally_of(*pieces: bytes) -> Tally:
    """The tally of a stream that came in these pieces."""
    stream = EventStream(Pieces(*pieces))  # type: ignore[arg-type]
    while stream.receive():
        pass
    return stream.tally


FULL = {
    "input_tokens": 1,
    "output_tokens": 2,
    "cache_read_input_tokens": 3,
    "cache_creation_input_tokens": 9,
    "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5},
    "server_tool_use": {"web_search_requests": 6, "web_fetch_requests": 0},
    "service_tier": "priority",
}


def test_every_count_is_kept_by_its_name() -> None:
    """Given a usage object with all that the API documents; then all of it is kept."""
    usage = Usage()
    usage.take(FULL)
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (1, 2, 3)
    assert (usage.cache_write_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (9, 4, 5)
    assert usage.server_tools == {"web_search_requests": 6, "web_fetch_requests": 0}
    assert usage.service_tier == "priority"


def test_later_counts_replace_earlier_ones_and_what_is_not_said_again_stays() -> None:
    """Given cumulative usage in `message_start` and `message_delta`; then the last word on each count is kept."""
    usage = Usage()
    usage.take(FULL)
    usage.take({"output_tokens": 80, "server_tool_use": {"web_search_requests": 7}})
    assert (usage.input_tokens, usage.output_tokens, usage.cache_write_1h_tokens) == (1, 80, 5)
    assert usage.server_tools == {"web_search_requests": 7, "web_fetch_requests": 0}


@pytest.mark.parametrize("bad", [None, True, -1, 1.5, "7", [], 10**12 + 1, 2**60, 10**310, 1e308, math.nan, math.inf])
def test_what_is_no_count_is_passed_over(bad: object) -> None:
    """Given members that are no counts; then they change nothing."""
    usage = Usage()
    usage.take(FULL)
    usage.take({"input_tokens": bad, "cache_creation": bad, "server_tool_use": {"web_search_requests": bad}})
    usage.take({"server_tool_use": bad, "service_tier": bad if not isinstance(bad, str) else None})
    assert (usage.input_tokens, usage.cache_write_5m_tokens, usage.service_tier) == (1, 4, "priority")
    assert usage.server_tools["web_search_requests"] == 6


TOOLS = {"web_search_requests": 6, "web_fetch_requests": 0}


def billed(usage: Usage) -> list[BilledUsage]:
    return usage.billed("asked", "m", has_ended=True, is_refused=False)


def test_an_answer_is_billed_as_one_inference_that_has_all_of_it() -> None:
    """Given an answer without iterations; then its one inference has every count and what the price depends on."""
    usage = Usage()
    usage.take(FULL | {"inference_geo": "us", "speed": "fast"})
    assert (usage.has_counted_output, usage.is_said) == (False, True)
    usage.take({"output_tokens": 2}, is_at_end=True)
    told = ("priority", "us", "fast")
    assert billed(usage) == [BilledUsage("message", "m", 1, 2, 3, 9, 4, 5, 2, TOOLS, *told, True, False, 0)]


def test_each_iteration_is_billed_with_its_own_counts_and_the_rest_besides() -> None:
    """Given iterations that leave some of the answer out; then each has its own counts, the first the uses of server
    tools, and what is left out is one of no known kind."""
    first = {"type": "message", "input_tokens": 4, "output_tokens": 5, "cache_read_input_tokens": 1}
    lifetimes = {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}
    second = {"type": "message", "model": "n", "input_tokens": 1, "output_tokens": 2, "cache_creation": lifetimes}
    usage = Usage()
    said = {"server_tool_use": TOOLS, "service_tier": "standard", "iterations": [first, second]}
    usage.take({"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 3} | said, is_at_end=True)
    told = ("standard", None, None)
    assert billed(usage) == [
        BilledUsage("message", "m", 4, 5, 1, 0, 0, 0, 5, TOOLS, *told, True, False, 0),
        BilledUsage("message", "n", 1, 2, 0, 7, 3, 4, 2, {}, *told, True, False, 0),
        BilledUsage("other", "m", 5, 13, 2, 0, 0, 0, 13, {}, *told, False, False, 0),
    ]


def test_nothing_is_counted_that_was_not_said() -> None:
    """Given an inference or a usage of which nothing is said; then all its counts are zero."""
    nothing = (0,) * 7
    assert BilledUsage() == BilledUsage("message", None, *nothing, {}, None, None, None, True, False, 0)
    usage = Usage()
    assert billed(usage) == []
    usage.take({"service_tier": "standard"}, is_at_end=True)
    assert billed(usage) == [
        BilledUsage("message", "m", *nothing, {}, "standard", None, None, False, False, 0),
    ]


def test_certainty_says_how_far_an_answer_came() -> None:
    """Given streams that end, break behind their count, or before it; then exact, partial, estimated."""
    begin = event("message_start", message={"model": "m", "usage": FULL})
    count = event("message_delta", delta={}, usage={"output_tokens": 9})
    end = event("message_stop")
    for pieces, certainty in (
        ((begin, count, end), Certainty.EXACT),
        ((begin, count), Certainty.PARTIAL),
        ((begin,), Certainty.ESTIMATED),
    ):
        tally = tally_of(*pieces)
        assert tally.usage.certainty(tally.has_stopped) is certainty
    assert not tally_of(event("ping")).usage.is_said


def test_a_whole_answer_is_exact() -> None:
    """Given a whole answer; then its usage is final, and its tool calls are known."""
    tally = Tally()
    block = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}
    assert tally.observe_whole(json.dumps({"type": "message", "usage": FULL, "content": [block]}).encode())
    assert tally.usage.certainty(tally.has_stopped) is Certainty.EXACT
    assert [(use.id, use.name, use.input_bytes) for use in tally.tools.calls] == [("t1", "Bash", 16)]


@pytest.mark.parametrize("in_one_piece", [True, False])
def test_the_guess_goes_by_the_text_that_was_relayed(in_one_piece: bool) -> None:
    """Given a stream that broke before its output was counted; then about a token for each four bytes of text."""
    words = [text("word " * 16) for _ in range(50)]
    begin = event("message_start", message={"model": "m", "usage": FULL})
    tally = tally_of(b"".join([begin, *words])) if in_one_piece else tally_of(begin, *words)
    assert tally.usage.output_tokens == 2
    assert 50 * 16 < tally.usage.guessed_output_tokens < 50 * 24


def test_the_guess_is_never_less_than_what_was_said() -> None:
    """Given next to nothing was relayed; then the guess is the upstream's own word."""
    usage = Usage()
    usage.take({"output_tokens": 300})
    usage.passed(text("."))
    assert usage.guessed_output_tokens == 300


@pytest.mark.parametrize(("size_bytes", "tokens"), [(100, 0), (128, 0), (129, 1), (132, 1), (133, 2), (528, 100)])
def test_the_guess_leaves_out_what_is_about_the_text(size_bytes: int, tokens: int) -> None:
    """Given deltas of a size; then the guess is a token for each four bytes that are beyond what any delta has."""
    words = text("w" * (size_bytes - len(text(""))))
    for count in (1, 2):
        usage = Usage()
        for _ in range(count):
            usage.passed(words)
        usage.passed(event("ping"))
        text_bytes = count * (size_bytes - 128)
        assert usage.guessed_output_tokens == max(0, math.ceil(text_bytes / 4))
        assert count == 2 or usage.guessed_output_tokens == tokens


INPUTS = ['{"command":"ls"}', '{"text":"Grüße \\"quoted\\" \\\\ \U0001f99c"}', "", '{"a":"' + "x" * 5000 + '"}']


@pytest.mark.parametrize("whole", INPUTS)
@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize("joined", [True, False])
def test_a_tool_s_input_is_measured_in_bytes_however_it_is_cut(whole: str, size: int, joined: bool) -> None:
    """Given a call whose input streams in pieces; then its size is that of the whole input as JSON."""
    pieces = ["", *(whole[at : at + size] for at in range(0, len(whole), size))]
    events = [start(0, type="text"), text("partial_json"), start(1, type="tool_use", id="t", name="Bash", input={})]
    events += [piece(1, part) for part in pieces]
    uses = ToolUses()
    for batch in [b"".join(events)] if joined else events:
        uses.observe(batch)
    assert [(use.name, use.input_bytes) for use in uses.calls] == [("Bash", len(whole.encode()))]


@pytest.mark.parametrize("unit", ["a", "\\\\", '\\"'])
def test_measuring_an_input_takes_memory_in_proportion_to_it(unit: str) -> None:
    """Given an input of a megabyte in one event, when it is measured, then that takes a few times as much."""
    uses = ToolUses()
    uses.observe(start(0, type="tool_use", id="t", name="Bash", input={}))
    batch = piece(0, unit * 250_000)
    tracemalloc.start()
    try:
        uses.observe(batch)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert uses.calls[0].input_bytes == 250_000 * len(unit)
    assert peak_bytes < 10 * len(batch)


def test_several_calls_are_told_apart_and_server_tools_are_none_of_the_client_s() -> None:
    """Given two calls and a tool that the upstream runs itself; then two calls, each with its own input."""
    uses = ToolUses()
    for batch in (
        start(0, type="tool_use", id="a", name="Read"),
        piece(0, '{"p":1}'),
        start(1, type="server_tool_use", id="s", name="web_search"),
        piece(1, '{"query":"long long long"}'),
        start(2, type="tool_use", id="b", name="Edit"),
        piece(2, "{}"),
    ):
        uses.observe(batch)
    assert [(use.id, use.name, use.input_bytes) for use in uses.calls] == [("a", "Read", 7), ("b", "Edit", 2)]


def test_a_whole_answer_s_calls_have_each_their_own_size_in_bytes() -> None:
    """Given a whole answer with two calls; then each is as large as its own input, written without spaces."""
    uses = ToolUses()
    block = {"type": "tool_use", "id": "t", "name": "n"}
    uses.observe_whole({"content": [block | {"input": {"a": "é", "b": [1]}}, 7, block | {"input": {}}]})
    assert [use.input_bytes for use in uses.calls] == [len('{"a":"é","b":[1]}'.encode()), 2]


def test_an_input_that_cannot_be_written_has_no_size() -> None:
    """Given an input that is nested too deeply to be written; then it counts as nothing."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    uses = ToolUses()
    uses.observe_whole({"content": [{"type": "tool_use", "id": "t", "name": "n", "input": deep}]})
    assert uses.calls[0].input_bytes == 0


def test_calls_of_an_answer_are_bounded() -> None:
    """Given more calls than any answer has; then the first two hundred are kept, and nothing is added to the last."""
    uses = ToolUses()
    for number in range(201):
        uses.observe(start(number, type="tool_use", id=f"t{number}", name="n"))
        uses.observe(piece(number, "{}"))
    assert [use.id for use in uses.calls] == [f"t{number}" for number in range(200)]
    assert {use.input_bytes for use in uses.calls} == {2}


def test_what_cannot_be_read_of_an_input_is_passed_over() -> None:
    """Given half a surrogate pair in a piece; then the other pieces are measured all the same."""
    uses = ToolUses()
    uses.observe(start(0, type="tool_use", id="t", name="Bash"))
    uses.observe(piece(0, "ab\ud83d") + piece(0, "cd"))
    uses.observe(b'data: {"delta":[{"partial_json":"\\ud83d"},{"partial_json":"efg"}]}\n\n')
    assert uses.calls[0].input_bytes == 5


@pytest.mark.parametrize(
    ("before", "batch"),
    [
        pytest.param(b"", text("words"), id="text"),
        pytest.param(b"", piece(0, "{}"), id="a-piece-of-no-call"),
        pytest.param(start(0, type="tool_use", id="t", name="n"), text("words"), id="text-behind-a-call"),
    ],
)
def test_what_has_nothing_of_a_call_is_not_looked_into(
    before: bytes, batch: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a run of events without a call or a piece of one; then it is not cut into its events: there are many."""
    uses = ToolUses()
    uses.observe(before)
    looked_into: list[bytes] = []
    monkeypatch.setattr("gateway.protocol.tool_uses.split_events", lambda run: looked_into.append(run) or [])
    uses.observe(batch)
    assert looked_into == []
    uses.observe(start(1, type="tool_use", id="u", name="n"))
    assert len(looked_into) == 1


@pytest.mark.parametrize("document", [{"a": "\ud800"}, {"a": 2**90}, None, [float("nan")]])
def test_any_input_of_a_whole_answer_has_a_size(document: object) -> None:
    """Given an input that not every encoder takes; then it has a size all the same."""
    uses = ToolUses()
    uses.observe_whole({"content": [{"type": "tool_use", "id": "t", "name": "n", "input": document}]})
    assert uses.calls[0].input_bytes > 0


@pytest.mark.parametrize(
    "raw",
    [
        b"event: content_block_start\ndata: {broken tool_use\n\n",
        b'event: content_block_start\ndata: ["tool_use"]\n\n',
        b'event: content_block_start\ndata: {"content_block":"tool_use"}\n\n',
        b'data: {"partial_json":"tool_use"}\n\n',
        b'event: content_block_start\ndata: {"tool_use":' + b"[" * 100_000 + b"\n\n",
    ],
)
def test_what_is_no_call_harms_nothing(raw: bytes) -> None:
    """Given events that only look like a call; then there is none."""
    uses = ToolUses()
    for part in split_events(raw + piece(0, "x")):
        uses.observe(part)
    assert uses.calls == []


def test_tools_that_an_upstream_says_it_has_used_are_bounded() -> None:
    """Given new names with every word on usage; then the first few are kept, and go on being counted."""
    usage = Usage()
    for number in range(100):
        usage.take({"server_tool_use": {f"tool_{number}": 1, "tool_0": number}})
    assert len(usage.server_tools) == 20
    assert usage.server_tools["tool_0"] == 99

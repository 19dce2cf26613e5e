"""An upstream's events as a stream: what is held back is bounded, what it costs is proportional to the bytes, and what
comes behind the last event is not shown."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import cast

import pytest

from gateway.protocol import sse as sse_module
from gateway.protocol.errors import UpstreamError, UpstreamSilent
from gateway.protocol.sse import LARGEST_EVENT_BYTES, PING, Event
from gateway.upstream import Reply
from gateway.upstream import event_stream as stream_module
from gateway.upstream.event_stream import EventStream
from tests.unit.messages_api import Answer, event, text, tool_use

START, *_, ENDING, STOP = Answer([text("It is noon.")]).events()
DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "noon"})
BOM = b"\xef\xbb\xbf"


class Pieces:
    """A Reply that hands out these pieces, and then ends."""

    read_idle_seconds = 600.0

    def __init__(self, pieces: Iterator[bytes] | Sequence[bytes]) -> None:
        self._pieces = iter(pieces)
        self.taken_bytes = 0

    def receive(self) -> bytes:
        piece = next(self._pieces, b"")
        self.taken_bytes += len(piece)
        return piece


class Way:
    """Whether the streams of a test are looked into."""

    is_looked_into = False


@pytest.fixture(params=[False, True], ids=["relayed", "looked-into"], autouse=True)
def _each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that are passed on as they come, and those of which every event is decoded."""
    monkeypatch.setattr(Way, "is_looked_into", request.param)


def stream_of(pieces: Iterator[bytes] | Sequence[bytes]) -> tuple[EventStream, Pieces]:
    reply = Pieces(pieces)
    return EventStream(cast(Reply, reply), Way.is_looked_into), reply


def opened(stream: EventStream) -> tuple[Event, bytes]:
    """A stream's first event, and what came with it."""
    while (opening := stream.open()) is None:
        pass
    return opening.event, opening.batch


def read(stream: EventStream) -> bytes:
    """All that a stream hands out."""
    batches = []
    while (batch := stream.receive()) != b"":
        batches.append(batch or b"")
    return b"".join(batches)


def forever(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


# What is held back.

ENDLESS = [
    pytest.param(b": nothing\n\n" * 6000, id="comments"),
    pytest.param(b"event: ping\n\n" * 5000, id="names-without-data"),
    pytest.param(b"id: 1\nretry: 5\n\n" * 4000, id="other-fields"),
    pytest.param(b"\n" * 65536, id="blank-lines"),
    pytest.param(b"\r\n" * 32768, id="blank-crlf-lines"),
    pytest.param(b":\r\r" * 20000, id="cr-comments"),
    pytest.param(b"x" * 65536, id="no-line-end"),
    pytest.param(b"data: x\n" * 8192, id="lines-of-one-event"),
    pytest.param(b":\n" * 32768, id="comments-in-one-event"),
    pytest.param(b"data: " + b"x" * 65536, id="one-field"),
]


@pytest.mark.parametrize("piece", ENDLESS)
def test_what_comes_before_the_first_event_is_bounded(piece: bytes) -> None:
    """Given an upstream that sends for ever and no event, then that is an error, before much is held."""
    stream, reply = stream_of(forever(piece))
    with pytest.raises(UpstreamError, match=r"the upstream sent (\d+ bytes of comments|an event of more than)"):
        opened(stream)
    assert reply.taken_bytes <= LARGEST_EVENT_BYTES + 2 * len(piece)


@pytest.mark.parametrize("piece", [b"x" * 65536, b"data: x\n" * 8192, b":\n" * 32768, b"data: " + b"x" * 65536])
def test_an_event_that_does_not_end_is_bounded(piece: bytes) -> None:
    """Given a stream that has begun, when an event, a line or a field grows for ever, then that is an error."""
    stream, reply = stream_of([START])
    opened(stream)
    reply._pieces = forever(piece)
    with pytest.raises(UpstreamError, match="an event of more than"):
        read(stream)
    assert reply.taken_bytes <= LARGEST_EVENT_BYTES + 2 * len(piece) + len(START)


@pytest.fixture
def passing_time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each look at the clock finds it 100 seconds later."""
    now = [0.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            now[0] += 100.0
            return now[0]

    monkeypatch.setattr(stream_module, "time", Clock)
    return now


def test_comments_in_place_of_the_first_event_are_borne_for_a_time(passing_time: list[float]) -> None:
    """Given a comment now and then and no event, then the upstream's longest silence is the longest it may last."""
    stream, _ = stream_of(forever(b": still here\n\n"))
    with pytest.raises(UpstreamSilent, match="nothing but comments"):
        opened(stream)
    assert passing_time[0] < 3000


def test_an_event_that_drips_is_borne_for_a_time(passing_time: list[float]) -> None:
    """Given an event of which a byte comes now and then, then it has as long as the upstream may be silent."""
    stream, _ = stream_of(forever(b"x"))
    with pytest.raises(UpstreamSilent, match="did not end it"):
        read(stream)
    assert passing_time[0] < 3000


def test_comments_before_the_first_event_go_out_with_it() -> None:
    """Given comments and a ping, and then a message, then that is the first event, and all is handed out as it came."""
    stream, _ = stream_of([b": a\n\n", b": b\n", b"\n" + PING + START])
    event, batch = opened(stream)
    assert (event.name, batch) == ("message_start", b": a\n\n: b\n\n" + PING + START)


# Behind the last event.


@pytest.mark.parametrize("last", [STOP, event("error", error={"type": "overloaded_error", "message": "no"})])
@pytest.mark.parametrize("more", [PING * 3, b": more\n\n", START + DELTA, STOP, b"half"])
@pytest.mark.parametrize("is_one_piece", [True, False])
def test_nothing_is_handed_out_behind_the_last_event(last: bytes, more: bytes, is_one_piece: bool) -> None:
    """Given what follows the last event in its own packet, then the batch ends with the event."""
    whole = START + DELTA + last
    stream, _ = stream_of([whole + more] if is_one_piece else [START, DELTA + last + more])
    batches = b""
    while not stream.has_ended:
        batches += stream.receive() or b""
    assert batches == whole


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_good_stream_is_handed_out_byte_for_byte_however_it_is_cut(eol: bytes, size: int) -> None:
    """Given a message with any line ends in pieces, then all of it is handed out, to the end of its last line."""
    body = (START + DELTA + ENDING + STOP).replace(b"\n", eol)
    stream, _ = stream_of([body[at : at + size] for at in range(0, len(body), size)])
    batches = b""
    while not stream.has_ended:
        batches += stream.receive() or b""
    assert batches == body


# The end of the body.

WHOLE_BUT_FOR_THE_BLANK_LINE = [
    pytest.param(STOP[:-1], b"\n", id="blank-line"),
    pytest.param(STOP[:-2], b"\n\n", id="line-end-too"),
    pytest.param(STOP.replace(b"\n", b"\r\n")[:-2], b"\n", id="crlf-blank-line"),
    pytest.param(STOP.replace(b"\n", b"\r\n")[:-3], b"\r", id="half-a-crlf"),
    pytest.param(STOP.replace(b"\n", b"\r\n")[:-4], b"\n\n", id="crlf-line-end-too"),
    pytest.param(STOP.replace(b"\n", b"\r")[:-1], b"\r", id="cr-blank-line"),
    pytest.param(STOP.replace(b"\n", b"\r")[:-2], b"\n\n", id="cr-line-end-too"),
    pytest.param(b'data: {"type":"message_stop"}', b"\n\n", id="no-name"),
    pytest.param(b'data:{"type":\ndata:"message_stop"}', b"\n\n", id="two-lines-of-data"),
    pytest.param(b'data: {"type":"message_stop"}\nevent: message_stop\n', b"\n", id="name-behind-data"),
]


@pytest.mark.parametrize(("last", "added"), WHOLE_BUT_FOR_THE_BLANK_LINE)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_that_lacks_its_blank_line_alone_is_handed_out_with_it(last: bytes, added: bytes, size: int) -> None:
    """Given a body that ends behind the data of its last event, then the event is completed, and ends the stream."""
    body = START + DELTA + ENDING + last
    stream, _ = stream_of([body[at : at + size] for at in range(0, len(body), size)])
    assert read(stream) == body + added
    assert stream.tally.has_stopped


HALVES = [
    pytest.param(b"event: message_stop\n", id="name-alone"),
    pytest.param(b"event: message_stop\ndata", id="field-name"),
    pytest.param(b"event: message_stop\ndata: ", id="no-data"),
    pytest.param(STOP[:-3], id="json-cut"),
    pytest.param(b'data: {"type":\ndata:"message_stop"\n', id="second-line-missing"),
    pytest.param(b'data: {"type":"message_stop"}\neve', id="cut-behind-data"),
    pytest.param(b'data: {"type":"message_stop"}\nevent: message_st', id="name-cut"),
    pytest.param(b"data: [DONE]\n", id="no-object"),
    pytest.param(b"data: 12", id="a-number-that-may-go-on"),
    pytest.param(b": comment\n", id="comment"),
    pytest.param(b"\r", id="blank-line"),
]


@pytest.mark.parametrize("half", HALVES)
def test_half_an_event_at_the_end_is_not_handed_out(half: bytes) -> None:
    """Given a body that ends anywhere else, then what is left is dropped, and the stream has not stopped."""
    stream, _ = stream_of([START + DELTA + half])
    assert read(stream).rstrip(b"\r") == START + DELTA
    assert not stream.has_ended


@pytest.mark.parametrize("body", [START, event("error", error={"type": "rate_limit_error", "message": "no"})])
def test_an_only_event_that_lacks_its_blank_line_is_the_first(body: bytes) -> None:
    """Given a body of one event without its blank line, an error perhaps, then it opens the stream."""
    stream, _ = stream_of([body[:-1]])
    first, batch = opened(stream)
    assert (first.name, batch) == (json.loads(first.data)["type"], body)
    assert stream.tally.error_kind == ("rate_limit_error" if first.name == "error" else None)


# What it costs.

Shape = Callable[[int], Sequence[bytes]]


def in_one(unit: bytes, before: bytes = b"", after: bytes = b"\n\n") -> Shape:
    """The unit many times, in one piece."""
    return lambda size: [before + unit * (size // len(unit)) + after]


def tiny(unit: bytes, before: bytes = b"", after: bytes = b"\n\n") -> Shape:
    """The same a byte at a time, and a tenth of it."""

    def pieces(size: int) -> Sequence[bytes]:
        body = before + unit * (size // 10 // len(unit)) + after
        return [body[at : at + 1] for at in range(len(body))]

    return pieces


TOOL = event("content_block_start", index=0, content_block={"type": "tool_use", "id": "t", "name": "n", "input": {}})
SHAPES = [
    pytest.param(in_one(b"error\n\n"), id="bomb-of-errors"),
    pytest.param(in_one(b"error\r\r"), id="bomb-of-errors-cr"),
    pytest.param(in_one(b"error\n\n", after=b"\r\n"), id="bomb-of-errors-and-one-cr"),
    pytest.param(in_one(b"event: error\n\n"), id="errors-without-data"),
    pytest.param(in_one(b"event: message_delta\ndata:{}\n\n"), id="deltas"),
    pytest.param(in_one(b"data: message_delta\n\n"), id="deltas-that-are-no-json"),
    pytest.param(in_one(b"event: message_delta\r\ndata:{}\r\n\r\n"), id="crlf-deltas"),
    pytest.param(in_one(b"event: message_sta\ndata: {}\n\n"), id="nearly-notable"),
    pytest.param(in_one(b"event: errors\ndata: error\n\n"), id="nearly-errors"),
    pytest.param(in_one(b'"type":"erro'), id="nearly-notable-in-one-event"),
    pytest.param(in_one(b"error message_st", b"data: "), id="marks-in-one-line"),
    pytest.param(in_one(b"data: x\n\n"), id="tiny-events"),
    pytest.param(in_one(b"data: x\n", START + b"event: error\n"), id="lines-of-one-notable-event"),
    pytest.param(in_one(b"data: x\n"), id="lines-of-one-first-event"),
    pytest.param(in_one(b"data:\n", START + b"event: message_delta\n"), id="empty-lines-of-one-event"),
    pytest.param(in_one(b"event: error\n"), id="names-of-one-event"),
    pytest.param(in_one(b"x", b"data: "), id="no-line-end"),
    pytest.param(in_one(b"\r", START), id="carriage-returns"),
    pytest.param(in_one(b"\r\n", START), id="blank-lines"),
    pytest.param(in_one(b"\r", START + b"data: ", b""), id="carriage-returns-behind-half-a-line"),
    pytest.param(in_one(BOM, START), id="byte-order-marks"),
    pytest.param(in_one(BOM + b"\n\n", START), id="byte-order-marks-as-events"),
    pytest.param(in_one(b":\n\n", START), id="comments"),
    pytest.param(in_one(b"\xff\xfe\n", b"event: error\ndata: "), id="no-utf-8"),
    pytest.param(in_one(b'"partial_json":"', TOOL + b"data: content_block_delta "), id="tool-inputs-that-do-not-end"),
    pytest.param(in_one(b'data: "partial_json": "\\"', TOOL, b"\n\n"), id="escaped-tool-inputs"),
    pytest.param(tiny(b"x", b"data: "), id="bytes-of-a-line"),
    pytest.param(tiny(b"x", b"\rdata: "), id="bytes-of-a-line-behind-a-cr"),
    pytest.param(tiny(b"data: x\n"), id="bytes-of-many-lines"),
    pytest.param(tiny(b"error\n\n"), id="bytes-of-errors"),
    pytest.param(tiny(b"\r", START), id="bytes-that-are-crs"),
    pytest.param(tiny(b":\r\n\r\n", START), id="bytes-of-comments"),
]
SIZE_BYTES = 125_000
# Twice the bytes cost twice, or four times as much where it is the square.
MOST = 3.0


def cost_seconds(pieces: Sequence[bytes]) -> float:
    """What it takes this thread to read a stream to its end."""
    stream, _ = stream_of(pieces)
    began_at = time.thread_time()
    with suppress(UpstreamError):
        opened(stream)
        read(stream)
    return time.thread_time() - began_at


@pytest.mark.parametrize("shape", SHAPES)
def test_cost_is_proportional_to_the_bytes(shape: Shape) -> None:
    """Given an adversarial stream, when it is twice as long, then it costs about twice as much, not four times."""
    once, twice = shape(SIZE_BYTES), shape(2 * SIZE_BYTES)
    ratios = []
    for _ in range(8):
        ratios.append(cost_seconds(twice) / max(cost_seconds(once), 0.002))
        if ratios[-1] < MOST:
            return
    pytest.fail(f"twice the bytes cost {min(ratios):.1f} times as much")


# Looked into.


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 50, 1000])
def test_what_is_decoded_is_what_is_handed_out(eol: bytes, size: int) -> None:
    """Given a message in pieces, then the decoded events are those of the batches, if they are asked for."""
    body = (PING + START + DELTA + b": word\n\n" + ENDING + STOP).replace(b"\n", eol)
    stream, _ = stream_of([body[at : at + size] for at in range(0, len(body), size)])
    assert opened(stream)[0].name == "message_start"
    while not stream.has_ended:
        stream.receive()
    decoded = stream.take_decoded()
    assert stream.take_decoded() == []
    if Way.is_looked_into:
        assert b"".join(part.raw for part in decoded) == body
        names = [part.event.name for part in decoded if part.event is not None]
        assert names == ["ping", "message_start", "content_block_delta", "message_delta", "message_stop"]
    else:
        assert decoded == []


def test_an_event_is_read_once_by_all_who_look_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a call of a tool, when its events are looked into again behind the stream, then no data is read twice."""
    seen: list[str] = []

    def reading(data: str) -> dict[str, object] | None:
        seen.append(data)
        return cast("dict[str, object]", json.loads(data))

    monkeypatch.setattr(sse_module, "exact_object_or_none", reading)
    monkeypatch.setattr(sse_module, "object_or_none", reading)
    events = list(Answer([text("It is noon."), tool_use("bmcp_time_now", "toolu_1", zone="UTC")]).events())
    stream = EventStream(cast(Reply, Pieces([b"".join(events)])), is_looked_into=True)
    read(stream)
    documents = [part.event.exact for part in stream.take_decoded() if part.event is not None]
    assert stream.tally.tools.calls[0].name == "bmcp_time_now"
    assert stream.tally.has_stopped
    assert len(seen) == len(documents) == len(events)


def test_both_ways_count_the_same() -> None:
    """Given a broken stream, then what is guessed of its usage is the same whether it is looked into or not."""
    pieces = [
        START,
        DELTA * 5,
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "error " * 100}),
    ]
    usages = []
    for is_looked_into in (False, True):
        stream = EventStream(cast(Reply, Pieces(pieces)), is_looked_into)
        read(stream)
        usages.append(stream.tally.usage)
    assert usages[0] == usages[1]
    assert usages[0].guessed_output_tokens > usages[0].output_tokens

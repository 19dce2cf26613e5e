"""The boundary finder and the decoder, held to a naive reading of the WHATWG specification that is written here."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.sse import (
    LARGEST_EVENT_BYTES,
    PING,
    Event,
    EventSplitter,
    EventTooLarge,
    decode_event,
    encode_event,
    may_be_notable,
    notable_events,
    split_events,
)

BOM = b"\xef\xbb\xbf"


def reference_lines(stream: bytes) -> list[tuple[bytes, int]]:
    """Each complete line of a stream without its end, and where that end lies (after the CR of a CRLF)."""
    lines, line, position = [], bytearray(), 0
    while position < len(stream):
        byte = stream[position : position + 1]
        position += 1
        if byte not in (b"\r", b"\n"):
            line += byte
            continue
        lines.append((bytes(line), position))
        line.clear()
        if byte == b"\r" and stream[position : position + 1] == b"\n":
            position += 1
    return lines


def reference_events(stream: bytes) -> list[Event]:
    """What https://html.spec.whatwg.org/multipage/server-sent-events.html dispatches, step by step as it is written."""
    events = []
    name, data = "", ""
    for raw, _ in reference_lines(stream.removeprefix(BOM)):
        line = raw.decode("utf-8", "replace")
        if line == "":
            if data != "":
                events.append(Event(name or "message", data.removesuffix("\n")))
            name, data = "", ""
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "data":
                data += value + "\n"
    return events


def reference_boundaries(stream: bytes) -> set[int]:
    """Where a run of whole events may end: behind an empty line, and behind the LF of its CRLF."""
    skipped = len(BOM) if stream.startswith(BOM) else 0
    ends = {skipped + end for line, end in reference_lines(stream[skipped:]) if line == b""}
    return ends | {end + 1 for end in ends if stream[end - 1 : end + 1] == b"\r\n"}


def notable(whole: bytes) -> list[bytes]:
    return [whole[start:end] for start, end in notable_events(whole)]


def decoded(whole: bytes) -> list[Event]:
    return [event for raw in split_events(whole) if (event := decode_event(raw)) is not None]


def check_chunks(chunks: list[bytes]) -> None:
    """Feed the chunks; at every step the splitter must have handed out exactly what the reference dispatches."""
    splitter = EventSplitter()
    stream = b"".join(chunks)
    boundaries = reference_boundaries(stream)
    fed, out, events = b"", b"", []
    for chunk in chunks:
        fed += chunk
        batch = splitter.feed(chunk)
        out += batch
        events += decoded(batch)
        assert b"".join(split_events(batch)) == batch
        assert fed.startswith(out)
        assert not batch or len(out) in boundaries
        assert events == reference_events(fed), f"after {fed!r}"
    assert splitter.holds_half_an_event == bool(stream[len(out) :].strip(b"\r\n"))


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Streams as upstreams send them, and worse: any mixture of line ends, comments, fields, blank lines, bytes."""
    text = st.text("ab:{} é\u2028€\U0001f600", max_size=6).map(str.encode)
    odd = st.binary(max_size=4).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b""))
    value = st.one_of(text, odd)
    field = st.sampled_from(
        [b"data:", b"data: ", b"data", b"event: ", b"event:", b": ", b":", b"id: ", b"retry: ", b""]
    )
    line = st.tuples(field, value).map(b"".join)
    end = st.sampled_from([b"\n", b"\r\n", b"\r"])
    parts = [draw(st.sampled_from([b"", BOM]))]
    for _ in range(draw(st.integers(0, 4))):
        for _ in range(draw(st.integers(0, 3))):
            parts += [draw(line), draw(end)]
        parts.append(draw(end))
    parts.append(draw(st.one_of(st.just(b""), line)))
    return b"".join(parts)


soups = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"data:x", b"data", b":", b"event:e", b"x"]), max_size=14).map(
    b"".join
)


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    """A stream in pieces of any sizes, empty ones included."""
    stream = draw(st.one_of(streams(), soups))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]


@given(chunked())
def test_any_split_of_any_stream_gives_the_same_bytes_and_events_at_once(chunks):
    """Given any stream in any pieces, when fed, then bytes, boundaries and events are the specification's at each."""
    check_chunks(chunks)


@given(st.one_of(streams(), soups))
def test_any_stream_byte_by_byte_gives_each_event_with_its_last_byte(stream):
    """Given any stream, when fed byte by byte, then each event is out as soon as its last byte is in."""
    check_chunks([stream[at : at + 1] for at in range(len(stream))])


@given(streams(), st.data())
def test_held_half_and_handed_out_bytes_are_the_stream(stream, data):
    """Given a stream cut anywhere, when completed with an end of event, then not a byte is lost or added."""
    cut = data.draw(st.integers(0, len(stream)))
    splitter = EventSplitter()
    handed = splitter.feed(stream[:cut]) + splitter.feed(stream[cut:])
    rest = splitter.feed(b"\ndata: end\n\n")
    assert handed + rest == stream + b"\ndata: end\n\n"


ODDITIES = [
    pytest.param(b"", [], b"", id="nothing"),
    pytest.param(b"data: a\n\n", [("message", "a")], b"", id="lf"),
    pytest.param(b"data: a\r\n\r\n", [("message", "a")], b"", id="crlf"),
    pytest.param(b"data: a\r\r", [("message", "a")], b"", id="cr"),
    pytest.param(b"data: a\n\r\n", [("message", "a")], b"", id="lf-then-crlf-blank"),
    pytest.param(b"data: a\r\n\n", [("message", "a")], b"", id="crlf-then-lf-blank"),
    pytest.param(b"data: a\n\r", [("message", "a")], b"", id="lf-then-cr-blank"),
    pytest.param(b"data: a\r\r\n", [("message", "a")], b"", id="cr-then-crlf-blank"),
    pytest.param(b"data: a\n\r\ndata: b\n\n", [("message", "a"), ("message", "b")], b"", id="mixed-ends-do-not-merge"),
    pytest.param(b"data: a\r\ndata: b\r\n\r\n", [("message", "a\nb")], b"", id="crlf-alone-is-no-boundary"),
    pytest.param(BOM + b"event: e\ndata: a\n\n", [("e", "a")], b"", id="bom"),
    pytest.param(BOM + b"\ndata: a\n\n", [("message", "a")], b"", id="bom-then-blank-line"),
    pytest.param(b": hello\n\ndata: a\n\n", [("message", "a")], b"", id="comment-alone"),
    pytest.param(b"data: a\n: hello\ndata: b\n\n", [("message", "a\nb")], b"", id="comment-inside"),
    pytest.param(b"data: a\ndata: b\ndata\n\n", [("message", "a\nb\n")], b"", id="several-data-lines"),
    pytest.param(b"data\n\n", [("message", "")], b"", id="data-without-colon"),
    pytest.param(b"data:  a\n\n", [("message", " a")], b"", id="one-space-is-taken-off"),
    pytest.param(b"event: odd_kind\ndata: {}\n\n", [("odd_kind", "{}")], b"", id="unknown-event"),
    pytest.param(b"event: e\n\ndata: a\n\n", [("message", "a")], b"", id="name-without-data-is-forgotten"),
    pytest.param(b"id: 1\nretry: 5\nfoo: bar\ndata: a\n\n", [("message", "a")], b"", id="other-fields"),
    pytest.param(b"\n\n\ndata: a\n\n\n\n", [("message", "a")], b"", id="blank-lines-around"),
    pytest.param("data: é€😀\n\n".encode(), [("message", "é€😀")], b"", id="utf-8"),
    pytest.param(b"data: a\xff\xe2\x82\n\n", [("message", "a\ufffd\ufffd")], b"", id="invalid-utf-8"),
    pytest.param(b"data: a\xe2\x80\xa8b\x0b\x85\n\n", [("message", "a\u2028b\x0b\ufffd")], b"", id="other-line-breaks"),
    pytest.param(b"data: a\n\ndata: b\n", [("message", "a")], b"data: b\n", id="half-an-event"),
    pytest.param(b"data: a\n\ndata: b", [("message", "a")], b"data: b", id="half-a-line"),
    pytest.param(PING + b"data: a\n\n", [("ping", '{"type": "ping"}'), ("message", "a")], b"", id="ping"),
]


@pytest.mark.parametrize(("stream", "events", "half"), ODDITIES)
def test_oddity_is_read_as_the_specification_reads_it(stream, events, half):
    """Given an oddity, when fed whole, byte by byte and cut at every offset, then the events are the expected ones."""
    assert [(event.name, event.data) for event in reference_events(stream)] == events
    check_chunks([stream])
    check_chunks([stream[at : at + 1] for at in range(len(stream))])
    for cut in range(len(stream) + 1):
        check_chunks([stream[:cut], stream[cut:]])
    assert EventSplitter().feed(stream) == stream.removesuffix(half)


def test_line_feed_of_a_line_end_that_was_cut_follows_at_once():
    """Given an event whose last CRLF is cut, then the event is out with the CR, and the LF as soon as it comes."""
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\r\n\r") == b"data: a\r\n\r"
    assert splitter.feed(b"") == b""
    assert splitter.feed(b"\n") == b"\n"
    assert splitter.feed(b"\ndata: b\n\n") == b"\ndata: b\n\n"
    assert splitter.feed(b"data: a\r\n\r") == b"data: a\r\n\r"
    assert splitter.feed(b"\nda") == b"\n"


def test_half_an_event_is_known_to_be_held():
    """Given half an event, when asked, then the splitter says so; blank lines alone are no half event."""
    splitter = EventSplitter()
    splitter.feed(b"data: a\n\n\r\n")
    assert not splitter.holds_half_an_event
    splitter.feed(b"da")
    assert splitter.holds_half_an_event


def test_event_over_the_limit_is_refused():
    """Given a limit of 100 bytes, when an event passes it without ending, then EventTooLarge."""
    splitter = EventSplitter(limit_bytes=100)
    splitter.feed(b"d" * 100)
    with pytest.raises(EventTooLarge):
        splitter.feed(b"d")


def test_whole_events_of_any_size_pass_a_limit_on_halves():
    """Given a limit of 100 bytes, when a larger run of whole events comes at once, then it passes."""
    run = b"data: x\n\n" * 50
    assert EventSplitter(limit_bytes=100).feed(run) == run


class CountingBuffer(bytearray):
    """Counts the bytes that are searched."""

    searched = 0

    def find(self, sub, start=0, *end):  # type: ignore[override]
        CountingBuffer.searched += len(self) - start
        return super().find(sub, start, *end)

    def rfind(self, sub, start=0, *end):  # type: ignore[override]
        CountingBuffer.searched += len(self) - start
        return super().rfind(sub, start, *end)

    def __contains__(self, sub):
        CountingBuffer.searched += len(self)
        return super().__contains__(sub)


@pytest.mark.parametrize("piece_bytes", [1, 64])
def test_a_large_event_in_small_pieces_is_searched_once(piece_bytes):
    """Given a large event in tiny pieces, when fed, then the bytes searched grow with the event, not its square."""
    event = b"data: " + b"x" * (1 << 17) + b"\n\n"
    splitter = EventSplitter()
    splitter._half = CountingBuffer()
    CountingBuffer.searched = 0
    pieces = [event[at : at + piece_bytes] for at in range(0, len(event), piece_bytes)]
    out = b"".join(splitter.feed(piece) for piece in pieces)
    assert out == event
    assert CountingBuffer.searched <= 4 * (len(event) + 2 * len(pieces))


@pytest.mark.parametrize(
    "raw",
    [
        b'event: message_start\ndata: {"type":"message_start"}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta"}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        b'data: {"type": "message_stop"}\n\n',
        b"event: message_stop\ndata: {}\n\n",
        b"event: error\ndata: {}\n\n",
        b"event:error\ndata: {}\n\n",
        b'data: {"type":"error","error":{}}\n\n',
        b'data: {"type": "error"}\r\n\r\n',
        BOM + b"event: error\ndata: {}\n\n",
    ],
)
def test_events_that_matter_are_notable(raw):
    """Given an event with usage, an end or an error, alone or among others, then the fast path looks inside."""
    assert [decode_event(found) for found in notable(raw)] == [decode_event(raw)]
    assert [decode_event(found) for found in notable(PING + raw + PING)] == [decode_event(raw)]


@pytest.mark.parametrize("mark", [b"message_start", b"message_stop", b"message_delta", b"error"])
@pytest.mark.parametrize("before", [b"", b"data: "], ids=["first", "later"])
def test_a_run_with_a_mark_of_what_matters_is_looked_into(mark, before):
    """Given a run of events, then it is looked into if anything in it may matter, wherever that stands."""
    assert may_be_notable(before + mark)
    assert may_be_notable(PING + before + mark)
    assert not may_be_notable(before + mark[1:-1])
    assert not may_be_notable(b"")


def test_text_deltas_and_pings_are_not_looked_into():
    """Given an ordinary delta, then the fast path passes it by."""
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "an error, perhaps"}}
    raw = b"event: content_block_delta\ndata: " + json.dumps(delta).encode() + b"\n\n"
    assert notable(raw + PING) == []


LINES = [
    b"event: error",
    b"data: {}",
    b'data: {"type":"error"}',
    b"event: message_stop",
    b": no error",
    b"data: message_st",
    b"",
]


@given(st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from([b"\n", b"\r\n", b"\r"]))))
def test_looking_only_where_it_matters_finds_what_looking_everywhere_finds(lines):
    """Given any whole events with any line ends, then the notable ones are those that a look at each would give."""
    whole = EventSplitter().feed(b"".join(text + end for text, end in lines) + b"\n\n")
    each = [raw for raw in split_events(whole) if notable(raw)]
    found = notable(whole)
    assert [decode_event(raw) for raw in found] == [decode_event(raw) for raw in each]


@pytest.mark.parametrize(
    ("held", "last"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"data: {}\n", b"data: {}\n\n", id="without-its-blank-line"),
        pytest.param(b"data: {}\r", b"data: {}\r\r", id="without-its-blank-line-cr"),
        pytest.param(b"data: {}\r\n", b"data: {}\r\n\n", id="without-its-blank-line-crlf"),
        pytest.param(b"data: {}", b"data: {}\n\n", id="without-any-line-end"),
        pytest.param(b"data:{}", b"data:{}\n\n", id="without-a-space"),
        pytest.param(b'event: e\ndata: {"a": 1}', b'event: e\ndata: {"a": 1}\n\n', id="named"),
        pytest.param(b'event: e\rdata: {"a": 1}', b'event: e\rdata: {"a": 1}\n\n', id="named-cr"),
        pytest.param(b'event: e\ndata: {"a": 1', b"", id="half-its-data"),
        pytest.param(b'event: e\ndata: {"a": 1\n', b"", id="half-its-data-and-a-line-end"),
        pytest.param(b"event: e\ndata: 7\n", b"", id="no-object"),
        pytest.param(b"event: e\n", b"", id="no-data"),
        pytest.param(b"data: {}\neve", b"", id="half-a-line-after-its-data"),
        pytest.param(b"data: {}\r: c", b"", id="half-a-comment-after-its-data"),
        pytest.param(b"dat", b"", id="half-a-line"),
    ],
)
def test_the_last_event_of_a_stream_is_given_out_if_it_is_whole(held, last):
    """Given a stream that ends within an event, then what lacks line ends alone is given out with them; nothing is held
    any more."""
    splitter = EventSplitter()
    assert splitter.feed(PING + held) == PING
    assert splitter.finish() == last
    assert not splitter.holds_half_an_event
    assert splitter.finish() == b""


def test_an_event_that_is_written_is_read_again():
    """Given a name and data, then the event has a line for each, and is decoded to them."""
    raw = encode_event("message_delta", b'{"a": 1}')
    assert raw == b'event: message_delta\ndata: {"a": 1}\n\n'
    assert decode_event(raw) == Event("message_delta", '{"a": 1}')


def test_an_event_may_be_as_large_as_a_request():
    """Given no other limit, then half an event of 32 MB is held, and a byte more is refused."""
    assert LARGEST_EVENT_BYTES == 32 << 20
    splitter = EventSplitter()
    splitter.feed(bytes(LARGEST_EVENT_BYTES))
    with pytest.raises(EventTooLarge, match="33554432"):
        splitter.feed(b"d")


@pytest.mark.parametrize("lines", [15, 16, 17, 32, 33])
def test_an_event_of_many_lines_has_them_all(lines):
    """Given an event with many data lines, a name in the middle and another one at its end, then its data are all of
    them, and its name the last."""
    data = [b"data: %d" % number for number in range(lines)]
    raw = b"\n".join([*data[:3], b"event: first", *data[3:], b"event: last"]) + b"\n\n"
    assert decode_event(raw) == Event("last", "\n".join(str(number) for number in range(lines)))


def test_notable_events_of_several_kinds_are_found_in_their_order():
    """Given an error, a count and an end in one run, then all are found, in the order in which they came."""
    kinds = ("error", "message_delta", "message_stop", "message_start")
    events = [f'event: {kind}\ndata: {{"type":"{kind}"}}\n\n'.encode() for kind in kinds]
    assert notable(PING.join(events)) == events
    assert notable(PING.join(reversed(events))) == events[::-1]


def test_where_a_notable_event_begins_and_ends():
    """Given a run of events, then a notable one is found from its first byte to its last, whatever its marks."""
    error = b'event: error\r\ndata: {"type": "error", "error": {}}\r\n\r\n'
    whole = PING + error + PING + error
    first = len(PING)
    second = first + len(error) + len(PING)
    assert list(notable_events(whole)) == [(first, first + len(error)), (second, len(whole))]

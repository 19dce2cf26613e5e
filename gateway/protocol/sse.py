"""Server-sent events: where one ends, and what the few that matter say.

Owns: the boundary finder and the decoding of single events. Pure: bytes in, bytes or values out; a splitter
belongs to one stream, and so to whoever runs the request. All of it costs in proportion to the bytes, whatever they
are: a few bytes of gzip may stand for millions of lines, and other streams wait for the interpreter meanwhile.

The rules (https://html.spec.whatwg.org/multipage/server-sent-events.html): a line ends with LF, CR or CRLF; an
event ends with an empty line; a stream may open with a byte order mark. Two line ends that follow each other
are, as bytes, one of LF LF, CR CR or LF CR (CR LF alone is a single line end), so the last boundary of a
buffer is the last such pair, plus the LF of a CRLF whose CR closed the pair. What is not changed is relayed as it
came; `encode_event` writes what splicing changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sseclient import SSEClient

from gateway.protocol.json_values import exact_object_or_none, object_or_none

PING = b'event: ping\ndata: {"type": "ping"}\n\n'

# What an answer says goes back in the next request, and the API takes none that is larger.
LARGEST_EVENT_BYTES = 32 * 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PAIRS = (b"\n\n", b"\r\r", b"\n\r")
_ANY_PAIR = re.compile(rb"\n\n|\r\r\n?|\n\r\n?")
# Bytes of which every event that matters has one: found at the speed of memchr, before anything is looked at closely.
_MARKS = _START_OR_STOP, _MESSAGE_DELTA, _ERROR = (b"message_st", b"message_delta", b"error")
# Anthropic names an event twice, in its `event:` line and in its data's "type"; either is enough to look inside.
_NOTABLE = re.compile(rb"message_st(?:art|op)|message_delta|event: ?error|\"type\": ?\"error\"")
# How Anthropic writes events, and nearly everybody: one line of name, one of data. What looks so needs no decoder.
_PLAIN = re.compile(rb"(?:event: ?+(\w+)(?:\r\n?|\n))?data: ?+([^\r\n\0]+)(?:\r\n?+|\n){2}")
_NAME_LINE = re.compile(rb"event(?::|\Z)")
_DATA_LINE = re.compile(rb"data(?::|\Z)")
# sseclient-py's time grows with the square of an event's lines, so it is handed a few of them at a time.
_LINES_AT_ONCE = 16


class EventTooLarge(Exception):
    """An event grew past the splitter's limit without ending."""


class EventSplitter:
    """Cuts a byte stream at event boundaries, holding back the half event at its end.

    `limit_bytes` bounds the half event; past it `feed` raises EventTooLarge.
    """

    __slots__ = ("_ended_with_cr", "_half", "_limit_bytes")

    def __init__(self, limit_bytes: int = LARGEST_EVENT_BYTES) -> None:
        self._half = bytearray()
        self._limit_bytes = limit_bytes
        self._ended_with_cr = False

    def feed(self, data: bytes) -> bytes:
        """The whole events that are complete with `data`, as they came; empty if there are none yet."""
        if self._ended_with_cr and data:
            # The last event closed with a CR; an LF that follows belongs to that same line end.
            self._ended_with_cr = False
            if data[:1] == b"\n":
                return b"\n" + self.feed(data[1:])
        if not self._half and data[-2:] == b"\n\n":
            return data
        searched = max(0, len(self._half) - 1)
        self._half += data
        end = self._last_boundary(searched)
        if end < 0:
            if len(self._half) > self._limit_bytes:
                raise EventTooLarge(f"an event of more than {self._limit_bytes} bytes")
            return b""
        whole = bytes(self._half[:end])
        del self._half[:end]
        self._ended_with_cr = whole.endswith(b"\r") and not self._half
        return whole

    def finish(self) -> bytes:
        """At the end of the stream: the event that is held back, with its blank line, if that alone is missing.

        An event that lacks the end of its last line, too, is whole if its data is: a JSON object shows where it ends.
        Anything else is half an event, and dropped as the specification asks.
        """
        last = bytes(self._half)
        self._half.clear()
        if not last.endswith((b"\n", b"\r")):
            start = max(last.rfind(b"\n"), last.rfind(b"\r")) + 1
            if not _DATA_LINE.match(last, start) and start > 0:
                return b""
            last += b"\n"
        last += last[-1:]
        event = decode_event(last)
        return last if event is not None and event.document is not None else b""

    @property
    def holds_half_an_event(self) -> bool:
        """Whether bytes of an event that has not ended are held back."""
        return bool(self._half.strip(b"\r\n"))

    def _last_boundary(self, searched: int) -> int:
        start = _last_pair(self._half, searched, len(self._half))
        if start < 0:
            return -1
        end = start + 2
        if self._half[end - 1 : end + 1] == b"\r\n":
            end += 1
        return end


@dataclass(frozen=True)
class Event:
    """One decoded event: its name (`message` when it has none) and its data, which are read when they are asked for."""

    name: str
    data: str

    @cached_property
    def exact(self) -> dict[str, Any] | None:
        """The data's JSON object, if it can be written again; see `exact_object_or_none`."""
        return exact_object_or_none(self.data)

    @cached_property
    def document(self) -> dict[str, Any] | None:
        """The data's JSON object, whatever its numbers; None for anything else. As `exact`, if that was read before."""
        known: dict[str, Any] | None = self.__dict__.get("exact")
        return known if known is not None else object_or_none(self.data)


def may_be_notable(whole: bytes) -> bool:
    """Whether `notable_events` has to look; nearly always not."""
    # Not `in`: CPython 3.11 first takes the mark for a number, and makes an exception for every answer.
    find = whole.find
    return find(_START_OR_STOP) >= 0 or find(_MESSAGE_DELTA) >= 0 or find(_ERROR) >= 0


def is_notable(raw: bytes) -> bool:
    """Whether one event may carry usage, the end, or an error. Errs towards yes."""
    return may_be_notable(raw) and _NOTABLE.search(raw) is not None


def notable_events(whole: bytes) -> Iterator[tuple[int, int]]:
    """Of a run of whole events those that may carry usage, the end, or an error: where each begins and ends.

    Errs towards yes.
    """
    end = 0
    for at in _marked(whole):
        if at < end:
            continue  # in the event that was just looked at
        before = _last_pair(whole, end, at)
        start = end if before < 0 else before + 2
        boundary = _ANY_PAIR.search(whole, at)
        end = boundary.end() if boundary is not None else len(whole)
        if _NOTABLE.search(whole, start, end):
            yield start, end


def _marked(whole: bytes) -> list[int]:
    found: list[int] = []
    for mark in _MARKS:
        at = whole.find(mark)
        while at >= 0:
            found.append(at)
            at = whole.find(mark, at + 1)
    found.sort()
    return found


def _last_pair(data: bytes | bytearray, start: int, end: int) -> int:
    """Where the last two line ends in a row begin, from `start` on; -1 if there are none."""
    has_cr = data.find(b"\r", start, end) >= 0  # nearly never, and each pair is a search of its own
    pairs = _PAIRS if has_cr else _PAIRS[:1]
    return max(data.rfind(pair, start, end) for pair in pairs)


def split_events(whole: bytes) -> Iterator[bytes]:
    """Each event of a run of whole events, as it came; joined they give the run back."""
    start = 0
    for boundary in _ANY_PAIR.finditer(whole):
        yield whole[start : boundary.end()]
        start = boundary.end()
    if start < len(whole):
        yield whole[start:]


def encode_event(name: str, data: bytes) -> bytes:
    """One event with these data, which have no line ends."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def decode_event(raw: bytes) -> Event | None:
    """Decode one whole event; None if it carries no data (comments, blank lines, unknown fields only).

    Bytes that are not UTF-8 become replacement characters, as the specification asks.
    """
    plain = _PLAIN.fullmatch(raw)
    if plain is not None:
        return Event((plain[1] or b"message").decode(), plain[2].decode("utf-8", "replace"))
    clean = raw.removeprefix(BYTE_ORDER_MARK).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = clean.decode("utf-8", "replace").encode().split(b"\n")
    data = [line for line in lines if _DATA_LINE.match(line)]
    if not data:
        return None
    # sseclient-py raises on invalid UTF-8, merges events after mixed line ends, and reads a byte order mark as
    # part of a name, so it is handed clean lines of one event at a time.
    name = [line for line in lines if _NAME_LINE.match(line)][-1:]
    runs = (data[at : at + _LINES_AT_ONCE] for at in range(0, len(data), _LINES_AT_ONCE))
    parts = list(SSEClient(b"\n".join([*name, *run]) + b"\n\n" for run in runs).events())
    return Event(parts[0].event, "\n".join(part.data for part in parts))

"""Server-sent events: where one ends, and what the few that matter say.

Owns: the boundary finder and the decoding of single events. Pure: bytes in, bytes or values out; a splitter
belongs to one stream and so to one thread.

The rules (https://html.spec.whatwg.org/multipage/server-sent-events.html): a line ends with LF, CR or CRLF; an
event ends with an empty line; a stream may open with a byte order mark. Two line ends that follow each other
are, as bytes, one of LF LF, CR CR or LF CR (CR LF alone is a single line end), so the last boundary of a
buffer is the last such pair, plus the LF of a CRLF whose CR closed the pair. Everything is relayed as it came;
nothing here re-encodes an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sseclient import SSEClient

PING = b'event: ping\ndata: {"type": "ping"}\n\n'

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PAIRS = (b"\n\n", b"\r\r", b"\n\r")
_ANY_PAIR = re.compile(rb"\n\n|\r\r\n?|\n\r\n?")
# Anthropic names an event twice, in its `event:` line and in its data's "type"; either is enough to look inside.
_NOTABLE = re.compile(rb"message_st(?:art|op)|message_delta|event: ?error|\"type\": ?\"error\"")


class EventTooLarge(Exception):
    """An event grew past the splitter's limit without ending."""


class EventSplitter:
    """Cuts a byte stream at event boundaries, holding back the half event at its end.

    `limit_bytes` bounds the half event; past it `feed` raises EventTooLarge.
    """

    def __init__(self, limit_bytes: int = 64 * 1024 * 1024) -> None:
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

    @property
    def holds_half_an_event(self) -> bool:
        """Whether bytes of an event that has not ended are held back."""
        return bool(self._half.strip(b"\r\n"))

    def _last_boundary(self, searched: int) -> int:
        start = max(self._half.rfind(pair, searched) for pair in _PAIRS)
        if start < 0:
            return -1
        end = start + 2
        if self._half[end - 1 : end + 1] == b"\r\n":
            end += 1
        return end


@dataclass(frozen=True, slots=True)
class Event:
    """One decoded event: its name (`message` when it has none) and its data."""

    name: str
    data: str


def has_notable(whole: bytes) -> bool:
    """Whether whole events may include one that carries usage, the end, or an error. Errs towards yes."""
    return _NOTABLE.search(whole) is not None


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
    text = raw.removeprefix(BYTE_ORDER_MARK).replace(b"\r\n", b"\n").replace(b"\r", b"\n").strip(b"\n") + b"\n\n"
    # sseclient-py raises on invalid UTF-8, merges events after mixed line ends, and reads a byte order mark as
    # part of a name, so it is handed one clean event at a time.
    clean = text.decode("utf-8", "replace").encode()
    for event in SSEClient(iter((clean,))).events():
        return Event(event.event, event.data)
    return None

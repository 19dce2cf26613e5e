"""How events look on the wire: line ends, comments, several data lines, a byte order mark.

The rules are those of https://html.spec.whatwg.org/multipage/server-sent-events.html. One frame is
one event with all that is put before it, so that frames can be counted as events. Pure.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.simulator.message import Event, to_json

LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UNKNOWN = Event("simulated_unknown", {"type": "simulated_unknown", "note": "pass me on"})


@dataclass(frozen=True, slots=True)
class Dress:
    """The oddities that every event of a stream is written with."""

    line_end: bytes = b"\n"
    has_bom: bool = False
    has_comments: bool = False
    is_multiline: bool = False


def with_unknown(events: list[Event]) -> list[Event]:
    """The events, with one of unknown type in their middle."""
    middle = len(events) // 2
    return [*events[:middle], _UNKNOWN, *events[middle:]]


def frames_of(events: Iterable[Event], dress: Dress) -> list[bytes]:
    """The events as bytes, one frame each."""
    frames = [_frame(event, dress) for event in events]
    if dress.has_bom:
        frames[0] = _BYTE_ORDER_MARK + frames[0]
    return frames


def _frame(event: Event, dress: Dress) -> bytes:
    lines: list[bytes] = []
    if dress.has_comments:
        lines += [b": a comment of its own", b"", b"", b": a comment before the event"]
    lines.append(b"event: " + event.name.encode())
    if dress.has_comments:
        lines.append(b":a comment inside the event")
    if dress.is_multiline:
        # A line break between two tokens of JSON is white space: the value is the same.
        text = json.dumps(event.data, ensure_ascii=False, indent=0)
        lines += [b"data: " + line.encode() for line in text.split("\n")]
    else:
        lines.append(b"data: " + to_json(event.data))
    return dress.line_end.join([*lines, b"", b""])

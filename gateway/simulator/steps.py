"""What a behaviour asks of the wire, as plain values: send this, wait, fall silent, close, reset; and what it charges.

A behaviour yields steps and touches no socket; `connection` plays them. A plan that ends without
`Close`, `Reset` or `Stall` leaves the connection open for the next request. Pure; any thread.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.simulator.charge import Charge


@dataclass(frozen=True, slots=True)
class Send:
    """Hand these bytes to the socket in one call."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for so long, while watching for the peer to leave."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing more, until the peer leaves."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close with a FIN; over TLS after a close_notify, unless ragged."""

    is_ragged: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """Close with a RST."""


# A charge touches no wire. It stands before the send that it is for: who has an answer finds it in the bill.
Step = Send | Pause | Stall | Close | Reset | Charge


def split_sends(steps: Iterable[Step], size_bytes: int, delay_seconds: float) -> Iterator[Step]:
    """The same bytes in sends of at most `size_bytes`, a pause between any two of them."""
    for step in steps:
        if not isinstance(step, Send):
            yield step
            continue
        for start in range(0, len(step.data), size_bytes):
            yield Send(step.data[start : start + size_bytes])
            if delay_seconds:
                yield Pause(delay_seconds)


def merge_sends(steps: Iterable[Step]) -> Iterator[Step]:
    """The same steps, sends that directly follow each other (charges apart) made one."""
    waiting: list[bytes] = []
    for step in steps:
        if isinstance(step, Send):
            waiting.append(step.data)
            continue
        if isinstance(step, Charge):
            yield step
            continue
        if waiting:
            yield Send(b"".join(waiting))
            waiting = []
        yield step
    if waiting:
        yield Send(b"".join(waiting))


def join_sends(steps: Iterable[Step], head_apart: bool) -> Iterator[Step]:
    """The same bytes in one send (two with the head apart), pauses dropped; how it ends is kept."""
    sent: list[bytes] = []
    endings: list[Step] = []
    for step in steps:
        if isinstance(step, Send):
            sent.append(step.data)
        elif isinstance(step, Charge):
            yield step
        elif not isinstance(step, Pause):
            endings.append(step)
    head, blank_line, body = b"".join(sent).partition(b"\r\n\r\n")
    if head_apart:
        yield Send(head + blank_line)
        yield Send(body)
    else:
        yield Send(head + blank_line + body)
    yield from endings

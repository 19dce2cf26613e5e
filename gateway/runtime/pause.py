"""A Pause: what a response yields when it can only go on once something has come.

Owns: what a generator waits for, and how a thread waits for it. A response is a generator of bytes and Pauses. A Pause
is an empty `bytes`, which WSGI lets an application yield when it has nothing yet (PEP 3333). Whoever runs the generator
parks it at a Pause and goes on with it when the Pause is over: the gateway's worker without a thread
(`server.parking`), everybody else in the thread that they have (`wait`, `complete`).

A Pause says little when it is over: the generator tries again and looks at its own deadline, so a needless wake-up does
no harm. It says one thing, that the client has hung up.

A Pause may carry bytes, which the client is sent before the wait: an event and the wait for the next are one step then.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Generator, Iterable
from typing import TypeVar

READABLE = select.POLLIN
WRITABLE = select.POLLOUT
# Linux; elsewhere POLLHUP, which poll reports unasked. A client that shuts its sending side is taken for gone, as nginx
# does too; bytes of a next request are none of our business here.
HANG_UP = getattr(select, "POLLRDHUP", 0)
GONE = HANG_UP | select.POLLHUP | select.POLLERR | select.POLLNVAL

_LONGEST_WAIT_SECONDS = 1e6

# Descriptors, and what each is wanted for: READABLE, WRITABLE or both.
Wanted = tuple[tuple[int, int], ...]

Result = TypeVar("Result")
Piece = TypeVar("Piece")


class Pause(bytes):
    """Until one of `wanted` is ready, or `until_at` (monotonic) has come, or the client hangs up, or all is over.

    `wanted` is best the same object from Pause to Pause: who watches sees at a glance that nothing has changed.
    `client` is the client's descriptor, whose hang-up ends the Pause; None if nobody is to be watched. `over` becomes
    readable at the end of the drain time.
    `needs_thread` says that what follows may block or take long. `carried` are the bytes that go to the client first:
    whoever takes them leaves none. A request has one Pause, which is changed and yielded again; it belongs to whoever
    runs the generator.
    """

    wanted: Wanted = ()
    until_at = math.inf
    needs_thread = False
    client_is_gone = False
    carried = b""

    def __new__(cls, client: int | None, over: int | None) -> Pause:
        return super().__new__(cls)

    def __init__(self, client: int | None, over: int | None) -> None:
        self.client = client
        self.over = over

    def __repr__(self) -> str:
        return f"<Pause for {dict(self.wanted)}{' in a thread' if self.needs_thread else ''}>"


def wait(pause: Pause) -> None:
    """Wait in this thread until a Pause is over."""
    poll = select.poll()
    if pause.client is not None:
        poll.register(pause.client, HANG_UP)
    if pause.over is not None:
        poll.register(pause.over, READABLE)
    for descriptor, events in pause.wanted:
        poll.register(descriptor, events)
    ready = dict(poll.poll(_milliseconds(pause.until_at - time.monotonic())))
    if pause.client is not None and ready.get(pause.client, 0) & GONE:
        pause.client_is_gone = True


def is_ready(descriptor: int, events: int) -> bool:
    """Whether a descriptor is READABLE or WRITABLE now, or broken."""
    poll = select.poll()
    poll.register(descriptor, events)
    return bool(poll.poll(0))


def waited(pieces: Iterable[Piece]) -> Generator[Piece, None, None]:
    """The pieces without the Pauses, which are waited for in this thread, and what those carried."""
    for piece in pieces:
        if isinstance(piece, Pause):
            carried, piece.carried = piece.carried, b""
            if carried:
                yield carried  # type: ignore[misc]  # what carries bytes is one of a response's pieces
            wait(piece)
        else:
            yield piece


def complete(waiting: Generator[Pause, None, Result], until_at: float = math.inf) -> Result:
    """Run a generator of Pauses to its end in this thread, and return its result.

    Raises TimeoutError if it pauses past `until_at`, a monotonic time.
    """
    try:
        while True:
            pause = next(waiting)
            if time.monotonic() >= until_at:
                raise TimeoutError
            pause.until_at = min(pause.until_at, until_at)
            wait(pause)
    except StopIteration as done:
        result: Result = done.value
        return result
    finally:
        waiting.close()


def _milliseconds(seconds: float) -> int:
    return math.ceil(min(max(0.0, seconds), _LONGEST_WAIT_SECONDS) * 1000)

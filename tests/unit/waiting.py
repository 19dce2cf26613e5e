"""What never waits, waited for in the test's own thread, as whoever serves a response does."""

from __future__ import annotations

import time

from gateway.runtime.pause import wait
from gateway.upstream import Reply
from gateway.upstream.event_stream import EventStream


def received(source: Reply | EventStream, seconds: float) -> bytes | None:
    """What is received within so many seconds: bytes, or b"" at the end; None if that is nothing."""
    reply = source if isinstance(source, Reply) else source.reply
    until_at = time.monotonic() + seconds
    is_over = False
    while (data := source.receive()) is None and not is_over:
        wait(reply.pause(until_at))
        is_over = time.monotonic() >= until_at
    return data

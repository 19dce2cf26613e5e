"""A connection between two requests, while the poller of parked responses has it.

Owns: the moment in which a client's next request is waited for where the last one was served. To hand the connection
to the main loop, and back, would cost two changes of threads and a dozen system calls.
"""

from __future__ import annotations

import math
import time

from gateway.runtime.pause import READABLE, Wanted
from gateway.server.connection import Connection

# The poller looks at so distant deadlines now and then, and need not keep them in order.
_LINGER_SECONDS = 0.8


class Kept:
    """A kept connection. `has_head`: its next request's head is there, and nothing is to be waited for."""

    followed: Wanted = ()
    needs_thread = False
    minds_the_end = True
    has_begun = False

    def __init__(self, connection: Connection, has_head: bool = False) -> None:
        self.connection = connection
        self.has_head = has_head
        self.until_at = -math.inf if has_head else time.monotonic() + _LINGER_SECONDS
        self.wanted: Wanted = () if has_head else ((connection.sock.fileno(), READABLE),)

    def told_of(self, descriptor: int, events: int) -> None:
        """The client has sent something, or has gone: whoever receives finds out."""

    def wait(self) -> None:
        """Nobody waits for it: the main loop takes it instead."""

    def __repr__(self) -> str:
        return f"<Kept {self.connection!r}{' with a head' if self.has_head else ''}>"

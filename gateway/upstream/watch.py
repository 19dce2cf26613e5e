"""Waiting on an upstream without forgetting the client.

Owns: a request's one Pause, and what ends every wait of it: the client's hang-up and the end of the drain time. A Watch
belongs to whoever runs the request. Nothing sleeps here: a loop that finds nothing yields what `pause` returns, and
calls `check` when it goes on.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Generator

from gateway.protocol.errors import ClientGone, Stopping
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import Pause, Wanted


class Watch:
    """Makes the Pauses of one request. `client` is the client's connection, or None where there is none to watch.

    Without a `lifecycle` no drain time ends. `has_sent` says whether the whole request of the last exchange has gone
    upstream.
    """

    __slots__ = ("_lifecycle", "_pause", "has_sent")

    def __init__(self, client: socket.socket | None, lifecycle: Lifecycle | None) -> None:
        self.has_sent = False
        self._lifecycle = lifecycle
        self._pause = Pause(
            client.fileno() if client is not None else None, lifecycle.fileno() if lifecycle is not None else None
        )

    def pause(self, wanted: Wanted, until_at: float) -> Pause:
        """A Pause until a descriptor is ready as asked, but not past a monotonic time."""
        pause = self._pause
        pause.wanted = wanted
        pause.until_at = until_at
        pause.needs_thread = False
        return pause

    def wait(self, descriptor: int, events: int, until_at: float) -> Generator[Pause, None, None]:
        """Pause; raises ClientGone and Stopping. What follows may block or take long."""
        yield from self.wait_any(((descriptor, events),), until_at)

    def wait_any(self, wanted: Wanted, until_at: float) -> Generator[Pause, None, None]:
        """Pause until one of several descriptors is ready as asked; else as `wait`."""
        pause = self._pause
        pause.wanted = wanted
        pause.until_at = until_at
        pause.needs_thread = True
        yield pause
        self.check()

    def to_thread(self) -> Generator[Pause, None, None]:
        """A Pause that is over at once: what follows may block, or take longer than others should wait."""
        return self.wait_any((), -math.inf)

    def let_others(self) -> Pause:
        """A Pause that is over when others have had their turn."""
        pause = self._pause
        pause.wanted = ()
        pause.until_at = -math.inf
        pause.needs_thread = False
        return pause

    def check(self) -> None:
        """Raise ClientGone if the client has hung up in a Pause, Stopping if the drain time is over."""
        if self._pause.client_is_gone:
            raise ClientGone
        if self._lifecycle is not None and self._lifecycle.is_over:
            raise Stopping("the gateway is stopping; try again")

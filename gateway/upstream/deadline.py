"""The time that connecting may take, all of it together, and what may end it before.

Owns: the waits of one dial. Name, addresses, proxy and TLS wait here alone, and so each of them ends at once when the
client hangs up or the drain time is over. Belongs to whoever runs the request.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from gateway.runtime.pause import READABLE, WRITABLE, Pause, Wanted
from gateway.upstream.watch import Watch

Result = TypeVar("Result")


class Deadline:
    """One dial's time. Every method that waits raises TimeoutError past it, ClientGone and Stopping."""

    def __init__(self, watch: Watch, seconds: float) -> None:
        self._watch = watch
        self._at = time.monotonic() + seconds

    @property
    def left_seconds(self) -> float:
        """How much is left; negative when it is over."""
        return self._at - time.monotonic()

    def share(self, parts: int) -> Deadline:
        """The first of so many equal parts of what is left."""
        return Deadline(self._watch, self.left_seconds / parts)

    def wait(self, descriptor: int, events: int) -> Generator[Pause, None, None]:
        """Wait for a descriptor to be READABLE or WRITABLE; who is woken needlessly calls again."""
        return self.wait_any(((descriptor, events),), self._at)

    def wait_any(self, wanted: Wanted, until_at: float) -> Generator[Pause, None, None]:
        """Wait for one of several to be ready as asked, but not past a monotonic time."""
        if self.left_seconds <= 0:
            raise TimeoutError
        yield from self._watch.wait_any(wanted, min(until_at, self._at))

    def complete(
        self, step: Callable[[], Result], descriptor: int, blocked_on: int = READABLE
    ) -> Generator[Pause, None, Result]:
        """Call a step that does not block until it has not to wait any more.

        `blocked_on` is what BlockingIOError means of it; TLS says itself what it waits for.
        """
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                wanted = READABLE
            except ssl.SSLWantWriteError:
                wanted = WRITABLE
            except BlockingIOError:
                wanted = blocked_on
            yield from self.wait(descriptor, wanted)

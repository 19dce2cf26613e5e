"""The time that connecting may take, all of it together, and what may end it before.

Owns: the waits of one dial. A Deadline belongs to one request's thread. Name, addresses, proxy and TLS wait
here alone, and so each of them ends at once when the client hangs up or the drain time is over.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from gateway.upstream.watch import READABLE, WRITABLE, Watch

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

    def wait(self, descriptor: int, events: int) -> None:
        """Wait until a descriptor is READABLE or WRITABLE as asked."""
        left_seconds = self.left_seconds
        if left_seconds <= 0 or not self._watch.wait(descriptor, events, left_seconds):
            raise TimeoutError

    def wait_any(self, wanted: Mapping[int, int], most_seconds: float) -> dict[int, int]:
        """Wait until one of several is ready, and say which are; none if none was in that time."""
        left_seconds = self.left_seconds
        if left_seconds <= 0:
            raise TimeoutError
        return self._watch.wait_any(wanted, min(most_seconds, left_seconds))

    def complete(self, step: Callable[[], Result], descriptor: int, blocked_on: int = READABLE) -> Result:
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
            self.wait(descriptor, wanted)

    def forget(self) -> None:
        """What was waited for is about to be closed, or handed over."""
        self._watch.forget()

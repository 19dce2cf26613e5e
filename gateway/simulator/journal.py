"""What has reached the simulator, requests and connections, and waiting for more.

Every connection's thread writes it, tests and control routes read it; one condition guards and
announces it.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.simulator.seen import SeenRequest


@dataclass(frozen=True, slots=True)
class Entry:
    """A request as kept: without its body when bodies are not kept, but with length and SHA-256."""

    request: SeenRequest
    body_bytes: int
    body_sha256: str


@dataclass(frozen=True, slots=True)
class ConnectionCounts:
    """TCP connections: open at this moment, and opened in all."""

    open: int
    opened: int


class Journal:
    """The newest `limit` requests and the connections."""

    def __init__(self, limit: int, keeps_bodies: bool) -> None:
        self._keeps_bodies = keeps_bodies
        self._limit = limit
        # Guards and announces everything below.
        self._changed = threading.Condition()
        self._version = 0
        self._next_index = 0
        self._entries: deque[Entry] = deque(maxlen=limit)
        self._open = 0
        self._opened = 0

    def record(self, request: SeenRequest) -> SeenRequest:
        """Notes a request; returns it with its index."""
        digest = hashlib.sha256(request.body).hexdigest() if self._limit else ""
        with self._changed:
            request = replace(request, index=self._next_index)
            self._next_index += 1
            kept = request if self._keeps_bodies else replace(request, body=b"")
            self._entries.append(Entry(kept, len(request.body), digest))
            self._announce()
        return request

    def entries(self) -> list[Entry]:
        """The requests so far, oldest first."""
        with self._changed:
            return list(self._entries)

    def clear(self) -> None:
        """Forgets the requests; indexes go on, connections stay counted."""
        with self._changed:
            self._entries.clear()
            self._announce()

    def connections(self) -> ConnectionCounts:
        """The connections now."""
        with self._changed:
            return ConnectionCounts(self._open, self._opened)

    def connection_opened(self) -> None:
        """Counts a connection that was accepted."""
        with self._changed:
            self._open += 1
            self._opened += 1
            self._announce()

    def connection_closed(self) -> None:
        """Counts out a connection that either side has closed."""
        with self._changed:
            self._open -= 1
            self._announce()

    def connection_disregarded(self) -> None:
        """Counts out a connection as if it had never been: it serves control routes."""
        with self._changed:
            self._open -= 1
            self._opened -= 1
            self._announce()

    def wait_until(self, predicate: Callable[[], bool], timeout_seconds: float) -> bool:
        """Waits until the predicate holds, asking again after every change; what it said last.

        The predicate runs without the lock, so it may read the journal.
        """
        deadline_at = time.monotonic() + timeout_seconds
        while True:
            with self._changed:
                version = self._version
            if predicate():
                return True
            with self._changed:
                while self._version == version:
                    remaining_seconds = deadline_at - time.monotonic()
                    if remaining_seconds <= 0 or not self._changed.wait(remaining_seconds):
                        break
                has_changed = self._version != version
            if not has_changed:
                return predicate()

    def _announce(self) -> None:
        self._version += 1
        self._changed.notify_all()

"""How many interceptions run at once, so that threads are left for health, metrics and refusals.

Owns: one counter. Thread-safe. Entering never waits: a request that finds no place is refused at once, because
a queue in front of streams that last minutes would only hide the overload.
"""

from __future__ import annotations

import threading


class Admission:
    """Places for interceptions in one worker."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()  # guards _taken
        self._taken = 0

    @property
    def taken(self) -> int:
        """How many interceptions run now."""
        return self._taken

    def enter(self) -> bool:
        """Take a place; False if there is none."""
        with self._lock:
            if self._taken >= self.limit:
                return False
            self._taken += 1
            return True

    def leave(self) -> None:
        """Give a place back; once for each successful enter."""
        with self._lock:
            self._taken -= 1

    def __repr__(self) -> str:
        return f"<Admission {self._taken}/{self.limit}>"

"""Which workers have come to serve, and when the next may be started.

Owns: what workers tell the master of their starts, and the master's patience with starts that fail. The
board is shared memory, made before the fork; Patience is the master's only thread's.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable

from gateway.runtime.background import GrowingPause
from gateway.web.admission import MOST_WORKERS

_WORD = struct.Struct("@q")


class StartBoard:
    """The number of the latest worker that came to serve in each row: one machine word, never half-written."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, MOST_WORKERS * _WORD.size)

    def note(self, row: int, number: int) -> None:
        """Worker `number`, counted from 1, serves."""
        _WORD.pack_into(self._memory, row * _WORD.size, number)

    def has_served(self, row: int, number: int) -> bool:
        """Whether worker `number`, the latest in its row, came to serve."""
        return _WORD.unpack_from(self._memory, row * _WORD.size) == (number,)

    @property
    def latest(self) -> int:
        """The number of the latest worker that came to serve; 0 if none ever did."""
        numbers: list[int] = [number for (number,) in _WORD.iter_unpack(self._memory[:])]
        return max(numbers)


class Patience:
    """When the next worker may be started: at once, or after a pause that grows with each start that fails."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause = GrowingPause()
        self._starts_at = float("-inf")
        self._failed = 0  # the latest that could not start

    def may_start(self) -> bool:
        """Whether it is time."""
        return self._clock() >= self._starts_at

    def failed(self, number: int, latest_served: int) -> float | None:
        """Worker `number` could not start; how many seconds to wait now.

        None if that is known from another one that failed. `latest_served` is the latest that came to serve: if one
        did since the last failure, the pause is short again.
        """
        if not self.may_start():
            return None
        if latest_served > self._failed:
            self._pause.reset()
        self._failed = number
        seconds = self._pause.next_seconds()
        self._starts_at = self._clock() + seconds
        return seconds

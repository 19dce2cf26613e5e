"""How many interceptions run at once, so that threads are left for health, metrics and refusals.

Owns: the count of places taken, and the board on which workers see each other's. Thread-safe. Entering
never waits: a request that finds no place is refused at once, because a queue in front of streams that last minutes
would only hide the overload.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from collections.abc import Callable

SLOTS = 256
_SLOT = struct.Struct("@q")
# A worker's main loop comes round once a second at least. One that has not for so long accepts nobody: it is stopped.
_STALE_SECONDS = 3.0


class Board:
    """How many places each worker has left that accepts connections now: anonymous shared memory, made before the fork.

    A worker writes its own slot and reads the others'; a slot is two machine words, the places and the time (in
    nanoseconds) up to which they are news, each written at a stroke. `clock` is monotonic, and the machine's.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places = mmap.mmap(-1, SLOTS * _SLOT.size)
        self._news_until = mmap.mmap(-1, SLOTS * _SLOT.size)

    def note(self, slot: int, left: int) -> None:
        """The worker has so many places left: none, when it accepts nobody or has ended."""
        _SLOT.pack_into(self._places, slot * _SLOT.size, left)

    def beat(self, slot: int) -> None:
        """The worker's main loop runs: what it noted holds for some seconds more."""
        _SLOT.pack_into(self._news_until, slot * _SLOT.size, self._in_ns(self._clock() + _STALE_SECONDS))

    def others_have_room(self, slot: int) -> bool:
        """Whether any other worker that accepts connections has a place left."""
        now = self._in_ns(self._clock())
        slots = zip(_SLOT.iter_unpack(self._places[:]), _SLOT.iter_unpack(self._news_until[:]), strict=True)
        return any(left > 0 and now < until and other != slot for other, ((left,), (until,)) in enumerate(slots))

    @staticmethod
    def _in_ns(seconds: float) -> int:
        return int(seconds * 1e9)


class Admission:
    """Places for interceptions in one worker; others see on the board what is left of them while it accepts."""

    def __init__(self, limit: int, board: Board | None = None, slot: int = 0) -> None:
        self.limit = limit
        self._board = board if board is not None else Board()
        self._slot = slot
        self._lock = threading.Lock()  # guards what follows, and its own slot on the board
        self._taken = 0
        self._is_accepting = False

    @property
    def taken(self) -> int:
        """How many interceptions run now."""
        return self._taken

    def announce(self, is_accepting: bool) -> None:
        """From now on the worker accepts connections, or does not: to one that does not, nobody should leave any."""
        if is_accepting == self._is_accepting:
            return
        with self._lock:
            self._is_accepting = is_accepting
            if is_accepting:
                self._board.beat(self._slot)
            self._board.note(self._slot, self.limit - self._taken if is_accepting else 0)

    def beat(self) -> None:
        """The worker's main loop has come round."""
        self._board.beat(self._slot)

    def should_yield(self, at_hand: int) -> bool:
        """Whether new connections had better go to another worker: no place is left here, and there is one there.

        `at_hand` requests have come to this worker and not ended; those that have not got so far as to ask for a place
        will take theirs before a new connection can.
        """
        return max(self._taken, at_hand) >= self.limit and self._board.others_have_room(self._slot)

    def enter(self) -> bool:
        """Take a place; False if there is none."""
        with self._lock:
            if self._taken >= self.limit:
                return False
            self._taken += 1
            self._note()
            return True

    def leave(self) -> None:
        """Give a place back; once for each successful enter."""
        with self._lock:
            self._taken -= 1
            self._note()

    def _note(self) -> None:
        if self._is_accepting:
            self._board.note(self._slot, self.limit - self._taken)

    def __repr__(self) -> str:
        return f"<Admission {self._taken}/{self.limit}>"

"""How many interceptions run at once, so that threads are left for health, metrics and refusals.

Owns: the count of slots taken, and the board on which workers see each other's. Thread-safe. Entering
never waits: a request that finds no slot is refused at once, because a queue in front of streams that last minutes
would only hide the overload.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from collections.abc import Callable

MOST_WORKERS = 256
_WORD = struct.Struct("@q")
# A worker's main loop comes round once a second at least. One that has not for so long accepts nobody: it is stopped.
_STALE_SECONDS = 3.0


class Board:
    """How many slots each worker has left that accepts connections now: anonymous shared memory, made before the fork.

    A worker writes its own row and reads the others'; a row is two machine words, the slots and the time (in
    nanoseconds) up to which they are news, each written at a stroke. `clock` is monotonic, and the machine's.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots = mmap.mmap(-1, MOST_WORKERS * _WORD.size)
        self._news_until = mmap.mmap(-1, MOST_WORKERS * _WORD.size)

    def note(self, row: int, left: int) -> None:
        """The worker has so many slots left: none, when it accepts nobody or has ended."""
        _WORD.pack_into(self._slots, row * _WORD.size, left)

    def beat(self, row: int) -> None:
        """The worker's main loop runs: what it noted holds for some seconds more."""
        _WORD.pack_into(self._news_until, row * _WORD.size, self._in_ns(self._clock() + _STALE_SECONDS))

    def others_have_room(self, row: int) -> bool:
        """Whether any other worker that accepts connections has a slot left."""
        now = self._in_ns(self._clock())
        rows = zip(_WORD.iter_unpack(self._slots[:]), _WORD.iter_unpack(self._news_until[:]), strict=True)
        return any(left > 0 and now < until and other != row for other, ((left,), (until,)) in enumerate(rows))

    @staticmethod
    def _in_ns(seconds: float) -> int:
        return int(seconds * 1e9)


class Admission:
    """Slots for interceptions in one worker; others see on the board what is left of them while it accepts."""

    def __init__(self, limit: int, board: Board | None = None, row: int = 0) -> None:
        self.limit = limit
        self._board = board if board is not None else Board()
        self._row = row
        self._lock = threading.Lock()  # guards what follows, and its own row on the board
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
                self._board.beat(self._row)
            self._board.note(self._row, self.limit - self._taken if is_accepting else 0)

    def beat(self) -> None:
        """The worker's main loop has come round."""
        self._board.beat(self._row)

    def should_yield(self, at_hand: int) -> bool:
        """Whether new connections had better go to another worker: no slot is left here, and there is one there.

        `at_hand` requests have come to this worker and not ended; those that have not got so far as to ask for a slot
        will take theirs before a new connection can.
        """
        return max(self._taken, at_hand) >= self.limit and self._board.others_have_room(self._row)

    def enter(self) -> bool:
        """Take a slot; False if there is none."""
        with self._lock:
            if self._taken >= self.limit:
                return False
            self._taken += 1
            self._note()
            return True

    def leave(self) -> None:
        """Give a slot back; once for each successful enter."""
        with self._lock:
            self._taken -= 1
            self._note()

    def _note(self) -> None:
        if self._is_accepting:
            self._board.note(self._row, self.limit - self._taken)

    def __repr__(self) -> str:
        return f"<Admission {self._taken}/{self.limit}>"

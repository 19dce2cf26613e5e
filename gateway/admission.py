"""How many interceptions run at once, so that threads are left for health, metrics and refusals.

Owns: the count of places taken, and the board on which workers see each other's. State layer; thread-safe. Entering
never waits: a request that finds no place is refused at once, because a queue in front of streams that last minutes
would only hide the overload.
"""

from __future__ import annotations

import mmap
import struct
import threading

_SLOTS = 256
_SLOT = struct.Struct("@i")


class Board:
    """How many places each worker has left: anonymous shared memory, made before the fork.

    A worker writes its own slot and reads the others'; a slot is one machine word, so none is read half-written.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOTS * _SLOT.size)

    def note(self, worker: int, left: int) -> None:
        """Worker number `worker` has so many places left."""
        _SLOT.pack_into(self._memory, worker % _SLOTS * _SLOT.size, left)

    def others_have_room(self, worker: int) -> bool:
        """Whether any other worker has a place left."""
        own = worker % _SLOTS
        return any(left > 0 for slot, (left,) in enumerate(_SLOT.iter_unpack(self._memory[:])) if slot != own)


class Admission:
    """Places for interceptions in one worker, the `worker`-th on the board."""

    def __init__(self, limit: int, board: Board | None = None, worker: int = 0) -> None:
        self.limit = limit
        self._board = board if board is not None else Board()
        self._worker = worker
        self._lock = threading.Lock()  # guards _taken
        self._taken = 0
        self._board.note(worker, limit)

    @property
    def taken(self) -> int:
        """How many interceptions run now."""
        return self._taken

    def should_yield(self, at_hand: int) -> bool:
        """Whether new connections had better go to another worker: no place is left here, and there is one there.

        `at_hand` requests have come to this worker and not ended; those that have not got so far as to ask for a place
        will take theirs before a new connection can.
        """
        return max(self._taken, at_hand) >= self.limit and self._board.others_have_room(self._worker)

    def enter(self) -> bool:
        """Take a place; False if there is none."""
        with self._lock:
            if self._taken >= self.limit:
                return False
            self._taken += 1
            self._board.note(self._worker, self.limit - self._taken)
            return True

    def leave(self) -> None:
        """Give a place back; once for each successful enter."""
        with self._lock:
            self._taken -= 1
            self._board.note(self._worker, self.limit - self._taken)

    def __repr__(self) -> str:
        return f"<Admission {self._taken}/{self.limit}>"

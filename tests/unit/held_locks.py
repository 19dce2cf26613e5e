"""Locks that know who holds them: what a generator holds when it yields is held for as long as it waits.

Owns: the stand-ins for threading's locks. They are handed out while `HeldLocks` is in force; those that were made
before stay as they are.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pytest

from gateway.runtime.pause import Pause

Piece = TypeVar("Piece")


class _Counted:
    """A lock of either kind; a Condition may be built on it."""

    def __init__(self, lock: Any, held: HeldLocks, place: str) -> None:
        self._lock = lock
        self._held = held
        self.place = place

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        is_acquired: bool = self._lock.acquire(blocking, timeout)
        if is_acquired:
            self._held.taken(self)
        return is_acquired

    def release(self) -> None:
        self._lock.release()
        self._held.given_back(self)

    def locked(self) -> bool:
        is_locked: bool = self._lock.locked()
        return is_locked

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _CountedAgain(_Counted):
    """One that its thread may take several times: a Condition gives it back as a whole."""

    def _is_owned(self) -> bool:
        is_owned: bool = self._lock._is_owned()
        return is_owned

    def _release_save(self) -> tuple[Any, int]:
        count = self._held.forget(self)
        return self._lock._release_save(), count

    def _acquire_restore(self, saved: tuple[Any, int]) -> None:
        state, count = saved
        self._lock._acquire_restore(state)
        for _ in range(count):
            self._held.taken(self)


class HeldLocks:
    """The locks that are made from now on, and which of them each thread holds."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.taken_from: set[str] = set()  # where those were made that were ever taken
        self._of_thread = threading.local()
        for name, kind in (("Lock", _Counted), ("RLock", _CountedAgain)):
            patch.setattr(threading, name, self._maker(getattr(threading, name), kind))

    def here(self) -> list[str]:
        """Where those were made that this thread holds."""
        return [lock.place for lock in self._list()]

    def taken(self, lock: _Counted) -> None:
        self._list().append(lock)
        self.taken_from.add(lock.place)

    def given_back(self, lock: _Counted) -> None:
        """By this thread, or for one that took it."""
        if lock in self._list():
            self._list().remove(lock)

    def forget(self, lock: _Counted) -> int:
        """It is given back, however often it was taken; how often that was."""
        count = self._list().count(lock)
        for _ in range(count):
            self._list().remove(lock)
        return count

    def checked(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces. Raises AssertionError where a Pause is yielded under a lock."""
        for piece in pieces:
            if isinstance(piece, Pause):
                assert not self.here(), f"locks are held at {piece!r}: those made at {', '.join(self.here())}"
            yield piece

    def _list(self) -> list[_Counted]:
        if not hasattr(self._of_thread, "locks"):
            self._of_thread.locks = []
        locks: list[_Counted] = self._of_thread.locks
        return locks

    def _maker(self, real: Callable[[], Any], kind: type[_Counted]) -> Callable[[], _Counted]:
        def make() -> _Counted:
            caller = sys._getframe(1)
            while caller.f_back is not None and caller.f_globals.get("__name__") == "threading":  # a Condition's, say
                caller = caller.f_back
            place = f"{caller.f_globals.get('__name__')}:{caller.f_lineno}"
            self.made.append(place)
            return kind(real(), self, place)

        return make

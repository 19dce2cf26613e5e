"""Where the records of the keys live, shared by threads, workers and machines.

Owns: the Store protocol, and its form for the threads of one process. May use the pure layer. All methods are
thread-safe. A store keeps facts, not states: what a record means at a moment is derived by whoever reads it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.records import (
    NEVER_SEEN,
    Cause,
    Record,
    confirmed,
    cooled,
    disabled,
    enabled,
    leased,
    released,
    retired,
    revived,
)

Change = Callable[[Record], Record]


class Store(Protocol):
    """Records of keys, each known by the fingerprint of its secret, so that they outlive names and order.

    Points in time are seconds of the caller's clock, which nobody sets (see machine_clock). What returns a bool says
    whether the key's usability changed by this very call, so that racing marks are told once.
    """

    @property
    def is_up(self) -> bool:
        """Whether what others know reaches this process, and what it knows reaches them."""
        ...

    def read(self, fingerprints: Sequence[str]) -> list[Record]:
        """The records of these keys, in this order; a key never seen has an empty Record."""
        ...

    def cool(self, fingerprint: str, until_at: float, generation: int, cause: Cause) -> bool:
        """Merge a deadline; True if the key was usable before."""
        ...

    def retire(self, fingerprint: str, generation: int, cause: Cause) -> bool:
        """Merge a retirement; True if the key was not out of use before."""
        ...

    def confirm(self, fingerprint: str, generation: int, now: float) -> None:
        """End a trial: the key answered."""
        ...

    def lease(self, fingerprint: str, until_at: float, now: float) -> bool:
        """Take the one lease of a key on trial; False if another holds it."""
        ...

    def release(self, fingerprint: str, until_at: float) -> None:
        """Give a lease back that was taken until then."""
        ...

    def enable(self, fingerprint: str) -> None:
        """Start a new generation: the key is valid, marks under way no longer count."""
        ...

    def revive(self, fingerprint: str, generation: int) -> bool:
        """Enable a key that the upstream accepts again; False if it was disabled or enabled meanwhile."""
        ...

    def disable(self, fingerprint: str, cause: Cause) -> None:
        """Take the key out of use until it is enabled."""
        ...

    def flush(self) -> bool:
        """Hand on what others do not know yet, within about a second; False if that failed."""
        ...

    def tick(self) -> None:
        """Housekeeping, about once a second; waits for nobody."""
        ...


class MergingStore(ABC):
    """A Store that applies one change at a time to one record; subclasses say where the record is."""

    @property
    def is_up(self) -> bool:
        """There is no server to lose."""
        return True

    @abstractmethod
    def read(self, fingerprints: Sequence[str]) -> list[Record]: ...

    @abstractmethod
    def _change(self, fingerprint: str, change: Change) -> tuple[Record, Record]:
        """Apply a change with nobody between reading and writing; the records before and after."""

    def cool(self, fingerprint: str, until_at: float, generation: int, cause: Cause) -> bool:
        before, after = self._change(fingerprint, lambda record: cooled(record, until_at, generation, cause))
        return after is not before and not before.is_permanent and not before.is_cooling(cause.at)

    def retire(self, fingerprint: str, generation: int, cause: Cause) -> bool:
        before, after = self._change(fingerprint, lambda record: retired(record, generation, cause))
        return after is not before and not before.is_permanent

    def confirm(self, fingerprint: str, generation: int, now: float) -> None:
        self._change(fingerprint, lambda record: confirmed(record, generation, now))

    def lease(self, fingerprint: str, until_at: float, now: float) -> bool:
        before, after = self._change(fingerprint, lambda record: leased(record, until_at, now))
        return after is not before

    def release(self, fingerprint: str, until_at: float) -> None:
        self._change(fingerprint, lambda record: released(record, until_at))

    def enable(self, fingerprint: str) -> None:
        self._change(fingerprint, enabled)

    def revive(self, fingerprint: str, generation: int) -> bool:
        before, after = self._change(fingerprint, lambda record: revived(record, generation))
        return after is not before

    def disable(self, fingerprint: str, cause: Cause) -> None:
        self._change(fingerprint, lambda record: disabled(record, cause))

    def flush(self) -> bool:
        """Nothing waits to be handed on: every change was shared when it was made, if it could be."""
        return self.is_up

    def tick(self) -> None:  # noqa: B027  # only some have something left to do
        """Nothing is left to be done."""


class MemoryStore(MergingStore):
    """A Store for the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _records
        self._records: dict[str, Record] = {}

    def read(self, fingerprints: Sequence[str]) -> list[Record]:
        with self._lock:
            return [self._records.get(fingerprint, NEVER_SEEN) for fingerprint in fingerprints]

    def _change(self, fingerprint: str, change: Change) -> tuple[Record, Record]:
        with self._lock:
            before = self._records.get(fingerprint, NEVER_SEEN)
            after = change(before)
            if after is not before:
                self._records[fingerprint] = after
            return before, after

    def __repr__(self) -> str:
        with self._lock:
            return f"<MemoryStore records={len(self._records)}>"

"""Where the records of the keys live, shared by threads, workers and machines.

Owns: the Store protocol, and its form for the threads of one process. All methods are
thread-safe. A store keeps facts, not states: what a record means at a moment is derived by whoever reads it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.keys.key_record import (
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
from gateway.keys.subjects import Shelf, named

Change = Callable[[Record], Record]


class Store(Protocol):
    """Records of subjects. A subject is a key, known by the fingerprint of its secret, so that records outlive names
    and order; or `BASE/DETAIL`, something about it: a scope of a key's, an organisation, a session. A base may be a
    secret's fingerprint and is never shown; a detail is no secret: 1 to 160 characters of `[A-Za-z0-9._+:/@-]`. Any
    other is a ValueError. What is known of a subject with a detail is forgotten some time (see subjects).

    Points in time are seconds of the caller's clock, which nobody sets (see machine_clock). What returns a bool says
    whether the key's usability changed by this very call, so that racing marks are told once.
    """

    @property
    def is_up(self) -> bool:
        """Whether what others know reaches this process, and what it knows reaches them."""
        ...

    def read(self, fingerprints: Sequence[str]) -> list[Record]:
        """The records of these subjects, in this order; one never seen has an empty Record."""
        ...

    def glance(self) -> int:
        """Take note of what other processes have written; a number that is larger after any record changed."""
        ...

    def details(self, base: str) -> list[str]:
        """The details under which anything is known of this base, sorted."""
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

    def enable(self, fingerprint: str, cause: Cause | None = None) -> None:
        """Start a new generation: the key is valid, marks under way no longer count. `cause` says who did it."""
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
    def glance(self) -> int: ...

    @abstractmethod
    def details(self, base: str) -> list[str]: ...

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

    def enable(self, fingerprint: str, cause: Cause | None = None) -> None:
        self._change(fingerprint, lambda record: enabled(record, cause))

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
        self._lock = threading.Lock()  # guards what follows
        self._shelf = Shelf()
        self._told_at = 0.0  # the last moment that was told: no later than it is

    def read(self, fingerprints: Sequence[str]) -> list[Record]:
        with self._lock:
            return [self._shelf.get(_itself(fingerprint)) for fingerprint in fingerprints]

    def glance(self) -> int:
        return self._shelf.changes

    def details(self, base: str) -> list[str]:
        with self._lock:
            return self._shelf.details(base)

    def _change(self, fingerprint: str, change: Change) -> tuple[Record, Record]:
        name = _itself(fingerprint)
        with self._lock:
            before = self._shelf.get(name)
            after = change(before)
            if after is not before:
                self._told_at = max(self._told_at, after.marked_at, after.confirmed_at)
                self._shelf.put(name, after, self._told_at)
            return before, after

    def __repr__(self) -> str:
        with self._lock:
            return f"<MemoryStore records={len(self._shelf)}>"


def _itself(subject: str) -> str:
    """In memory a subject has no other name."""
    return named(subject, str)

"""What this process knows of the keys, and which of it the other processes have not been told.

Owns: the local records of a store whose truth is shared over a network, and the book-keeping of one exchange with
the server: what is told, what is learnt from the answer. No network. Thread-safe; the exchanges
themselves are one thread's.

A mark makes its key untold. What is told stays so only if the server's answer is learnt: an exchange that fails, or
whose outcome is unknown, makes it untold again, and merging twice is harmless (see records). A key with nothing
untold is replaced by what the server says, so that times which were converted between two clocks do not creep; one
that was marked during the exchange is joined. Leases are not told here; they stay this process's own.

A record with a detail that is spent is not told any more: the server has forgotten it, or will.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.keys.key_record import Record, joined
from gateway.keys.store import Change
from gateway.keys.subjects import Shelf, has_detail, is_spent, latest_at
from gateway.runtime.machine_clock import machine_time


@dataclass(frozen=True, slots=True)
class Told:
    """What an exchange says of one key.

    `record` is what was known when the exchange began; it is pushed if `is_news`. The counts are what the server had
    counted when it last answered: what is above them has not been told. `released` is a lease to give back, or "".
    """

    record: Record
    is_news: bool
    limited_count: int
    refused_count: int
    released: str


class Replica:
    """The local records, by the name under which the server knows a subject."""

    def __init__(self, clock: Callable[[], float] = machine_time) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._shelf = Shelf()
        self._counted: dict[str, tuple[int, int]] = {}  # limited and refused, as the server last said
        self._untold: set[str] = set()
        self._released: dict[str, str] = {}

    @property
    def changes(self) -> int:
        """A number that is larger after any record changed."""
        return self._shelf.changes

    def read(self, names: Sequence[str]) -> list[Record]:
        """The records of these subjects, in this order."""
        with self._lock:
            return [self._shelf.get(name) for name in names]

    def details(self, base_name: str) -> list[str]:
        """The details under which anything is known of this base, sorted."""
        with self._lock:
            return self._shelf.details(base_name)

    def mark(self, name: str, change: Change) -> tuple[Record, Record]:
        """Apply a change that the others must hear of; the records before and after."""
        with self._lock:
            before, after = self._changed(name, change)
            if after is not before:
                self._untold.add(name)
            return before, after

    def lease(self, name: str, change: Change) -> bool:
        """Apply a change of the lease, which is this process's own; whether it changed anything."""
        with self._lock:
            before, after = self._changed(name, change)
            return after is not before

    def release(self, name: str, change: Change, lease: str) -> None:
        """Give a lease back, here and at the next exchange."""
        with self._lock:
            self._changed(name, change)
            self._released[name] = lease

    def untold(self) -> set[str]:
        """The subjects of which something is to be told."""
        with self._lock:
            return self._untold | self._released.keys()

    def bases(self) -> set[str]:
        """The known subjects without details."""
        with self._lock:
            return {name for name in self._shelf if not has_detail(name)}

    def tell(self, names: Iterable[str]) -> dict[str, Told]:
        """Begin an exchange about these subjects; it must be ended by `learn` or `take_back`."""
        with self._lock:
            now = self._clock()
            told = {}
            for name in names:
                record = self._shelf.get(name)
                is_news = (
                    name in self._untold and name in self._shelf and not (has_detail(name) and is_spent(record, now))
                )
                limited_count, refused_count = self._counted.get(name, (0, 0))
                released = self._released.pop(name, "")
                told[name] = Told(record, is_news, limited_count, refused_count, released)
                self._untold.discard(name)
            return told

    def take_back(self, told: Mapping[str, Told]) -> None:
        """The exchange failed, or nobody knows: all that was told is untold."""
        with self._lock:
            for name, what in told.items():
                if what.is_news:
                    self._untold.add(name)
                if what.released:
                    self._released.setdefault(name, what.released)

    def learn(self, told: Mapping[str, Told], answers: Mapping[str, Record | None], now: float) -> None:
        """End an exchange with what the server knows now; None for a subject that it does not know."""
        with self._lock:
            for name, answer in answers.items():
                is_known = name in self._shelf
                if answer is None:
                    if is_known:
                        self._forgotten(name, now)
                    continue
                self._counted[name] = (answer.limited_count, answer.refused_count)
                learnt = self._learnt(name, self._shelf.get(name), told[name].record, answer, now)
                self._put(name, learnt if is_known else answer, now)

    def learn_one(self, name: str, answer: Record) -> None:
        """The server has shown a key outside of an exchange, which may itself be under way: so it is joined."""
        with self._lock:
            known = self._shelf.get(name)
            merged = joined(answer, known)
            merged = replace(merged, limited_count=known.limited_count, refused_count=known.refused_count)
            self._put(name, merged, self._clock())

    def doubt(self) -> None:
        """The server may have lost anything: everything known is untold, but for what has had its time there."""
        with self._lock:
            now = self._clock()
            self._drop(self._shelf.tidy(now))
            self._untold.update(name for name in self._shelf if not self._had_its_time(name, now))

    def _forgotten(self, name: str, now: float) -> None:
        """The server does not know what is known here: it is told, unless it had its time."""
        if self._had_its_time(name, now):
            self._shelf.remove(name)
            self._drop([name])
        else:
            self._untold.add(name)

    def _had_its_time(self, name: str, now: float) -> bool:
        """Whether the server may have forgotten it with good reason; an enabled one does not say when that was."""
        record = self._shelf.get(name)
        return has_detail(name) and not record.is_permanent and (is_spent(record, now) or latest_at(record) is None)

    def _learnt(self, name: str, known: Record, before: Record, answer: Record, now: float) -> Record:
        merged = joined(answer, known) if name in self._untold else answer
        keeps_lease = merged.generation == known.generation and merged.is_on_trial(now)
        return replace(
            merged,
            lease_until_at=known.lease_until_at if keeps_lease else 0.0,
            limited_count=answer.limited_count + known.limited_count - before.limited_count,
            refused_count=answer.refused_count + known.refused_count - before.refused_count,
        )

    def _changed(self, name: str, change: Change) -> tuple[Record, Record]:
        before = self._shelf.get(name)
        after = change(before)
        if after is not before:
            self._put(name, after, self._clock())
        return before, after

    def _put(self, name: str, record: Record, now: float) -> None:
        self._drop(self._shelf.put(name, record, now))

    def _drop(self, names: Iterable[str]) -> None:
        """These have been forgotten here."""
        for name in names:
            self._counted.pop(name, None)
            self._untold.discard(name)

    def __repr__(self) -> str:
        with self._lock:
            return f"<Replica records={len(self._shelf)} untold={len(self._untold)}>"

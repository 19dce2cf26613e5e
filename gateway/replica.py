"""What this process knows of the keys, and which of it the other processes have not been told.

Owns: the local records of a store whose truth is shared over a network, and the book-keeping of one exchange with
the server: what is told, what is learnt from the answer. State layer; no network. Thread-safe; the exchanges
themselves are one thread's.

A mark makes its key untold. What is told stays so only if the server's answer is learnt: an exchange that fails, or
whose outcome is unknown, makes it untold again, and merging twice is harmless (see records). A key with nothing
untold is replaced by what the server says, so that times which were converted between two clocks do not creep; one
that was marked during the exchange is joined. Leases are not told here; they stay this process's own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.records import NEVER_SEEN, Record, joined
from gateway.store import Change


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
    """The local records, by the name under which the server knows a key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._records: dict[str, Record] = {}
        self._counted: dict[str, tuple[int, int]] = {}  # limited and refused, as the server last said
        self._untold: set[str] = set()
        self._released: dict[str, str] = {}

    def read(self, names: Sequence[str]) -> list[Record]:
        """The records of these keys, in this order."""
        with self._lock:
            return [self._records.get(name, NEVER_SEEN) for name in names]

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

    def tell(self, names: Iterable[str]) -> dict[str, Told]:
        """Begin an exchange about these keys and all known ones; it must be ended by `learn` or `take_back`."""
        with self._lock:
            told = {}
            for name in {*names, *self._records}:
                record = self._records.get(name, NEVER_SEEN)
                limited_count, refused_count = self._counted.get(name, (0, 0))
                released = self._released.pop(name, "")
                told[name] = Told(record, name in self._untold, limited_count, refused_count, released)
            self._untold.clear()
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
        """End an exchange with what the server knows now; None for a key that it does not know."""
        with self._lock:
            for name, answer in answers.items():
                known = self._records.get(name)
                if answer is None:
                    if known is not None:  # it has been forgotten there
                        self._untold.add(name)
                    continue
                self._counted[name] = (answer.limited_count, answer.refused_count)
                self._records[name] = (
                    answer if known is None else self._learnt(name, known, told[name].record, answer, now)
                )

    def learn_one(self, name: str, answer: Record) -> None:
        """The server has shown a key outside of an exchange, which may itself be under way: so it is joined."""
        with self._lock:
            known = self._records.get(name, NEVER_SEEN)
            merged = joined(answer, known)
            self._records[name] = replace(merged, limited_count=known.limited_count, refused_count=known.refused_count)

    def doubt(self) -> None:
        """The server may have lost anything: everything known is untold."""
        with self._lock:
            self._untold.update(self._records)

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
        before = self._records.get(name, NEVER_SEEN)
        after = change(before)
        if after is not before:
            self._records[name] = after
        return before, after

    def __repr__(self) -> str:
        with self._lock:
            return f"<Replica records={len(self._records)} untold={len(self._untold)}>"

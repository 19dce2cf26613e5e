"""Where the mutable state of the keys lives: deadlines, retirements, generations.

Owns: the Store protocol that threads, workers and machines share keys through, and its in-process form. May use
the pure layer. All methods are thread-safe.

Merges commute within one generation of a key: cooling takes the later deadline, retiring is sticky. So no mark
can be lost whatever the order in which threads race, and no compare-and-swap is needed. Enabling a key starts a
new generation; a mark carries the generation its attempt began under, and a stale one is dropped. A store keeps
facts, not states: whether a key is cooling is derived from the clock by whoever reads.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one key. Points in time are epoch seconds; `reason` is a metric-safe word.

    `cooling_until_at` is 0 for a key that was never limited.
    """

    generation: int = 0
    cooling_until_at: float = 0.0
    is_retired: bool = False
    reason: str = ""
    marked_at: float = 0.0


class Store(Protocol):
    """Shared state of keys, each known by the fingerprint of its secret, so that it outlives names and order."""

    def read(self, fingerprints: Sequence[str]) -> list[Record]:
        """The records of these keys, in this order; a key never seen has an empty Record."""
        ...

    def cool(self, fingerprint: str, until_at: float, generation: int, reason: str, now: float) -> bool:
        """Merge a deadline; True if the key was valid before, so that racing marks report one change."""
        ...

    def retire(self, fingerprint: str, generation: int, reason: str, now: float) -> bool:
        """Merge a retirement; True if the key was not retired before."""
        ...


class MemoryStore:
    """A Store for the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _records
        self._records: dict[str, Record] = {}

    def read(self, fingerprints: Sequence[str]) -> list[Record]:
        with self._lock:
            return [self._records.get(fingerprint, _NEVER_SEEN) for fingerprint in fingerprints]

    def cool(self, fingerprint: str, until_at: float, generation: int, reason: str, now: float) -> bool:
        with self._lock:
            record = self._records.get(fingerprint, _NEVER_SEEN)
            if generation != record.generation or until_at <= record.cooling_until_at:
                return False
            if record.is_retired:
                # The deadline is merged all the same; the retirement keeps its own reason.
                self._records[fingerprint] = replace(record, cooling_until_at=until_at)
                return False
            self._records[fingerprint] = replace(record, cooling_until_at=until_at, reason=reason, marked_at=now)
            return record.cooling_until_at <= now

    def retire(self, fingerprint: str, generation: int, reason: str, now: float) -> bool:
        with self._lock:
            record = self._records.get(fingerprint, _NEVER_SEEN)
            if generation != record.generation or record.is_retired:
                return False
            self._records[fingerprint] = replace(record, is_retired=True, reason=reason, marked_at=now)
            return True

    def __repr__(self) -> str:
        with self._lock:
            return f"<MemoryStore records={len(self._records)}>"


_NEVER_SEEN = Record()

"""The keys in failover order, and what state each is in.

Owns: the order of the keys and the derivation of a key's state from its stored record and the clock. May use the
pure layer and a Store. Thread-safe: the keys are an immutable tuple that a reload swaps, the mutable state lives
in the Store. States (DESIGN 3.1): `valid`; `temporary`, cooling down until a deadline; `permanent`, retired.
There are no timers: a key is valid again when the clock has passed its deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from gateway.credential import Key
from gateway.store import Record, Store

Clock = Callable[[], float]


class KeyState(Enum):
    """What a key may be used for now; the values are the metric's `state` label."""

    VALID = "valid"
    TEMPORARY = "temporary"
    PERMANENT = "permanent"


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """A key, its state at one moment, and why. `remaining_seconds` is 0 unless the key is cooling down."""

    key: Key
    state: KeyState
    remaining_seconds: float
    generation: int
    reason: str


class Pool:
    """The keys of one configuration over the shared state of keys.

    `clock` gives epoch seconds: deadlines are shared with other processes, and outlive this one.
    """

    def __init__(self, keys: Sequence[Key], store: Store, clock: Clock = time.time) -> None:
        self.keys = tuple(keys)
        self._store = store
        self._clock = clock
        self._fingerprints = {key: key.secret.fingerprint for key in self.keys}

    def statuses(self, keys: Sequence[Key] | None = None) -> list[KeyStatus]:
        """The present status of these keys, or of all, in order; one reading of the store and the clock."""
        wanted = self.keys if keys is None else keys
        records = self._store.read([self._fingerprints[key] for key in wanted])
        now = self._clock()
        return [_status(key, record, now) for key, record in zip(wanted, records, strict=True)]

    def status(self, key: Key) -> KeyStatus:
        """The present status of one key."""
        return self.statuses((key,))[0]

    def cool(self, key: Key, seconds: float, generation: int, reason: str) -> bool:
        """Rest a key for so many seconds from now; True if that changed its state."""
        now = self._clock()
        return self._store.cool(self._fingerprints[key], now + seconds, generation, reason, now)

    def retire(self, key: Key, generation: int, reason: str) -> bool:
        """Retire a key until the operator enables it; True if that changed its state."""
        return self._store.retire(self._fingerprints[key], generation, reason, self._clock())

    def __repr__(self) -> str:
        states = ", ".join(f"{status.key.name}={status.state.value}" for status in self.statuses())
        return f"<Pool {states}>"


def _status(key: Key, record: Record, now: float) -> KeyStatus:
    remaining = record.cooling_until_at - now
    if record.is_retired:
        return KeyStatus(key, KeyState.PERMANENT, 0.0, record.generation, record.reason)
    if remaining > 0:
        return KeyStatus(key, KeyState.TEMPORARY, remaining, record.generation, record.reason)
    return KeyStatus(key, KeyState.VALID, 0.0, record.generation, "")

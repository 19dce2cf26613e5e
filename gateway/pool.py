"""The keys in failover order, and what state each is in.

Owns: the order of the keys and the derivation of a key's state from its stored record and the clock. May use the
pure layer and a Store. Thread-safe: the keys are an immutable tuple that a reload swaps, the mutable state lives
in the Store. States (DESIGN 3.1): `valid`; `temporary`, cooling down until a deadline; `permanent`, retired.
There are no timers: a key is valid again when the clock has passed its deadline; on trial at first (see records).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from gateway.credential import Key
from gateway.machine_clock import machine_time
from gateway.records import Cause, Record
from gateway.store import Store
from gateway.verdict import Outcome

Clock = Callable[[], float]

# How long one request may try a key before the next one may: past it the prober counts as lost.
LEASE_SECONDS = 30.0

# The reason of a mark that the operator made.
BY_OPERATOR = "operator"

_ABOUT_MONEY = frozenset(outcome.value for outcome in Outcome if outcome.is_about_money)


class KeyState(Enum):
    """What a key may be used for now; the values are the metric's `state` label."""

    VALID = "valid"
    TEMPORARY = "temporary"
    PERMANENT = "permanent"


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """A key, its state at one moment, and the record behind it. `remaining_seconds` is 0 unless it cools down.

    `is_leased` tells that a request is trying the key, which is on trial. `marked_ago_seconds` is how long ago the last
    mark was made; the record's own times are of a clock that is no calendar.
    """

    key: Key
    state: KeyState
    remaining_seconds: float
    record: Record
    is_leased: bool = False
    marked_ago_seconds: float = 0.0

    @property
    def is_on_trial(self) -> bool:
        """Whether the key is valid, but no answer has confirmed it since its last mark."""
        return self.state is KeyState.VALID and self.record.is_unconfirmed

    @property
    def is_out_of_money(self) -> bool:
        """Whether the record's last mark was a refusal for money."""
        return self.record.reason in _ABOUT_MONEY

    @property
    def is_marked(self) -> bool:
        """Whether the record's last mark still says something of the key."""
        return self.state is not KeyState.VALID or self.is_on_trial

    @property
    def word(self) -> str:
        """The state in the words that operators read: a state's own, `on trial` or `disabled`."""
        return "disabled" if self.record.is_disabled else "on trial" if self.is_on_trial else self.state.value

    @property
    def why(self) -> str:
        """The last mark's reason, with the upstream's status if there was one; empty if it no longer matters."""
        if not self.is_marked:
            return ""
        return f"{self.record.reason}{f' ({self.record.status})' if self.record.status else ''}"


class Pool:
    """The keys of one configuration over the shared state of keys.

    `clock` is one that nobody sets: deadlines are shared with other processes of the machine, and outlive this one.
    """

    def __init__(self, keys: Sequence[Key], store: Store, clock: Clock = machine_time) -> None:
        self.keys = tuple(keys)
        self._store = store
        self._clock = clock
        self._fingerprints = {key: key.secret.fingerprint for key in self.keys}
        self._all_fingerprints = list(self._fingerprints.values())

    def statuses(self) -> list[KeyStatus]:
        """The present status of every key, in order; one reading of the store and the clock."""
        records = self._store.read(self._all_fingerprints)
        now = self._clock()
        return [_status(key, record, now) for key, record in zip(self.keys, records, strict=True)]

    def cool(self, status: KeyStatus, seconds: float, reason: str, http_status: int) -> bool:
        """Rest a key for so many seconds from now; True if that changed its state."""
        cause = Cause(reason, http_status, self._clock())
        until_at = cause.at + seconds
        return self._store.cool(self._fingerprints[status.key], until_at, status.record.generation, cause)

    def retire(self, status: KeyStatus, reason: str, http_status: int) -> bool:
        """Retire a key until the operator enables it; True if that changed its state."""
        cause = Cause(reason, http_status, self._clock())
        return self._store.retire(self._fingerprints[status.key], status.record.generation, cause)

    def confirm(self, status: KeyStatus) -> None:
        """A key on trial answered."""
        self._store.confirm(self._fingerprints[status.key], status.record.generation, self._clock())

    def lease(self, key: Key) -> float | None:
        """Become the one request that tries a key on trial; the lease to give back, or None if another has it."""
        now = self._clock()
        until_at = now + LEASE_SECONDS
        return until_at if self._store.lease(self._fingerprints[key], until_at, now) else None

    def release(self, key: Key, lease: float) -> None:
        """Give a lease back without having found anything out."""
        self._store.release(self._fingerprints[key], lease)

    def enable(self, key: Key) -> None:
        """The operator has mended a key: it is valid, and refusals under way no longer count."""
        self._store.enable(self._fingerprints[key])

    def revive(self, status: KeyStatus) -> bool:
        """A retired key was accepted by the upstream; True if that made it valid."""
        return self._store.revive(self._fingerprints[status.key], status.record.generation)

    def disable(self, key: Key) -> None:
        """The operator takes a key out of use until it is enabled."""
        self._store.disable(self._fingerprints[key], Cause(BY_OPERATOR, 0, self._clock()))

    def __repr__(self) -> str:
        states = ", ".join(f"{status.key.name}={status.state.value}" for status in self.statuses())
        return f"<Pool {states}>"


def _status(key: Key, record: Record, now: float) -> KeyStatus:
    ago_seconds = now - record.marked_at
    if record.is_permanent:
        return KeyStatus(key, KeyState.PERMANENT, 0.0, record, marked_ago_seconds=ago_seconds)
    if record.is_cooling(now):
        remaining_seconds = record.cooling_until_at - now
        return KeyStatus(key, KeyState.TEMPORARY, remaining_seconds, record, marked_ago_seconds=ago_seconds)
    return KeyStatus(key, KeyState.VALID, 0.0, record, record.lease_until_at > now, ago_seconds)

"""The keys in failover order, how each stands, and the marks that are put on them.

Owns: the order of the keys, what is read of the store for them, and under which subject each mark goes there. It knows
a Store alone. Thread-safe: the keys are an immutable tuple that a reload swaps, the mutable state lives in
the Store. What the records mean is derived by `standing`.

The store has a record for each key; for each scope that a key was limited for; for workspaces and organisations that
have no money, so that a key that is learned later has none either; and one that says where a key belongs. A walk asks
in each step: so what is read is kept until the store says that something has changed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.access.credential import Key
from gateway.keys.key_record import Cause, Record
from gateway.keys.places import NOWHERE, Place, place_from
from gateway.keys.standing import (
    KeyState,
    KeyStatus,
    Standing,
    Subject,
    changes_at,
    is_unpaid,
    overall_at,
    statuses_at,
)
from gateway.keys.store import Store
from gateway.keys.verdict import Concern
from gateway.models.scopes import is_scope
from gateway.runtime.machine_clock import machine_time

Clock = Callable[[], float]

# How long one request may try a key before the next one may: past it the prober counts as lost.
LEASE_SECONDS = 30.0

# The reason of a mark that the operator made.
BY_OPERATOR = "operator"

_PLACES_SECONDS = 1.0  # places are looked for so often, if something has changed
_TOLD_AGAIN_SECONDS = 3600.0  # a place that is known is noted as still true
_HELD_SECONDS = 3600.0
_LOOKED_INTO_SECONDS = 60.0
_SUSPECT_SECONDS = 90.0  # longer: a look may have to wait so long for the last one
_FORGIVEN_SECONDS = 600.0
_RECENT_SECONDS = 0.5
_SAME_MARK_SECONDS = 0.001  # a store may round what it keeps
_MOST_SCOPES = 64  # whose standings are kept


@dataclass(frozen=True, slots=True)
class _Recent:
    """Statuses that are true until a moment, if nothing is written."""

    standings: tuple[Standing, ...]
    statuses: Sequence[KeyStatus]
    at: float
    until_at: float


class Pool:
    """The keys of one configuration over the shared state of keys.

    `clock` is one that nobody sets: deadlines are shared with other processes of the machine, and outlive this one.
    """

    def __init__(self, keys: Sequence[Key], store: Store, clock: Clock = machine_time) -> None:
        self.keys = tuple(keys)
        self._store = store
        self._clock = clock
        self._fingerprints = {key: key.secret.fingerprint for key in self.keys}
        self._lock = threading.Lock()  # guards what follows
        self._places: dict[Key, Place] = {}
        self._told_at: dict[Key, float] = {}
        self._has_several_groups = len(self.keys) > 1
        self._places_at = float("-inf")
        self._places_glance: int | None = None
        self._kept: dict[str | None, tuple[int, tuple[Standing, ...]]] = {}  # with the glance that they are of
        self._recent: dict[str, _Recent] = {}  # a cache; races write what is true as well
        # By subject, the last mark that this process made: when, or as which generation. Races keep either.
        self._made: dict[str, tuple[float, int]] = {}

    def statuses(self, scope: str | None = None) -> list[KeyStatus]:
        """The present status of every key for a scope, in order; one reading of the store and the clock.

        Without a scope: of the keys as a whole. There a key is `temporary` if any scope of it cools.
        """
        standings = self._standings(scope)
        now = self._clock()
        if scope is not None:
            return statuses_at(standings, now)
        return [self._overall(standing, now) for standing in standings]

    def recent(self, scope: str) -> Sequence[KeyStatus]:
        """The same for walks, which ask in each step. States are the present ones; what remains of a cooldown may be
        told as it was up to half a second ago.
        """
        standings = self._standings(scope)
        now = self._clock()
        kept = self._recent.get(scope)
        if kept is not None and kept.standings is standings and kept.at <= now < kept.until_at:
            return kept.statuses
        statuses = statuses_at(standings, now)
        is_any_cooling = any(status.state is KeyState.TEMPORARY for status in statuses)
        until_at = min(changes_at(standings, now), now + (_RECENT_SECONDS if is_any_cooling else math.inf))
        if len(self._recent) >= _MOST_SCOPES:
            self._recent.clear()
        self._recent[scope] = _Recent(standings, statuses, now, until_at)
        return statuses

    @property
    def has_several_groups(self) -> bool:
        """Whether prompt caches may lie in more places than one: a key of which nothing is known has its own."""
        if self._places_glance is None:  # a process's first request may be a pinned session's
            self._standings(None)
        return self._has_several_groups

    # Marks

    def cool(
        self, status: KeyStatus, seconds: float, reason: str, http_status: int, concern: Concern = Concern.KEY
    ) -> bool:
        """Cool down what is concerned for so many seconds from now; True if that changed its state.

        A key that the operator has enabled since `status` was read is not concerned any more.
        """
        cause = Cause(reason, http_status, self._clock())
        whole = status.standing.whole
        if self._record(whole.name).generation != whole.record.generation:
            return False
        subject = self._subject(status, concern)
        if reason != BY_OPERATOR:
            self._made[subject.name] = (cause.at, -1)
        return self._store.cool(subject.name, cause.at + seconds, subject.record.generation, cause)

    def retire(self, status: KeyStatus, reason: str, http_status: int, concern: Concern = Concern.KEY) -> bool:
        """Retire a key until the operator enables it or the upstream accepts it; True if that changed its state.

        Where that is its organisation's fault, the other keys of the organisation are in doubt.
        """
        now = self._clock()
        whole = status.standing.whole
        organisation = self.place(status.key).organisation
        if concern is Concern.ORGANISATION and organisation:
            self._cool(_held(organisation), _HELD_SECONDS)
        self._made[whole.name] = (now, -1)
        return self._store.retire(whole.name, whole.record.generation, Cause(reason, http_status, now))

    def confirm(self, status: KeyStatus, *, costs: bool) -> None:
        """A key on trial answered: so do all that concerns it; but money is shown by a request that costs alone."""
        now = self._clock()
        for subject in status.standing.subjects:
            record = subject.record
            if record.is_unconfirmed and not record.is_cooling(now) and (costs or not is_unpaid(record)):
                self._store.confirm(subject.name, record.generation, now)

    def lease(self, status: KeyStatus) -> float | None:
        """Become the one request that tries what is on trial; the lease to give back, or None if another has it."""
        now = self._clock()
        until_at = now + LEASE_SECONDS
        return until_at if self._store.lease(self._subject(status, status.concern).name, until_at, now) else None

    def release(self, status: KeyStatus, lease: float) -> None:
        """Give a lease back without having found anything out."""
        self._store.release(self._subject(status, status.concern).name, lease)

    def learn(self, key: Key, place: Place) -> None:
        """An answer has said where a key belongs."""
        if place == NOWHERE:
            return
        now = self._clock()
        with self._lock:
            known = self._places.get(key, NOWHERE)
            place = place.completed(known)
            if place == known and now - self._told_at.get(key, float("-inf")) < _TOLD_AGAIN_SECONDS:
                return
            self._told_at[key] = now
            self._put(key, place)
        name = f"{self._fingerprints[key]}/{place.detail}"
        self._store.confirm(name, self._record(name).generation, now)

    # What is forbidden (DESIGN 6.4)

    def begin_look(self, key: Key, seconds: float = _LOOKED_INTO_SECONDS) -> bool:
        """Whether it is up to this process, of all, to look at a key now; then nobody else does for so long."""
        name = self._of(key, "looked")
        return not self._record(name).is_cooling(self._clock()) and self._cool(name, seconds)

    def looked_ago_seconds(self, key: Key) -> float:
        """How long ago any process last began to look at a key; infinite if none has."""
        at = self._record(self._of(key, "looked")).marked_at
        return self._clock() - at if at else float("inf")

    def suspect(self, key: Key) -> None:
        """A key was forbidden something; until it is known what that means, it is tried if no other is left."""
        self._cool(self._of(key, "suspect"), _SUSPECT_SECONDS)

    def end_suspicion(self, key: Key) -> None:
        """It is known."""
        self._store.enable(self._of(key, "suspect"))

    def forgive(self, status: KeyStatus) -> bool:
        """What the key was forbidden was the request's affair: for a while such answers mark nothing. True if that made
        it valid.
        """
        self._cool(self._of(status.key, "forgiven"), _FORGIVEN_SECONDS)
        return self.revive(status)

    def is_forgiven(self, key: Key) -> bool:
        """Whether a key's being forbidden something says nothing of the key, as was found out a while ago."""
        return self._record(self._of(key, "forgiven")).is_cooling(self._clock())

    # The operator

    def enable(self, key: Key) -> None:
        """The operator has mended a key: it is valid, and refusals under way no longer count.

        What its workspace and its organisation are held against for goes with it.
        """
        self._standings(None)  # a command has seen nothing yet of where keys belong
        fingerprint, place = self._fingerprints[key], self.place(key)
        self._store.enable(fingerprint, Cause(BY_OPERATOR, 0, self._clock()))
        for detail in self._store.details(fingerprint):
            if is_scope(detail):
                self._store.enable(f"{fingerprint}/{detail}")
        for name in (_workspace(place.workspace), _organisation(place.organisation), _held(place.organisation)):
            if name and self._record(name).cooling_until_at:
                self._store.enable(name)

    def revive(self, status: KeyStatus) -> bool:
        """A retired key was accepted by the upstream; True if that made it valid."""
        whole = status.standing.whole
        self._made[whole.name] = (float("-inf"), whole.record.generation + 1)
        return self._store.revive(whole.name, whole.record.generation)

    def disable(self, key: Key) -> None:
        """The operator takes a key out of use until it is enabled."""
        self._store.disable(self._fingerprints[key], Cause(BY_OPERATOR, 0, self._clock()))

    # Reading

    def has_made(self, subject: Subject) -> bool:
        """Whether the last mark on a subject, or its coming back, is this process's doing, and so told already."""
        at, generation = self._made.get(subject.name, (float("-inf"), -1))
        record = subject.record
        return abs(at - record.marked_at) < _SAME_MARK_SECONDS if record.marked_at else generation == record.generation

    def place(self, key: Key) -> Place:
        """Where a key belongs, as far as is known."""
        with self._lock:
            return self._places.get(key, NOWHERE)

    def place_told_ago_seconds(self, key: Key) -> float:
        """How long ago an answer last said so; infinite if none has."""
        self._standings(None)
        return self._clock() - self._told_at.get(key, float("-inf"))

    def _standings(self, scope: str | None) -> tuple[Standing, ...]:
        glance = self._store.glance()
        with self._lock:
            if glance != self._places_glance:
                self._find_places(glance)
            kept = self._kept.get(scope)
            if kept is not None and kept[0] >= glance:  # another thread may have seen a later one
                return kept[1]
            standings = self._read(scope)
            if len(self._kept) >= _MOST_SCOPES:
                self._kept.clear()
            self._kept[scope] = (glance, standings)
        return standings

    def _find_places(self, glance: int) -> None:
        """Look what was learned of the keys' places, by whichever process."""
        now = self._clock()
        if now - self._places_at < _PLACES_SECONDS:
            return
        self._places_glance, self._places_at = glance, now
        for key, fingerprint in self._fingerprints.items():
            found = [(detail, place) for detail in self._store.details(fingerprint) if (place := place_from(detail))]
            records = self._store.read([f"{fingerprint}/{detail}" for detail, _ in found])
            for record, (_, place) in zip(records, found, strict=True):
                if record.confirmed_at > self._told_at.get(key, float("-inf")):
                    self._told_at[key] = record.confirmed_at
                    self._put(key, place)

    def _put(self, key: Key, place: Place) -> None:
        if self._places.get(key) != place:
            self._places[key] = place
            groups = {self._places.get(known, NOWHERE).group or known for known in self.keys}
            self._has_several_groups = len(groups) > 1
            self._kept.clear()

    def _read(self, scope: str | None) -> tuple[Standing, ...]:
        names: dict[str, None] = {}
        for key, fingerprint in self._fingerprints.items():
            place = self._places.get(key, NOWHERE)
            wanted = (fingerprint, f"{fingerprint}/{scope}" if scope is not None else "", self._of(key, "suspect"))
            others = _workspace(place.workspace), _organisation(place.organisation), _held(place.organisation)
            names |= dict.fromkeys(name for name in (*wanted, *others) if name)
        records = dict(zip(names, self._store.read(list(names)), strict=True))
        return tuple(self._standing(key, scope, records) for key in self.keys)

    def _standing(self, key: Key, scope: str | None, records: dict[str, Record]) -> Standing:
        fingerprint, place = self._fingerprints[key], self._places.get(key, NOWHERE)
        named = (
            (Concern.SCOPE, f"{fingerprint}/{scope}" if scope is not None else ""),
            (Concern.WORKSPACE, _workspace(place.workspace)),
            (Concern.ORGANISATION, _organisation(place.organisation)),
        )
        held = _held(place.organisation)
        return Standing(
            key,
            place,
            Subject(Concern.KEY, fingerprint, records[fingerprint]),
            tuple(Subject(concern, name, records[name]) for concern, name in named if name),
            held_until_at=records[held].cooling_until_at if held else 0.0,
            looked_into_until_at=records[self._of(key, "suspect")].cooling_until_at,
        )

    def _overall(self, standing: Standing, now: float) -> KeyStatus:
        fingerprint = standing.whole.name
        scopes = [detail for detail in self._store.details(fingerprint) if is_scope(detail)]
        records = self._store.read([f"{fingerprint}/{scope}" for scope in scopes])
        return overall_at(standing, dict(zip(scopes, records, strict=True)), now)

    def _subject(self, status: KeyStatus, concern: Concern) -> Subject:
        """What a mark goes on; a place that only this answer has told counts, too."""
        known = status.standing.subject(concern)
        if known.concern is concern or concern in (Concern.KEY, Concern.SCOPE):
            return known
        place = self.place(status.key)
        name = _workspace(place.workspace) if concern is Concern.WORKSPACE else _organisation(place.organisation)
        return Subject(concern, name, self._record(name)) if name else known

    def _record(self, name: str) -> Record:
        (record,) = self._store.read([name])
        return record

    def _cool(self, name: str, seconds: float) -> bool:
        now = self._clock()
        return self._store.cool(name, now + seconds, self._record(name).generation, Cause("note", 0, now))

    def _of(self, key: Key, detail: str) -> str:
        return f"{self._fingerprints[key]}/{detail}"

    def __repr__(self) -> str:
        states = ", ".join(f"{status.key.name}={status.state.value}" for status in self.statuses())
        return f"<Pool {states}>"


def _workspace(name: str) -> str:
    return f"workspace/{name}" if name else ""


def _organisation(name: str) -> str:
    return f"organisation/{name}" if name else ""


def _held(organisation: str) -> str:
    return f"held/{organisation}" if organisation else ""

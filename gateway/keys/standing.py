"""How a key stands: its state for a scope, derived from what is known and the clock.

Owns: the states, and the one derivation. Pure: records and the time go in, a KeyStatus comes out. States (DESIGN 3.1,
6.2): `permanent`, retired or disabled; `temporary`, some mark that concerns it cools down until a deadline; `valid`.
There are no timers: a key is valid again when the clock has passed its deadline; on trial at first (see records).

What concerns a key: its own record, that of the scope, and those of its workspace and its organisation (6.1, 6.3). A
key is doubtful for a scope while another one of its workspace, or of its organisation, cools for it. Two of a
workspace are no accident: the rest of it cools with them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from operator import attrgetter

from gateway.access.credential import Key
from gateway.keys.key_record import NEVER_SEEN, Record
from gateway.keys.places import Place
from gateway.keys.verdict import MONEY, Concern
from gateway.protocol.outcomes import Outcome

_FORBIDDEN = Outcome.FORBIDDEN.value
_ABOUT_MONEY = frozenset(outcome.value for outcome in MONEY)
_SIBLINGS_ENOUGH = 2
_WORDS = {"valid": "valid", "temporary": "cooling down", "permanent": "retired"}


class KeyState(Enum):
    """What a key may be used for now; the values are the metric's `state` label."""

    VALID = "valid"
    TEMPORARY = "temporary"
    PERMANENT = "permanent"

    @property
    def word(self) -> str:
        """What operators call it."""
        return _WORDS[self.value]


class Doubt(IntEnum):
    """How likely a key is to be refused because another one was; keys in less doubt are tried first."""

    NONE = 0
    ORGANISATION = 1  # a key of the same organisation cools
    WORKSPACE = 2  # a key of the same workspace does


@dataclass(frozen=True, slots=True)
class Subject:
    """What a mark was put on, by the store's name, with what is known of it."""

    concern: Concern
    name: str
    record: Record


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything that is known of a key for a scope. Without a scope: of the key as a whole."""

    key: Key
    place: Place
    whole: Subject
    others: tuple[Subject, ...]  # scope, workspace, organisation, in this order: those that there are
    held_until_at: float  # its organisation has lost a key for good
    looked_into_until_at: float  # it was forbidden something, and until then somebody finds out what that means

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """All that concerns the key, itself first."""
        return (self.whole, *self.others)

    @property
    def for_scope(self) -> Record:
        """The scope's record; an empty one if there is none."""
        first = self.others[0] if self.others else self.whole
        return first.record if first.concern is Concern.SCOPE else NEVER_SEEN

    def subject(self, concern: Concern) -> Subject:
        """What a mark of this kind is put on: what is not known falls back on the key."""
        return next((subject for subject in self.others if subject.concern is concern), self.whole)


@dataclass(frozen=True, slots=True)
class ScopeCooldown:
    """A scope for which a key cools down, or is on trial (0 seconds remain)."""

    scope: str
    record: Record
    remaining_seconds: float


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """A key, its state at one moment, and the record that decided it.

    `remaining_seconds` is 0 unless it cools down. `is_leased` tells that a request is trying the key, which is on
    trial. `marked_ago_seconds` is how long ago the last mark was made; the record's own times are of a clock that is no
    calendar. `is_shared_cooldown`: it cools down because two of its workspace do. `is_last_resort`: it was forbidden
    something a moment ago, nobody knows yet what that means, and it is tried if no other is left. `scopes` are told of
    a key as a whole.
    """

    key: Key
    state: KeyState
    remaining_seconds: float
    record: Record
    is_leased: bool
    marked_ago_seconds: float
    concern: Concern
    standing: Standing
    doubt: Doubt = Doubt.NONE
    is_shared_cooldown: bool = False
    is_last_resort: bool = False
    scopes: tuple[ScopeCooldown, ...] = ()

    def cooling(self, record: Record, now: float, *, is_shared: bool = False) -> KeyStatus:
        """The same key, cooling down for a scope by that scope's record: its own, or one that its workspace shares."""
        return replace(
            self,
            state=KeyState.TEMPORARY,
            remaining_seconds=record.cooling_until_at - now,
            record=replace(record, lease_until_at=0.0),
            is_leased=False,
            marked_ago_seconds=now - record.marked_at,
            concern=Concern.SCOPE,
            is_shared_cooldown=is_shared,
        )

    @property
    def place(self) -> Place:
        """Where the key belongs, as far as is known."""
        return self.standing.place

    @property
    def is_on_trial(self) -> bool:
        """Whether the key is valid, but no answer has confirmed it since its last mark."""
        return self.state is KeyState.VALID and self.record.is_unconfirmed

    @property
    def is_out_of_money(self) -> bool:
        """Whether the record's last mark was a refusal for money."""
        return is_unpaid(self.record)

    @property
    def is_forbidden(self) -> bool:
        """Whether the record's last mark was that the key lacks a right; it says nothing of others."""
        return _lacks_a_right(self.record)

    @property
    def is_marked(self) -> bool:
        """Whether the record's last mark still says something of the key."""
        return self.state is not KeyState.VALID or self.is_on_trial

    @property
    def word(self) -> str:
        """The state in the words that operators read: a state's own, `on trial` or `disabled`."""
        return "disabled" if self.record.is_disabled else "on trial" if self.is_on_trial else self.state.word

    @property
    def why(self) -> str:
        """The last mark's reason, with the upstream's status if there was one; empty if it no longer matters."""
        if not self.is_marked:
            return ""
        return f"{self.record.reason}{f' ({self.record.status})' if self.record.status else ''}"


def statuses_at(standings: Sequence[Standing], now: float) -> list[KeyStatus]:
    """The status of each key for a scope, in order."""
    statuses = [status_at(standing, now) for standing in standings]
    organisations = {standing.place.organisation for standing in standings if standing.held_until_at > now}
    cooling: dict[str, list[Record]] = {}  # by workspace
    for standing in standings:
        record = standing.for_scope
        if record.is_cooling(now) and not _lacks_a_right(record):
            cooling.setdefault(standing.place.workspace, []).append(record)
            organisations.add(standing.place.organisation)
    if not organisations:
        return statuses
    cooling.pop("", None)  # what is unknown is each key's own
    organisations.discard("")
    return [_beside(status, cooling, organisations, now) for status in statuses]


def status_at(standing: Standing, now: float) -> KeyStatus:
    """The status of a key by what concerns it, whatever others of its workspace do."""
    whole = standing.whole.record
    if whole.is_permanent:
        is_open = not whole.is_disabled and _lacks_a_right(whole)
        status = _status(standing, standing.whole, KeyState.PERMANENT, now)
        return replace(status, is_last_resort=is_open and standing.looked_into_until_at > now)
    longest = on_trial = standing.whole
    for subject in standing.others:
        if subject.record.cooling_until_at > longest.record.cooling_until_at:
            longest = subject
        if subject.record.is_unconfirmed:
            on_trial = subject  # the widest: one request for all of its keys
    if longest.record.is_cooling(now):
        return _status(standing, longest, KeyState.TEMPORARY, now)
    return _status(standing, on_trial, KeyState.VALID, now)


def _status(standing: Standing, by: Subject, state: KeyState, now: float) -> KeyStatus:
    record = by.record
    return KeyStatus(
        standing.key,
        state,
        record.cooling_until_at - now if state is KeyState.TEMPORARY else 0.0,
        record,
        is_leased=state is KeyState.VALID and record.lease_until_at > now,
        marked_ago_seconds=now - record.marked_at,
        concern=by.concern,
        standing=standing,
    )


def overall_at(standing: Standing, scopes: Mapping[str, Record], now: float) -> KeyStatus:
    """The status of a key as a whole: it is `temporary` if any of these scopes cools."""
    status = status_at(standing, now)
    cooldowns = tuple(
        ScopeCooldown(scope, record, max(0.0, record.cooling_until_at - now))
        for scope, record in scopes.items()
        if record.is_cooling(now) or record.is_unconfirmed
    )
    if status.state is KeyState.VALID and (
        cooling := [cooldown for cooldown in cooldowns if cooldown.remaining_seconds > 0]
    ):
        status = status.cooling(max(cooling, key=attrgetter("remaining_seconds")).record, now)
    return replace(status, scopes=cooldowns)


def is_unpaid(record: Record) -> bool:
    """Whether a record's last mark was a refusal for money."""
    return record.reason in _ABOUT_MONEY


def _lacks_a_right(record: Record) -> bool:
    return record.reason == _FORBIDDEN


def _beside(
    status: KeyStatus, cooling: Mapping[str, Sequence[Record]], organisations: Collection[str], now: float
) -> KeyStatus:
    """The same, in the light of what cools for this scope, by workspace, and of the organisations in doubt."""
    if status.state is not KeyState.VALID:
        return status
    near = cooling.get(status.place.workspace, ())
    if len(near) >= _SIBLINGS_ENOUGH:
        return status.cooling(min(near, key=attrgetter("cooling_until_at")), now, is_shared=True)
    if near:
        return replace(status, doubt=Doubt.WORKSPACE)
    return replace(status, doubt=Doubt.ORGANISATION) if status.place.organisation in organisations else status


def changes_at(standings: Sequence[Standing], now: float) -> float:
    """The next moment at which a state is another one by itself; infinite if none will be."""
    moments: list[float] = []
    for standing in standings:
        moments += (standing.held_until_at, standing.looked_into_until_at)
        for subject in standing.subjects:
            moments += (subject.record.cooling_until_at, subject.record.lease_until_at)
    return min((at for at in moments if at > now), default=math.inf)

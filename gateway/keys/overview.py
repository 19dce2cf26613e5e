"""How the keys stand as a whole and for each scope, as operators see it.

Owns: joining the two, and the words for a key's cause and for what to do next. Pure. A pool tells of
its keys as a whole, or for one scope; that a key cools down or is doubtful because of others shows for a scope alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gateway.access.credential import Key
from gateway.keys.key_record import Record
from gateway.keys.standing import Doubt, KeyState, KeyStatus
from gateway.keys.verdict import Concern
from gateway.models.scopes import MODELS
from gateway.protocol.outcomes import Outcome

ALL_SCOPES = "all"

# The keys as a whole, or for a scope: what `Pool.statuses` gives.
Statuses = Callable[[str | None], Iterable[KeyStatus]]

_OWNERS = {Concern.WORKSPACE: "its workspace", Concern.ORGANISATION: "its organisation"}
_MONEY = {Outcome.OUT_OF_CREDIT.value: "out of credit", Outcome.SPEND_LIMITED.value: "over its spending limit"}
_NEXT = {
    Outcome.OUT_OF_CREDIT.value: "top up credit",
    Outcome.SPEND_LIMITED.value: "raise the spending limit",
    Outcome.WORKSPACE_UNUSABLE.value: "check the workspace's encryption key",
}
_DOUBTS = {Doubt.WORKSPACE: "workspace", Doubt.ORGANISATION: "organisation"}
_LONGEST_ID = 12


@dataclass(frozen=True, slots=True)
class ScopeView:
    """A scope that a key is not simply valid for: it cools down, is on trial, or is in doubt.

    `siblings` are others of its workspace that were limited, if it cools down because they were. It is on trial if
    nothing remains and there is no doubt.
    """

    scope: str
    record: Record
    remaining_seconds: float = 0.0
    siblings: int = 0
    doubt: Doubt = Doubt.NONE

    @property
    def word(self) -> str:
        """The state for this scope."""
        if self.doubt is not Doubt.NONE:
            return "doubtful"
        return KeyState.TEMPORARY.word if self.remaining_seconds else "on trial"

    @property
    def cooldown_seconds(self) -> float:
        """How long the present cooldown takes in all."""
        return max(self.record.cooling_until_at - self.record.marked_at, 1.0)


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as a whole, and the scopes that there is something to say of.

    `is_held`: another key of its organisation was refused for good, and this one comes later until somebody has looked.
    """

    status: KeyStatus
    scopes: tuple[ScopeView, ...]
    is_held: bool

    @property
    def word(self) -> str:
        """The state in the words that operators read; a key that is on trial for a scope is `on trial`."""
        is_tried = self.status.word == KeyState.VALID.word and any(view.word == "on trial" for view in self.scopes)
        return "on trial" if is_tried else self.status.word

    @property
    def cause(self) -> str:
        """Why the key is not simply valid, in words; empty if it is."""
        status, record = self.status, self.status.record
        if record.is_disabled:
            return "disabled by the operator"
        if status.state is KeyState.PERMANENT:
            return _refusal(status)
        if status.state is KeyState.TEMPORARY:
            return self._cooldown()
        if status.is_on_trial and status.concern is not Concern.SCOPE:
            return f"{_mark(status.concern, record)} until now: one request tries it"
        doubts = [
            f"for {view.scope} (its {_DOUBTS[view.doubt]} has a limited key)" for view in self.scopes if view.doubt
        ]
        if doubts:
            return f"tried late {', '.join(doubts)}"
        if self.is_held:
            return "tried late: another key of its organisation was refused"
        return f"on trial for {_named(self.scopes)}" if self.scopes else ""

    @property
    def todo(self) -> str:
        """What the operator has to do about it; empty if that is nothing, or waiting."""
        status = self.status
        if status.record.is_disabled or status.is_last_resort:
            return ""
        if status.state is KeyState.PERMANENT:
            return "replace it"
        return _NEXT.get(status.record.reason, "") if status.state is KeyState.TEMPORARY else ""

    @property
    def command(self) -> str:
        """What to type when that is done; empty if there is nothing to type."""
        is_to_enable = bool(self.todo) or self.status.record.is_disabled
        return f"gateway keys enable {self.status.key.name}" if is_to_enable else ""

    @property
    def advice(self) -> str:
        """What to do next, in a few words; empty if there is nothing to do."""
        status = self.status
        if status.record.is_disabled:
            return f"when it may be used again: {self.command}"
        if status.state is KeyState.PERMANENT:
            return f"replace or enable it: {self.command}" if self.todo else "wait: it is being looked into"
        if status.state is not KeyState.TEMPORARY:
            return ""
        return f"{self.todo}, then: {self.command}" if self.todo else "wait"

    def _cooldown(self) -> str:
        if self.status.concern is not Concern.SCOPE:
            return _mark(self.status.concern, self.status.record)
        own = [view for view in self.scopes if view.remaining_seconds and not view.siblings]
        if own:
            what = "forbidden" if self.status.record.reason == Outcome.FORBIDDEN.value else "limited"
            return f"{what} for {_named(own)}"
        shared = [view for view in self.scopes if view.siblings]
        others = max(view.siblings for view in shared)
        return f"cools down with {others} others of its workspace, limited for {_named(shared)}"


def overview(statuses: Statuses) -> list[KeyView]:
    """How every key stands, in failover order."""
    whole = list(statuses(None))
    names = {rest.scope for status in whole for rest in status.scopes if rest.remaining_seconds > 0}
    is_any_held = any(status.standing.held_until_at for status in whole)
    held_by_scope = {MODELS} if is_any_held else set()
    for_scopes = {name: {status.key: status for status in statuses(name)} for name in sorted(names | held_by_scope)}
    return [_view(status, for_scopes, names) for status in whole]


def short(identifier: str) -> str:
    """An organisation's or a workspace's id as it is shown in a table; `-` if it is not known."""
    if not identifier:
        return "-"
    return identifier if len(identifier) <= _LONGEST_ID else f"...{identifier[-6:]}"


def _view(status: KeyStatus, for_scopes: dict[str, dict[Key, KeyStatus]], names: set[str]) -> KeyView:
    own = [ScopeView(rest.scope, rest.record, rest.remaining_seconds) for rest in status.scopes]
    known = {view.scope for view in own if view.remaining_seconds}
    others = [
        view
        for name, statuses in for_scopes.items()
        if name in names and name not in known and status.key in statuses
        for view in _because_of_others(name, statuses[status.key], statuses.values())
    ]
    told = {view.scope for view in others}
    scopes = sorted([*others, *(view for view in own if view.scope not in told)], key=lambda view: view.scope)
    looked_at = for_scopes.get(MODELS, {}).get(status.key)
    held_until_at = status.standing.held_until_at
    is_held = bool(held_until_at) and looked_at is not None and looked_at.doubt is Doubt.ORGANISATION
    return KeyView(_joined(status, others), tuple(scopes), is_held)


def _because_of_others(scope: str, status: KeyStatus, everybody: Iterable[KeyStatus]) -> list[ScopeView]:
    if status.is_shared_cooldown:
        siblings = sum(
            other.place.workspace == status.place.workspace
            and other.state is KeyState.TEMPORARY
            and other.concern is Concern.SCOPE
            and not other.is_shared_cooldown
            for other in everybody
        )
        return [ScopeView(scope, status.record, status.remaining_seconds, siblings=max(2, siblings))]
    return [ScopeView(scope, status.record, doubt=status.doubt)] if status.doubt is not Doubt.NONE else []


def _joined(status: KeyStatus, others: list[ScopeView]) -> KeyStatus:
    """The status as a whole of a key that may cool down because of others."""
    shared = [view for view in others if view.siblings]
    if status.state is not KeyState.VALID or not shared:
        return status
    longest = max(shared, key=lambda view: view.remaining_seconds)
    now = longest.record.cooling_until_at - longest.remaining_seconds
    return status.cooling(longest.record, now, is_shared=True)


def _refusal(status: KeyStatus) -> str:
    code = f" ({status.record.status})" if status.record.status else ""
    if status.record.reason != Outcome.FORBIDDEN.value:
        return f"refused{code}"
    return f"forbidden something{code}{'; being looked into' if status.is_last_resort else ''}"


def _mark(concern: Concern, record: Record) -> str:
    """What a mark says of the key, of its workspace or of its organisation."""
    owner = _OWNERS.get(concern)
    is_ = f"{owner} is " if owner is not None else ""
    if record.reason in _MONEY:
        return f"{is_}{_MONEY[record.reason]}"
    if record.reason == Outcome.WORKSPACE_UNUSABLE.value:
        return "its workspace cannot be used"
    if not record.status:
        return "put aside by the operator"
    if record.reason in (Outcome.UNAUTHORIZED.value, Outcome.FORBIDDEN.value):
        return f"refused ({record.status})"
    return f"{is_}limited"


def _named(views: Iterable[ScopeView]) -> str:
    return ", ".join(view.scope for view in views)

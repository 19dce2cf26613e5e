"""The world that keys may belong to: a key answers as its workspace, its organisation and what was asked before allow.

A world knows no wire: `rulings` turns what it rules into answers. Every connection's thread asks it, tests and control
routes change it; one lock guards all of it. `could_answer` asks the same rules without counting, so that a test can
judge a gateway.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gateway.simulator.buckets import Bucket
from gateway.simulator.caches import Cached, Prefix, PromptCaches
from gateway.simulator.grammar import ScriptError
from gateway.simulator.members import Key, Member, Organisation, Workspace
from gateway.simulator.routes import Route
from gateway.simulator.scopes import Asked
from gateway.simulator.seen import Standing


class Cause(StrEnum):
    """Why a key did not answer."""

    REVOKED = "revoked"
    DISABLED = "disabled"
    WORKSPACE_UNUSABLE = "workspace_unusable"
    OUT_OF_CREDIT = "out_of_credit"
    SPEND_LIMITED = "spend_limited"
    WORKSPACE_SPEND_LIMITED = "workspace_spend_limited"
    FORBIDDEN = "forbidden"
    NOT_ENTITLED = "not_entitled"
    RATE_LIMITED = "rate_limited"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What becomes of a request: a cause when it is refused, else what it had of the prompt cache."""

    standing: Standing
    cause: Cause | None = None
    retry_after_seconds: int = 0
    cached: Cached = Cached()


@dataclass(frozen=True, slots=True)
class Counts:
    """What keys of the world were asked: `refusals` by cause, or by the behaviour that a script put there."""

    attempts: int = 0
    refusals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Place:
    """A key with its workspace and organisation."""

    organisation: Organisation
    workspace: Workspace
    key: Key

    def cause(self, asked: Asked) -> Cause | None:
        """What refuses a request whatever was asked before. Money and rights stop messages alone."""
        organisation, workspace, costs = self.organisation, self.workspace, asked.costs_money
        is_listing = asked.route in (Route.MODELS, Route.MODEL)
        causes = (
            (Cause.REVOKED, self.key.revoked),
            (Cause.DISABLED, organisation.disabled),
            (Cause.WORKSPACE_UNUSABLE, workspace.unusable and not is_listing),
            (Cause.OUT_OF_CREDIT, costs and organisation.credit == 0),
            (Cause.SPEND_LIMITED, costs and organisation.spend_limited),
            (Cause.WORKSPACE_SPEND_LIMITED, costs and workspace.spend_limited),
            (Cause.FORBIDDEN, costs and asked.model in organisation.lacks_models),
            (Cause.NOT_ENTITLED, costs and not asked.betas.isdisjoint(organisation.lacks_betas)),
        )
        return next((cause for cause, holds in causes if holds), None)


class World:
    """Organisations, workspaces and keys. Every method may be called from any thread."""

    def __init__(
        self,
        members: Iterable[Member] = (),
        *,
        caches_all: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`caches_all` caches prompts without a `cache_control`, too; `clock` tells seconds.

        Raises: ScriptError when a workspace's organisation or a key's workspace does not come before it.
        """
        self.caches_all = caches_all
        self._clock = clock
        # Guards everything below.
        self._lock = threading.Lock()
        self._members: dict[str, Member] = {}
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._caches = PromptCaches()
        self._cached: dict[str, Cached] = {}
        self._answers: Counter[str] = Counter()
        self._refusals: Counter[tuple[str, str]] = Counter()
        for member in members:
            self.put(member)

    def put(self, member: Member) -> None:
        """Adds a member, or replaces the one of its id.

        Raises: ScriptError.
        """
        with self._lock:
            self._put(member)

    def change(self, member_id: str, **settings: object) -> Member:
        """Changes some settings of an organisation, a workspace, or a key (by its secret); what it is now.

        Raises: KeyError when there is none, ScriptError.
        """
        with self._lock:
            member = replace(self._members[member_id], **settings)  # type: ignore[arg-type]  # its own fields
            self._put(member)
            return member

    def member(self, member_id: str) -> Member | None:
        """The organisation, the workspace or the key (by its secret) as it is now."""
        with self._lock:
            return self._members.get(member_id)

    def members(self) -> list[Member]:
        """All of them as they are now, in the order of adding."""
        with self._lock:
            return list(self._members.values())

    def standing(self, secret: str) -> Standing:
        """Where a key belongs; nowhere when the world does not know it."""
        with self._lock:
            place = self._place(secret)
            return Standing(place.organisation.id, place.workspace.id) if place else Standing()

    def could_answer(self, secret: str, asked: Asked) -> bool:
        """Whether this key would answer such a request now, scripts aside; counts nothing."""
        with self._lock:
            place = self._place(secret)
            return place is not None and self._judge(place, asked, self._clock())[0] is None

    def rule(self, secret: str, asked: Asked, prefixes: tuple[Prefix, ...]) -> Ruling:
        """What becomes of this request of a key of the world, which counts; `prefixes` are to be cached.

        Raises: KeyError.
        """
        with self._lock:
            now = self._clock()
            place = self._place(secret)
            if place is None:
                raise KeyError("the key is not of this world")
            cause, wait_seconds = self._judge(place, asked, now)
            if cause is not None:
                self._refusals[secret, cause] += 1
                # Rounded first: 2.0000000001 s are 2.
                return Ruling(self._standing(place, asked, now), cause, max(1, math.ceil(round(wait_seconds, 6))))
            self._answers[secret] += 1
            for bucket in self._buckets_of(place, asked, now):
                bucket.take(now)
            organisation = place.organisation
            if asked.costs_money and organisation.credit is not None:
                self._members[organisation.id] = replace(organisation, credit=organisation.credit - 1)
            cached = self._cache(place.workspace.id, prefixes, now)
            return Ruling(self._standing(place, asked, now), cached=cached)

    def note_scripted(self, secret: str, refused_by: str) -> None:
        """Counts what a script answered for a key of the world; `refused_by` is "" when it was no refusal."""
        with self._lock:
            if refused_by:
                self._refusals[secret, refused_by] += 1
            else:
                self._answers[secret] += 1

    def counts(self, secret: str | None = None) -> Counts:
        """What one key, or all of the world, were asked."""
        with self._lock:
            answers = self._answers.total() if secret is None else self._answers[secret]
            refusals: Counter[str] = Counter()
            for (refused, cause), number in self._refusals.items():
                if secret in (None, refused):
                    refusals[cause] += number
            return Counts(answers + refusals.total(), dict(refusals))

    def cached(self, workspace_id: str | None = None) -> Cached:
        """Tokens that one workspace's cache, or all, have read and written."""
        with self._lock:
            if workspace_id is not None:
                return self._cached.get(workspace_id, Cached())
            each = self._cached.values()
            return Cached(sum(one.read for one in each), sum(one.written for one in each))

    def _put(self, member: Member) -> None:
        known = self._members.get(member.id)
        if known is not None and type(known) is not type(member):
            raise ScriptError("two members of the world have the same id")
        if isinstance(member, Workspace) and not isinstance(self._members.get(member.organisation), Organisation):
            raise ScriptError(f"workspace {member.id!r}: there is no organisation {member.organisation!r}")
        if isinstance(member, Key) and not isinstance(self._members.get(member.workspace), Workspace):
            raise ScriptError(f"a key's workspace {member.workspace!r} does not exist")
        self._members[member.id] = member

    def _place(self, secret: str) -> _Place | None:
        key = self._members.get(secret)
        workspace = self._members.get(key.workspace) if isinstance(key, Key) else None
        organisation = self._members.get(workspace.organisation) if isinstance(workspace, Workspace) else None
        match organisation, workspace, key:
            case Organisation(), Workspace(), Key():
                return _Place(organisation, workspace, key)
        return None

    def _judge(self, place: _Place, asked: Asked, now: float) -> tuple[Cause | None, float]:
        """The first cause to refuse, and the seconds until a rate limit lets one more in."""
        if cause := place.cause(asked):
            return cause, 0.0
        wait_seconds = max((bucket.wait_seconds(now) for bucket in self._buckets_of(place, asked, now)), default=0.0)
        return (Cause.RATE_LIMITED if wait_seconds else None), wait_seconds

    def _buckets_of(self, place: _Place, asked: Asked, now: float) -> list[Bucket]:
        """The limits that this request falls under; one that was changed starts full."""
        buckets = []
        for owner in (place.organisation, place.workspace):
            if limit := owner.limits.get(asked.scope):
                bucket = self._buckets.get((owner.id, asked.scope))
                if bucket is None or bucket.limit != limit:
                    bucket = self._buckets[owner.id, asked.scope] = Bucket(limit, now)
                buckets.append(bucket)
        return buckets

    def _standing(self, place: _Place, asked: Asked, now: float) -> Standing:
        levels = [bucket.level(now) for bucket in self._buckets_of(place, asked, now)]
        tightest = min(levels, key=lambda level: level.remaining, default=None)
        return Standing(place.organisation.id, place.workspace.id, tightest)

    def _cache(self, workspace_id: str, prefixes: tuple[Prefix, ...], now: float) -> Cached:
        cached = self._caches.use(workspace_id, prefixes, now)
        so_far = self._cached.get(workspace_id, Cached())
        self._cached[workspace_id] = Cached(so_far.read + cached.read, so_far.written + cached.written)
        return cached

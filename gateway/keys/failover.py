"""The one walk over the pool: the only place where keys are tried and marked.

Owns: the order of trying, the marking, and what exhaustion means. It knows
nothing of HTTP, sockets or threads. A walk belongs to one turn of one request; it holds no lock, and the attempt
it is given does the waiting.

An attempt is a generator because an upstream may keep everybody waiting before it shows whether it accepted the
key: what it yields is passed on untouched (a ping, the word that the response head is due), what it returns is
the answer and its verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Protocol, TypeVar

from gateway.access.credential import Key
from gateway.keys.pool import Pool
from gateway.keys.standing import Doubt, KeyState, KeyStatus
from gateway.keys.verdict import Next, Verdict
from gateway.protocol.errors import (
    AuthenticationExhausted,
    GatewayError,
    OutOfMoney,
    RateLimited,
    RequestForbidden,
    UpstreamError,
)
from gateway.protocol.outcomes import Outcome


class Answered(Protocol):
    """An answer of the upstream's, as far as a walk deals with it."""

    @property
    def is_relayable(self) -> bool:
        """Whether it could be the client's."""

    def discard(self) -> None:
        """Throw it away, so that its connection is reused or freed."""

    def forbid_retries(self) -> None:
        """Tell the client that asking again does not help."""


Signal = TypeVar("Signal")
Answer = TypeVar("Answer", bound=Answered)


Attempt = Callable[[Key], Generator[Signal, None, tuple[Answer, Verdict]]]


class WalkObserver(Protocol):
    """Whoever logs, counts and records what a walk does. Of attempts it hears from those that make them."""

    def passed_over(self, status: KeyStatus, *, is_barred: bool, is_elsewhere: bool) -> None:
        """A key that stands before the one now tried, or any if none is left, is not tried; told again if again so.

        `is_barred`: its organisation has said that it may not make this request. `is_elsewhere`: the session stays with
        another workspace.
        """

    def transitioned(self, key: Key, state: KeyState, verdict: Verdict) -> None:
        """This walk's mark changed the key's state; told once however many walks raced to it."""

    def failed_over(self, key: Key, verdict: Verdict) -> None:
        """The answer of this key is thrown away and another key is tried."""

    def walked(self, attempts: int) -> None:
        """A walk has ended with an answer or a transport error, after so many attempts."""

    def exhausted(self, error: GatewayError, attempts: int) -> None:
        """A walk has found no usable key."""


class Session(Protocol):
    """A conversation, as far as a walk deals with it: its prompt cache is where it was answered."""

    @property
    def group(self) -> str | None:
        """The workspace that it stays with; None if it has none to stay with."""

    def answered(self, status: KeyStatus, *, is_displaced: bool) -> None:
        """A key has answered; `is_displaced`: not the one that would have, were all in use."""

    def told_of(self, container_id: str) -> None:
        """Its answer tells of a container, which belongs to that key's workspace."""


class Looks(Protocol):
    """Whoever finds out what it means that a key was forbidden something."""

    def look_into(self, statuses: Sequence[KeyStatus], scope: str, *, was_answered: bool, request: str = "") -> None:
        """These keys were forbidden a request of this scope; `was_answered`: another key did not forbid it. `request`
        is its name in the log.
        """


@dataclass(frozen=True, slots=True)
class Course:
    """What a walk is for. `scope` is what limits are told for; `costs` whether the request is paid for: one that is
    not cannot show that there is money again. `request` is the request's name in the log.
    """

    scope: str = "messages/any"
    costs: bool = True
    session: Session | None = None
    looks: Looks | None = None
    request: str = ""


@dataclass(slots=True)
class _Way:
    """Where a walk has been."""

    tried: set[Key] = field(default_factory=set)
    cooled: set[Key] = field(default_factory=set)  # told to wait, and not for money
    forbidden: list[KeyStatus] = field(default_factory=list)  # to be looked into
    forbidden_count: int = 0
    barred: set[str] = field(default_factory=set)  # organisations whose other keys would say the same
    group: str | None = None  # the workspace that the session stays with


def walk(
    pool: Pool, attempt: Attempt[Signal, Answer], observer: WalkObserver, course: Course = Course()
) -> Generator[Signal, None, Answer]:
    """Try the valid keys in order until one gives an answer that is the client's, and return it.

    No key is tried twice. Each step looks at all keys anew, so a key that recovers meanwhile is found before the
    walk gives up. Keys that are in doubt come later, and a key on trial is passed over while another request tries it,
    unless no other key is left. A session's own workspace comes first, if it stays with one.

    With no key left, a refusal that says more than the gateway could is returned as the answer; else raises
    RateLimited, AuthenticationExhausted or OutOfMoney. Raises whatever the attempt raises.
    """
    way = _Way()
    refused: tuple[Key, Verdict] | None = None
    kept: tuple[Answer, Verdict] | None = None  # the refusal that is relayed if no key is left
    while True:
        statuses = pool.recent(course.scope)
        chosen = _choose(pool, statuses, way, course)
        if chosen is None:  # how long the cooldowns take matters now; and one may be over
            statuses = pool.statuses(course.scope)
            chosen = _choose(pool, statuses, way, course)
        _tell_passed_over(statuses, chosen[0] if chosen is not None else None, way, observer)
        if chosen is None:
            _look_into(way, course, was_answered=False)
            return _last_word(statuses, kept, observer, way)
        status, lease = chosen
        if refused is not None:
            observer.failed_over(*refused)
        way.tried.add(status.key)
        with _tidying_up(kept, way, course):
            answer, verdict = yield from _tried(pool, status, lease, attempt, observer, len(way.tried))
        if verdict.next is Next.NONE:
            _answered(pool, statuses, status, verdict, lease, course, way)
            _look_into(way, course, was_answered=verdict.vouches)
            observer.walked(len(way.tried))
            _drop(kept)
            return answer
        refused = (status.key, verdict)
        _mark(pool, status, verdict, observer, way)
        if lease is not None:  # a mark on something else has not ended it
            pool.release(status, lease)
        if _says_more(verdict, kept) and answer.is_relayable:
            _drop(kept)
            kept = (answer, verdict)
        else:
            answer.discard()


def _answered(
    pool: Pool,
    statuses: Sequence[KeyStatus],
    status: KeyStatus,
    verdict: Verdict,
    lease: float | None,
    course: Course,
    way: _Way,
) -> None:
    """Take note of a key's answer, which is the client's."""
    if status.is_on_trial and verdict.vouches:
        pool.confirm(status, costs=course.costs)
    elif lease is not None:
        pool.release(status, lease)
    if course.session is not None and verdict.outcome is Outcome.OK:
        course.session.answered(status, is_displaced=_is_displaced(statuses, status, way))


@contextmanager
def _tidying_up(kept: tuple[Answered, Verdict] | None, way: _Way, course: Course) -> Iterator[None]:
    """When the walk breaks off: nobody gets a kept refusal, whose connection may be open; and keys are looked into."""
    try:
        yield
    except BaseException:
        _drop(kept)
        _look_into(way, course, was_answered=False)
        raise


def _drop(kept: tuple[Answered, Verdict] | None) -> None:
    if kept is not None:
        kept[0].discard()


def _last_word(
    statuses: Sequence[KeyStatus], kept: tuple[Answer, Verdict] | None, observer: WalkObserver, way: _Way
) -> Answer:
    """What the client gets when no key is left: a refusal that was kept, unless waiting for a key would help."""
    attempts = len(way.tried)
    exhaustion = _exhaustion(statuses, way)
    if kept is not None and kept[1].outcome is Outcome.FORBIDDEN and way.forbidden_count < attempts:
        _drop(kept)
        kept = None  # other keys were refused for other causes: what one was forbidden says too little
    if kept is None or isinstance(exhaustion, RateLimited):
        _drop(kept)
        observer.exhausted(exhaustion, attempts)
        raise exhaustion
    answer, verdict = kept
    if verdict.is_about_money:
        answer.forbid_retries()
        observer.exhausted(OutOfMoney("the last key was refused for money, too"), attempts)
    elif verdict.outcome is Outcome.FORBIDDEN:
        observer.exhausted(RequestForbidden("every key was forbidden this request"), attempts)
    else:
        observer.walked(attempts)
    return answer


def _says_more(verdict: Verdict, kept: tuple[Answered, Verdict] | None) -> bool:
    """Whether a refusal had better be the client's answer than the one that was kept so far."""
    if verdict.outcome is Outcome.FORBIDDEN:
        return kept is None or kept[1].outcome is Outcome.FORBIDDEN
    return verdict.is_kept


def _look_into(way: _Way, course: Course, *, was_answered: bool) -> None:
    if way.forbidden and course.looks is not None:
        course.looks.look_into(way.forbidden, course.scope, was_answered=was_answered, request=course.request)


def _is_displaced(statuses: Sequence[KeyStatus], chosen: KeyStatus, way: _Way) -> bool:
    """Whether a key that stands before this one, and shares no cache with it, was out, be it for a moment."""
    for status in statuses:
        if status is chosen:
            return False
        is_out = status.state is not KeyState.VALID or status.doubt is not Doubt.NONE or status.key in way.cooled
        if is_out and not (status.place.group and status.place.group == chosen.place.group):
            return True
    return False


def _tried(
    pool: Pool,
    status: KeyStatus,
    lease: float | None,
    attempt: Attempt[Signal, Answer],
    observer: WalkObserver,
    attempts: int,
) -> Generator[Signal, None, tuple[Answer, Verdict]]:
    """One attempt; a lease is given back if it ends without a word about the key."""
    try:
        return (yield from attempt(status.key))
    except BaseException as error:
        if lease is not None:
            pool.release(status, lease)
        if isinstance(error, UpstreamError):
            observer.walked(attempts)
        raise


def _choose(
    pool: Pool, statuses: Sequence[KeyStatus], way: _Way, course: Course
) -> tuple[KeyStatus, float | None] | None:
    """The first key that may be tried, and the lease under which it is, if it is on trial."""
    left: Sequence[KeyStatus] = statuses
    if way.tried or way.barred:
        left = [s for s in statuses if s.key not in way.tried and s.place.organisation not in way.barred]
    usable = [s for s in left if s.state is KeyState.VALID]
    group = way.group = course.session.group if course.session is not None else None
    if any(s.doubt is not Doubt.NONE for s in usable):
        usable.sort(key=attrgetter("doubt"))
    if group:  # none twice: a probe is asked for once
        usable.sort(key=lambda s: s.place.group != group or s.doubt is not Doubt.NONE)
    for status in usable:
        needs_no_probe = status.is_out_of_money and not course.costs  # it is no probe of what the key is on trial for
        if needs_no_probe or not status.is_on_trial:
            return status, None
        lease = None if status.is_leased else pool.lease(status)
        if lease is not None:
            return status, lease
    if usable:
        return usable[0], None
    return next(((s, None) for s in left if s.is_last_resort), None)


def _tell_passed_over(
    statuses: Sequence[KeyStatus], chosen: KeyStatus | None, way: _Way, observer: WalkObserver
) -> None:
    for status in statuses:
        if status is chosen:
            return
        if way.tried and status.key in way.tried:
            continue
        place = status.place
        observer.passed_over(
            status,
            is_barred=place.organisation in way.barred,
            is_elsewhere=way.group is not None and place.group != way.group,
        )


def _mark(pool: Pool, status: KeyStatus, verdict: Verdict, observer: WalkObserver, way: _Way) -> None:
    """Hold a refusal against whom it speaks of."""
    outcome = verdict.outcome
    if outcome is Outcome.NOT_ENTITLED:
        way.barred |= {pool.place(status.key).organisation} - {""}
        return
    if outcome is Outcome.FORBIDDEN:
        way.forbidden_count += 1
        if pool.is_forgiven(status.key):
            return
        way.forbidden.append(status)
    if verdict.cools:
        if not verdict.is_about_money:
            way.cooled.add(status.key)
        changed = pool.cool(status, verdict.cooldown_seconds, outcome.value, verdict.http_status, verdict.concern)
        state = KeyState.TEMPORARY
    else:
        changed = pool.retire(status, outcome.value, verdict.http_status, verdict.concern)
        state = KeyState.PERMANENT
    if changed:
        observer.transitioned(status.key, state, verdict)


def _exhaustion(statuses: Sequence[KeyStatus], way: _Way) -> GatewayError:
    """Why no key is left: the first is back soonest, of those that are back by themselves, or are so already."""
    cooling = [status for status in statuses if status.state is KeyState.TEMPORARY]
    limited = [s.remaining_seconds for s in cooling if not s.is_out_of_money and not s.is_forbidden]
    limited += [0.0 for status in statuses if status.state is KeyState.VALID and status.key in way.cooled]
    unpaid = [status.remaining_seconds for status in cooling if status.is_out_of_money]
    counts = _counted(statuses, min(limited or unpaid, default=0.0))
    if limited:
        wait_seconds = max(1, math.ceil(min(limited)))
        return RateLimited(f"all configured keys are rate-limited: {counts}", retry_after_seconds=wait_seconds)
    if unpaid:
        return OutOfMoney(f"all configured keys are out of money: {counts}")
    return AuthenticationExhausted(f"all configured keys failed authentication: {counts}")


def _counted(statuses: Sequence[KeyStatus], first_back_seconds: float) -> str:
    cooling = sum(status.state is KeyState.TEMPORARY for status in statuses)
    disabled = sum(status.record.is_disabled for status in statuses)
    retired = sum(status.state is KeyState.PERMANENT for status in statuses) - disabled
    back = f" (the first is back in {max(1, math.ceil(first_back_seconds))} s)" if cooling else ""
    return f"{cooling} cooling down{back}, {retired} retired, {disabled} disabled"

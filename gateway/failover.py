"""The one walk over the pool: the only place where keys are tried and marked.

Owns: the order of trying, the marking, and what exhaustion means. May use the pure layer and the pool; knows
nothing of HTTP, sockets or threads. A walk belongs to one turn of one request; it holds no lock, and the attempt
it is given does the waiting.

An attempt is a generator because an upstream may keep everybody waiting before it shows whether it accepted the
key: what it yields is passed on untouched (a ping, the word that the response head is due), what it returns is
the answer and its verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Protocol, TypeVar

from gateway.credential import Key
from gateway.errors import AuthenticationExhausted, GatewayError, RateLimited, UpstreamError
from gateway.pool import KeyState, KeyStatus, Pool
from gateway.verdict import Outcome, Verdict


class Discardable(Protocol):
    """An answer that can be thrown away so that its connection is reused or freed."""

    def discard(self) -> None: ...


Signal = TypeVar("Signal")
Answer = TypeVar("Answer", bound=Discardable)


Attempt = Callable[[Key], Generator[Signal, None, tuple[Answer, Verdict]]]


class WalkObserver(Protocol):
    """Whoever logs, counts and records what a walk does."""

    def passed_over(self, status: KeyStatus) -> None:
        """A key that stands before the one now tried, or any if none is left, is not tried; told again if again so."""

    def attempted(self, key: Key, verdict: Verdict) -> None:
        """An attempt has ended, with an answer or a transport error."""

    def transitioned(self, key: Key, state: KeyState, verdict: Verdict) -> None:
        """This walk's mark changed the key's state; told once however many walks raced to it."""

    def failed_over(self, key: Key, verdict: Verdict) -> None:
        """The answer of this key is thrown away and another key is tried."""

    def walked(self, attempts: int) -> None:
        """A walk has ended with an answer or a transport error, after so many attempts."""

    def exhausted(self, error: GatewayError, attempts: int) -> None:
        """A walk has found no usable key."""


def walk(pool: Pool, attempt: Attempt[Signal, Answer], observer: WalkObserver) -> Generator[Signal, None, Answer]:
    """Try the valid keys in order until one is neither limited nor refused, and return that answer.

    No key is tried twice. Each step looks at all keys anew, so a key that recovers meanwhile is found before the
    walk gives up. A key on trial is passed over while another request tries it, unless no other key is left.
    Raises RateLimited or AuthenticationExhausted when no key is left, and whatever the attempt raises.
    """
    tried: set[Key] = set()
    refused: tuple[Key, Verdict] | None = None
    while True:
        statuses = pool.statuses()
        chosen = _choose(pool, statuses, tried)
        _tell_passed_over(statuses, chosen[0] if chosen is not None else None, tried, observer)
        if chosen is None:
            error = _exhaustion(pool)
            observer.exhausted(error, len(tried))
            raise error
        status, lease = chosen
        if refused is not None:
            observer.failed_over(*refused)
        tried.add(status.key)
        answer, verdict = yield from _tried(pool, status, lease, attempt, observer, len(tried))
        observer.attempted(status.key, verdict)
        if not verdict.outcome.fails_over:
            if status.is_on_trial and verdict.outcome.vouches:
                pool.confirm(status)
            elif lease is not None:
                pool.release(status.key, lease)
            observer.walked(len(tried))
            return answer
        _mark(pool, status, verdict, observer)
        answer.discard()
        refused = (status.key, verdict)


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
            pool.release(status.key, lease)
        if isinstance(error, UpstreamError):
            observer.attempted(status.key, Verdict(Outcome.TRANSPORT_ERROR))
            observer.walked(attempts)
        raise


def _choose(pool: Pool, statuses: list[KeyStatus], tried: set[Key]) -> tuple[KeyStatus, float | None] | None:
    """The first key that may be tried, and the lease under which it is, if it is on trial."""
    usable = [s for s in statuses if s.state is KeyState.VALID and s.key not in tried]
    for status in usable:
        if not status.is_on_trial:
            return status, None
        lease = None if status.is_leased else pool.lease(status.key)
        if lease is not None:
            return status, lease
    return (usable[0], None) if usable else None


def _tell_passed_over(
    statuses: list[KeyStatus], chosen: KeyStatus | None, tried: set[Key], observer: WalkObserver
) -> None:
    for status in statuses:
        if status is chosen:
            return
        if status.key not in tried:
            observer.passed_over(status)


def _mark(pool: Pool, status: KeyStatus, verdict: Verdict, observer: WalkObserver) -> None:
    reason = verdict.outcome.value
    if verdict.outcome.cools:
        changed = pool.cool(status, verdict.cooldown_seconds, reason, verdict.http_status)
        state = KeyState.TEMPORARY
    else:
        changed = pool.retire(status, reason, verdict.http_status)
        state = KeyState.PERMANENT
    if changed:
        observer.transitioned(status.key, state, verdict)


def _exhaustion(pool: Pool) -> GatewayError:
    waits = [s.remaining_seconds for s in pool.statuses() if s.state is not KeyState.PERMANENT]
    if not waits:
        return AuthenticationExhausted("all configured keys failed authentication")
    return RateLimited("all configured keys are rate-limited", retry_after_seconds=max(1, math.ceil(min(waits))))

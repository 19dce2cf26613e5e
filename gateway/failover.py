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
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from gateway.credential import Key
from gateway.errors import AuthenticationExhausted, GatewayError, OutOfMoney, RateLimited, UpstreamError
from gateway.pool import KeyState, KeyStatus, Pool
from gateway.verdict import Next, Outcome, Verdict


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


def walk(
    pool: Pool, attempt: Attempt[Signal, Answer], observer: WalkObserver, *, costs: bool = True
) -> Generator[Signal, None, Answer]:
    """Try the valid keys in order until one gives an answer that is the client's, and return it.

    No key is tried twice. Each step looks at all keys anew, so a key that recovers meanwhile is found before the
    walk gives up. A key on trial is passed over while another request tries it, unless no other key is left. `costs`
    tells whether the request is paid for: one that is not cannot show that there is money again.

    With no key left, a refusal that says more than the gateway could is returned as the answer; else raises
    RateLimited, AuthenticationExhausted or OutOfMoney. Raises whatever the attempt raises.
    """
    tried: set[Key] = set()
    refused: tuple[Key, Verdict] | None = None
    kept: tuple[Answer, Verdict] | None = None  # the refusal that is relayed if no key is left
    while True:
        statuses = pool.statuses()
        chosen = _choose(pool, statuses, tried, costs)
        _tell_passed_over(statuses, chosen[0] if chosen is not None else None, tried, observer)
        if chosen is None:
            return _last_word(pool, kept, observer, len(tried))
        status, lease = chosen
        if refused is not None:
            observer.failed_over(*refused)
        tried.add(status.key)
        with _dropping_if_it_fails(kept):
            answer, verdict = yield from _tried(pool, status, lease, attempt, observer, len(tried))
        observer.attempted(status.key, verdict)
        if verdict.outcome.next is Next.NONE:
            if status.is_on_trial and verdict.outcome.vouches and (costs or not status.is_out_of_money):
                pool.confirm(status)
            elif lease is not None:
                pool.release(status.key, lease)
            observer.walked(len(tried))
            _drop(kept)
            return answer
        refused = (status.key, verdict)
        if verdict.outcome.next is Next.ANY:
            _mark(pool, status, verdict, observer)
        elif lease is not None:
            pool.release(status.key, lease)
        if verdict.outcome.is_kept and answer.is_relayable:
            _drop(kept)
            kept = (answer, verdict)
        else:
            answer.discard()


@contextmanager
def _dropping_if_it_fails(kept: tuple[Answered, Verdict] | None) -> Iterator[None]:
    """Nobody gets a kept refusal when the walk breaks off; in a stream that has begun its connection is still open."""
    try:
        yield
    except BaseException:
        _drop(kept)
        raise


def _drop(kept: tuple[Answered, Verdict] | None) -> None:
    if kept is not None:
        kept[0].discard()


def _last_word(pool: Pool, kept: tuple[Answer, Verdict] | None, observer: WalkObserver, attempts: int) -> Answer:
    """What the client gets when no key is left: a refusal that was kept, unless waiting for a key would help."""
    exhaustion = _exhaustion(pool)
    if kept is None or isinstance(exhaustion, RateLimited):
        _drop(kept)
        observer.exhausted(exhaustion, attempts)
        raise exhaustion
    answer, verdict = kept
    if verdict.outcome.is_about_money:
        answer.forbid_retries()
        observer.exhausted(OutOfMoney("the last key was refused for money, too"), attempts)
    else:
        observer.walked(attempts)
    return answer


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


def _choose(
    pool: Pool, statuses: list[KeyStatus], tried: set[Key], costs: bool
) -> tuple[KeyStatus, float | None] | None:
    """The first key that may be tried, and the lease under which it is, if it is on trial."""
    usable = [s for s in statuses if s.state is KeyState.VALID and s.key not in tried]
    for status in usable:
        if not status.is_on_trial or (status.is_out_of_money and not costs):  # no trial of what it is on trial for
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
    """Why no key is left: the first is back soonest, of those that are back by themselves."""
    statuses = pool.statuses()
    cooling = [status for status in statuses if status.state is KeyState.TEMPORARY]
    limited = [status.remaining_seconds for status in cooling if not status.is_out_of_money]
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

"""The walk over the pool: the design's first table, its edges, and a storm of walks."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Callable, Generator

import pytest

from gateway.access.credential import Key
from gateway.keys.classification import Cooldowns, judge
from gateway.keys.failover import Course, walk
from gateway.keys.pool import Pool
from gateway.keys.standing import KeyState
from gateway.keys.store import MemoryStore
from gateway.keys.verdict import COOLING, Verdict
from gateway.protocol.errors import (
    AuthenticationExhausted,
    ClientGone,
    GatewayError,
    OutOfMoney,
    RateLimited,
    UpstreamError,
)
from gateway.protocol.outcomes import Outcome
from tests.unit.fakes import NOW, FakeAnswer, FakeClock, RecordingObserver, cool, keys_of, pool_of, race, retire

VALID, TEMPORARY, PERMANENT = KeyState.VALID, KeyState.TEMPORARY, KeyState.PERMANENT
LIMITED = "all configured keys are rate-limited"
REFUSED = "all configured keys failed authentication"
SCOPE = Course().scope


class Upstream:
    """Answers by key: a status, a (status, retry-after) or an exception; every answer is kept."""

    def __init__(self, **by_key: object) -> None:
        self._by_key = by_key
        self.answers: list[FakeAnswer] = []
        self.during: Callable[[Key], None] = lambda key: None

    def __call__(self, key: Key) -> Generator[str, None, tuple[FakeAnswer, Verdict]]:
        answer = FakeAnswer(key)
        self.answers.append(answer)
        yield f"signal of {key.name}"
        self.during(key)
        told = self._by_key.get(key.name, 200)
        if isinstance(told, BaseException):
            raise told
        status, headers = (told[0], {"retry-after": told[1]}) if isinstance(told, tuple) else (told, {})
        if isinstance(status, Outcome):
            return answer, Verdict(status, 60.0 if status in COOLING else 0.0, 400)
        return answer, judge(status, headers, b"", NOW, Cooldowns(60.0, 3600.0))

    @property
    def called(self) -> list[str]:
        return [answer.key.name for answer in self.answers]


def finish(walking: Generator[str, None, FakeAnswer]) -> FakeAnswer:
    """Drive a walk to its end and return its answer."""
    while True:
        try:
            next(walking)
        except StopIteration as stop:
            return stop.value


def states(pool: Pool) -> str:
    """The states as one letter each: v, t, p."""
    return "".join(status.state.value[0] for status in pool.statuses())


def cooling(seconds):
    return lambda pool, number: cool(pool, number, seconds)


@pytest.mark.parametrize(
    ("count", "before", "answers", "called", "error", "after"),
    [
        pytest.param(1, {}, {}, "k0", None, "v", id="one-valid-key"),
        pytest.param(2, {}, {"k0": (429, "5")}, "k0 k1", None, "tv", id="429-then-ok"),
        pytest.param(2, {}, {"k0": 401}, "k0 k1", None, "pv", id="401-then-ok"),
        pytest.param(2, {}, {"k0": 403}, "k0 k1", None, "pv", id="403-then-ok"),
        pytest.param(
            3,
            {},
            {"k0": (429, "5"), "k1": (429, "3"), "k2": (429, "10")},
            "k0 k1 k2",
            (RateLimited, LIMITED, 3),
            "ttt",
            id="all-429",
        ),
        pytest.param(
            2, {}, {"k0": 401, "k1": 401}, "k0 k1", (AuthenticationExhausted, REFUSED, None), "pp", id="both-401"
        ),
        pytest.param(
            2, {}, {"k0": 403, "k1": 401}, "k0 k1", (AuthenticationExhausted, REFUSED, None), "pp", id="403-and-401"
        ),
        pytest.param(2, {}, {"k0": 500}, "k0", None, "vv", id="500-is-relayed"),
        pytest.param(2, {}, {"k0": 503}, "k0", None, "vv", id="503-is-relayed"),
        pytest.param(2, {}, {"k0": 529}, "k0", None, "vv", id="529-is-relayed"),
        pytest.param(2, {}, {"k0": 400}, "k0", None, "vv", id="400-is-relayed"),
        pytest.param(2, {}, {"k0": 404}, "k0", None, "vv", id="404-is-relayed"),
        pytest.param(2, {}, {"k0": 413}, "k0", None, "vv", id="413-is-relayed"),
        pytest.param(
            3, {0: retire}, {"k1": (429, "7"), "k2": (429, "9")}, "k1 k2", (RateLimited, LIMITED, 7), "ptt", id="mixed"
        ),
        pytest.param(
            3, {0: retire, 1: cooling(4)}, {"k2": 401}, "k2", (RateLimited, LIMITED, 4), "ptp", id="mixed-401"
        ),
        pytest.param(2, {0: cooling(30)}, {}, "k1", None, "tv", id="cooling-from-earlier"),
        pytest.param(2, {0: retire}, {}, "k1", None, "pv", id="retired-earlier"),
        pytest.param(3, {0: cooling(30), 1: retire}, {"k2": 500}, "k2", None, "tpv", id="500-of-the-last"),
        pytest.param(2, {0: cooling(30), 1: cooling(20)}, {}, "", (RateLimited, LIMITED, 20), "tt", id="all-cooling"),
        pytest.param(
            2, {0: retire, 1: retire}, {}, "", (AuthenticationExhausted, REFUSED, None), "pp", id="all-retired"
        ),
        pytest.param(
            2, {0: retire, 1: cooling(20)}, {}, "", (RateLimited, LIMITED, 20), "pt", id="retired-and-cooling"
        ),
        pytest.param(
            5,
            {},
            dict.fromkeys(["k0", "k1", "k2", "k3"], (429, "2")),
            "k0 k1 k2 k3 k4",
            None,
            "ttttv",
            id="last-is-good",
        ),
    ],
)
def test_walk_follows_the_table(count, before, answers, called, error, after):
    """Given keys in these states and an upstream that answers so, then these calls, this end, these states."""
    pool, observer, upstream = pool_of(count), RecordingObserver(), Upstream(**answers)
    for position, mark in before.items():
        mark(pool, position)
    if error is None:
        answer = finish(walk(pool, upstream, observer))
        assert answer is upstream.answers[-1]
        assert not answer.is_discarded
        assert observer.told[-1] == ("walked", len(upstream.answers))
        assert observer.of("exhausted") == []
    else:
        kind, message, retry_after_seconds = error
        with pytest.raises(kind) as raised:
            finish(walk(pool, upstream, observer))
        assert raised.value.message.startswith(f"{message}: ")
        assert raised.value.retry_after_seconds == retry_after_seconds
        assert observer.told[-1] == ("exhausted", kind.kind, len(upstream.answers))
        assert observer.of("walked") == []
    assert upstream.called == called.split()
    assert states(pool) == after
    thrown_away = upstream.answers[:-1] if error is None else upstream.answers
    assert all(answer.is_discarded for answer in thrown_away)
    moved_on = upstream.answers[:-1]
    assert [name for name, _ in observer.of("failed_over")] == [answer.key.name for answer in moved_on]


def test_exhaustion_counts_the_keys():
    """Given keys in every state, then the message counts them and says when the first is back."""
    pool = pool_of(5)
    cool(pool, 0, 294)
    cool(pool, 1, 300)
    retire(pool, 2)
    retire(pool, 3)
    pool.disable(pool.keys[4])
    with pytest.raises(RateLimited) as raised:
        finish(walk(pool, Upstream(), RecordingObserver()))
    assert raised.value.message == (
        "all configured keys are rate-limited: 2 cooling down (the first is back in 294 s), 2 retired, 1 disabled"
    )


# Refusals for money, and requests that a key's organisation may not make.

BROKE, SPENT, BARRED = Outcome.OUT_OF_CREDIT, Outcome.SPEND_LIMITED, Outcome.NOT_ENTITLED


@pytest.mark.parametrize(
    ("answers", "called", "given", "after", "forbids_retries"),
    [
        pytest.param({"k0": BROKE}, "k0 k1", "k1", "tv", False, id="another-key-pays"),
        pytest.param({"k0": SPENT, "k1": BROKE}, "k0 k1", "k1", "tt", True, id="none-pays"),
        pytest.param({"k0": BROKE, "k1": 401}, "k0 k1", "k0", "tp", True, id="one-unpaid-one-refused"),
        pytest.param({"k0": 401, "k1": BROKE}, "k0 k1", "k1", "pt", True, id="one-refused-one-unpaid"),
        pytest.param({"k0": BARRED}, "k0 k1", "k1", "vv", False, id="another-organisation-may"),
        pytest.param({"k0": BARRED, "k1": BARRED}, "k0 k1", "k1", "vv", False, id="none-may"),
        pytest.param({"k0": BARRED, "k1": 401}, "k0 k1", "k0", "vp", False, id="one-barred-one-refused"),
        pytest.param({"k0": BROKE, "k1": 500}, "k0 k1", "k1", "tv", False, id="another-key-fails"),
        pytest.param({"k0": Outcome.WORKSPACE_UNUSABLE}, "k0 k1", "k1", "tv", False, id="unusable-workspace"),
        pytest.param({"k0": Outcome.REQUEST}, "k0", "k0", "vv", False, id="the-request-itself"),
    ],
)
def test_walk_keeps_the_refusal_that_says_most(answers, called, given, after, forbids_retries):
    """Given keys that refuse for causes, then the client gets another key's answer, or the refusal that says most."""
    pool, upstream = pool_of(2), Upstream(**answers)
    answer = finish(walk(pool, upstream, RecordingObserver()))
    assert upstream.called == called.split()
    assert answer.key.name == given
    assert states(pool) == after
    assert answer.forbids_retries is forbids_retries
    assert [each.is_discarded for each in upstream.answers] == [each is not answer for each in upstream.answers]


@pytest.mark.parametrize("failure", [UpstreamError("broken"), ClientGone()], ids=["upstream", "client"])
def test_a_kept_refusal_is_thrown_away_when_the_walk_breaks_off(failure):
    """Given a refusal that is kept, when the next attempt ends without an answer, then its connection is free."""
    upstream = Upstream(k0=BROKE, k1=failure)
    with pytest.raises(type(failure)):
        finish(walk(pool_of(2), upstream, RecordingObserver()))
    assert upstream.answers[0].is_discarded


@pytest.mark.parametrize("first", [BROKE, BARRED], ids=lambda outcome: outcome.value)
def test_a_rate_limited_key_is_worth_waiting_for(first):
    """Given a key that refuses for a cause and one that is limited, then the client is told to wait for that one."""
    upstream = Upstream(k0=first, k1=(429, "7"))
    with pytest.raises(RateLimited) as raised:
        finish(walk(pool_of(2), upstream, RecordingObserver()))
    assert raised.value.retry_after_seconds == 7
    assert all(answer.is_discarded for answer in upstream.answers)


def test_when_nobody_pays_and_none_is_asked_the_gateway_says_so():
    """Given keys that were all refused for money before, then the next request gets a 402 without an attempt."""
    pool, upstream, observer = pool_of(2), Upstream(k0=BROKE, k1=SPENT), RecordingObserver()
    finish(walk(pool, upstream, RecordingObserver()))
    with pytest.raises(OutOfMoney) as raised:
        finish(walk(pool, upstream, observer))
    assert upstream.called == ["k0", "k1"]
    assert (raised.value.status, raised.value.kind) == (402, "billing_error")
    assert raised.value.message.startswith("all configured keys are out of money: 2 cooling down (the first is back")
    assert observer.of("exhausted") == [("billing_error", 0)]


def test_what_costs_nothing_does_not_show_that_there_is_money_again():
    """Given a key whose cooldown for money is over, when a free request succeeds, then it stays on trial for paid
    ones."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    finish(walk(pool, Upstream(k0=BROKE), RecordingObserver()))
    clock.advance(61)
    finish(walk(pool, Upstream(), RecordingObserver(), Course(costs=False)))
    assert pool.statuses()[0].is_on_trial
    assert not pool.statuses()[0].is_leased
    finish(walk(pool, Upstream(), RecordingObserver()))
    assert not pool.statuses()[0].is_on_trial


@pytest.mark.parametrize("outcome", [BROKE, SPENT, BARRED, Outcome.REQUEST], ids=lambda outcome: outcome.value)
def test_a_refusal_for_a_cause_vouches_for_no_key(outcome):
    """Given a key on trial, when it is refused for money or for the request, then it is not confirmed."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    cool(pool, 0, 5)
    clock.advance(6)
    finish(walk(pool, Upstream(k0=outcome), RecordingObserver()))
    (status,) = pool.statuses()
    assert status.record.is_unconfirmed
    assert not status.is_leased


@pytest.mark.parametrize(
    ("kind", "status", "retry_after"),
    [(RateLimited, 429, 3), (AuthenticationExhausted, 502, None)],
    ids=["rate-limited", "failed-authentication"],
)
def test_exhaustion_has_its_status(kind, status, retry_after):
    """Given the two kinds of exhaustion, then 429 rate_limit_error with Retry-After and 502 api_error without."""
    error = kind("message", retry_after_seconds=retry_after)
    assert (error.status, error.kind) == (status, "rate_limit_error" if status == 429 else "api_error")


@pytest.mark.parametrize(
    ("cooldowns", "retry_after_seconds"),
    [
        ([0.001], 1),
        ([0.4, 0.3], 1),
        ([1.0], 1),
        ([1.001], 2),
        ([2.5, 9], 3),
        ([3, 5], 3),
        ([86400.0], 86400),
    ],
    ids=str,
)
def test_retry_after_is_the_smallest_cooldown_rounded_up(cooldowns, retry_after_seconds):
    """Given cooling keys, then Retry-After is the smallest remaining cooldown, rounded up, at least one second."""
    pool = pool_of(len(cooldowns))
    for number, seconds in enumerate(cooldowns):
        cool(pool, number, seconds)
    with pytest.raises(RateLimited) as raised:
        finish(walk(pool, Upstream(), RecordingObserver()))
    assert raised.value.retry_after_seconds == retry_after_seconds


def test_retry_after_is_what_remains_not_what_was_given():
    """Given a key that has cooled down for a part of its time, then Retry-After is the rest."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    cool(pool, 0, 30)
    clock.advance(20.5)
    with pytest.raises(RateLimited) as raised:
        finish(walk(pool, Upstream(), RecordingObserver()))
    assert raised.value.retry_after_seconds == 10


def test_a_key_that_recovers_during_the_walk_is_found():
    """Given k0 cooling when the walk begins, when its cooldown ends while k1 is tried and limited, then k0 answers."""
    clock = FakeClock()
    pool, upstream = pool_of(2, clock), Upstream(k1=(429, "60"))
    cool(pool, 0, 5)
    upstream.during = lambda key: clock.advance(6)
    assert finish(walk(pool, upstream, RecordingObserver())).key.name == "k0"
    assert upstream.called == ["k1", "k0"]


def test_a_key_that_is_marked_by_others_during_the_walk_is_skipped():
    """Given a valid k1, when another request retires it while k0 is tried and limited, then k2 is next."""
    pool, upstream = pool_of(3), Upstream(k0=(429, "60"))
    upstream.during = lambda key: retire(pool, 1)
    finish(walk(pool, upstream, RecordingObserver()))
    assert upstream.called == ["k0", "k2"]


def test_no_key_is_tried_twice_even_if_it_recovers():
    """Given a key whose cooldown is over before the next key has answered, then it is not tried again in this walk."""
    clock = FakeClock()
    pool, upstream = pool_of(2, clock), Upstream(k0=(429, "1"), k1=(429, "1"))
    upstream.during = lambda key: clock.advance(10)
    with pytest.raises(RateLimited) as raised:
        finish(walk(pool, upstream, RecordingObserver()))
    assert upstream.called == ["k0", "k1"]
    assert raised.value.retry_after_seconds == 1


def test_every_walk_starts_at_the_first_key():
    """Given a key whose cooldown is over, then the next walk begins with it again."""
    clock = FakeClock()
    pool = pool_of(2, clock)
    finish(walk(pool, Upstream(k0=(429, "5")), RecordingObserver()))
    clock.advance(5)
    upstream = Upstream()
    finish(walk(pool, upstream, RecordingObserver()))
    assert upstream.called == ["k0"]


def test_transport_error_fails_nothing_over_and_is_counted_once():
    """Given k0 limited and k1 unreachable, then k1's error is raised, one attempt each is told, k1 stays valid."""
    pool, observer = pool_of(3), RecordingObserver()
    upstream = Upstream(k0=(429, "5"), k1=UpstreamError("unreachable"))
    with pytest.raises(UpstreamError, match="unreachable"):
        finish(walk(pool, upstream, observer))
    assert upstream.called == ["k0", "k1"]
    assert states(pool) == "tvv"
    assert observer.of("failed_over") == [("k0", "rate_limited")]
    assert observer.of("walked") == [(2,)]
    assert observer.of("exhausted") == []


@pytest.mark.parametrize("error", [ClientGone(), KeyboardInterrupt(), ValueError("a bug")], ids=repr)
def test_other_exceptions_say_nothing_of_the_key(error):
    """Given an attempt that ends for another reason, then it is raised, and no attempt is told and nothing marked."""
    pool, observer = pool_of(2), RecordingObserver()
    with pytest.raises(type(error)):
        finish(walk(pool, Upstream(k0=error), observer))
    assert observer.told == []
    assert states(pool) == "vv"


def test_signals_of_an_attempt_are_passed_through():
    """Given attempts that yield, then the walk yields the same, in order, and nothing of its own."""
    walking = walk(pool_of(3), Upstream(k0=401, k1=(429, "5")), RecordingObserver())
    assert list(walking) == ["signal of k0", "signal of k1", "signal of k2"]


def test_closing_a_walk_midway_closes_the_attempt_and_marks_nothing():
    """Given a walk that waits in its second attempt, when closed, then that attempt is cleaned up, unmarked, untold."""
    pool, observer = pool_of(2), RecordingObserver()
    cleaned: list[str] = []

    def attempt(key: Key) -> Generator[str, None, tuple[FakeAnswer, Verdict]]:
        try:
            yield key.name
            return FakeAnswer(key), Verdict(Outcome.RATE_LIMITED, 5)
        finally:
            cleaned.append(key.name)

    walking = walk(pool, attempt, observer)
    assert [next(walking), next(walking)] == ["k0", "k1"]
    walking.close()
    assert cleaned == ["k0", "k1"]
    assert states(pool) == "tv"
    assert observer.of("failed_over") == [("k0", "rate_limited")]


@pytest.mark.parametrize(("answer", "marked"), [((429, "9"), "t"), (401, "p")], ids=["429", "401"])
@pytest.mark.parametrize("is_enabled_meanwhile", [True, False], ids=["enabled-meanwhile", "enabled-before"])
def test_mark_carries_the_generation_its_attempt_began_under(answer, marked, is_enabled_meanwhile):
    """Given a key that the operator has enabled before, when it is refused, then it is marked; given one that is
    enabled while the attempt runs, then the mark comes too late and is dropped."""
    pool, observer, upstream = pool_of(1), RecordingObserver(), Upstream(k0=answer)
    retire(pool, 0)
    pool.enable(pool.keys[0])
    if is_enabled_meanwhile:
        upstream.during = pool.enable
    with pytest.raises(GatewayError):
        finish(walk(pool, upstream, observer))
    assert states(pool) == ("v" if is_enabled_meanwhile else marked)
    assert len(observer.of("transitioned")) == (not is_enabled_meanwhile)


class CountingStore(MemoryStore):
    """A store that counts the changes it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def _change(self, fingerprint, change):
        self.changes += 1
        return super()._change(fingerprint, change)


@pytest.mark.parametrize("status", [200, 400, 500, 529])
def test_a_key_that_needs_no_trial_costs_the_store_one_reading(status):
    """Given a key that nothing is held against, when it answers, then nothing is written: no lease, no confirmation."""
    store = CountingStore()
    pool = Pool(keys_of(2), store, FakeClock())
    finish(walk(pool, Upstream(k0=status), RecordingObserver()))
    assert store.changes == 0


@pytest.mark.parametrize(
    ("answer", "state", "is_on_trial"),
    [
        pytest.param(200, VALID, False, id="ok"),
        pytest.param(400, VALID, False, id="400"),
        pytest.param(500, VALID, True, id="500"),
        pytest.param(529, VALID, True, id="529"),
        pytest.param((429, "9"), TEMPORARY, False, id="429"),
        pytest.param(401, PERMANENT, False, id="401"),
        pytest.param(403, PERMANENT, False, id="403"),
        pytest.param(UpstreamError("unreachable"), VALID, True, id="unreachable"),
        pytest.param(ClientGone(), VALID, True, id="client-gone"),
    ],
)
def test_trial_ends_with_the_upstream_s_word(answer, state, is_on_trial):
    """Given a key whose cooldown is over, when a request tries it, then an answer that accepts the key confirms it,
    a refusal marks it again, and what says nothing of the key leaves it on trial; in every case the lease is over."""
    clock = FakeClock()
    pool, upstream = pool_of(2, clock), Upstream(k0=answer)
    cool(pool, 0, 5)
    clock.advance(5)
    if isinstance(answer, BaseException):
        with pytest.raises(type(answer)):
            finish(walk(pool, upstream, RecordingObserver()))
    else:
        finish(walk(pool, upstream, RecordingObserver()))
    assert upstream.called[0] == "k0"
    tried = pool.statuses()[0]
    assert (tried.state, tried.is_on_trial, tried.record.lease_until_at) == (state, is_on_trial, 0.0)


@pytest.mark.parametrize(
    ("answer", "why"),
    [((429, "5"), ("rate_limited", 429)), (401, ("unauthorized", 401)), (403, ("forbidden", 403))],
    ids=["429", "401", "403"],
)
def test_mark_says_why_and_when(answer, why):
    """Given a refusal, then the record holds its reason, its status and its time, for the operator who asks."""
    clock = FakeClock()
    pool, upstream = pool_of(2, clock), Upstream(k0=answer)
    upstream.during = lambda key: clock.advance(2)
    finish(walk(pool, upstream, RecordingObserver()))
    record = pool.statuses()[0].record
    assert (record.reason, record.status, record.marked_at) == (*why, NOW + 2)


@pytest.mark.parametrize(("answer", "state"), [((429, "9"), "temporary"), (401, "permanent")], ids=["429", "401"])
def test_racing_walks_tell_one_transition(answer, state):
    """Given 64 walks that all got the same refusal of one key, then one tells the change; all are answered by k1."""
    pool, observer = pool_of(2), RecordingObserver()
    together = threading.Barrier(64)
    upstream = Upstream(k0=answer)
    upstream.during = lambda key: together.wait(30) if key.name == "k0" else None
    answers = race(64, lambda _: finish(walk(pool, upstream, observer)))
    assert {answer.key.name for answer in answers} == {"k1"}
    assert observer.of("transitioned") == [("k0", state)]
    assert (
        sorted(observer.of("failed_over")) == [("k0", "rate_limited" if state == "temporary" else "unauthorized")] * 64
    )


class StormClock:
    """Moves on a little whenever it is read; each thread can ask what it last read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _now
        self._now = NOW
        self.local = threading.local()

    def __call__(self) -> float:
        with self._lock:
            self._now += 0.01
            self.local.now = self._now
            return self._now


class WitnessStore(MemoryStore):
    """A store beside which a witness notes every mark once it is made, and what was known before every reading."""

    def __init__(self) -> None:
        super().__init__()
        self._witness = threading.Lock()  # guards the two below
        self.until: dict[str, float] = defaultdict(float)
        self.retired: set[str] = set()
        self.local = threading.local()

    def glance(self):
        with self._witness:
            self.local.known = (dict(self.until), set(self.retired))
        return super().glance()

    def cool(self, fingerprint, until_at, generation, cause):
        changed = super().cool(fingerprint, until_at, generation, cause)
        with self._witness:
            self.until[fingerprint] = max(self.until[fingerprint], until_at)
        return changed

    def retire(self, fingerprint, generation, cause):
        changed = super().retire(fingerprint, generation, cause)
        with self._witness:
            self.retired.add(fingerprint)
        return changed


class Storm:
    """A pool under many threads that walk and mark at random; `broken` names every promise that was seen broken."""

    def __init__(self) -> None:
        self.keys = keys_of(12)
        self.store, self.clock, self.observer = WitnessStore(), StormClock(), RecordingObserver()
        self.pool = Pool(self.keys, self.store, self.clock)
        self.broken: list[str] = []

    def run(self, seed: int, walks: int) -> int:
        """Walk that many times; how many walks were answered."""
        chance = random.Random(seed)
        return sum(self._walk(chance) for _ in range(walks))

    def _walk(self, chance: random.Random) -> bool:
        tried: set[Key] = set()

        def attempt(key: Key) -> Generator[None, None, tuple[FakeAnswer, Verdict]]:
            self._judge(key, tried)
            tried.add(key)
            yield
            return FakeAnswer(key), self._verdict(key, chance)

        try:
            answer = finish(walk(self.pool, attempt, self.observer))
        except RateLimited as error:
            if not 1 <= (error.retry_after_seconds or 0) <= 20:
                self.broken.append(f"Retry-After was {error.retry_after_seconds}")
            return False
        except UpstreamError:
            return False
        return not answer.is_discarded

    def _judge(self, key: Key, tried: set[Key]) -> None:
        """Right after the choice: this thread has not read the store since, and the clock for a lease at most."""
        until, retired = self.store.local.known
        fingerprint = key.secret.fingerprint
        if fingerprint in retired or until.get(f"{fingerprint}/{SCOPE}", 0.0) > self.clock.local.now:
            self.broken.append(f"{key.name} was tried while it was known to be unusable")
        if key in tried:
            self.broken.append(f"{key.name} was tried twice")

    def _verdict(self, key: Key, chance: random.Random) -> Verdict:
        dice = chance.random()
        if dice < 0.002 and key is not self.keys[-1]:
            return Verdict(Outcome.FORBIDDEN)
        if dice < 0.5:
            return Verdict(Outcome.RATE_LIMITED, chance.uniform(0.01, 20))
        if dice < 0.55:
            raise UpstreamError("unreachable")
        return Verdict(Outcome.OK)


def test_cooldown_that_ends_while_the_walk_gives_up_is_no_failed_authentication():
    """Given a key that cools down and one that is retired, when the cooldown is over just as the walk finds no other
    key, then that key is tried."""
    pool = Pool(keys_of(2), MemoryStore(), clock := FakeClock())
    retire(pool, 1)
    cool(pool, 0, 5)
    statuses = pool.statuses

    def a_moment_later(scope=None):
        clock.advance(5)
        return statuses(scope)

    pool.statuses = a_moment_later
    upstream = Upstream()
    assert finish(walk(pool, upstream, RecordingObserver())).key.name == "k0"
    assert upstream.called == ["k0"]


@pytest.mark.parametrize(
    ("threads", "walks"), [(200, 15), pytest.param(400, 250, marks=pytest.mark.long)], ids=["short", "full"]
)
def test_storm_of_walks_breaks_no_promise(threads, walks):
    """Given hundreds of threads that walk and mark at random, then no key is tried while it is known to be unusable,
    none twice in a walk; at the end the retired are retired and the latest deadline stands."""
    storm = Storm()
    assert sum(race(threads, lambda number: storm.run(number, walks), patience_seconds=900.0)) > 0
    assert storm.broken == []
    told, marks = storm.observer.of("transitioned"), storm.store
    for key in storm.keys:
        fingerprint = key.secret.fingerprint
        record, scoped = marks.read([fingerprint, f"{fingerprint}/{SCOPE}"])
        assert record.is_retired == (fingerprint in marks.retired)
        assert scoped.cooling_until_at == marks.until[f"{fingerprint}/{SCOPE}"]
        assert told.count((key.name, "permanent")) == record.is_retired
    assert len(storm.observer.of("walked")) + len(storm.observer.of("exhausted")) == threads * walks
    assert storm.pool.statuses()[-1].state is not PERMANENT

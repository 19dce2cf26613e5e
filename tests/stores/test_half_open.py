"""No stampede on recovery: when a key's cooldown is over, one request tries it while the others use the next valid one.

`Walking` is one request whose upstream answers when the test says so: hundreds stand still at once in one thread, so
that every interleaving is chosen. Real threads and real processes come after.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.access.credential import Key, Secret
from gateway.keys.failover import Verdict, walk
from gateway.keys.file_store import FileStore
from gateway.keys.pool import LEASE_SECONDS, Pool
from gateway.keys.standing import KeyState, KeyStatus
from gateway.keys.store import MemoryStore, Store
from gateway.protocol.errors import GatewayError, RateLimited, UpstreamError
from gateway.protocol.outcomes import Outcome

OK = Verdict(Outcome.OK, http_status=200)
LIMITED = Verdict(Outcome.RATE_LIMITED, cooldown_seconds=60.0, http_status=429)
REFUSED = Verdict(Outcome.UNAUTHORIZED, http_status=401)
PATIENCE_SECONDS = 30.0
STARTED_AT = 1_000_000.0

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


def keys_of(count: int) -> list[Key]:
    return [Key(f"k{number}", Secret(f"sk-ant-test-{number}")) for number in range(count)]


class Clock:
    """Epoch seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = STARTED_AT

    def __call__(self) -> float:
        return self.now


@dataclass
class Observer:
    """Remembers what walks told."""

    transitions: list[tuple[str, KeyState]] = field(default_factory=list)
    exhaustions: list[GatewayError] = field(default_factory=list)

    def passed_over(self, status: KeyStatus, *, is_barred: bool, is_elsewhere: bool) -> None: ...

    def transitioned(self, key: Key, state: KeyState, verdict: Verdict) -> None:
        self.transitions.append((key.name, state))

    def failed_over(self, key: Key, verdict: Verdict) -> None: ...

    def walked(self, attempts: int) -> None: ...

    def exhausted(self, error: GatewayError, attempts: int) -> None:
        self.exhaustions.append(error)


class Answer:
    """An upstream's answer; there is nothing to throw away."""

    def discard(self) -> None: ...


def unanswered(key: Key) -> Generator[Key, Verdict, tuple[Answer, Verdict]]:
    """An attempt that shows its key and waits for the verdict that the test sends."""
    verdict = yield key
    return Answer(), verdict


class Walking:
    """One request, begun: `key` is the one it tries now, None once it has ended."""

    def __init__(self, pool: Pool, observer: Observer) -> None:
        self._steps: Generator[Any, Any, Answer] = walk(pool, unanswered, observer)
        self.key: str | None = next(self._steps).name

    def answered(self, verdict: Verdict) -> str | None:
        """The upstream answers; the key that is tried next."""
        try:
            self.key = self._steps.send(verdict).name
        except StopIteration:
            self.key = None
        return self.key

    def failed(self, error: BaseException) -> None:
        """The attempt ends without an answer."""
        with pytest.raises(type(error)):
            self._steps.throw(error)

    def close(self) -> None:
        """The client has gone."""
        self._steps.close()


class Scene:
    """A pool over a store, with its clock; every key can be marked as an answer would."""

    def __init__(self, store: Store, count: int) -> None:
        self.clock = Clock()
        self.observer = Observer()
        self.pool = Pool(keys_of(count), store, self.clock)

    def walking(self) -> Walking:
        return Walking(self.pool, self.observer)

    def keys_tried(self, count: int, keep: list[Walking] | None = None) -> Counter[str | None]:
        """So many requests in flight together; how many try each key."""
        together = [self.walking() for _ in range(count)]
        if keep is not None:
            keep.extend(together)
        return Counter(walking.key for walking in together)

    def cool(self, *numbers: int, seconds: float = 60.0) -> None:
        """These keys are limited."""
        for number in numbers:
            self.pool.cool(self.pool.statuses()[number], seconds, "rate_limited", 429)

    def end_cooldown(self, seconds: float = 60.0) -> None:
        self.clock.now += seconds


@pytest.fixture(params=["memory", "file"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[int], Scene]]:
    if request.param == "memory":
        yield lambda count: Scene(MemoryStore(), count)
        return
    store = FileStore(tmp_path, PATIENCE_SECONDS)
    yield lambda count: Scene(store, count)
    store.close()


def test_one_of_a_thousand_requests_tries_a_rested_key(scene: Callable[[int], Scene]) -> None:
    """Given a key whose cooldown is over, when a thousand requests are in flight together, then one tries it and the
    others use the next; once it has answered, all use it."""
    here = scene(2)
    here.cool(0)
    here.end_cooldown()
    together: list[Walking] = []
    assert here.keys_tried(1000, together) == {"k0": 1, "k1": 999}
    (prober,) = [walking for walking in together if walking.key == "k0"]
    assert here.keys_tried(10) == {"k1": 10}, "as long as it has not answered"
    assert prober.answered(OK) is None
    assert here.keys_tried(1000) == {"k0": 1000}


def test_resting_key_is_not_tried_before_its_deadline(scene: Callable[[int], Scene]) -> None:
    here = scene(2)
    here.cool(0)
    here.end_cooldown(59.9)
    assert here.keys_tried(100) == {"k1": 100}


def test_probe_that_never_answers_gives_up_its_turn_by_time(scene: Callable[[int], Scene]) -> None:
    """Given a probe without an answer, when the lease is over, then one other request tries the key."""
    here = scene(2)
    here.cool(0)
    here.end_cooldown()
    lost = here.walking()
    here.clock.now += LEASE_SECONDS - 0.1
    assert here.keys_tried(100) == {"k1": 100}
    here.clock.now += 0.1
    together: list[Walking] = []
    assert here.keys_tried(100, together) == {"k0": 1, "k1": 99}
    lost.close()
    assert here.keys_tried(100) == {"k1": 100}, "the lost one's lease was not the present one"
    assert together[0].answered(OK) is None
    assert here.keys_tried(100) == {"k0": 100}


def test_late_answer_of_a_probe_counts(scene: Callable[[int], Scene]) -> None:
    """Given a probe that outlived its lease, when it answers after all, then the key is used by all."""
    here = scene(2)
    here.cool(0)
    here.end_cooldown()
    slow = here.walking()
    here.clock.now += 3 * LEASE_SECONDS
    assert slow.answered(OK) is None
    assert here.keys_tried(100) == {"k0": 100}


def test_limit_met_by_the_probe_cools_the_key_again(scene: Callable[[int], Scene]) -> None:
    """Given a probe, when it is limited, then it uses the next key, and the key is tried again after that cooldown
    only."""
    here = scene(2)
    here.cool(0)
    here.end_cooldown()
    prober = here.walking()
    here.keys_tried(10)
    assert prober.answered(LIMITED) == "k1"
    assert prober.answered(OK) is None
    assert here.observer.transitions == [("k0", KeyState.TEMPORARY)]
    here.end_cooldown(59)
    assert here.keys_tried(100) == {"k1": 100}
    here.end_cooldown(1)
    assert here.keys_tried(100) == {"k0": 1, "k1": 99}


def test_refusal_of_the_probe_retires_the_key(scene: Callable[[int], Scene]) -> None:
    here = scene(2)
    here.cool(0)
    here.end_cooldown()
    assert here.walking().answered(REFUSED) == "k1"
    here.end_cooldown(3600)
    assert here.keys_tried(100) == {"k1": 100}


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda prober: prober.failed(UpstreamError("unreachable")), id="the upstream is unreachable"),
        pytest.param(lambda prober: prober.failed(ZeroDivisionError()), id="a defect"),
        pytest.param(lambda prober: prober.close(), id="the client has gone"),
    ],
)
def test_probe_that_learns_nothing_gives_its_lease_back(
    scene: Callable[[int], Scene], end: Callable[[Walking], None]
) -> None:
    """Given a probe, when it ends without a word about the key, then the next request tries it, and one alone."""
    here = scene(2)
    here.cool(0)
    here.end_cooldown()
    end(here.walking())
    assert here.observer.transitions == []
    assert here.keys_tried(100) == {"k0": 1, "k1": 99}


def test_attempt_that_cannot_begin_gives_its_lease_back(scene: Callable[[int], Scene]) -> None:
    here = scene(2)
    here.cool(0)
    here.end_cooldown()

    def broken(key: Key) -> Generator[Key, Verdict, tuple[Answer, Verdict]]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(walk(here.pool, broken, here.observer))
    assert here.keys_tried(100) == {"k0": 1, "k1": 99}


def test_walk_that_never_began_takes_no_lease(scene: Callable[[int], Scene]) -> None:
    here = scene(2)
    here.cool(0)
    here.end_cooldown()
    walk(here.pool, unanswered, here.observer).close()
    assert here.keys_tried(100) == {"k0": 1, "k1": 99}


def cool_others(here: Scene) -> None:
    here.cool(1, 2, seconds=3600)


def retire_others(here: Scene) -> None:
    for number in (1, 2):
        here.pool.retire(here.pool.statuses()[number], "unauthorized", 401)


def disable_others(here: Scene) -> None:
    for key in here.pool.keys[1:]:
        here.pool.disable(key)


@pytest.mark.parametrize("others", [cool_others, retire_others, disable_others])
def test_without_another_key_all_use_the_one_on_trial(
    scene: Callable[[int], Scene], others: Callable[[Scene], None]
) -> None:
    """Given a key on trial that a probe tries, when no other is valid, then all use it and none is turned away."""
    here = scene(3)
    others(here)
    here.cool(0)
    here.end_cooldown()
    assert here.keys_tried(1000) == {"k0": 1000}
    assert here.observer.exhaustions == []


def test_single_key_on_trial_is_used_by_all(scene: Callable[[int], Scene]) -> None:
    here = scene(1)
    here.cool(0)
    here.end_cooldown()
    assert here.keys_tried(1000) == {"k0": 1000}


def test_walk_comes_back_to_the_key_on_trial_when_the_others_fail(scene: Callable[[int], Scene]) -> None:
    """Given a request that passed over the key on trial, when the next key is limited, then it uses the first."""
    here = scene(2)
    here.cool(0)
    here.end_cooldown()
    prober, other = here.walking(), here.walking()
    assert (prober.key, other.key) == ("k0", "k1")
    assert other.answered(LIMITED) == "k0"
    assert other.answered(OK) is None
    assert here.observer.exhaustions == []


def test_exhaustion_is_told_when_the_key_on_trial_fails_as_well(scene: Callable[[int], Scene]) -> None:
    here = scene(1)
    here.cool(0)
    here.end_cooldown()
    first, second = here.walking(), here.walking()
    for walking in (first, second):
        with pytest.raises(RateLimited) as caught:
            walking.answered(LIMITED)
        assert caught.value.retry_after_seconds == 60
    assert here.observer.transitions == [("k0", KeyState.TEMPORARY)], "told once"


def test_several_keys_on_trial_are_tried_by_one_request_each(scene: Callable[[int], Scene]) -> None:
    here = scene(3)
    here.cool(0, 1)
    here.end_cooldown()
    assert here.keys_tried(100) == {"k0": 1, "k1": 1, "k2": 98}


def test_key_enabled_in_the_middle_of_a_trial_is_used_by_all(scene: Callable[[int], Scene]) -> None:
    """Given a probe under way, when the operator enables the key, then all use it, and the probe's refusal is old."""
    here = scene(2)
    here.cool(0)
    here.end_cooldown()
    prober = here.walking()
    here.pool.enable(here.pool.keys[0])
    assert here.keys_tried(100) == {"k0": 100}
    assert prober.answered(REFUSED) == "k1"
    assert here.observer.transitions == []
    assert here.keys_tried(100) == {"k0": 100}


# Real threads, real processes.


class Crowd:
    """Walks that run at once; the first key answers none of them before all the others have ended."""

    def __init__(self, pool: Pool, others_ended: Callable[[], None], may_answer: Any) -> None:
        self._pool = pool
        self._others_ended = others_ended
        self._may_answer = may_answer
        self._observer = Observer()

    def walk(self) -> str:
        """One whole walk; the key that it tried."""
        tried: list[str] = []

        def attempt(key: Key) -> Generator[None, None, tuple[Answer, Verdict]]:
            tried.append(key.name)
            if key.name == "k0":
                assert self._may_answer.wait(PATIENCE_SECONDS), "more than one waits for the first key"
            yield
            return Answer(), OK

        for _ in walk(self._pool, attempt, self._observer):
            pass
        if tried != ["k0"]:
            self._others_ended()
        return "+".join(tried)


class Countdown:
    """Sets an event when so many have ended."""

    def __init__(self, count: int, event: threading.Event) -> None:
        self._lock = threading.Lock()  # guards _left
        self._left = count
        self._event = event

    def __call__(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._event.set()


@pytest.mark.parametrize("rounds", [3, pytest.param(200, marks=pytest.mark.long)])
def test_one_of_a_thousand_walks_in_threads_tries_a_rested_key(scene: Callable[[int], Scene], rounds: int) -> None:
    """Given a hundred threads that begin at once, when they walk a thousand times, then one walk tries the key."""
    here = scene(2)
    for _ in range(rounds):
        here.cool(0)
        here.end_cooldown()
        may_answer = threading.Event()
        crowd = Crowd(here.pool, Countdown(999, may_answer), may_answer)
        barrier = threading.Barrier(100)
        with ThreadPoolExecutor(100, initializer=barrier.wait, initargs=(PATIENCE_SECONDS,)) as threads:
            tried = Counter(threads.map(lambda _, crowd=crowd: crowd.walk(), range(1000)))
            assert tried == {"k0": 1, "k1": 999}
            assert Counter(threads.map(lambda _, crowd=crowd: crowd.walk(), range(100))) == {"k0": 100}


def walk_in_threads(folder: Path, now: float, barrier: Any, others: Any, may_answer: Any, results: Any) -> None:
    store = FileStore(folder, PATIENCE_SECONDS)
    crowd = Crowd(Pool(keys_of(2), store, lambda: now), others.release, may_answer)
    barrier.wait(PATIENCE_SECONDS)
    with ThreadPoolExecutor(25) as threads:
        results.send(Counter(threads.map(lambda _, crowd=crowd: crowd.walk(), range(250))))
    store.close()


@pytest.mark.parametrize("rounds", [3, pytest.param(200, marks=pytest.mark.long)])
def test_one_of_a_thousand_walks_in_processes_tries_a_rested_key(tmp_path: Path, rounds: int) -> None:
    """Given four processes with 25 threads each, when they walk a thousand times together, then one walk tries the
    key; once it has answered, all use it."""
    store = FileStore(tmp_path, PATIENCE_SECONDS)
    here = Scene(store, 2)
    for _ in range(rounds):
        here.cool(0)
        here.end_cooldown()
        barrier, others, may_answer = processes.Barrier(4), processes.Semaphore(0), processes.Event()
        pipes = [processes.Pipe() for _ in range(4)]
        running = [
            processes.Process(
                target=walk_in_threads,
                args=(tmp_path, here.clock.now, barrier, others, may_answer, theirs),
                daemon=True,
            )
            for _, theirs in pipes
        ]
        for process in running:
            process.start()
        for _ in range(999):
            assert others.acquire(timeout=PATIENCE_SECONDS), "more than one tries the first key"
        assert here.keys_tried(10) == {"k1": 10}
        may_answer.set()
        tried: Counter[str] = Counter()
        for process, (ours, theirs) in zip(running, pipes, strict=True):
            assert ours.poll(PATIENCE_SECONDS)
            tried += ours.recv()
            process.join(PATIENCE_SECONDS)
            assert process.exitcode == 0
            ours.close()
            theirs.close()
        assert tried == {"k0": 1, "k1": 999}
        assert here.keys_tried(100) == {"k0": 100}
    store.close()

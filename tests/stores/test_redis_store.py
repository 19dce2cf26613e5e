"""Several replicas of the state of keys over a real Redis server, in good times and bad."""

from __future__ import annotations

import logging
import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.keys.key_record import Cause, Record
from gateway.keys.pool import LEASE_SECONDS
from gateway.keys.redis.store import RedisStore
from gateway.runtime.machine_clock import machine_time
from tests.harness import wait_until
from tests.stores.odd_redis import OddRedis
from tests.stores.redis_server import PROGRAMS, RedisServer, SlowLine, tls_server

KEY, OTHER = "11" * 32, "22" * 32

SOON_SECONDS = 30.0
BACK_SECONDS = 60.0  # by which a server that is back has been noticed and everything merged, on any machine
# A request may wait 5 ms for a lease, and for nothing else; the remainder is for a busy machine's scheduler.
LEASE_TIMEOUT_SECONDS = 0.005
LONGEST_CALL_SECONDS = 0.02


@dataclass(frozen=True)
class Skewed:
    """A clock that is wrong by so many seconds."""

    seconds: float

    def __call__(self) -> float:
        return machine_time() + self.seconds


Maker = Callable[..., RedisStore]


@pytest.fixture(params=PROGRAMS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    started = RedisServer(request.param)
    yield started
    started.stop()


@pytest.fixture
def make(server: RedisServer) -> Iterator[Maker]:
    """Makes stores over the server, `make(clock=...)`, and closes them after the test."""
    made: list[RedisStore] = []

    def start(url: str = server.url, **options: object) -> RedisStore:
        # Patient, so that a busy machine changes nothing where time is not what is tested.
        store = RedisStore(url, **{"lease_timeout_seconds": 0.5, **options})  # type: ignore[arg-type]
        made.append(store)
        return store

    yield start
    for store in made:
        store.close()


@pytest.fixture
def hears_nothing(server: RedisServer) -> Iterator[str]:
    """A URL of the server for a store that is not told what others mark: it pulls, and may not subscribe."""
    line = OddRedis(server.port)
    line.answer = lambda command: b"-NOPERM\r\n" if command == "SUBSCRIBE" else None
    yield line.url.removesuffix("/1") + "/0"
    line.close()


def limited(at: float | None = None) -> Cause:
    return Cause("rate_limited", 429, machine_time() if at is None else at)


def refused(at: float | None = None) -> Cause:
    return Cause("unauthorized", 401, machine_time() if at is None else at)


def known(store: RedisStore, fingerprint: str = KEY) -> Record:
    return store.read([fingerprint])[0]


def everywhere(stores: list[RedisStore], holds: Callable[[Record], bool], seconds: float = SOON_SECONDS) -> bool:
    return wait_until(lambda: all(holds(known(store)) for store in stores), seconds)


def end_cooldown(stores: list[RedisStore]) -> None:
    """Bring the key on trial everywhere."""
    until_at = machine_time() + 0.3
    stores[0].cool(KEY, until_at, known(stores[0]).generation, limited())
    assert everywhere(stores, lambda record: abs(record.cooling_until_at - until_at) < 0.1)
    assert everywhere(stores, lambda record: record.is_on_trial(machine_time()))


# --- marks travel


MARKS: list[tuple[str, Callable[[RedisStore], object], Callable[[Record], bool]]] = [
    (
        "cooled",
        lambda store: store.cool(KEY, machine_time() + 50, 0, limited()),
        lambda record: record.is_cooling(machine_time()) and record.reason == "rate_limited" and record.status == 429,
    ),
    (
        "retired",
        lambda store: store.retire(KEY, 0, refused()),
        lambda record: record.is_retired and record.reason == "unauthorized" and record.status == 401,
    ),
    (
        "disabled",
        lambda store: store.disable(KEY, Cause("operator", 0, machine_time())),
        lambda record: record.is_disabled and record.reason == "operator",
    ),
]


@pytest.mark.parametrize(("mark", "is_known"), [row[1:] for row in MARKS], ids=[row[0] for row in MARKS])
def test_a_mark_is_seen_here_at_once_and_everywhere_within_a_second(
    make: Maker, mark: Callable[[RedisStore], object], is_known: Callable[[Record], bool]
) -> None:
    """Given three replicas and a mark through one, then all have it within a second, and an enabling after it."""
    stores = [make() for _ in range(3)]
    mark(stores[1])
    assert is_known(known(stores[1]))
    assert everywhere(stores, is_known)
    stores[2].enable(KEY)
    assert everywhere(stores, lambda record: record.generation == 1 and not is_known(record))


def test_a_new_replica_knows_what_the_others_know(make: Maker) -> None:
    """Given a key retired through one, then a replica that starts has it from the first reading on."""
    first = make()
    first.retire(KEY, 0, refused())
    assert first.flush(1.0)
    assert known(make()).is_retired


def test_what_changed_usability_is_told_once_in_a_process(make: Maker) -> None:
    """Given a hundred threads that retire a key, then one is told that it changed something."""
    store = make()
    with ThreadPoolExecutor(100) as threads:
        told = list(threads.map(lambda _: store.retire(KEY, 0, refused()), range(100)))
    assert sum(told) == 1


def test_hundreds_of_racing_marks_lose_nothing(make: Maker) -> None:
    """Given random marks through three replicas at once, then all have the latest deadline, retirement and count."""
    stores = [make() for _ in range(3)]
    start = machine_time()
    marks = [
        (random.Random(number).choice([KEY, OTHER]), start + 100 + random.Random(number).uniform(0, 5000))
        for number in range(600)
    ]
    barrier = threading.Barrier(12)

    def race(lane: int) -> None:
        barrier.wait()
        for number in range(lane, len(marks), 12):
            fingerprint, until_at = marks[number]
            stores[number % 3].cool(fingerprint, until_at, 0, limited())
            if number == 301:
                stores[1].retire(OTHER, 0, refused())

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(race, range(12)))
    for fingerprint in (KEY, OTHER):
        deadlines = [until_at for marked, until_at in marks if marked == fingerprint]

        def is_whole(record: Record, deadlines: list[float] = deadlines) -> bool:
            return abs(record.cooling_until_at - max(deadlines)) < 0.1 and record.limited_count == len(deadlines)

        assert wait_until(
            lambda fingerprint=fingerprint, is_whole=is_whole: all(is_whole(known(s, fingerprint)) for s in stores),
            SOON_SECONDS,
        ), [known(store, fingerprint) for store in stores]
    assert [known(store, OTHER).is_retired for store in stores] == [True] * 3
    assert [known(store, OTHER).reason for store in stores] == ["unauthorized"] * 3
    assert [known(store, OTHER).refused_count for store in stores] == [1] * 3


def test_a_stale_mark_is_dropped(make: Maker, hears_nothing: str) -> None:
    """Given a refusal under way when the key is enabled elsewhere, then it does not retire the key again."""
    stores = [make(), make(hears_nothing, pull_seconds=30.0)]
    stores[0].retire(KEY, 0, refused())
    assert stores[0].flush(1.0)
    assert stores[1].flush(1.0)
    stores[0].enable(KEY)
    assert stores[0].flush(1.0)
    assert known(stores[1]).generation == 0
    stores[1].cool(KEY, machine_time() + 500, 0, limited())
    stores[1].retire(KEY, 0, refused())
    for store in (stores[1], stores[0]):
        assert store.flush(1.0)
        record = known(store)
        assert (record.generation, record.is_permanent, record.is_cooling(machine_time())) == (1, False, False)


def test_deadlines_do_not_creep(server: RedisServer, make: Maker) -> None:
    """Given a deadline that goes back and forth, then it stays where it was put, give or take the clock's estimate."""
    stores = [make() for _ in range(3)]
    until_at = machine_time() + 500
    stores[0].cool(KEY, until_at, 0, limited())
    assert everywhere(stores, lambda record: record.cooling_until_at > 0)
    with server.client() as client:
        for number in range(60):
            stores[number % 3].cool(KEY, machine_time() + 1, 0, limited())
            if number % 10 == 0:
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            stores[(number + 1) % 3].flush(1.0)
    # More where a connection was cut between a merge and its answer.
    assert everywhere(stores, lambda record: record.limited_count >= 61, BACK_SECONDS)
    for store in stores:
        assert known(store).cooling_until_at == pytest.approx(until_at, abs=0.03)


# --- clocks


def test_replicas_with_wrong_clocks_agree_on_what_remains(make: Maker) -> None:
    """Given clocks a minute fast and a minute slow, then each sees the same cooldown, and the same end of it."""
    clocks = [Skewed(0.0), Skewed(60.0), Skewed(-60.0)]
    stores = [make(clock=clock) for clock in clocks]
    for marker, fingerprint in ((1, KEY), (2, OTHER)):
        clock = clocks[marker]
        stores[marker].cool(fingerprint, clock() + 500.0, 0, limited(clock()))
        ends_at = machine_time() + 500.0

        def remaining(number: int, fingerprint: str = fingerprint, stores: list[RedisStore] = stores) -> float:
            return known(stores[number], fingerprint).cooling_until_at - clocks[number]()

        def is_agreed(remaining: Callable[[int], float] = remaining, ends_at: float = ends_at) -> bool:
            return all(abs(remaining(number) - (ends_at - machine_time())) < 0.2 for number in range(3))

        assert wait_until(is_agreed, SOON_SECONDS), [remaining(number) for number in range(3)]
    late = Skewed(-60.0)
    newcomer = make(clock=late)

    def error() -> float:
        remaining = known(stores[0], KEY).cooling_until_at - machine_time()
        return known(newcomer, KEY).cooling_until_at - late() - remaining

    assert wait_until(lambda: abs(error()) < 0.2, SOON_SECONDS), error()


def test_the_later_deadline_wins_whatever_the_clocks_say(make: Maker) -> None:
    """Given a long cooldown marked by a slow clock and a short one by a fast one, then the long one counts."""
    slow, fast = Skewed(-60.0), Skewed(60.0)
    stores = [make(clock=slow), make(clock=fast)]
    stores[0].cool(KEY, slow() + 30.0, 0, limited(slow()))
    assert stores[0].flush(1.0)
    stores[1].cool(KEY, fast() + 10.0, 0, limited(fast()))
    assert stores[1].flush(1.0)
    assert stores[0].flush(1.0)
    for store, clock in zip(stores, (slow, fast), strict=True):
        assert known(store).cooling_until_at - clock() == pytest.approx(30.0, abs=0.5)


def test_leases_and_trials_hold_across_wrong_clocks(make: Maker) -> None:
    """Given clocks two minutes apart, then one of them probes, and its confirmation ends the trial for the other."""
    clocks = [Skewed(60.0), Skewed(-60.0)]
    stores = [make(clock=clock) for clock in clocks]
    stores[0].cool(KEY, clocks[0]() + 0.3, 0, limited(clocks[0]()))

    def is_on_trial(number: int) -> bool:
        return known(stores[number]).is_on_trial(clocks[number]())

    assert wait_until(lambda: is_on_trial(0) and is_on_trial(1), 30)
    granted = [store.lease(KEY, clock() + LEASE_SECONDS, clock()) for store, clock in zip(stores, clocks, strict=True)]
    assert granted == [True, False]
    stores[0].confirm(KEY, 0, clocks[0]())
    assert wait_until(lambda: not is_on_trial(1), SOON_SECONDS)


HOUR = 3600.0
_AHEAD_AT_FIRST = 10**15  # so that there is room to set it back


def set_server_clock(server: RedisServer, seconds: float) -> None:
    """Let the server's clock show so much more or less than before, to all who ask it by way of the scripts."""
    with server.client() as client:
        client.hset("gateway:clock", "ahead", int(client.hget("gateway:clock", "ahead") or 0) + round(seconds * 1e6))


@pytest.mark.parametrize("seconds", [-HOUR, HOUR, -2000 * 86400.0, 2000 * 86400.0, -0.4], ids=str)
def test_servers_clock_that_is_set_moves_no_deadline(server: RedisServer, make: Maker, seconds: float) -> None:
    """Given a cooling key, when the server's clock is set, then what remains is the same for all that know of it and
    for one that comes later; new marks travel, whatever older ones say."""
    set_server_clock(server, _AHEAD_AT_FIRST / 1e6)
    stores = [make() for _ in range(2)]
    until_at = machine_time() + 500
    stores[0].cool(KEY, until_at, 0, limited())
    assert everywhere(stores, lambda record: record.cooling_until_at > 0)
    set_server_clock(server, seconds)
    for store in stores:
        assert store.flush(BACK_SECONDS)
        assert known(store).cooling_until_at == pytest.approx(until_at, abs=0.05)
    later_at = machine_time() + 400
    stores[1].cool(OTHER, later_at, 0, limited())
    stores[1].cool(KEY, later_at, 0, limited())
    assert stores[1].flush(BACK_SECONDS)
    assert stores[0].flush(BACK_SECONDS)
    newcomer = make()
    # Until the server's clock was read again it may have stood for as long as nobody asked.
    for store in [*stores, newcomer]:
        assert known(store, OTHER).cooling_until_at == pytest.approx(later_at, abs=0.1)
        assert known(store).cooling_until_at == pytest.approx(until_at, abs=2.0)
        assert known(store).limited_count == 2


@pytest.mark.parametrize("seconds", [-HOUR, HOUR], ids=str)
def test_short_cooldown_and_its_trial_end_in_time_though_the_servers_clock_is_set(
    server: RedisServer, make: Maker, seconds: float
) -> None:
    """Given a key that cools down for a second and one that is being tried, when the server's clock is set, then the
    cooldown ends after that second, one process tries the key, and its confirmation ends the trial for all; a lost
    prober's lease ends, too."""
    set_server_clock(server, _AHEAD_AT_FIRST / 1e6)
    stores = [make(lease_timeout_seconds=SOON_SECONDS) for _ in range(3)]
    until_at = machine_time() + 1.0
    stores[0].cool(KEY, until_at, 0, limited())
    assert everywhere(stores, lambda record: record.cooling_until_at > 0)
    set_server_clock(server, seconds)
    assert everywhere(stores, lambda record: record.is_on_trial(machine_time()), BACK_SECONDS)
    assert machine_time() - until_at >= -0.05

    def lease(store: RedisStore) -> bool:
        now = machine_time()
        return store.lease(KEY, now + LEASE_SECONDS, now)

    assert wait_until(lambda: lease(stores[0]), BACK_SECONDS)
    assert not lease(stores[1])
    stores[0].confirm(KEY, 0, machine_time())
    assert everywhere(stores, lambda record: not record.is_unconfirmed, BACK_SECONDS)


def test_lease_that_outlives_its_time_on_the_server_is_none(server: RedisServer, make: Maker) -> None:
    """Given a lease that the server, whose clock was set back, would keep for an hour, then another may try the key."""
    stores = [make() for _ in range(2)]
    end_cooldown(stores)
    now = machine_time()
    assert stores[0].lease(KEY, now + LEASE_SECONDS, now)
    with server.client() as client:
        (lease,) = client.keys("gateway:lease:*")
        client.expire(lease, 3600)
    now = machine_time()
    assert stores[1].lease(KEY, now + LEASE_SECONDS, now)


# --- bad times


def _waits(store: RedisStore, generation: int, seconds: float) -> bool:
    """Whether any kind of call, made again and again for so long, waits for more than a lease's few milliseconds.

    A busy machine holds up a call now and then. What waits for the server waits in every call of its kind.
    """
    took: dict[int, list[float]] = {}
    until = time.monotonic() + seconds
    pause = threading.Event()
    trial = "33" * 32
    while time.monotonic() < until:
        now = machine_time()
        for kind, call in enumerate(
            (
                lambda: store.read([KEY, OTHER, trial]),
                lambda now=now: store.cool(OTHER, now + 100, generation, limited()),
                lambda: store.retire(OTHER, generation, refused()),
                lambda now=now: store.cool(trial, now - 1, generation, limited()),
                lambda now=now: store.lease(trial, now + 30, now),
                lambda now=now: store.release(trial, now + 30),
                lambda now=now: store.confirm(trial, generation, now),
            )
        ):
            began = time.perf_counter()
            call()
            took.setdefault(kind, []).append(time.perf_counter() - began)
        pause.wait(0.002)
    return any(statistics.median(times) >= LONGEST_CALL_SECONDS for times in took.values())


@pytest.mark.parametrize("is_persistent", [True, False], ids=["persistent", "forgetful"])
def test_a_killed_server_costs_nothing_but_time(is_persistent: bool) -> None:
    """Given marks before and while a server is dead, then calls stay quick, and all of it is everywhere after."""
    server = RedisServer(is_persistent=is_persistent)
    stores = [RedisStore(server.url) for _ in range(3)]
    try:
        until_at = machine_time() + 500
        stores[0].cool(KEY, until_at, 0, limited())
        assert everywhere(stores, lambda record: record.limited_count == 1)
        server.kill()
        assert not _waits(stores[0], 0, 1.0)
        assert wait_until(lambda: not any(store.is_up for store in stores), SOON_SECONDS)
        stores[1].retire(KEY, 0, refused())
        stores[2].cool(KEY, until_at + 100, 0, limited())
        assert not known(stores[0]).is_retired
        server.start()
        assert everywhere(
            stores,
            lambda record: (
                record.is_retired
                and abs(record.cooling_until_at - until_at - 100) < 0.1
                and (record.limited_count, record.refused_count) == (2, 1)
            ),
            BACK_SECONDS,
        ), [known(store) for store in stores]
        assert wait_until(lambda: all(store.is_up for store in stores), SOON_SECONDS)
        # A replica that starts now has it from the server alone.
        newcomer = RedisStore(server.url)
        assert known(newcomer).is_retired
        newcomer.close()
    finally:
        for store in stores:
            store.close()
        server.stop()


def test_a_server_that_comes_back_with_older_data_is_told_the_newer() -> None:
    """Given a server restored from a copy, with its old epoch, then nothing that a process knows is lost."""
    server = RedisServer(is_persistent=True)
    stores = [RedisStore(server.url) for _ in range(2)]
    try:
        stores[0].cool(KEY, machine_time() + 500, 0, limited())
        assert everywhere(stores, lambda record: record.limited_count == 1)
        server.keep_data()
        stores[0].retire(KEY, 0, refused())
        assert everywhere(stores, lambda record: record.is_retired)
        server.kill()
        server.restore_data()
        server.start()
        assert wait_until(lambda: all(store.flush(1.0) for store in stores), BACK_SECONDS)
        newcomer = RedisStore(server.url)
        stores.append(newcomer)
        for store in stores:
            record = known(store)
            assert (record.is_retired, record.limited_count, record.refused_count) == (True, 1, 1)
    finally:
        for store in stores:
            store.close()
        server.stop()


def test_a_paused_server_costs_nothing_but_time(server: RedisServer, make: Maker) -> None:
    """Given marks while a server is stopped, then calls stay quick, and what it finds in its sockets does no harm."""
    stores = [make(lease_timeout_seconds=LEASE_TIMEOUT_SECONDS) for _ in range(3)]
    until_at = machine_time() + 500
    stores[0].cool(KEY, until_at, 0, limited())
    assert everywhere(stores, lambda record: record.limited_count == 1)
    server.pause()
    try:
        stores[1].retire(KEY, 0, refused())
        stores[2].cool(KEY, until_at + 100, 0, limited())
        assert not _waits(stores[0], 0, 3.0)
        assert wait_until(lambda: not any(store.is_up for store in stores), 30)
        assert not known(stores[0]).is_retired
    finally:
        server.resume()
    assert everywhere(
        stores,
        lambda record: (
            record.is_retired
            and abs(record.cooling_until_at - until_at - 100) < 0.1
            and (record.limited_count, record.refused_count) == (2, 1)
        ),
        BACK_SECONDS,
    ), [known(store) for store in stores]


def test_a_flushed_server_is_told_everything_again(server: RedisServer, make: Maker) -> None:
    """Given FLUSHALL under living connections, then the state and the counts are back within a second."""
    stores = [make() for _ in range(3)]
    stores[0].cool(KEY, machine_time() + 500, 0, limited())
    stores[1].retire(KEY, 0, refused())
    assert everywhere(stores, lambda record: record.is_retired and record.limited_count == 1)
    with server.client() as client:
        client.flushall()
    assert all(store.flush(2.0) for store in stores)
    for store in [*stores, make()]:
        record = known(store)
        assert record.is_retired
        assert record.is_cooling(machine_time())
        assert (record.limited_count, record.refused_count) == (1, 1)


def test_a_record_that_the_server_dropped_is_told_again(server: RedisServer, make: Maker) -> None:
    """Given a server that evicts one record, then no process forgets it, and the server has it again."""
    store = make()
    store.retire(KEY, 0, refused())
    assert store.flush(1.0)
    with server.client() as client:
        client.delete(*client.keys("gateway:key:*"))
        assert store.flush(1.0)
        assert known(store).is_retired
        assert wait_until(lambda: len(client.keys("gateway:key:*")) == 1, SOON_SECONDS)


def test_a_server_that_is_not_there_at_the_start_fails_nothing(server: RedisServer, make: Maker) -> None:
    """Given no server, then a store starts soon, works by itself, and is merged when the server comes."""
    server.kill()
    began = time.monotonic()
    store = make()
    assert time.monotonic() - began < SOON_SECONDS
    assert not store.is_up
    assert store.retire(KEY, 0, refused())
    assert not store.flush(0.2)
    server.start()
    assert store.flush(BACK_SECONDS)
    assert store.is_up
    assert known(make()).is_retired


def test_a_paused_server_at_the_start_holds_nobody_up(server: RedisServer, make: Maker) -> None:
    """Given a server that takes connections and does not answer, then a store starts within its short time-out."""
    server.pause()
    try:
        began = time.monotonic()
        store = make(start_timeout_seconds=0.3)
        assert time.monotonic() - began < SOON_SECONDS
        assert not store.is_up
        began = time.monotonic()
        store.close()
        assert time.monotonic() - began < SOON_SECONDS
    finally:
        server.resume()


def test_going_down_and_coming_back_are_said_once(
    server: RedisServer, make: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """Given an outage with marks in it, then there is one warning and one word of relief."""
    caplog.set_level(logging.INFO, "gateway.redis_store")
    store = make()
    server.kill()
    assert wait_until(lambda: not store.is_up, 30)
    for _ in range(50):
        store.cool(KEY, machine_time() + 5, 0, limited())
    assert not store.flush(0.5)
    server.start()
    assert wait_until(lambda: store.is_up, BACK_SECONDS)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


# --- leases


def test_one_probe_among_a_hundred_threads_on_three_replicas(make: Maker) -> None:
    """Given a key on trial, then one of 300 threads gets the lease; after its confirmation nobody does."""
    stores = [make() for _ in range(3)]
    end_cooldown(stores)
    barrier = threading.Barrier(300)

    def ask(number: int) -> float | None:
        barrier.wait(30)
        now = machine_time()
        until_at = now + LEASE_SECONDS
        return until_at if stores[number % 3].lease(KEY, until_at, now) else None

    with ThreadPoolExecutor(300) as threads:
        granted = [(number, lease) for number, lease in enumerate(threads.map(ask, range(300))) if lease is not None]
    assert len(granted) == 1
    prober = stores[granted[0][0] % 3]
    prober.confirm(KEY, 0, machine_time())
    assert everywhere(stores, lambda record: not record.is_unconfirmed)
    now = machine_time()
    assert not any(store.lease(KEY, now + LEASE_SECONDS, now) for store in stores)


def test_a_confirmation_that_was_not_heard_yet_prevents_a_second_probe(make: Maker, hears_nothing: str) -> None:
    """Given a replica that hears of nothing for long, then asking for a lease tells it that the trial is over."""
    stores = [make(), make(hears_nothing, pull_seconds=30.0)]
    stores[0].cool(KEY, machine_time() + 0.2, 0, limited())
    assert stores[0].flush(1.0)
    assert stores[1].flush(1.0)
    assert everywhere(stores, lambda record: record.is_on_trial(machine_time()))
    now = machine_time()
    assert stores[0].lease(KEY, now + LEASE_SECONDS, now)
    stores[0].confirm(KEY, 0, machine_time())
    assert stores[0].flush(1.0)
    assert known(stores[1]).is_unconfirmed
    now = machine_time()
    assert not stores[1].lease(KEY, now + LEASE_SECONDS, now)
    assert not known(stores[1]).is_unconfirmed


def test_a_lease_given_back_may_be_taken_elsewhere(make: Maker) -> None:
    """Given a prober that found nothing out, then another replica may probe within a second, and only one does."""
    stores = [make() for _ in range(3)]
    end_cooldown(stores)
    now = machine_time()
    assert stores[0].lease(KEY, now + LEASE_SECONDS, now)
    assert not stores[1].lease(KEY, now + LEASE_SECONDS, now)
    stores[0].release(KEY, now + LEASE_SECONDS)

    def lease() -> bool:
        now = machine_time()
        return stores[1].lease(KEY, now + LEASE_SECONDS, now)

    assert wait_until(lease, SOON_SECONDS)
    stores[0].release(KEY, now + LEASE_SECONDS)  # not its own any more
    assert stores[0].flush(1.0)
    now = machine_time()
    assert not stores[2].lease(KEY, now + LEASE_SECONDS, now)


def test_a_lost_prober_gives_up_its_turn_by_time(make: Maker) -> None:
    """Given a prober that never returns, then its lease ends on the server when it said it would."""
    stores = [make() for _ in range(2)]
    end_cooldown(stores)
    now = machine_time()
    assert stores[0].lease(KEY, now + 0.8, now)

    def lease() -> bool:
        moment = machine_time()
        return stores[1].lease(KEY, moment + LEASE_SECONDS, moment)

    assert wait_until(lease, 30)
    assert now + 0.7 <= machine_time() < now + 2.4


def test_a_mark_ends_a_lease(make: Maker) -> None:
    """Given a prober that is limited again, then after that cooldown another replica may probe at once."""
    stores = [make() for _ in range(2)]
    end_cooldown(stores)
    now = machine_time()
    assert stores[0].lease(KEY, now + LEASE_SECONDS, now)
    stores[0].cool(KEY, machine_time() + 0.3, 0, limited())
    assert everywhere(stores, lambda record: record.limited_count == 2)
    assert everywhere(stores, lambda record: record.is_on_trial(machine_time()))
    now = machine_time()
    assert stores[1].lease(KEY, now + LEASE_SECONDS, now)


def test_without_a_server_there_is_one_probe_in_each_process(server: RedisServer, make: Maker) -> None:
    """Given a dead server, then a key's trial goes on, one request at a time in each process."""
    stores = [make() for _ in range(2)]
    end_cooldown(stores)
    server.kill()
    assert wait_until(lambda: not any(store.is_up for store in stores), SOON_SECONDS)
    now = machine_time()
    granted = [store.lease(KEY, now + LEASE_SECONDS, now) for store in stores for _ in range(5)]
    assert granted == [True, False, False, False, False] * 2


def test_a_slow_server_is_not_waited_for_and_keeps_no_key_from_its_trial(server: RedisServer, make: Maker) -> None:
    """Given a server 20 ms away, then marks travel, and one request of each process may probe, after a moment."""
    line = SlowLine(server.port, delay_seconds=0.02)
    try:
        stores = [make(f"redis://127.0.0.1:{line.port}", lease_timeout_seconds=LEASE_TIMEOUT_SECONDS) for _ in range(2)]
        end_cooldown(stores)
        took = []

        def lease(store: RedisStore) -> bool:
            began = time.perf_counter()
            now = machine_time()
            is_granted = store.lease(KEY, now + LEASE_SECONDS, now)
            took.append(time.perf_counter() - began)
            return is_granted

        for store in stores:
            assert wait_until(lambda store=store: lease(store), SOON_SECONDS)
        assert min(took) < LONGEST_CALL_SECONDS
        assert not any(lease(store) for store in stores)
    finally:
        for store in stores:
            store.close()
        line.close()


# --- what is shown, and where it connects


def test_the_server_holds_neither_secrets_nor_fingerprints(server: RedisServer, make: Maker) -> None:
    """Given marks, a lease and counts, then nothing there can be matched with a key but by a gateway."""
    store = make()
    end_cooldown([store])
    now = machine_time()
    assert store.lease(KEY, now + LEASE_SECONDS, now)
    assert store.flush(1.0)
    with server.client() as client:
        names = client.keys("*")
        dump = "".join(
            str(client.hgetall(name) if client.type(name) == "hash" else client.dump) + name for name in names
        )
    assert sorted(name.split(":")[1] for name in names) == ["clock", "epoch", "key", "keys", "lease"]
    assert KEY not in dump


@pytest.mark.parametrize(
    "url",
    [
        "http://:s3cr3t@localhost",
        "redis://:s3cr3t/s3cr3t@localhost:6379",
        "redis://:s3cr3t@localhost:6379?no_such_option=1",
        "redis://:s3cr3t@localhost:6379?socket_timeout=s3cr3t",
    ],
    ids=["scheme", "slash in the password", "option", "value"],
)
def test_a_bad_url_is_refused_without_showing_the_password(url: str) -> None:
    """Given a URL that is none, then the message says what is wanted and not what was given."""
    with pytest.raises(ValueError, match="redis://") as caught:
        RedisStore(url)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_password_is_used_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Given a server with a password, then the right one works, a wrong one is a server that is down; neither shows."""
    server = RedisServer(options=["--requirepass", "s3cr3t"])
    right = RedisStore(f"redis://:s3cr3t@127.0.0.1:{server.port}/2")
    wrong = RedisStore(f"redis://user:s3cr3t-wrong@127.0.0.1:{server.port}")
    try:
        assert (right.is_up, wrong.is_up) == (True, False)
        shown = caplog.text + repr(right) + repr(wrong)
        assert "goes on with what it knows" in shown
        assert "s3cr3t" not in shown
    finally:
        right.close()
        wrong.close()
        server.stop()


def test_a_unix_socket_serves_alike() -> None:
    """Given a server on a socket in the file system, then unix:// reaches it."""
    server = RedisServer(options=["--unixsocket", "redis.sock"])
    store = RedisStore(f"unix://{server.folder}/redis.sock?db=1")
    try:
        assert store.is_up
        assert store.retire(KEY, 0, refused())
        assert store.flush(1.0)
    finally:
        store.close()
        server.stop()


def test_tls_serves_alike(tmp_path: Path) -> None:
    """Given a server that speaks TLS, then rediss:// reaches it, for marks and for leases."""
    server, url = tls_server(tmp_path)
    stores = [RedisStore(url, lease_timeout_seconds=0.5) for _ in range(2)]
    try:
        assert wait_until(lambda: all(store.is_up for store in stores), BACK_SECONDS)
        end_cooldown(stores)
        now = machine_time()
        assert [store.lease(KEY, now + LEASE_SECONDS, now) for store in stores] == [True, False]
    finally:
        for store in stores:
            store.close()
        server.stop()


# --- the end, and cost


def test_closing_tells_what_is_untold_and_ends_the_thread(make: Maker) -> None:
    """Given a mark just made, then closing hands it on, leaves no thread, and may be done twice."""
    before = threading.active_count()
    store = make()
    store.retire(KEY, 0, refused())
    store.close()
    store.close()
    assert threading.active_count() == before
    assert known(make()).is_retired


def test_an_operators_process_changes_all(make: Maker) -> None:
    """Given a process that starts, changes a key, flushes and ends, then all gateways follow within a second."""
    gateways = [make() for _ in range(2)]
    gateways[0].retire(KEY, 0, refused())
    assert everywhere(gateways, lambda record: record.is_retired)
    operator = make()
    operator.enable(KEY)
    operator.flush()
    assert everywhere(gateways, lambda record: not record.is_permanent)
    operator = make()
    operator.disable(KEY, Cause("operator", 0, machine_time()))
    operator.flush()
    assert everywhere(gateways, lambda record: record.is_disabled)


def test_reading_costs_microseconds(make: Maker) -> None:
    """Given five keys, then reading them for a walk takes some microseconds, for it touches no network."""
    store = make()
    fingerprints = [f"{number:064x}" for number in range(5)]
    for fingerprint in fingerprints:
        store.cool(fingerprint, machine_time() + 50, 0, limited())
    best = math.inf
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(100):
            store.read(fingerprints)
        best = min(best, (time.perf_counter() - began) / 100)
    assert best < 50e-6

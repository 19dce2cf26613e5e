"""Machines that share limits over a real Redis server, in good times and bad."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.config.limit_rules import Limited, Limits
from gateway.limits.calendar import today
from gateway.limits.counters import MachineCounters
from gateway.limits.limiter import Used
from gateway.limits.link import Link
from gateway.limits.reading import read_used
from gateway.limits.shared_limiter import Admission, SharedLimiter
from gateway.protocol.errors import LimitReached, Overloaded, SpendLimitReached
from tests.harness import wait_until
from tests.limit_worker import PICODOLLARS, Judge, Worker
from tests.stores.redis_server import PROGRAMS, RedisServer

PATIENT_SECONDS = 30.0  # where time is not what is tested
SOON_SECONDS = 30.0
HASH = "gateway:limits:group/research"


def group(**limits: int) -> Limited:
    return Limited("group", "research", Limits(**limits))


class Machine:
    """A worker of a machine of its own; `folder` may be another's, whose machine it shares then."""

    def __init__(self, url: str, folder: Path, *, fails_closed: bool = False, ask_seconds: float = PATIENT_SECONDS):
        self.folder = folder
        self.counters = MachineCounters(folder, patience_seconds=PATIENT_SECONDS)
        self.link = Link(url, self.counters, ask_seconds=ask_seconds)
        self._limiter = SharedLimiter(self.counters, self.link, fails_closed=fails_closed)
        self._limiter.start()
        self._is_closed = False

    def is_up(self) -> bool:
        return wait_until(lambda: self.link.is_up, SOON_SECONDS)

    def enter(self, *limited: Limited) -> Admission:
        return self._limiter.enter(limited, costs=True, is_own=False)

    def spend(self, picodollars: int, *limited: Limited) -> None:
        self.enter(*limited).settle(0, picodollars)

    def used(self, limited: Limited) -> Used:
        return self._limiter.used([limited])[0]

    def shows(self, limited: Limited, holds: Callable[[Used], bool]) -> bool:
        return wait_until(lambda: holds(self.used(limited)), SOON_SECONDS)

    def vanish(self) -> None:
        """End it without a word, as if it had lost its network and its power."""
        self.link._thread.stop()
        self.link._thread.join(SOON_SECONDS)
        self.close()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._limiter.close()


Maker = Callable[..., Machine]


@pytest.fixture(params=PROGRAMS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    started = RedisServer(request.param)
    yield started
    started.stop()


@pytest.fixture
def make(server: RedisServer, tmp_path: Path) -> Iterator[Maker]:
    """Makes machines over the server, `make()`, each with a folder of its own, and closes them after the test."""
    made: list[Machine] = []

    def start(folder: Path | None = None, **options: float) -> Machine:
        machine = Machine(server.url, folder or tmp_path / f"machine{len(made)}", **options)  # type: ignore[arg-type]
        made.append(machine)
        return machine

    yield start
    for machine in made:
        machine.close()


# --- limits hold over machines


def test_running_requests_of_all_machines_are_counted_at_every_moment(make: Maker) -> None:
    """Given a limit of ten that two machines fill, then the eleventh is refused on both, and a place that one gives
    back is the other's at once."""
    machines, who = [make(), make()], group(concurrent=10)
    assert all(machine.is_up() for machine in machines)
    admitted = [machines[number % 2].enter(who) for number in range(10)]
    for machine in machines:
        with pytest.raises(LimitReached, match="its 10 running requests; try again in 1 s"):
            machine.enter(who)
    admitted[0].settle(0, 0)
    assert wait_until(lambda: can_enter(machines[1], who), SOON_SECONDS)
    with pytest.raises(LimitReached):
        machines[0].enter(who)


def test_question_that_finds_no_connection_free_says_nothing_against_the_server(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given that other questions have all connections, then a request goes by what is known here, and the server is
    asked again by the next."""
    monkeypatch.setattr("gateway.limits.link._QUEUE_SECONDS", 0.0)
    machine, who = make(ask_seconds=0.01), group(concurrent=10)
    assert machine.is_up()
    lent = []
    while not machine.link._ready.empty():
        lent.append(machine.link._ready.get())
    machine.enter(who)
    assert machine.link.is_up
    for connection in lent:
        machine.link._ready.put(connection)
    assert machine.used(who).running == 1


def can_enter(machine: Machine, who: Limited) -> bool:
    try:
        machine.enter(who)
    except LimitReached:
        return False
    return True


def test_requests_of_the_last_minute_are_those_of_all_machines(make: Maker) -> None:
    """Given five requests on three machines, then a limit of five a minute lets none of them ask again."""
    machines, who = [make() for _ in range(3)], group(requests_per_minute=5)
    assert all(machine.is_up() for machine in machines)
    for number in range(5):
        machines[number % 3].enter(who).settle(0, 0)
    for machine in machines:
        with pytest.raises(LimitReached, match="its 5 requests a minute; try again in") as refused:
            machine.enter(who)
        assert refused.value.limit == "requests_per_minute"
        assert 1 <= (refused.value.retry_after_seconds or 0) <= 60


def test_one_of_several_limits_that_others_have_filled_lets_nothing_be_counted(make: Maker) -> None:
    """Given a token's place that another machine has, then the group's counts stay as they were everywhere."""
    machines = [make(), make()]
    team, alice = group(concurrent=10), Limited("token", "alice", Limits(concurrent=1))
    assert all(machine.is_up() for machine in machines)
    machines[0].enter(team, alice)
    for _ in range(3):
        with pytest.raises(LimitReached) as refused:
            machines[1].enter(team, alice)
        assert refused.value.holder == "alice"
    for machine in machines:
        assert machine.shows(team, lambda used: (used.running, used.requests) == (1, 1))


def test_money_and_tokens_of_all_machines_are_known_soon_and_exactly(make: Maker) -> None:
    """Given amounts beyond what a double holds, then each machine soon knows the sum to the picodollar."""
    machines, who = [make() for _ in range(3)], group(picodollars_per_month=2**63, tokens_per_minute=10**9)
    assert all(machine.is_up() for machine in machines)
    amounts = (2**60 + 1, 2**55 + 3, 7)
    for machine, amount in zip(machines, amounts, strict=True):
        machine.enter(who).settle(1000, amount)
    for machine in machines:
        assert machine.shows(who, lambda used: used.picodollars_this_month == sum(amounts) and used.tokens == 3000)
        assert machine.used(who).picodollars_today == sum(amounts)


def test_budget_that_others_have_spent_stops_the_first_request_already(make: Maker) -> None:
    """Given a budget spent on one machine, then one that has never heard of the group refuses its first request."""
    first, second, who = make(), make(), group(picodollars_per_day=100)
    assert first.is_up()
    assert second.is_up()
    first.spend(150, who)
    assert wait_until(lambda: is_told(first, second, who, 150), SOON_SECONDS)
    third = make()
    assert third.is_up()
    with pytest.raises(SpendLimitReached, match="spend limit reached"):
        third.enter(who)


def is_told(teller: Machine, hearer: Machine, who: Limited, picodollars: int) -> bool:
    """Whether the server has it, as a reader without any part in it sees it."""
    used, _ = read_used(hearer.folder / "none", [who], teller_url(teller))
    return used[0].picodollars_today == picodollars


def teller_url(machine: Machine) -> str:
    return f"redis://{machine.link._server.place}/0"


def test_workers_of_one_machine_are_one_to_the_others(make: Maker) -> None:
    """Given two workers of one machine and one of another, then nothing is counted twice."""
    one, who = make(), group(concurrent=5)
    workers = [one, make(one.folder), make()]
    assert all(worker.is_up() for worker in workers)
    for worker in workers:
        worker.enter(who)
    for worker in workers:
        assert worker.shows(who, lambda used: (used.running, used.requests) == (3, 3))


def test_machine_that_is_gone_gives_its_places_back_and_leaves_its_money(make: Maker) -> None:
    """Given a machine that vanishes with all places taken, then another has them soon, and its money stays counted."""
    gone, stays, who = make(), make(), group(concurrent=2, picodollars_per_day=1000)
    assert gone.is_up()
    assert stays.is_up()
    gone.spend(70, who)
    gone.enter(who)
    gone.enter(who)
    assert not can_enter(stays, who)
    gone.vanish()
    assert wait_until(lambda: can_enter(stays, who), SOON_SECONDS)
    assert stays.used(who).picodollars_today == 70


def test_lost_folder_makes_another_machine_whose_old_money_stays(make: Maker, tmp_path: Path) -> None:
    """Given a machine whose folder was lost, then it is another one, and what it had spent before counts on."""
    before, who = make(), group(picodollars_per_day=1000)
    assert before.is_up()
    before.spend(70, who)
    before.close()
    after = make(tmp_path / "new")
    assert after.is_up()
    after.spend(1, who)
    assert after.shows(who, lambda used: used.picodollars_today == 71)


# --- what is on the server


def test_statement_that_comes_late_or_twice_changes_nothing(make: Maker, server: RedisServer) -> None:
    """Given an old statement that reaches the server after newer ones, then the newer ones stay."""
    one, other, who = make(), make(), group(concurrent=5, picodollars_per_day=1000)
    assert one.is_up()
    assert other.is_up()
    old = one.counters.enter([who], is_paid=True, asks=True)
    one.spend(30, who)
    one.counters.undo(old)  # type: ignore[arg-type]
    one.link.changed([who])
    other.spend(1, who)
    assert other.shows(who, lambda used: (used.picodollars_today, used.running) == (31, 0))
    for _ in range(3):
        one.link.hear(old.report)  # type: ignore[union-attr]
    other.spend(1, who)
    assert (other.used(who).picodollars_today, other.used(who).running) == (32, 0)


@pytest.mark.parametrize(
    "put",
    [
        lambda client: client.set(HASH, "no hash"),
        lambda client: client.hset(HASH, "f" * 32, "no statement"),
        lambda client: client.hset(HASH, "f" * 32, "1 2 3"),
        lambda client: client.hset(HASH, "f" * 32, "9 99999999999999999 10 10 10 1 1 1 1"),
        lambda client: client.hset(HASH, "f" * 32, f"1 1 1 1 1 1 1 {today(time.time()).month} {'9' * 5000}"),
        lambda client: client.hset("gateway:limits-epoch", "no", "string"),
        lambda client: client.set("gateway:limits-epoch", "no number"),
    ],
    ids=[
        "no hash",
        "odd field",
        "short field",
        "an expiry that cannot be",
        "endless",
        "odd epoch",
        "an epoch that is no number",
    ],
)
def test_what_no_gateway_has_written_holds_up_nothing(
    make: Maker, server: RedisServer, put: Callable[[object], object]
) -> None:
    """Given odd things under a gateway's names, then limits hold as before."""
    with server.client() as client:
        put(client)
    one, other, who = make(), make(), group(concurrent=2)
    assert one.is_up()
    assert other.is_up()
    one.enter(who)
    other.enter(who)
    for machine in (one, other):
        assert not can_enter(machine, who)


def test_what_is_on_the_server_goes_by_itself(make: Maker, server: RedisServer) -> None:
    """Given counts on the server, then they expire."""
    one, who = make(), group(concurrent=2)
    assert one.is_up()
    one.enter(who)
    with server.client() as client:
        assert 0 < client.ttl(HASH) <= 40 * 86_400


# --- bad times


def lose_power(server: RedisServer) -> None:
    server.kill()
    server.start()


def flush(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


def forget_scripts(server: RedisServer) -> None:
    with server.client() as client:
        client.script_flush()


@pytest.mark.parametrize("lose", [lose_power, flush, forget_scripts], ids=lambda lose: lose.__name__)
def test_server_that_lost_its_data_is_filled_again(
    make: Maker, server: RedisServer, lose: Callable[[RedisServer], None]
) -> None:
    """Given money, running and past requests on two machines, when the server has lost all, then both soon know all of
    it again, although nobody asks anything meanwhile."""
    machines, who = [make(), make()], group(concurrent=5, picodollars_per_day=1000)
    assert all(machine.is_up() for machine in machines)
    for number, machine in enumerate(machines):
        machine.spend(10 + number, who)
        machine.enter(who)
    lose(server)
    for machine in machines:
        assert machine.is_up()
        assert machine.shows(who, lambda used: (used.picodollars_today, used.running, used.requests) == (21, 2, 4))
    newcomer = make()
    assert newcomer.is_up()
    assert wait_until(lambda: is_told(newcomer, newcomer, who, 21), SOON_SECONDS)


def test_server_that_does_not_answer_holds_up_and_loses_nothing(
    make: Maker, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a server that stops in mid-work, then requests go on by this machine's own counts and what the other had
    spent, none waits for long, the log says so once; when it is back, both know all."""
    machines = [make(ask_seconds=0.02), make(ask_seconds=0.02)]
    who = group(concurrent=3, picodollars_per_day=1000)
    assert all(machine.is_up() for machine in machines)
    machines[1].spend(600, who)
    assert machines[0].shows(who, lambda used: used.picodollars_today == 600)
    with caplog.at_level(logging.INFO, logger="gateway.limits.link"):
        server.pause()
        longest = 0.0
        for _ in range(30):
            began_at = time.monotonic()
            machines[0].spend(10, who)
            longest = max(longest, time.monotonic() - began_at)
        assert longest < 5.0
        assert wait_until(lambda: len(told_of(caplog)) == 2, SOON_SECONDS)
        assert wait_until(lambda: not any(machine.link.is_up for machine in machines), SOON_SECONDS)
        assert wait_until(lambda: machines[0].used(who).running == 0, SOON_SECONDS)
        running = [machines[0].enter(who) for _ in range(3)]
        with pytest.raises(LimitReached):
            machines[0].enter(who)
        for admitted in running:
            admitted.settle(0, 40)
        with pytest.raises(SpendLimitReached, match="research has spent"):
            machines[0].enter(who)
        server.resume()
        assert all(machine.is_up() for machine in machines)
        for machine in machines:
            assert machine.shows(who, lambda used: (used.picodollars_today, used.running) == (1020, 0))
    assert sorted(told_of(caplog)) == ["INFO", "INFO", "WARNING", "WARNING"]


def told_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The levels of what the log says of the server."""
    return [record.levelname for record in caplog.records if "the state server" in record.message]


def test_what_others_ran_counts_no_longer_when_it_was_not_heard_for_long(make: Maker, server: RedisServer) -> None:
    """Given all places taken by another machine and a server that is gone, then they are free after a while."""
    one, other, who = make(ask_seconds=0.02), make(ask_seconds=0.02), group(concurrent=1)
    assert one.is_up()
    assert other.is_up()
    other.enter(who)
    assert wait_until(lambda: not can_enter(one, who), SOON_SECONDS)
    server.kill()
    assert wait_until(lambda: can_enter(one, who), SOON_SECONDS)
    server.start()


def test_closed_gateway_refuses_who_has_limits_while_the_server_is_gone(make: Maker, server: RedisServer) -> None:
    """Given limits that fail closed, then a request with limits gets 529 while the server is gone, one whose limits do
    not matter goes, and all go when it is back."""
    one, who, spender = make(fails_closed=True, ask_seconds=0.02), group(concurrent=3), group(picodollars_per_day=5)
    assert one.is_up()
    server.kill()
    for limited in (who, spender):
        assert wait_until(lambda limited=limited: is_overloaded(one, limited), SOON_SECONDS)
    one._limiter.enter([spender], costs=False, is_own=False)
    one._limiter.enter([spender], costs=True, is_own=True)
    one._limiter.enter([], costs=True, is_own=False)
    server.start()
    assert one.is_up()
    one.enter(who)


def is_overloaded(machine: Machine, who: Limited) -> bool:
    try:
        machine.enter(who).settle(0, 0)
    except Overloaded as error:
        return error.retry_after_seconds == 1
    return False


def test_worker_that_starts_without_a_server_counts_and_tells_later(make: Maker, server: RedisServer) -> None:
    """Given a server that is not there at the start, then a worker works, and tells what it has counted later."""
    server.kill()
    one, who = make(), group(picodollars_per_day=100)
    one.spend(40, who)
    server.start()
    other = make()
    assert one.is_up()
    assert other.is_up()
    assert wait_until(lambda: is_told(other, other, who, 40), SOON_SECONDS)


# --- reading


def test_reader_sees_all_machines_and_is_told_when_it_cannot(make: Maker, server: RedisServer, tmp_path: Path) -> None:
    """Given counts on two machines, then a command on any machine shows the sum; without the server it says so."""
    one, other, who = make(), make(), group(concurrent=5, picodollars_per_day=100)
    assert one.is_up()
    assert other.is_up()
    one.spend(4, who)
    other.spend(5, who)
    other.enter(who)
    assert wait_until(lambda: is_told(one, other, who, 9), SOON_SECONDS)

    def read(folder: Path) -> tuple[int, int, str]:
        used, trouble = read_used(folder, [who], server.url)
        return used[0].picodollars_today, used[0].running, trouble

    assert read(one.folder) == read(other.folder) == read(tmp_path / "none") == (9, 1, "")
    server.kill()
    assert "does not answer" in read(one.folder)[2]
    server.start()


# --- many processes


def test_limit_holds_over_machines_whose_workers_are_killed(server: RedisServer, tmp_path: Path) -> None:
    """Given four processes of eight threads over two machines on a limit of ten, one killed on each, then never more
    than ten are inside, the dead ones' places come back, and the money of both is exact."""
    judge = Judge()
    folders = [tmp_path / "a", tmp_path / "b"]
    workers = [
        Worker(judge, number, folders[number % 2], limit=10, threads=8, url=server.url, hold_ms=3.0)
        for number in range(4)
    ]
    try:
        for number, victim in enumerate(workers[:2]):
            assert wait_until(lambda number=number: judge.entered > 60 * (number + 1), SOON_SECONDS)
            victim.kill()
        before = judge.entered
        assert wait_until(lambda: judge.entered > before + 60, SOON_SECONDS)
    finally:
        for worker in workers:
            worker.stop()
    assert wait_until(lambda: not any(judge.inside.values()), SOON_SECONDS)
    judge.close()
    assert judge.most <= 10
    used, trouble = read_used(tmp_path / "none", [group(concurrent=10)], server.url)
    assert trouble == ""
    lost = judge.settled * PICODOLLARS - used[0].picodollars_today
    assert -8 * 2 * PICODOLLARS <= lost <= 2 * PICODOLLARS


def test_nobody_is_refused_while_there_is_room_on_all_machines(server: RedisServer, tmp_path: Path) -> None:
    """Given ten threads in four processes over two machines on a limit of ten, then none is ever refused."""
    judge = Judge()
    workers = [
        Worker(judge, number, tmp_path / "ab"[number % 2], limit=10, threads=threads, url=server.url)
        for number, threads in enumerate((3, 3, 2, 2))
    ]
    try:
        assert wait_until(lambda: judge.entered > 300, SOON_SECONDS)
    finally:
        for worker in workers:
            worker.stop()
    judge.close()
    assert judge.refused == 0

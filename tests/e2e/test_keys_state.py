"""The keys' state in the data folder: whatever becomes of its file, its lock or the wall clock, all workers serve on.

What a test does to the gateway from within it does by a file that each of its processes runs first.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.fleet import WORKERS, Crowd, Fleet, KeysFile, crowd, is_paused
from tests.e2e.talk import message
from tests.forked import INSIDE
from tests.harness import wait_until
from tests.stores.odd_redis import OddRedis, as_the_server
from tests.stores.redis_server import RedisServer
from tests.unit.runtime.test_folder_lock import holding

A, B, C = 0, 1, 2
PATIENT_SECONDS = 60.0
MakeFleet = Callable[..., Fleet]

# The next process that has got the lock of a folder is stopped at that moment, if the test asks for it by a file.
_STOPS_WITH_THE_LOCK = """
import fcntl, os, signal
_flock = fcntl.flock

def flock(descriptor, operation):
    _flock(descriptor, operation)
    if operation == fcntl.LOCK_EX | fcntl.LOCK_NB and os.path.isdir(f"/proc/self/fd/{{descriptor}}"):
        try:
            os.rename({flag!r}, {flag!r} + f".{{os.getpid()}}")
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGSTOP)

fcntl.flock = flock
"""

# The wall clock shows what the test wants, from one moment to the next.
_CLOCK_THAT_IS_SET = """
import time
_time = time.time

def set_time():
    with open({file!r}) as file:
        return _time() + float(file.read())

time.time = set_time
"""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module."""
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def own_fleet(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeFleet]:
    """Starts a gateway for one test: `own_fleet(*scripts, inside=..., **settings)`."""
    started: list[Fleet] = []

    def start(*scripts: str, inside: str = "", **settings: object) -> Fleet:
        keys = KeysFile(simulator, tmp_path)
        keys.renew(*scripts)
        if inside:
            (tmp_path / "inside.py").write_text(inside)
            monkeypatch.setenv(INSIDE, str(tmp_path / "inside.py"))
        settings = {"threads": 128, "pin_workers": "false"} | settings  # others may keep a processor busy
        started.append(Fleet(simulator, keys, tmp_path / "data", **settings))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for fleet in started:
        for pid in fleet.gateway.worker_pids:
            os.kill(pid, signal.SIGCONT)
        fleet.gateway.stop()


def ask(fleet: Fleet) -> int:
    """One message, on a connection of its own; its status."""
    return fleet.gateway.request("POST", "/v1/messages", message()).status


def states_of(fleet: Fleet) -> list[str]:
    return list(fleet.states().values())


def all_agree(fleet: Fleet, *states: str) -> bool:
    """Whether every worker comes to show these states, and a store that is in reach."""
    wanted = {
        ("gateway_key_state", frozenset({("key", name), ("state", state)}))
        for name, state in zip(fleet.keys.names, states, strict=True)
    }
    up = ("gateway_store_up", frozenset[tuple[str, str]]())

    def agree() -> bool:
        each = fleet.metrics_of_each_worker()
        return all(sample.get(one) == 1 for sample in each for one in (up, *wanted))

    return wait_until(agree, PATIENT_SECONDS)


# The lock


def stopped_worker(flag: Path) -> int:
    """The worker that took the flag, once it is stopped; the flag may be given again."""
    assert wait_until(lambda: bool(list(flag.parent.glob(f"{flag.name}.*"))), PATIENT_SECONDS)
    (taken,) = flag.parent.glob(f"{flag.name}.*")
    pid = int(taken.suffix[1:])
    assert wait_until(lambda: is_paused(pid), PATIENT_SECONDS)
    taken.unlink()
    return pid


def test_all_workers_serve_while_another_process_keeps_the_lock(own_fleet: MakeFleet) -> None:
    """Given a process that is stopped with the folder's lock, when keys are limited and refused, then every request is
    answered by the next key; each worker tells it once, and when the lock is free all know all marks."""
    fleet = own_fleet("rate_limited:retry-after=600", "unauthorized", "ok")
    with holding(fleet.data_dir) as other:
        other.send_signal(signal.SIGSTOP)
        assert {answer.status for answer in crowd(fleet.gateway.url, 60)} == {200}
        assert fleet.gateway.request("GET", "/readyz").status == 200
        fleet.gateway.wait_for_log("the keys' state cannot be shared")
        assert {answer.status for answer in crowd(fleet.gateway.url, 60)} == {200}
        assert fleet.gateway.log.count("the keys' state cannot be shared") <= WORKERS
        assert any(sample["gateway_store_up", frozenset()] == 0 for sample in fleet.metrics_of_each_worker())
    assert all_agree(fleet, "temporary", "permanent", "valid")
    fleet.gateway.wait_for_log("the keys' state is shared again")


def test_others_serve_while_a_worker_is_stopped_that_holds_the_lock(own_fleet: MakeFleet, tmp_path: Path) -> None:
    """Given a worker that is stopped at the very moment at which it holds the lock, then the others serve and mark on;
    when it is killed, or goes on, their marks and its own are known to all."""
    flag = tmp_path / "stop-one"
    fleet = own_fleet(
        "ok*20 then rate_limited:retry-after=600",
        "unauthorized",
        "ok",
        inside=_STOPS_WITH_THE_LOCK.format(flag=str(flag)),
    )
    flag.touch()
    fleet.keys.play("rate_limited:retry-after=600", "unauthorized", "ok")
    with Crowd(fleet.gateway.url, 1) as first:
        stopped = stopped_worker(flag)
        with Crowd(fleet.gateway.url, 60) as everybody:
            everybody.wait_for(60)
            assert set(everybody.statuses) == {200}
        assert first.statuses == []
        os.kill(stopped, signal.SIGCONT)
        first.wait_for(1)
        assert first.statuses == [200]
    assert all_agree(fleet, "temporary", "permanent", "valid")

    # The same, and the worker is killed.
    fleet.renew_keys("rate_limited:retry-after=600", "unauthorized", "ok")
    flag.touch()
    with Crowd(fleet.gateway.url, 1):
        stopped = stopped_worker(flag)
        with Crowd(fleet.gateway.url, 60) as everybody:
            everybody.wait_for(60)
            assert set(everybody.statuses) == {200}
        fleet.kill_worker(stopped)
    assert all_agree(fleet, "temporary", "permanent", "valid")


# The file


def overwrite(folder: Path) -> None:
    with (folder / "keys.jsonl").open("r+b") as file:
        file.write(b"SQLite format 3\0" + bytes(100_000))


def truncate(folder: Path) -> None:
    os.truncate(folder / "keys.jsonl", 10)


def remove(folder: Path) -> None:
    (folder / "keys.jsonl").unlink()


def replace_by_a_folder(folder: Path) -> None:
    remove(folder)
    (folder / "keys.jsonl").mkdir()


@pytest.mark.parametrize("happen", [overwrite, truncate, remove, replace_by_a_folder])
def test_file_is_begun_anew_while_all_workers_serve(own_fleet: MakeFleet, happen: Callable[[Path], None]) -> None:
    """Given keys in every state, when something happens to their file, then no request fails, the states stay, the log
    says so, and a worker that starts later knows them as well."""
    fleet = own_fleet("rate_limited:retry-after=600", "unauthorized", "ok")
    fleet.command("disable", fleet.keys.names[C])
    fleet.command("enable", fleet.keys.names[C])
    assert ask(fleet) == 200
    assert all_agree(fleet, "temporary", "permanent", "valid")
    happen(fleet.data_dir)
    fleet.serve_from_every_worker(3)
    assert fleet.keys.calls == [A, B, C] + [C] * (3 * WORKERS)
    assert fleet.gateway.request("GET", "/readyz").status == 200
    assert fleet.gateway.log.count("begun anew with what this process knows") == 1
    fleet.command("cool", fleet.keys.names[A], "700")
    for pid in fleet.gateway.worker_pids:
        fleet.kill_worker(pid)
    assert all_agree(fleet, "temporary", "permanent", "valid")


# A shared server that answers rubbish


@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b"+OK\r\n", id="a word"),
        pytest.param(b"*1000000000\r\n", id="an endless list"),
        pytest.param(b"-READONLY You can't write against a read only replica.\r\n", id="an error"),
    ],
)
def test_all_workers_serve_while_redis_answers_rubbish(own_fleet: MakeFleet, rubbish: bytes) -> None:
    """Given a Redis that answers everything with rubbish, when keys are limited and refused, then every request is
    answered by the next key, and the metrics say that the store is down; when Redis makes sense again all know all."""
    server = RedisServer()
    line = OddRedis(server.port)
    try:
        fleet = own_fleet("rate_limited:retry-after=600", "unauthorized", "ok", state_url=line.url)
        line.answer = lambda command: rubbish

        def is_down() -> bool:
            return all(sample["gateway_store_up", frozenset()] == 0 for sample in fleet.metrics_of_each_worker())

        assert wait_until(is_down, PATIENT_SECONDS)
        assert {answer.status for answer in crowd(fleet.gateway.url, 60)} == {200}
        assert is_down()
        told = fleet.gateway.log
        # A busy machine may have found Redis slow before; what has begun is told once in each worker.
        assert told.count("does not answer") - told.count("answers again") == WORKERS
        line.answer = as_the_server
        assert all_agree(fleet, "temporary", "permanent", "valid")
        assert "Traceback" not in fleet.gateway.log
    finally:
        line.close()
        server.stop()


# The wall clock


@pytest.mark.parametrize("set_by_seconds", [-3600, -2000 * 86400, 3600, 2000 * 86400])
def test_clock_that_is_set_makes_no_cooldown_longer_or_shorter(
    own_fleet: MakeFleet, tmp_path: Path, set_by_seconds: int
) -> None:
    """Given a key that cools down for ten minutes and one for three seconds, when the wall clock is set, then what
    clients are told is what is left; the short cooldown ends in its time; new workers and a new start know no
    better."""
    shown = tmp_path / "ahead"
    shown.write_text("0")
    fleet = own_fleet(
        "rate_limited:retry-after=600",
        "rate_limited:retry-after=3 then ok",
        inside=_CLOCK_THAT_IS_SET.format(file=str(shown)),
    )
    assert ask(fleet) == 429
    fresh = tmp_path / "fresh"
    fresh.write_text(str(set_by_seconds))
    fresh.rename(shown)
    answer = fleet.gateway.request("POST", "/v1/messages", message())
    if answer.status == 429:  # else three seconds have passed
        assert 1 <= int(answer.headers["retry-after"]) <= 3
    assert wait_until(lambda: ask(fleet) == 200, PATIENT_SECONDS)
    assert fleet.keys.calls[0] == A
    assert fleet.keys.calls.count(A) == 1
    assert 500 < fleet.total("key_cooldown_seconds") <= 600
    assert fleet.command("list")
    for pid in fleet.gateway.worker_pids:
        fleet.kill_worker(pid)
    assert 500 < fleet.total("key_cooldown_seconds") <= 600
    fleet.restart()
    assert 400 < fleet.total("key_cooldown_seconds") <= 600


# The log


def test_the_log_tells_what_the_operator_does_and_when_a_key_is_back(own_fleet: MakeFleet) -> None:
    """Given a gateway of several workers, when `gateway keys` disables, enables and cools a key, then each is a line,
    once, and so is the end of the cooldown."""
    fleet = own_fleet("ok", "ok")
    name = fleet.keys.names[A]
    told = []
    for words, line in (
        (("disable", name), "is disabled by the operator"),
        (("enable", name), "is enabled by the operator"),
        (("cool", name, "6"), "by the operator's command"),
    ):
        fleet.command(*words)
        fleet.gateway.wait_for_log(line)
        told.append(line)
    fleet.gateway.wait_for_log("is back: its cooldown is over", PATIENT_SECONDS)
    log = fleet.gateway.log
    assert [log.count(line) for line in (*told, "is back: its cooldown is over")] == [1, 1, 1, 1]


def test_the_log_tells_what_another_gateway_found(simulator: Simulator, tmp_path: Path, own_fleet: MakeFleet) -> None:
    """Given two gateways that share a Redis, when a request of one finds a key refused, then that one's log has the
    request, and the other's has the origin."""
    redis = RedisServer()
    try:
        one = own_fleet("unauthorized", "ok", state_url=redis.url)
        other = Fleet(simulator, one.keys, tmp_path / "two", threads=128, pin_workers="false", state_url=redis.url)
        try:
            assert ask(one) == 200
            line = f"key {one.keys.names[A]} "
            other.gateway.wait_for_log("is retired: unauthorized (401), as another worker or gateway found")
        finally:
            told = other.gateway.stop()
        assert [words for words in told.splitlines() if line in words and "is retired" in words]
        of_request = [words for words in one.gateway.log.splitlines() if "req_gw_" in words and line in words]
        assert "is retired: unauthorized (401); it gets no requests until" in of_request[0]
    finally:
        redis.stop()

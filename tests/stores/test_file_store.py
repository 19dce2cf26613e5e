"""The store that the workers of one machine share: real processes, killed at random.

The processes are forked from a clean one (multiprocessing's fork server), as workers are from their master, and open
the store themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from gateway.access.credential import Secret
from gateway.keys.file_store import FileStore
from gateway.keys.key_record import NEVER_SEEN, Cause, Record
from gateway.runtime.machine_clock import machine_time
from tests.harness import wait_until

LIMITED = Cause("rate_limited", 429, 1.0)
REFUSED = Cause("unauthorized", 401, 1.0)
BY_HAND = Cause("operator", 0, 1.0)
PATIENCE_SECONDS = 30.0

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


@contextmanager
def opened(folder: Path) -> Iterator[FileStore]:
    """A store that waits for a busy machine: none of these processes keeps the lock for good."""
    store = FileStore(folder, PATIENCE_SECONDS)
    try:
        yield store
    finally:
        store.close()


def begin(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = processes.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def end(process: BaseProcess, timeout_seconds: float = PATIENCE_SECONDS) -> int | None:
    """Wait for a process, not for ever; its exit code."""
    process.join(timeout_seconds)
    assert not process.is_alive(), "a process is wedged"
    return process.exitcode


def heard(orders: Connection) -> Any:
    """What the process at the other end says next."""
    assert orders.poll(PATIENCE_SECONDS), "a process is wedged"
    return orders.recv()


def bounded(call: Callable[[], Any]) -> Any:
    """Call in a thread, and do not wait for ever."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive(), "the store is wedged"
    (result,) = results
    return result


def is_set_aside(folder: Path) -> bool:
    return (folder / "keys.jsonl.unusable").exists()


# Processes that do as they are told.


def obey(folder: Path, orders: Connection) -> None:
    with opened(folder) as store:
        orders.send("open")
        for method, *arguments in iter(orders.recv, None):
            orders.send("begins")
            orders.send(getattr(store, method)(*arguments))


class Worker:
    """A process with the store open; calls are made there, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._orders, theirs = processes.Pipe()
        self.process = begin(obey, folder, theirs)
        assert heard(self._orders) == "open"

    def do(self, method: str, *arguments: Any) -> Any:
        self.begin(method, *arguments)
        return self.finish()

    def begin(self, method: str, *arguments: Any) -> None:
        self._orders.send((method, *arguments))
        assert heard(self._orders) == "begins"

    def finish(self) -> Any:
        return heard(self._orders)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def waits(self) -> bool:
        """Whether it sleeps; in the middle of a call that is at a lock."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def stop(self) -> None:
        self._orders.send(None)
        assert end(self.process) == 0
        self._orders.close()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    started = [Worker(tmp_path) for _ in range(4)]
    yield started
    for worker in started:
        worker.stop()


def test_mark_by_one_is_in_the_next_read_of_every_other(workers: list[Worker]) -> None:
    """Given four processes, when one marks a key, then the very next read of each of them shows it."""
    for turn in range(1, 201):
        now, until_at = float(turn), turn + 0.9
        marks = [(workers[turn % 4], until_at), (workers[(turn + 1) % 4], until_at - 0.5)]
        told = [worker.do("cool", "a", deadline, 0, Cause("rate_limited", 429, now)) for worker, deadline in marks]
        assert told == [True, False], "the change is told once"
        for worker in workers:
            (record,) = worker.do("read", ["a"])
            assert (record.cooling_until_at, record.limited_count) == (until_at, 2 * turn)


def test_mark_of_a_detail_by_one_is_seen_at_the_next_glance_of_every_other(workers: list[Worker]) -> None:
    """Given four processes, when one marks something about a key, then the next glance of each is another number, and
    it lists and reads the detail; a glance after that is the same."""
    seen = [worker.do("glance") for worker in workers]
    now = machine_time()
    for turn in range(1, 41):
        detail = f"messages/class-{turn % 7}"
        workers[turn % 4].do("cool", f"a/{detail}", now + turn, 0, Cause("rate_limited", 429, now))
        now_seen = [worker.do("glance") for worker in workers]
        assert all(before != after for before, after in zip(seen, now_seen, strict=True))
        for worker in workers:
            assert detail in worker.do("details", "a")
            (of_the_detail, of_the_key) = worker.do("read", [f"a/{detail}", "a"])
            assert (of_the_detail.cooling_until_at, of_the_key) == (now + turn, NEVER_SEEN)
        seen = [worker.do("glance") for worker in workers]
        assert seen == now_seen


def test_lease_is_given_to_one_process(workers: list[Worker]) -> None:
    for turn in range(1, 101):
        workers[0].do("cool", "a", float(turn), 0, LIMITED)
        assert [worker.do("lease", "a", turn + 30.0, float(turn)) for worker in workers].count(True) == 1
        workers[1].do("confirm", "a", 0, float(turn))


# What holds whatever happens to the processes.


@dataclass
class Journal:
    """What processes wrote of their marks: begun, and (those that came back) done."""

    begun: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    begun_deadlines: dict[str, set[float]] = field(default_factory=dict)
    done_deadlines: dict[str, set[float]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Journal:
        journal = cls()
        for path in folder.iterdir():
            for line in path.read_text().splitlines(keepends=True):
                if not line.endswith("\n"):
                    break  # the kill cut the journal's own last line: that mark was not begun, or not told as done
                stage, key, until_at = line.split()
                begun = stage == "begun"
                (journal.begun if begun else journal.done)[key] += 1
                deadlines = journal.begun_deadlines if begun else journal.done_deadlines
                deadlines.setdefault(key, set()).add(float(until_at))
        return journal

    def check(self, folder: Path) -> None:
        """Every mark that came back is in the file, and none that was never made."""
        keys = sorted(self.begun)
        with opened(folder) as store:
            found = dict(zip(keys, store.read(keys), strict=True))
        for key, record in found.items():
            counted = record.limited_count + record.refused_count
            assert self.done[key] <= counted <= self.begun[key], key
            if key.startswith("retired"):
                assert record.is_retired or not self.done[key], f"the retirement of {key} is lost"
            else:
                latest = max(self.done_deadlines.get(key, {0.0}))
                assert record.cooling_until_at >= latest, f"the deadline of {key} is lost"
                assert record.cooling_until_at in self.begun_deadlines[key] | {0.0}


LIMITED_KEYS = [f"limited-{number}" for number in range(5)]
RETIRED_KEYS = [f"retired-{number}" for number in range(500)]


def mark_at_random(folder: Path, journal_path: Path, seed: int, is_open: Connection, stop: Any) -> None:
    """Mark keys and read them until told to stop or killed; each mark is noted before and after."""
    chance = random.Random(seed)
    journal = os.open(journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with opened(folder) as store:
        is_open.send(True)
        while stop is None or not stop.is_set():
            until_at = float(chance.randrange(1, 1_000_000))
            key = chance.choice(RETIRED_KEYS if chance.random() < 0.1 else LIMITED_KEYS)
            os.write(journal, f"begun {key} {until_at}\n".encode())
            if key.startswith("retired"):
                store.retire(key, 0, REFUSED)
            else:
                store.cool(key, until_at, 0, LIMITED)
            os.write(journal, f"done {key} {until_at}\n".encode())
            store.read(LIMITED_KEYS)


class Storm:
    """Processes that mark at random; some live on, others are killed."""

    def __init__(self, folder: Path) -> None:
        self.state, self.journals = folder / "state", folder / "journals"
        self.journals.mkdir()
        self._stop = processes.Event()
        self._count = 0
        self._numbers: dict[BaseProcess, int] = {}
        self._survivors = [self._begin(self._stop) for _ in range(2)]

    def kill_some(self, chance: random.Random) -> None:
        """Start three processes and kill them, each when it has noted a number of marks of its own."""
        for victim in [self._begin(None) for _ in range(3)]:
            journal = self.journals / str(self._numbers[victim])
            noted = journal.stat().st_size + chance.randrange(2000)
            while journal.stat().st_size < noted:
                assert victim.is_alive()
            victim.kill()
            assert end(victim) == -signal.SIGKILL

    def stop(self) -> None:
        self._stop.set()
        for survivor in self._survivors:
            assert end(survivor) == 0

    def _begin(self, stop: Any) -> BaseProcess:
        self._count += 1
        ours, theirs = processes.Pipe()
        journal = self.journals / str(self._count)
        process = begin(mark_at_random, self.state, journal, self._count, theirs, stop)
        theirs.close()
        assert ours.poll(PATIENCE_SECONDS), "a process is wedged"
        ours.close()
        self._numbers[process] = self._count
        return process


@pytest.mark.parametrize("rounds", [15, pytest.param(2000, marks=pytest.mark.long)])
def test_killed_processes_wedge_nobody_and_lose_nothing(tmp_path: Path, rounds: int) -> None:
    """Given processes that mark without a pause, when others beside them are killed at random instants, then every
    mark that came back is in the file, deadlines only grow, no retirement is undone, and everybody goes on."""
    chance = random.Random(rounds)
    storm = Storm(tmp_path)
    seen = [NEVER_SEEN] * (len(LIMITED_KEYS) + len(RETIRED_KEYS))
    with opened(storm.state) as store:
        for turn in range(1, rounds + 1):
            storm.kill_some(chance)
            assert bounded(lambda turn=turn: store.cool("mine", float(turn), 0, Cause("", 429, turn - 0.5)))
            found = bounded(lambda: store.read(LIMITED_KEYS + RETIRED_KEYS))
            for before, after in zip(seen, found, strict=True):
                assert after.cooling_until_at >= before.cooling_until_at
                assert after.is_retired >= before.is_retired
                assert after.limited_count >= before.limited_count
            seen = found
        assert store.read(["mine"])[0].limited_count == rounds
    storm.stop()
    assert not is_set_aside(storm.state)
    Journal.read(storm.journals).check(storm.state)


def die_between_reading_and_writing(folder: Path, number: int) -> None:
    def die(record: Record) -> Record:
        os.kill(os.getpid(), signal.SIGKILL)
        return record

    with opened(folder) as store:
        store.cool("a", float(number), 0, LIMITED)
        store._change("a", die)


@pytest.mark.parametrize("times", [20, pytest.param(2000, marks=pytest.mark.long)])
def test_process_killed_with_the_writers_lock_wedges_nobody(tmp_path: Path, times: int) -> None:
    with opened(tmp_path) as store:
        for number in range(1, times + 1):
            assert end(begin(die_between_reading_and_writing, tmp_path, number)) == -signal.SIGKILL
            assert bounded(lambda: store.read(["a"]))[0].limited_count == 2 * number - 1
            bounded(lambda: store.cool("a", 0.5, 0, LIMITED))
        (record,) = store.read(["a"])
    assert (record.cooling_until_at, record.limited_count) == (float(times), 2 * times)


def hold(folder: Path, orders: Connection) -> None:
    """Take the writers' lock when told to, and leave it when told to."""

    def held(record: Record) -> Record:
        orders.send("held")
        orders.recv()
        return record

    with opened(folder) as store:
        for _ in iter(orders.recv, None):
            store._change("held", held)
            orders.send("left")


def spin(processor: int, orders: Connection) -> None:
    os.sched_setaffinity(0, {processor})
    orders.send("spins")
    while not orders.poll():
        pass


@contextmanager
def spinning(processor: int) -> Iterator[None]:
    """A processor is kept from whoever matters less."""
    orders, theirs = processes.Pipe()
    process = begin(spin, processor, theirs)
    assert heard(orders) == "spins"
    yield
    orders.send("stop")
    assert end(process) == 0


@pytest.mark.parametrize("times", [5, pytest.param(500, marks=pytest.mark.long)])
def test_killed_waiter_takes_nobodys_turn_along(tmp_path: Path, times: int) -> None:
    """Given two processes that wait for the writers' lock, when it is left, the first of them is killed before it has
    run, and another has taken it meanwhile, then the second gets its turn all the same."""
    processor = min(os.sched_getaffinity(0))
    orders, theirs = processes.Pipe()
    holder = begin(hold, tmp_path, theirs)
    second = Worker(tmp_path)
    for turn in range(times):
        first = Worker(tmp_path)
        orders.send("hold")
        assert heard(orders) == "held"
        for waiter in (first, second):
            waiter.begin("cool", "a", float(turn), 0, LIMITED)
            assert wait_until(waiter.waits, PATIENCE_SECONDS)
        with spinning(processor):
            os.sched_setaffinity(first.pid, {processor})
            os.sched_setscheduler(first.pid, os.SCHED_IDLE, os.sched_param(0))
            for order, answer in (("leave", "left"), ("hold", "held")):
                orders.send(order)
                assert heard(orders) == answer
            first.process.kill()
        end(first.process)
        orders.send("leave")
        assert heard(orders) == "left"
        second.finish()
    (record,) = second.do("read", ["a"])
    assert (record.cooling_until_at, record.limited_count >= times) == (times - 1, True)
    second.stop()
    orders.send(None)
    assert end(holder) == 0


def open_only(folder: Path, begins: Connection) -> None:
    begins.send(True)
    FileStore(folder).start_anew(1.0)
    signal.pause()


@pytest.mark.parametrize("times", [15, pytest.param(500, marks=pytest.mark.long)])
def test_process_killed_while_it_opens_the_file_wedges_nobody(tmp_path: Path, times: int) -> None:
    """Given an empty folder, when processes that begin the file are killed as soon as there are so many files or more,
    then the next can use it."""
    chance = random.Random(times)
    for number in range(times):
        folder = tmp_path / str(number)
        folder.mkdir()
        for _ in range(2):
            ours, theirs = processes.Pipe()
            process = begin(open_only, folder, theirs)
            assert ours.poll(PATIENCE_SECONDS)
            files = chance.randrange(2)
            while len(os.listdir(folder)) < files:
                assert process.is_alive()
            process.kill()
            end(process)
            ours.close()
            theirs.close()
        with bounded(lambda folder=folder: opened(folder)) as store:
            assert bounded(lambda store=store: store.cool("a", 5.0, 0, LIMITED))
        assert not is_set_aside(folder)


def mark_in_threads(folder: Path, number: int, threads: int, times: int) -> None:
    with opened(folder) as store:
        barrier = threading.Barrier(threads)

        def mark(thread_number: int) -> None:
            barrier.wait(PATIENCE_SECONDS)
            for turn in range(times):
                until_at = float(turn * 1000 + thread_number * 10 + number)
                store.cool("a", until_at, 0, LIMITED)
                assert store.read(["a"])[0].cooling_until_at >= until_at

        running = [threading.Thread(target=mark, args=(thread_number,)) for thread_number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()


@pytest.mark.parametrize("times", [100, pytest.param(5000, marks=pytest.mark.long)])
def test_threads_of_several_processes_lose_no_mark(tmp_path: Path, times: int) -> None:
    """Given eight threads in each of four processes, when all mark one key at once, then each mark is counted and
    the latest deadline has won."""
    running = [begin(mark_in_threads, tmp_path, number, 8, times) for number in range(4)]
    assert [end(process, PATIENCE_SECONDS + 0.2 * times) for process in running] == [0] * 4
    with opened(tmp_path) as store:
        (record,) = store.read(["a"])
    assert record.limited_count == 4 * 8 * times
    assert record.cooling_until_at == (times - 1) * 1000 + 73


# Restart, privacy.


def test_state_survives_being_opened_again(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.cool("a", 60.0, 0, LIMITED)
        store.retire("b", 0, REFUSED)
        store.disable("c", BY_HAND)
        store.enable("d")
        before = store.read(["a", "b", "c", "d", "e"])
    with opened(tmp_path) as store:
        assert store.read(["a", "b", "c", "d", "e"]) == before
    assert before[1].is_retired
    assert before[3].generation == 1
    assert before[4] == NEVER_SEEN


def test_restart_gives_refused_keys_one_trial_and_a_respawned_worker_none(tmp_path: Path) -> None:
    """Given a refused, a disabled and a cooling key, when the gateway restarts at 20, then the refused one alone may
    be tried, by one request; a worker that is only started again changes nothing."""
    with opened(tmp_path) as store:
        store.retire("refused", 0, REFUSED)
        store.disable("disabled", BY_HAND)
        store.cool("cooling", 60.0, 0, LIMITED)
        before = store.read(["refused", "disabled", "cooling"])
    with opened(tmp_path) as respawned:
        assert respawned.read(["refused", "disabled", "cooling"]) == before
    with opened(tmp_path) as master:
        master.start_anew(20.0)
    started = [Worker(tmp_path) for _ in range(3)]
    try:
        refused, disabled, cooling = started[0].do("read", ["refused", "disabled", "cooling"])
        assert refused.is_on_trial(20.0)
        assert [disabled, cooling] == before[1:]
        assert [worker.do("lease", "refused", 50.0, 20.0) for worker in started] == [True, False, False]
        assert started[0].do("retire", "refused", refused.generation, REFUSED) is True
        assert started[1].do("read", ["refused"])[0].is_permanent
    finally:
        for worker in started:
            worker.stop()


def test_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "gateway"
    with opened(folder) as store:
        store.cool("a", 60.0, 0, LIMITED)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_files_hold_neither_a_secret_nor_its_plain_fingerprint(tmp_path: Path) -> None:
    planted = [f"sk-ant-api03-planted-{number}-{'x' * 40}" for number in range(30)]
    with opened(tmp_path) as store:
        for clear in planted:
            fingerprint = Secret(clear).fingerprint
            store.cool(fingerprint, 60.0, 0, LIMITED)
            store.lease(fingerprint, 100.0, 70.0)
            store.retire(fingerprint, 0, REFUSED)
            store.enable(fingerprint)
            store.disable(fingerprint, BY_HAND)
        assert "planted" not in repr(store)
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"disabled" in held, "the records are in the clear, so a secret would be seen"
    assert b"planted" not in held
    for clear in planted:
        fingerprint = Secret(clear).fingerprint
        for form in (fingerprint[:16].encode(), fingerprint[-16:].encode(), bytes.fromhex(fingerprint)[:8]):
            assert form not in held


def test_two_files_name_one_key_differently(tmp_path: Path) -> None:
    """Each file has a salt of its own, so that two gateways' files cannot be matched."""
    held = []
    for name in ("one", "other"):
        with opened(tmp_path / name) as store:
            store.cool("a", 60.0, 0, LIMITED)
            held.append(store._known.name("a"))
    assert held[0] != held[1]

"""A worker's threads: who goes next, how many there are, and that they end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from gateway.server.thread_pool import ThreadPool
from tests.harness import wait_until

SOON_SECONDS = 30.0


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(2)
    yield pool
    pool.shutdown()


class Occupied:
    """A task that lasts until it is told to end."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        self.begun.set()
        assert self.may_end.wait(SOON_SECONDS)


def is_busy(pool: ThreadPool, number: int) -> bool:
    """Whether so many threads are at work, now or soon."""
    return wait_until(lambda: f" {number} busy" in repr(pool), SOON_SECONDS)


def test_a_task_that_finds_every_thread_busy_has_its_turn_when_one_is_free(pool):
    """Given as many running tasks as threads, then one more waits, and runs once one of them ends, in its thread."""
    busy = [Occupied(), Occupied()]
    for task in busy:
        pool.submit(task)
    assert all(task.begun.wait(SOON_SECONDS) for task in busy)
    assert repr(pool) == "<ThreadPool 2 busy of 2>"
    late = Occupied()
    pool.submit(late)
    busy[0].may_end.set()
    assert late.begun.wait(SOON_SECONDS)
    # The other thread is still at its own task: had the late one not waited for the first, nobody could have begun it.
    assert late.thread is busy[0].thread
    busy[1].may_end.set()
    late.may_end.set()


def test_the_thread_that_was_busy_last_goes_first(pool):
    """Given two idle threads, then the next task is done by the one that was busy last."""
    first, second = Occupied(), Occupied()
    for task in (first, second):
        pool.submit(task)
        assert task.begun.wait(SOON_SECONDS)
    for busy, task in ((1, second), (0, first)):
        task.may_end.set()
        assert is_busy(pool, busy)
    third = Occupied()
    pool.submit(third)
    assert third.begun.wait(SOON_SECONDS)
    assert third.thread is first.thread
    third.may_end.set()


def test_tasks_that_do_not_overlap_are_one_thread_s(pool):
    """Given tasks one after the other, then one thread does them all."""
    threads = []
    for number in range(1, 4):
        pool.submit(lambda: threads.append(threading.current_thread()))
        assert is_busy(pool, 0)
        assert len(threads) == number
    assert len(set(threads)) == 1


def test_all_threads_begin_with_the_pool():
    """Given a pool that has done nothing yet, then all its threads are there, and end with it."""
    before = set(threading.enumerate())
    pool = ThreadPool(3)
    begun = set(threading.enumerate()) - before
    assert len(begun) == 3
    pool.shutdown()
    for thread in begun:
        thread.join(SOON_SECONDS)
        assert not thread.is_alive()


def test_a_system_that_grants_too_few_threads_is_named_at_the_start(monkeypatch):
    """Given a system that lets two threads begin, when three are asked for, then it says so, and keeps none."""
    start, begun = threading.Thread.start, []

    def start_two(thread: threading.Thread) -> None:
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="only 2 of a worker's 3 threads"):
        ThreadPool(3)
    for thread in begun:
        thread.join(SOON_SECONDS)
        assert not thread.is_alive()


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(1), MemoryError()], ids=repr)
def test_a_task_that_fails_costs_no_thread(pool, caplog, error):
    """Given a task that raises whatever it may, then the log says so and its thread goes on."""

    def fail() -> None:
        raise error

    for _ in range(3):
        pool.submit(fail)
    assert is_busy(pool, 0)
    assert caplog.text.count("a task failed") == 3
    task = Occupied()
    pool.submit(task)
    assert task.begun.wait(SOON_SECONDS)
    task.may_end.set()


def test_shut_down_the_pool_lets_its_threads_go_and_begins_nothing():
    """Given a idle and a busy thread, when the pool shuts down, then both end, and later tasks are not begun."""
    pool = ThreadPool(3)
    idle, busy, late = Occupied(), Occupied(), Occupied()
    for task in (idle, busy):
        pool.submit(task)
        assert task.begun.wait(SOON_SECONDS)
    idle.may_end.set()
    assert is_busy(pool, 1)
    pool.shutdown()
    pool.submit(late)
    busy.may_end.set()
    for task in (idle, busy):
        assert task.thread is not None
        task.thread.join(SOON_SECONDS)
        assert not task.thread.is_alive()
    assert not late.begun.is_set()

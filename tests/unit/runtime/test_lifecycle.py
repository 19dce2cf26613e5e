"""The phases of a worker, and the signal that ends what still runs."""

from __future__ import annotations

import os
import select

from gateway.runtime.lifecycle import Lifecycle, Phase
from tests.harness import wait_until
from tests.unit.fakes import descriptors, race


def is_readable(lifecycle: Lifecycle, timeout_seconds: float = 0.0) -> bool:
    return bool(select.select([lifecycle], [], [], timeout_seconds)[0])


def test_phases_go_one_way(lifecycle):
    """Given a worker, then it starts, serves and drains in this order and never goes back."""
    assert lifecycle.phase is Phase.STARTING
    lifecycle.serve()
    assert lifecycle.phase is Phase.SERVING
    assert lifecycle.drain(60)
    assert lifecycle.phase is Phase.DRAINING
    lifecycle.serve()
    assert lifecycle.phase is Phase.DRAINING


def test_stopping_before_serving_stays_stopped(lifecycle):
    """Given a worker that is told to stop while it starts, then it never serves."""
    lifecycle.drain(60)
    lifecycle.serve()
    assert lifecycle.phase is Phase.DRAINING


def test_draining_begins_once(lifecycle):
    """Given several signals to stop at once, then one of them begins the drain."""
    assert sum(race(16, lambda _: lifecycle.drain(60))) == 1


def test_what_runs_may_run_on_until_the_drain_time_is_over(lifecycle):
    """Given a long drain time, then nothing is over; given the end, then the descriptor is readable and stays so."""
    lifecycle.drain(60)
    assert not lifecycle.is_over
    assert not is_readable(lifecycle)
    lifecycle.end()
    assert lifecycle.is_over
    assert all(is_readable(lifecycle) for _ in range(3))


def test_drain_time_ends_by_itself_and_wakes_all_who_wait(lifecycle):
    """Given threads that wait on the descriptor alone, when the drain time is over, then each of them is woken."""
    lifecycle.drain(0.05)
    assert all(race(16, lambda _: is_readable(lifecycle, 30)))
    assert lifecycle.is_over


def test_its_descriptor_is_nobody_else_s_and_blocks_nobody(lifecycle):
    """Given a worker, then a process that it starts does not get the descriptor, and nobody can hang on it."""
    assert not os.get_inheritable(lifecycle.fileno())
    assert not os.get_blocking(lifecycle.fileno())


def test_a_worker_that_ends_leaves_nothing():
    """Given a worker that drains, when it ends before the time is over, then descriptors and timer are gone."""
    lifecycle = Lifecycle()
    before = descriptors()
    another = Lifecycle()
    another.drain(3600)
    timer = another._timer
    assert timer.daemon, "it keeps no process alive"
    another.close()
    timer.join(30)
    assert not timer.is_alive()
    assert wait_until(lambda: descriptors() <= before, 30)
    lifecycle.close()


def test_ending_twice_is_harmless(lifecycle):
    """Given an end by hand and one by the timer, then nothing breaks."""
    for _ in range(3):
        lifecycle.end()
    assert is_readable(lifecycle)
    assert repr(lifecycle) == "<Lifecycle starting over>"

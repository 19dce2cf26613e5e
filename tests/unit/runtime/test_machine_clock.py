"""What is measured is measured by a clock that nobody sets; the wall clock is for people and for dates."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from gateway.config.settings import Settings
from gateway.keys.standing import KeyState
from gateway.keys.store import MemoryStore
from gateway.runtime.machine_clock import boot_id, machine_time
from gateway.web.service import Gateway
from gateway.web.status import status_of
from gateway.web.status_data import as_data, moment
from tests.unit.fakes import NOW, FakeClock, cool, keys_of, retire


@pytest.mark.parametrize("set_by_seconds", [-3600, 3600, -2000 * 86400, 2000 * 86400])
def test_wall_clock_that_is_set_changes_no_cooldown_and_no_lease(set_by_seconds):
    """Given a cooling, a tried and a retired key, when the wall clock is set, then what is left, and how long ago the
    marks were made, is the same; the page shows the marks' times by the clock that people see now."""
    clock, wall_clock = FakeClock(5000.0), FakeClock(NOW)
    gateway = Gateway(Settings(keys=tuple(keys_of(3))), MemoryStore(), clock=clock, wall_clock=wall_clock)
    pool = gateway.configuration.pool
    cool(pool, 1, 1)
    clock.advance(2)
    lease = pool.lease(pool.statuses()[1])
    cool(pool, 0, 5)
    retire(pool, 2)
    wall_clock.advance(set_by_seconds)
    clock.advance(1)
    wall_clock.advance(1)
    first, second, third = pool.statuses()
    assert (first.state, first.remaining_seconds) == (KeyState.TEMPORARY, pytest.approx(4))
    assert second.is_leased
    assert third.marked_ago_seconds == pytest.approx(1)
    marked = {key["key"]: key["since"] for key in as_data(status_of(gateway))["keys"]}
    assert marked["k0"] == marked["k2"] == moment(wall_clock.now - 1)
    clock.advance(29)
    assert not pool.statuses()[1].is_leased
    assert lease is not None


def test_all_processes_of_the_machine_have_one_clock():
    """Given another process, then what it reads lies between two readings of this one; and the start is the same."""
    before = machine_time()
    program = "from gateway.runtime.machine_clock import boot_id, machine_time; print(machine_time(), boot_id())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    shown, start = done.stdout.split()
    assert before <= float(shown) <= machine_time()
    assert start == boot_id()


def test_nobody_sets_it(monkeypatch):
    """Given a wall clock that shows anything, then it does not care."""
    before = machine_time()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= machine_time() - before < 60
    assert before > 1e9, "points in time before the machine's start are no negative numbers"

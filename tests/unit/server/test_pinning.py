"""Which processor a worker keeps to."""

from __future__ import annotations

import errno
import os
import tempfile
from types import SimpleNamespace

import pytest

from gateway.runtime import process_tuning
from gateway.server import master
from gateway.web import launch


@pytest.fixture
def fork(monkeypatch):
    """Begins a worker beside those that run, and returns its processor."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 5, 7})
    monkeypatch.setattr(master, "_first_processor", 3 * 7 + 1)
    running: dict[int, SimpleNamespace] = {}

    def begin(pinned: bool = True) -> int | None:
        monkeypatch.setattr(launch, "settings", lambda: SimpleNamespace(pin_workers=pinned, mcp_start_seconds=5.0))
        with tempfile.TemporaryFile() as heartbeat:
            worker = SimpleNamespace(age=len(running) + 1, tmp=heartbeat)
            master.pre_fork(SimpleNamespace(WORKERS=running), worker)
        running[len(running) + 100] = worker
        return worker.processor

    begin.running = running
    return begin


def test_workers_are_spread_over_the_processors_that_may_be_used(fork):
    """Given more workers than processors, then none has two workers before each has one."""
    assert [fork() for _ in range(5)] == [5, 7, 2, 5, 7]


def test_a_worker_that_takes_anothers_place_takes_its_processor(fork):
    """Given a worker that died, then the next one keeps to the processor that was left."""
    assert [fork() for _ in range(3)] == [5, 7, 2]
    del fork.running[101]
    assert fork() == 7


def test_no_two_workers_that_live_share_a_row(fork):
    """Given workers of which one ends, then each has a row of its own, and the next takes the one that was left."""
    for _ in range(3):
        fork()
    rows = [worker.row for worker in fork.running.values()]
    assert rows == [0, 1, 2]
    del fork.running[101]
    fork()
    assert fork.running[102].row == 1


def test_a_worker_may_be_left_to_the_kernel(fork):
    """Given GATEWAY_PIN_WORKERS=false, then a worker keeps to no processor."""
    assert fork(pinned=False) is None


@pytest.mark.parametrize("forbidden", ["sched_setaffinity", "sched_setscheduler"])
def test_a_sandbox_that_forbids_it_keeps_no_worker_from_starting(monkeypatch, caplog, forbidden):
    """Given a system that refuses one of the calls, as a filter of system calls does, then the log says so."""
    asked = []
    for name in ("sched_setaffinity", "sched_setscheduler"):
        monkeypatch.setattr(os, name, lambda *_, name=name: asked.append(name))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, forbidden, refuse)
    process_tuning.keep_to(2)
    assert forbidden not in asked
    assert "go where the system puts them: Operation not permitted" in caplog.text

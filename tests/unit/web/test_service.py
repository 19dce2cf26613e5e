"""A worker's gateway as a whole: its housekeeping, and how it ends."""

from __future__ import annotations

import logging
import threading
from itertools import pairwise

import pytest

from gateway.access.credential import Key, Secret
from gateway.config.settings import Settings
from gateway.keys.store import MemoryStore
from gateway.records.interception_record import InterceptionRecord
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import Tracing
from gateway.tools.mcp.toolbox import McpToolbox
from gateway.upstream import Upstream
from gateway.web.service import Gateway
from tests.unit.fakes import FakeClock


def test_what_ends_with_a_worker_ends_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a store, a recorder, traces and MCP servers that all wait; then they do so at once, each to its end."""
    together = threading.Barrier(4)
    ended: list[str] = []

    def end(name: str) -> None:
        together.wait(30)
        ended.append(name)

    class SlowRecorder:
        def put(self, record: InterceptionRecord) -> None: ...

        def close(self) -> None:
            end("recorder")

    monkeypatch.setattr(MemoryStore, "flush", lambda self: end("store"))
    monkeypatch.setattr(Tracing, "close", lambda self: end("tracing"))
    monkeypatch.setattr(McpToolbox, "close", lambda self, seconds: end("tools"))
    gateway = Gateway(Settings(upstream_url="http://127.0.0.1:1", keys=(Key("a", Secret("sk-a")),)))
    gateway.recorder = SlowRecorder()
    gateway.flush()
    assert sorted(ended) == ["recorder", "store", "tools", "tracing"]


def test_housekeeping_is_done_once_a_second_however_often_the_worker_comes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a main loop with hundreds of rounds a second; then each second has one round of housekeeping."""
    clock, rounds = FakeClock(0.0), []
    monkeypatch.setattr(Upstream, "drop_stale", lambda self: rounds.append(clock.now))
    gateway = Gateway(Settings(upstream_url="http://127.0.0.1:1", keys=(Key("a", Secret("sk-a")),)), clock=clock)
    for _ in range(300):
        gateway.tick()
        clock.advance(0.01)
    assert len(rounds) == 3


def test_housekeeping_that_fails_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given housekeeping that fails a few times, then it is told once and tried again later, and once when it works."""
    caplog.set_level(logging.INFO)
    clock, tried = FakeClock(), []

    def settle(_: Metrics) -> None:
        tried.append(clock.now)
        if len(tried) <= 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Metrics, "settle", settle)
    gateway = Gateway(Settings(upstream_url="http://127.0.0.1:1", keys=(Key("a", Secret("sk-a")),)), clock=clock)
    while len(tried) < 5:
        gateway.tick()
        clock.advance(0.25)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "the worker's housekeeping fails; it is tried again until it works",
        "the worker's housekeeping works again",
    ]
    assert all(later - earlier >= 1 for earlier, later in pairwise(tried)), "about once a second, however often asked"


def test_part_that_does_not_end_well_keeps_no_other_from_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a store that fails at the end, then the log says so, and the tools are ended all the same."""
    ended: list[float] = []
    monkeypatch.setattr(MemoryStore, "flush", lambda self: 1 // 0)
    monkeypatch.setattr(McpToolbox, "close", lambda self, seconds: ended.append(seconds))
    Gateway(Settings(upstream_url="http://127.0.0.1:1", keys=(Key("a", Secret("sk-a")),))).flush()
    assert len(ended) == 1
    assert "ZeroDivisionError" in caplog.text

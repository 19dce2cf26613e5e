"""A worker's gateway as a whole: how it ends."""

from __future__ import annotations

import threading

import pytest

from gateway.credential import Key, Secret
from gateway.interception_record import InterceptionRecord
from gateway.mcp.toolbox import McpToolbox
from gateway.service import Gateway
from gateway.settings import Settings
from gateway.store import MemoryStore
from gateway.tracing import Tracing
from gateway.upstream import Upstream
from tests.unit.fakes import FakeClock


def test_what_ends_with_a_worker_ends_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a store, a recorder, traces and MCP servers that all wait; then they do so at once, each to its end."""
    together = threading.Barrier(4)
    ended: list[str] = []

    def end(name: str) -> None:
        together.wait(10)
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

"""Sessions keep the tools that they began with, whichever worker their requests come to."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.tools import tool_sessions
from gateway.tools.tool_sessions import IDLE_SECONDS, ToolSessions
from gateway.tools.toolbox import InjectedTool
from tests.unit.fakes import FakeClock

NOW = time.time()


def toolset(*names: str, words: str = "old") -> tuple[InjectedTool, ...]:
    """Tools of these names, whose descriptions are these words."""
    return tuple(
        InjectedTool(f"bmcp_s_{name}", "s", name, {"name": f"bmcp_s_{name}", "description": words, "input_schema": {}})
        for name in sorted(names)
    )


def told(tools: Sequence[InjectedTool]) -> list[tuple[str, str]]:
    return [(tool.tool, tool.definition["description"]) for tool in tools]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def workers(tmp_path: Path, clock: FakeClock) -> list[ToolSessions]:
    """Two workers of one gateway."""
    return [ToolSessions(tmp_path / "tool-sessions", clock) for _ in range(2)]


def test_session_keeps_its_tools_in_every_worker(workers):
    """Given a session, when tools are added, changed and removed, then it has those that it began with as they were,
    as long as they exist, in whichever worker; and a new session has those of now."""
    old, new = toolset("a", "b", "c"), toolset("a", "b", "d", words="new")
    assert workers[0].tools("ann", "s1", old) == old
    for worker in (*workers, *reversed(workers)):
        assert told(worker.tools("ann", "s1", new)) == [("a", "old"), ("b", "old")]
    assert told(workers[1].tools("ann", "s1", old)) == told(old), "what has come back is there again"
    assert workers[1].tools("ann", "s2", new) == new
    assert told(workers[0].tools("ann", "s2", toolset("a", "b", "d", "e"))) == told(new)


def test_definitions_are_the_same_to_the_byte(workers):
    """Given a schema with all that JSON has, then another worker finds it unchanged: caches and thoughts hang on it."""
    schema = {"z": 1.0, "a": [1, True, None, 1e300, -0.0], "caf\u00e9": {"": '\u2028\\"/'}}
    (old,) = toolset("a")
    before = (InjectedTool(old.name, old.server, old.tool, {**old.definition, "input_schema": schema}),)
    workers[0].tools(None, "s", before)
    (kept,) = workers[1].tools(None, "s", toolset("a", "b"))
    assert tool_sessions.to_json(kept.definition) == tool_sessions.to_json(before[0].definition)


@pytest.mark.parametrize(
    ("client", "session", "is_kept"),
    [("ann", "s", True), ("bob", "s", False), (None, "s", False), ("ann", None, False)],
)
def test_session_is_the_clients_own(workers, client, session, is_kept):
    workers[0].tools("ann", "s", toolset("a"))
    now = toolset("a", "b")
    assert len(workers[0].tools(client, session, now)) == (1 if is_kept else 2)


def test_session_of_which_no_tool_exists_any_more_has_those_of_now(workers):
    workers[0].tools("ann", "s", toolset("a"))
    assert workers[0].tools("ann", "s", toolset("x")) == toolset("x")
    assert workers[0].tools("ann", "s", ()) == ()
    assert told(workers[0].tools("ann", "s", toolset("a", "x"))) == [("a", "old")]


def test_session_is_forgotten_when_it_has_been_idle_for_a_day(workers, clock):
    """Given a session, then using it keeps it, and a day without use ends it."""
    old, new = toolset("a"), toolset("a", "b")
    workers[0].tools("ann", "s", old)
    for _ in range(4):
        clock.advance(IDLE_SECONDS * 0.9)
        assert len(workers[1].tools("ann", "s", new)) == 1
    clock.advance(IDLE_SECONDS * 1.1)
    assert [len(worker.tools("ann", "s", new)) for worker in workers] == [2, 2]


def test_workers_that_begin_a_session_at_once_agree(tmp_path, clock):
    """Given many workers with different tools that begin one session at the same time, then one of them decides."""
    workers = [ToolSessions(tmp_path / "x", clock) for _ in range(8)]
    for round_ in range(10):
        barrier = threading.Barrier(len(workers))

        def begin(number: int, round_: int = round_, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(30)
            workers[number].tools("ann", f"s{round_}", toolset("a", words=f"of {number}"))

        threads = [threading.Thread(target=begin, args=(number,)) for number in range(len(workers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        everyone = {tuple(told(worker.tools("ann", f"s{round_}", toolset("a", "b")))) for worker in workers}
        assert len(everyone) == 1


def test_what_is_kept_is_bounded(tmp_path, clock, monkeypatch):
    """Given more sessions and sets than are kept, then the oldest go, on disk as in memory; the newest stay."""
    monkeypatch.setattr(tool_sessions, "MOST_SESSIONS", 20)
    monkeypatch.setattr(tool_sessions, "MOST_SETS", 5)
    monkeypatch.setattr(tool_sessions, "_SESSIONS_A_SWEEP", 10)
    sessions = ToolSessions(tmp_path, clock)
    for number in range(100):
        clock.advance(1)
        sessions.tools("ann", f"s{number}", toolset("a", words=str(number)))
    assert len(list((tmp_path / "sessions").iterdir())) <= 30
    assert len(list((tmp_path / "sets").iterdir())) <= 6
    assert repr(sessions) == "<ToolSessions known=20>"
    assert told(ToolSessions(tmp_path, clock).tools("ann", "s99", toolset("a", "b"))) == [("a", "99")]


def spoil_as_a_file(folder: Path) -> None:
    folder.write_text("in the way")


def spoil_the_set(folder: Path) -> None:
    ToolSessions(folder).tools("ann", "s", toolset("a"))
    for file in (folder / "sets").iterdir():
        file.write_text('{"no": "set"}')


def spoil_the_session(folder: Path) -> None:
    ToolSessions(folder).tools("ann", "s", toolset("a"))
    for link in (folder / "sessions").iterdir():
        link.unlink()
        link.mkdir()


@pytest.mark.parametrize("spoil", [spoil_as_a_file, spoil_the_set, spoil_the_session])
def test_what_cannot_be_kept_fails_no_request_and_is_told_once(tmp_path, caplog, spoil):
    """Given a folder that cannot be used, then sessions have the tools of now, and one line says why."""
    folder = tmp_path / "tool-sessions"
    spoil(folder)
    sessions = ToolSessions(folder)
    for _ in range(3):
        assert len(sessions.tools("ann", "s", toolset("a", "b"))) == 2
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "cannot be kept in the data folder" in line.getMessage()


def test_session_whose_set_is_gone_begins_anew(workers, tmp_path, clock):
    """Given a set that somebody has removed, then the session has the tools of now, and keeps those."""
    workers[0].tools("ann", "s", toolset("a"))
    for file in (tmp_path / "tool-sessions" / "sets").iterdir():
        file.unlink()
    assert len(workers[1].tools("ann", "s", toolset("a", "b"))) == 2
    assert len(workers[1].tools("ann", "s", toolset("a", "b", "c"))) == 2
    clock.advance(100)
    assert len(workers[0].tools("ann", "s", toolset("a", "b", "c"))) == 2, "the others notice within a minute"


def test_without_a_folder_nothing_is_kept():
    sessions = ToolSessions(None)
    sessions.tools("ann", "s", toolset("a"))
    assert len(sessions.tools("ann", "s", toolset("a", "b"))) == 2


def test_neither_tokens_nor_sessions_can_be_read_from_the_folder(workers, tmp_path):
    workers[0].tools("planted-client", "planted-session", toolset("a"))
    for path in tmp_path.rglob("*"):
        assert "planted" not in path.name
        if path.is_symlink():
            assert "planted" not in os.readlink(path)
        elif path.is_file():
            assert b"planted" not in path.read_bytes()

"""Nobody holds a lock while a request waits: others would wait for it as long, and in the poller all of them.

The application runs as the gateway's worker has it, with its Pauses, over a real upstream; the store, the limits and
the recorder are those of a gateway on one machine.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from gateway.access.authentication import ClientToken
from gateway.access.credential import Key, Secret
from gateway.config.limit_rules import LimitRules, Limits
from gateway.config.settings import Settings
from gateway.keys.file_store import FileStore
from gateway.runtime.client_socket import ClientSocket
from gateway.runtime.pause import Pause, wait
from gateway.simulator import Simulator
from gateway.tools.toolbox import InjectedTool
from gateway.web import launch
from gateway.web.app import create_app
from gateway.web.request_body import ARRIVING
from gateway.web.service import Gateway
from tests.unit.held_locks import HeldLocks
from tests.unit.loop_rig import FakeCall, FakeToolbox, said

KEYS = {"first": "sk-sim-first", "second": "sk-sim-second"}
TOKEN = "gwt_the-token-of-ann-0123456789"
ANN = ClientToken("ann", Secret(TOKEN).fingerprint, False, None)
SLOW = "ok:first=0.05"
LATER_SECONDS = 0.05


class LateCall(FakeCall):
    """A call of a tool whose result comes a moment later."""

    def __init__(self) -> None:
        super().__init__(None)
        self._result = said("done")
        threading.Timer(LATER_SECONDS, self._come).start()

    def _come(self) -> None:
        end, self._write_end = self._write_end, None
        if end is not None:
            os.close(end)


class LateTools(FakeToolbox):
    """Tools whose results come a moment later."""

    def begin(self, tool: InjectedTool, arguments: Mapping[str, Any], context: Mapping[str, str]) -> LateCall:
        return LateCall()


class LateBody:
    """A request body of which something is missing when it is first asked for."""

    def __init__(self) -> None:
        self._ours, self._their = socket.socketpair()
        self._is_there = False

    def fileno(self) -> int:
        return self._ours.fileno()

    def receive(self, limit_bytes: int) -> bool:
        was_there, self._is_there = self._is_there, True
        if not was_there:
            self._their.send(b"x")
        return was_there

    def forget(self) -> None: ...

    def close(self) -> None:
        self._ours.close()
        self._their.close()


class Ran:
    """The application over an upstream, built and run under `held`."""

    def __init__(self, held: HeldLocks, upstream_url: str, folder: Path, tools: FakeToolbox | None) -> None:
        self.held = held
        self.pauses = 0
        (folder / "tokens").write_text(f"{ANN.line}\n")
        self.settings = Settings(
            keys=tuple(Key(name, Secret(secret)) for name, secret in KEYS.items()),
            upstream_url=upstream_url,
            data_dir=str(folder),
            limits=LimitRules(default=Limits(requests_per_minute=1000, concurrent=100)),
            client_tokens_file=str(folder / "tokens"),
            tokens=(ANN,),
        )
        self.gateway = Gateway(self.settings, FileStore(folder), toolbox=tools)
        self.gateway.recorder = launch.open_recorder(self.settings, self.gateway.metrics)
        self.gateway.begin_limits(partial(launch.open_limiter, self.settings))
        self._application = create_app(self.gateway).extensions["pausing"]

    def ask(self, *, is_streaming: bool) -> str:
        """The status of one request, all of whose Pauses are looked at."""
        body = {"model": "claude-opus-4-8", "max_tokens": 9, "messages": [], "stream": is_streaming}
        environ = EnvironBuilder(
            "/v1/messages", method="POST", headers={"X-Gateway-Token": TOKEN}, json=body
        ).get_environ()
        ours, their = socket.socketpair()
        client = ClientSocket.adopt(ours)
        status: list[str] = []
        with closing(client), closing(their), closing(LateBody()) as late:
            environ |= {ARRIVING: late, "gunicorn.socket": client}
            answer = self._application(environ, lambda line, headers, exc_info=None: status.append(line[:3]))
            with closing(answer):
                for piece in self.held.checked(answer):
                    if isinstance(piece, Pause):
                        self.pauses += 1
                        wait(piece)
        return status[0]

    def close(self) -> None:
        self.gateway.flush()
        self.gateway.configuration.upstream.close()
        self.gateway.lifecycle.close()


CASES = {
    "an answer": ([SLOW, SLOW], "200"),
    "a limited key": (["rate_limited:retry-after=60", SLOW], "200"),
    "a refused key": (["unauthorized", SLOW], "200"),
    "a forbidden key": (["forbidden", SLOW], "200"),
    "no key left": (["rate_limited:retry-after=60", "unauthorized"], "429"),
    "an upstream that breaks off": (["reset:after=2", SLOW], "200 502"),
    "an upstream that fails": (["server_error", SLOW], "500"),
    "a tool": (["tool_use:name=bmcp_box_now then " + SLOW, SLOW], "200"),
}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ran]]:
    """Builds the application over keys that play these scripts, with locks that are counted."""
    with Simulator() as simulator:
        made: list[Ran] = []

        def build(scripts: list[str], tools: FakeToolbox | None = None) -> Ran:
            for secret, script in zip(KEYS.values(), scripts, strict=True):
                simulator.script(secret, script)
            made.append(Ran(HeldLocks(monkeypatch), simulator.url, tmp_path, tools))
            return made[-1]

        yield build
        for ran in made:
            ran.close()


@pytest.mark.parametrize("is_streaming", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("scripts", "statuses"), CASES.values(), ids=CASES)
def test_no_lock_is_held_at_a_pause(
    start: Callable[..., Ran], scripts: list[str], statuses: str, is_streaming: bool
) -> None:
    """Given a request that waits for its body, a connection, an answer and its events, that meets refused keys or
    calls a tool, then its thread holds no lock of the gateway's whenever it yields a Pause."""
    ran = start(scripts, LateTools("now"))
    for _ in range(2):  # on a new connection, and on one that was kept
        assert ran.ask(is_streaming=is_streaming) in statuses.split()
    assert ran.pauses >= 4
    locks = {place.partition(":")[0] for place in ran.held.taken_from}
    assert {"gateway.keys.pool", "gateway.keys.file_store", "gateway.web.admission"} <= locks
    assert {"gateway.upstream.connections", "gateway.limits.machine_memory"} <= locks


# That it would be seen.


def test_lock_that_is_held_at_a_pause_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a generator that yields a Pause under a lock, whatever kind, then the check says which."""
    held = HeldLocks(monkeypatch)
    for lock in (threading.Lock(), threading.RLock(), threading.Condition()):

        def wrong(lock: Any = lock) -> Generator[bytes, None, None]:
            yield b"head"
            with lock:
                pass
            yield Pause(None, None)
            with lock:
                yield b"a piece under a lock is the server's affair"
                yield Pause(None, None)

        running = wrong()
        pieces = held.checked(running)
        assert [next(pieces) for _ in range(3)] == [b"head", b"", b"a piece under a lock is the server's affair"]
        with pytest.raises(AssertionError, match=r"locks are held at <Pause.*test_locks_at_pauses:"):
            next(pieces)
        running.close()
        assert held.here() == []


def test_lock_of_another_thread_and_one_that_was_given_back_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a lock that another thread holds, and one that waits in a Condition, then this thread holds neither."""
    held = HeldLocks(monkeypatch)
    lock, condition = threading.Lock(), threading.Condition()
    other = threading.Thread(target=lock.acquire)
    other.start()
    other.join()
    assert lock.locked()
    with condition, condition:
        assert len(held.here()) == 2
        assert not condition.wait(0.01)
        assert len(held.here()) == 2
    assert held.here() == []


def test_application_that_pauses_under_a_lock_fails_the_check(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an upstream's exchange that is made under a lock of the pool's, then a request does not pass the check."""
    ran = start(["ok", "ok"])
    upstream, pool = ran.gateway.configuration.upstream, ran.gateway.configuration.pool
    right = upstream.exchange

    def wrong(*arguments: Any) -> Generator[Pause, None, Any]:
        with pool._lock:
            return (yield from right(*arguments))

    monkeypatch.setattr(upstream, "exchange", wrong)
    with pytest.raises(AssertionError, match=r"gateway\.keys\.pool"):
        ran.ask(is_streaming=True)

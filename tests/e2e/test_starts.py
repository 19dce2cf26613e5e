"""Workers whose start fails or hangs: each ends at once, the master tries again, and serves when it can.

A start fails here because the application cannot be built for a while; it hangs because the new process is held
(SIGSTOP), or waits for an MCP server. What does not accept connections has no slots for others to see.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.failing_app import BUILT
from tests.e2e.talk import Talk, message
from tests.harness import GatewayProcess, wait_until

KEY = "sk-sim-0001"
SOON_SECONDS = 30.0
Start = Callable[..., GatewayProcess]


@pytest.fixture
def gateway(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts gateways in `tmp_path/data`; they are stopped after the test."""
    monkeypatch.setenv("FAILING_FILE", str(tmp_path / "failing"))
    started: list[GatewayProcess] = []

    def start(*arguments: str, **settings: str) -> GatewayProcess:
        named = {"data_dir": str(tmp_path / "data"), **settings}
        application = "tests.e2e.failing_app:create_app()"
        started.append(GatewayProcess(simulator.url, [KEY], [*arguments, application], **named))
        return started[-1]

    yield start
    for process in started:
        process.stop(signal.SIGQUIT)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(keys={KEY: "ok"}) as simulator:
        yield simulator


@contextmanager
def failing_starts(folder: Path) -> Iterator[None]:
    """No worker can start meanwhile."""
    (folder / "failing").touch()
    yield
    (folder / "failing").unlink()


def is_served(gateway: GatewayProcess) -> bool:
    return gateway.request("POST", "/v1/messages", message()).status == 200


def failures(gateway: GatewayProcess) -> int:
    """How many workers could not start."""
    return gateway.log.count("the worker cannot start: it ends")


def begun(gateway: GatewayProcess) -> int:
    return gateway.log.count("Booting worker with pid")


def test_start_that_fails_ends_and_is_tried_again_until_it_works(gateway, tmp_path) -> None:
    """Given one worker, killed while none can start, then each that tries ends, after growing pauses another is
    started, and when the trouble is over requests are served."""
    process = gateway()
    assert is_served(process)
    with failing_starts(tmp_path):
        os.kill(process.worker_pids[0], signal.SIGKILL)
        assert wait_until(lambda: failures(process) >= 3, SOON_SECONDS), process.log
        assert wait_until(lambda: process.worker_pids == [], SOON_SECONDS)
    assert wait_until(lambda: len(process.worker_pids) == 1 and is_served(process), SOON_SECONDS), process.log
    pauses = [
        float(told) for told in re.findall(r"ended before it served; the next is started in (\S+) s", process.log)
    ]
    assert len(pauses) >= 3
    assert pauses[2] > pauses[0]


def test_another_worker_serves_while_starts_fail(gateway, tmp_path) -> None:
    """Given two workers, when one is killed and no other can start, then the one that is left serves all the while."""
    process = gateway(workers="2")
    assert wait_until(lambda: process.log.count(BUILT) == 2, SOON_SECONDS)  # neither can fail any more
    with failing_starts(tmp_path):
        victim = process.worker_pids[0]
        os.kill(victim, signal.SIGKILL)
        assert wait_until(lambda: victim not in process.worker_pids, SOON_SECONDS)
        while failures(process) < 3:
            assert is_served(process)
    assert wait_until(lambda: process.log.count(BUILT) == 3, SOON_SECONDS), process.log


def test_sigterm_ends_a_gateway_whose_workers_cannot_start(gateway, tmp_path) -> None:
    """Given starts that fail one after the other, when SIGTERM comes, then master and workers end in good order."""
    process = gateway(drain_seconds="300")
    with failing_starts(tmp_path):
        os.kill(process.worker_pids[0], signal.SIGKILL)
        assert wait_until(lambda: failures(process) >= 2, SOON_SECONDS), process.log
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON_SECONDS) == 0


class SilentServer:
    """An MCP server that refuses connections, so that starts go on without it; once it `hangs`, they wait for it."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.config = folder / "gateway.toml"
        url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/mcp"
        self.config.write_text(f'mcp_start_seconds = 45\n[[mcp_servers]]\nname = "silent"\nurl = "{url}"\n')

    def hangs(self) -> None:
        self._socket.listen(50)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def silent_server(tmp_path: Path) -> Iterator[SilentServer]:
    server = SilentServer(tmp_path)
    yield server
    server.close()


def hang_in_start(process: GatewayProcess, server: SilentServer) -> None:
    """Replace a worker by one that waits for the server at its start."""
    before = begun(process)
    assert wait_until(lambda: process.log.count("mcp server silent is down") == before, SOON_SECONDS)
    server.hangs()
    os.kill(process.worker_pids[0], signal.SIGKILL)
    assert wait_until(lambda: begun(process) > before, SOON_SECONDS)
    assert wait_until(lambda: loads_the_sdk(process.worker_pids[-1]), SOON_SECONDS)


def loads_the_sdk(pid: int) -> bool:
    """Whether a worker has come so far in its start that it has its slots, and now turns to the MCP servers."""
    return "pydantic_core" in Path(f"/proc/{pid}/maps").read_text()


def test_sigterm_ends_a_worker_that_hangs_in_its_start(gateway, silent_server) -> None:
    """Given a worker whose start waits, when SIGTERM comes, then it ends with the master, and nothing is waited for."""
    process = gateway(config=str(silent_server.config), drain_seconds="300")
    hang_in_start(process, silent_server)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SOON_SECONDS) == 0
    assert process.log.count("Booting worker") == 2


def test_worker_that_never_gives_its_first_sign_of_life_is_replaced(gateway) -> None:
    """Given a new worker that is stopped before it has come to anything, then the master misses it and replaces it."""
    process = gateway("--timeout", "3", workers="2", mcp_start_seconds="1")
    assert wait_until(lambda: process.log.count(BUILT) == 2, SOON_SECONDS)
    held = held_at_its_fork(process)
    assert wait_until(lambda: held not in process.worker_pids, SOON_SECONDS), process.log
    assert wait_until(lambda: process.log.count(BUILT) == 3, SOON_SECONDS), process.log


def held_at_its_fork(process: GatewayProcess) -> int:
    """A new worker's process id; it is held (SIGSTOP) before it serves."""
    known = set(process.worker_pids)
    os.kill(min(known), signal.SIGKILL)
    while not (forked := set(process.worker_pids) - known):
        pass  # it must be caught within moments
    (worker,) = forked
    os.kill(worker, signal.SIGSTOP)
    return worker


# Places


@pytest.fixture
def slots() -> Iterator[Callable[[GatewayProcess, int], list[int]]]:
    """Asks for streams that stay, so many, one after the other; the statuses."""
    with ExitStack() as stack:

        def ask(process: GatewayProcess, number: int) -> list[int]:
            statuses = []
            for _ in range(number):
                talk = stack.enter_context(Talk(process))
                talk.ask(body=message(streamed=True))
                statuses.append(talk.begin_answer().status)
            return statuses

        yield ask


SIX_PLACES = {"workers": "2", "threads": "8", "reserved_threads": "2", "drain_seconds": "300"}


def test_worker_that_starts_has_no_slots_to_leave_connections_for(gateway, simulator, silent_server, slots) -> None:
    """Given a worker whose start hangs and one that is full, then the next request is refused there, and not left to
    the other."""
    simulator.script(KEY, "stall:after=3")
    process = gateway(config=str(silent_server.config), **SIX_PLACES)
    assert wait_until(lambda: process.log.count(BUILT) == 2, SOON_SECONDS)
    hang_in_start(process, silent_server)
    assert slots(process, 8) == [200] * 6 + [529] * 2


def test_worker_that_stops_has_no_slots_to_leave_connections_for(gateway, simulator, slots) -> None:
    """Given a worker that was told to stop while it serves streams, and one that is full, then the next is refused."""
    simulator.script(KEY, "stall:after=3")
    process = gateway(**SIX_PLACES)
    assert wait_until(lambda: process.log.count(BUILT) == 2, SOON_SECONDS)
    stopping, other = process.worker_pids
    os.kill(other, signal.SIGSTOP)
    assert slots(process, 2) == [200] * 2
    os.kill(other, signal.SIGCONT)
    os.kill(stopping, signal.SIGTERM)
    process.wait_for_log("stopping: 2 requests may run on")
    assert slots(process, 8) == [200] * 6 + [529] * 2


def test_worker_that_stands_still_has_no_slots_to_leave_connections_for(gateway, simulator, slots) -> None:
    """Given a worker that is held (SIGSTOP) with slots left, and one that is full, then the next request is refused
    after some seconds, and not left until the master misses the other."""
    simulator.script(KEY, "stall:after=3")
    process = gateway(**SIX_PLACES)
    assert wait_until(lambda: process.log.count(BUILT) == 2, SOON_SECONDS)
    held = process.worker_pids[0]
    os.kill(held, signal.SIGSTOP)
    assert slots(process, 8) == [200] * 6 + [529] * 2
    os.kill(held, signal.SIGCONT)

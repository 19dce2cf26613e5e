"""SIGTERM: nothing admitted is lost, nothing new hangs, and the gateway is gone when it should be."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.fleet import is_paused
from tests.e2e.talk import Talk, error_of, events_of, message
from tests.harness import Answer, GatewayProcess, wait_until

KEY = "sk-ant-api03-the-only-key"
SOON_SECONDS = 30.0

Start = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module."""
    with Simulator(keys={KEY: "ok"}) as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _good_key(simulator: Simulator) -> None:
    simulator.script(KEY, "ok")


def _is_refused(gateway: GatewayProcess) -> bool:
    try:
        socket.create_connection(("127.0.0.1", gateway.port), timeout=SOON_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def test_streams_run_on_while_new_connections_are_refused(gateway_process: Start, simulator: Simulator) -> None:
    """Given streams, when SIGTERM comes, then connecting is refused at once and the streams end well; exit status 0."""
    simulator.script(KEY, "ok:events=60,delay=0.05")
    gateway = gateway_process(simulator.url, keys=[KEY])
    with ExitStack() as stack:
        streams = [stack.enter_context(Talk(gateway)) for _ in range(5)]
        begun = [stream.begin_stream() for stream in streams]
        gateway.send_signal(signal.SIGTERM)
        assert wait_until(lambda: _is_refused(gateway), SOON_SECONDS)
        for stream, first in zip(streams, begun, strict=True):
            ended = first + stream.rest()
            assert events_of(ended)[-1][0] == "message_stop"
            assert ended.count(b"event: error") == 0
    assert gateway.wait(SOON_SECONDS) == 0


def test_what_runs_past_the_drain_time_ends_with_a_word(gateway_process: Start, simulator: Simulator) -> None:
    """Given silent upstreams, when the drain time is over, then streams end with an error event, others with 529."""
    simulator.order("stall:after=3", "stall:after=3", "silent", "silent", "slow_head:seconds=60")
    gateway = gateway_process(simulator.url, keys=[KEY], drain_seconds="1")
    try:
        with ExitStack() as stack:
            talks = [stack.enter_context(Talk(gateway)) for _ in range(5)]
            begun = [talk.begin_stream() for talk in talks[:2]]
            talks[2].ask(body=message())
            talks[3].ask(body=message(streamed=True))
            talks[4].ask("GET", "/v1/models")
            assert simulator.wait_until(lambda: len(simulator.requests) >= 5, SOON_SECONDS)
            gateway.send_signal(signal.SIGTERM)
            for talk, first in zip(talks[:2], begun, strict=True):
                name, data = events_of(first + talk.rest())[-1]
                assert name == "error"
                assert data["error"]["type"] == "overloaded_error"
            for talk in talks[2:]:
                assert error_of(talk.answer())[:2] == (529, "overloaded_error")
        assert gateway.wait(SOON_SECONDS) == 0
    finally:
        simulator.order()
    assert simulator.wait_until(lambda: simulator.open_connections == 0, SOON_SECONDS)


def test_worker_whose_master_was_killed_stops_as_if_told_to(gateway_process: Start, simulator: Simulator) -> None:
    """Given a stream that would go on for ever, when the master is killed, then the worker accepts nobody any more,
    its stream ends with the drain time, and so does its process: a new start needs the data folder."""
    simulator.script(KEY, "stall:after=3")
    gateway = gateway_process(simulator.url, keys=[KEY], drain_seconds="1")
    (worker,) = gateway.worker_pids
    with Talk(gateway) as talk:
        talk.begin_stream()
        os.kill(gateway.pid, signal.SIGKILL)
        assert wait_until(lambda: _is_refused(gateway), 30)
        assert wait_until(lambda: not _runs(worker), 30), gateway.log


def _runs(pid: int) -> bool:
    """Whether a process does, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_busy_stream_ends_at_the_drain_time_too(gateway_process: Start, simulator: Simulator) -> None:
    """Given a stream that is never silent, when the drain time is over, then it ends with an error event, whole."""
    simulator.script(KEY, "ok:events=20000,bytes=200,delay=0.001")
    gateway = gateway_process(simulator.url, keys=[KEY], drain_seconds="1")
    with Talk(gateway) as talk:
        first = talk.begin_stream()
        gateway.send_signal(signal.SIGTERM)
        name, data = events_of(first + talk.rest())[-1]
    assert (name, data["error"]["type"]) == ("error", "overloaded_error")
    assert gateway.wait(SOON_SECONDS) == 0


def test_draining_is_shown_on_kept_connections(gateway_process: Start, simulator: Simulator) -> None:
    """Given kept connections, when the gateway drains, then readiness is 503, health 200, and requests are served."""
    simulator.script(KEY, "stall:after=3")
    gateway = gateway_process(simulator.url, keys=[KEY], drain_seconds="60")
    with ExitStack() as stack:
        ready, alive, asking, stream = (stack.enter_context(Talk(gateway)) for _ in range(4))
        for talk in (ready, alive, asking):
            assert talk.exchange("GET", "/readyz").status == 200
        stream.begin_stream()
        simulator.script(KEY, "ok")
        gateway.send_signal(signal.SIGTERM)
        assert wait_until(lambda: _is_refused(gateway), SOON_SECONDS)
        assert ready.exchange("GET", "/readyz").status == 503
        answer = alive.exchange("GET", "/healthz")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert asking.exchange(body=message()).status == 200
    assert gateway.wait(SOON_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_idle_gateway_stops_promptly(gateway_process: Start, simulator: Simulator, number: int) -> None:
    """Given kept and silent connections but no request, when it is told to stop, then it has gone soon, status 0."""
    gateway = gateway_process(simulator.url, keys=[KEY], drain_seconds="60")
    with ExitStack() as stack:
        for _ in range(3):
            assert stack.enter_context(Talk(gateway)).exchange(body=message()).status == 200
            stack.enter_context(Talk(gateway))
        gateway.send_signal(number)
        assert gateway.wait(SOON_SECONDS) == 0


def test_connections_that_queued_before_the_signal_are_served(gateway_process: Start, simulator: Simulator) -> None:
    """Given a stopped worker with requests in its queue, when SIGTERM comes before it wakes, then all are answered."""
    gateway = gateway_process(simulator.url, keys=[KEY])
    (worker,) = gateway.worker_pids
    with ExitStack() as stack:
        os.kill(worker, signal.SIGSTOP)
        try:
            talks = [stack.enter_context(Talk(gateway)) for _ in range(20)]
            for talk in talks:
                talk.ask(body=message())
            gateway.send_signal(signal.SIGTERM)
            assert wait_until(lambda: "Handling signal: term" in gateway.log, SOON_SECONDS)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert [talk.answer().status for talk in talks] == [200] * 20
    assert gateway.wait(SOON_SECONDS) == 0


class _Load:
    """Clients that ask again and again until connecting is refused; what went wrong is in `lost`."""

    def __init__(self, gateway: GatewayProcess, is_kept: bool) -> None:
        self._gateway = gateway
        self._is_kept = is_kept
        self.answers: list[Answer] = []
        self.lost: list[str] = []

    def run(self) -> None:
        while self._one_connection():
            pass

    def _one_connection(self) -> bool:
        try:
            talk = Talk(self._gateway)
        except ConnectionRefusedError:
            return False
        except OSError as error:
            # Still in the handshake when the listening socket closed: never connected, so nothing is lost.
            return not isinstance(error, ConnectionResetError)
        with talk:
            return self._requests(talk)

    def _requests(self, talk: Talk) -> bool:
        is_first = True
        while True:
            is_streamed = len(self.answers) % 2 == 0
            try:
                answer = talk.exchange(body=message(streamed=is_streamed))
            except (OSError, http.client.HTTPException) as error:
                # A kept connection may be closed between two requests; a fresh one was promised an answer.
                if is_first or not isinstance(error, http.client.RemoteDisconnected | ConnectionError):
                    self.lost.append(repr(error))
                return True
            self.answers.append(answer)
            if answer.status != 200 or (is_streamed and b"message_stop" not in answer.body):
                self.lost.append(f"{answer.status} {answer.body[-300:]!r}")
            if not self._is_kept or answer.headers.get("connection") == "close":
                return True
            is_first = False


@pytest.mark.parametrize("is_kept", [False, True], ids=["fresh-connections", "kept-connections"])
def test_sigterm_under_load_loses_no_admitted_request(
    gateway_process: Start, simulator: Simulator, is_kept: bool
) -> None:
    """Given constant load, when SIGTERM comes, then every request that was taken is answered whole; exit status 0."""
    simulator.script(KEY, "ok:events=5,delay=0.01")
    gateway = gateway_process(simulator.url, keys=[KEY])
    loads = [_Load(gateway, is_kept) for _ in range(8)]
    threads = [threading.Thread(target=load.run) for load in loads]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: all(len(load.answers) >= 5 for load in loads), 30)
    gateway.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert [lost for load in loads for lost in load.lost] == []
    assert gateway.wait(SOON_SECONDS) == 0
    assert "Traceback" not in gateway.log


def _pending_signals(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("ShdPnd:")[1].split()[0], 16)


def _stopped_at_its_fork(gateway: GatewayProcess) -> int:
    """A new worker's process id; it is held (SIGSTOP) before it has come to anything."""
    for _ in range(30):
        known = set(gateway.worker_pids)
        os.kill(min(known), signal.SIGKILL)
        while not (forked := set(gateway.worker_pids) - known):
            pass  # it must be caught within a moment
        (worker,) = forked
        os.kill(worker, signal.SIGSTOP)
        # On a busy machine it may not have run since. What came before it stops would be delivered first.
        assert wait_until(partial(is_paused, worker), SOON_SECONDS)
        if f"Booting worker with pid: {worker}" not in gateway.log:
            return worker
        os.kill(worker, signal.SIGCONT)  # too late, it had begun
    raise AssertionError("no worker was caught in time")


def test_worker_that_is_forked_as_sigterm_comes_ends_with_the_others(
    gateway_process: Start, simulator: Simulator
) -> None:
    """Given a worker that has only been forked and has no handlers of its own yet, when SIGTERM comes, then it ends,
    and the master does not wait for it to the end of the drain time."""
    gateway = gateway_process(simulator.url, keys=[KEY], workers="2", drain_seconds="300")
    worker = _stopped_at_its_fork(gateway)
    try:
        gateway.send_signal(signal.SIGTERM)
        assert wait_until(lambda: bool(_pending_signals(worker) & 1 << (signal.SIGTERM - 1)), SOON_SECONDS)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert gateway.wait(20) == 0


def test_second_sigterm_changes_nothing(gateway_process: Start, simulator: Simulator) -> None:
    """Given a draining gateway, when SIGTERM comes again, then the stream still runs on to its end."""
    simulator.script(KEY, "ok:events=40,delay=0.05")
    gateway = gateway_process(simulator.url, keys=[KEY])
    with Talk(gateway) as talk:
        first = talk.begin_stream()
        gateway.send_signal(signal.SIGTERM)
        assert wait_until(lambda: _is_refused(gateway), SOON_SECONDS)
        gateway.send_signal(signal.SIGTERM)
        assert events_of(first + talk.rest())[-1][0] == "message_stop"
    assert gateway.wait(SOON_SECONDS) == 0


def test_body_that_is_still_being_sent_is_waited_for(gateway_process: Start, simulator: Simulator) -> None:
    """Given a request whose body is half sent, when SIGTERM comes and then the rest of it, then it is served."""
    gateway = gateway_process(simulator.url, keys=[KEY])
    body = message()
    with Talk(gateway) as talk:
        talk.send_head("POST", "/v1/messages", {"Content-Length": str(len(body))})
        talk.send(body[:10])
        assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == 1, SOON_SECONDS)
        gateway.send_signal(signal.SIGTERM)
        assert wait_until(lambda: _is_refused(gateway), SOON_SECONDS)
        talk.send(body[10:])
        assert talk.answer().status == 200
    assert gateway.wait(SOON_SECONDS) == 0

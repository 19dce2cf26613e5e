"""Clients that read slowly are served for as long as they read; those that read nothing are cut off with one word."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from gateway.simulator import Simulator
from tests.e2e.talk import Talk, message
from tests.harness import GatewayProcess, wait_until

KEY = "sk-ant-api03-the-only-key"
FLOOD = "ok:events=20000,bytes=2000"
SOON_SECONDS = 30.0

Start = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module."""
    with Simulator(keys={KEY: FLOOD}) as simulator:
        yield simulator


def read_steadily(talk: Talk, bytes_a_second: int, total_bytes: int) -> None:
    """Read so much, at that rate, of an answer that has begun. Raises AssertionError if it is cut before."""
    pause = threading.Event()
    begun_at, taken = time.monotonic(), 0
    while taken < total_bytes:
        piece = talk.socket.recv(bytes_a_second // 10)
        assert piece, f"cut off after {taken} bytes"
        taken += len(piece)
        pause.wait(max(0.0, begun_at + taken / bytes_a_second - time.monotonic()))


@pytest.mark.parametrize(
    ("write_timeout", "buffer_bytes", "bytes_a_second", "total_bytes"),
    [
        pytest.param("2", 4096, 3000, 36_000, id="short"),
        pytest.param("60", None, 1000, 260_000, id="default", marks=[pytest.mark.long, pytest.mark.timeout(400)]),
    ],
)
def test_a_steady_slow_reader_of_a_flood_is_not_cut_off(
    gateway_process: Start,
    simulator: Simulator,
    write_timeout: str,
    buffer_bytes: int | None,
    bytes_a_second: int,
    total_bytes: int,
) -> None:
    """Given a stream that floods, when its client reads little but steadily, then it is served far beyond the limit."""
    gateway = gateway_process(simulator.url, keys=[KEY], write_timeout_seconds=write_timeout)
    with Talk(gateway, receive_buffer_bytes=buffer_bytes) as talk:
        talk.ask(body=message(streamed=True))
        read_steadily(talk, bytes_a_second, total_bytes)
        assert gateway.metric("requests_inflight", route="messages") == 1
    assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == 0, SOON_SECONDS)
    assert "has taken nothing" not in gateway.log
    assert "Traceback" not in gateway.log


@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
def test_readers_that_take_nothing_cause_one_warning_each(
    gateway_process: Start, simulator: Simulator, is_streamed: bool
) -> None:
    """Given clients that take nothing, when their time is over, then each is one warning, and no error in the log."""
    gateway = gateway_process(simulator.url, keys=[KEY], write_timeout_seconds="1")
    with ExitStack() as stack:
        talks = [stack.enter_context(Talk(gateway, receive_buffer_bytes=4096)) for _ in range(3)]
        for talk in talks:
            talk.ask(body=message(streamed=is_streamed))
        assert wait_until(lambda: gateway.log.count("has taken nothing for") == len(talks), 5 * SOON_SECONDS)
        assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == 0, 3 * SOON_SECONDS)
        assert gateway.request("GET", "/healthz").status == 200
    log = gateway.stop()
    assert log.count("has taken nothing for") == len(talks)
    assert "Traceback" not in log
    assert "[ERROR]" not in log

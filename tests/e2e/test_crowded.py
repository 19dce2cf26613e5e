"""More connections than descriptors: known clients are served all the same, and new ones find room."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from gateway.simulator import Simulator
from tests.e2e.talk import Talk, message
from tests.harness import GatewayProcess, wait_until

KEY = "sk-ant-api03-the-only-key"
OPEN_FILES, IDLE, THREADS = 700, 760, 64
SOON_SECONDS = 30.0
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

Start = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module."""
    with Simulator(keys={KEY: "ok"}) as simulator:
        yield simulator


@pytest.fixture
def gateway(gateway_process: Start, simulator: Simulator) -> GatewayProcess:
    """A gateway that may open few files, and keeps no connection to the upstream."""
    return gateway_process(
        simulator.url,
        keys=[KEY],
        open_files=OPEN_FILES,
        threads=str(THREADS),
        idle_connection_seconds="0.001",
        head_timeout_seconds="600",
    )


def descriptors(gateway: GatewayProcess) -> int:
    """How many descriptors the worker has open."""
    (worker,) = gateway.worker_pids
    return len(os.listdir(f"/proc/{worker}/fd"))


def assert_nothing_is_short(gateway: GatewayProcess) -> None:
    """No descriptor was wanting."""
    assert "Too many open files" not in gateway.log
    assert "could not be accepted" not in gateway.log
    assert "Traceback" not in gateway.log


def hundreds(stack: ExitStack, gateway: GatewayProcess, said: bytes) -> None:
    """More connections than descriptors, which say this and then nothing, to the end of `stack`."""
    for _ in range(IDLE):
        stack.enter_context(Talk(gateway)).send(said)


@pytest.mark.parametrize("said", [b"", GET[:10], GET], ids=["silent", "half-a-head", "served"])
def test_known_clients_are_served_beside_more_idle_connections_than_descriptors(
    gateway: GatewayProcess, said: bytes
) -> None:
    """Given 760 idle connections and 700 descriptors, when known clients ask, all at once, then all are served.

    A reserve is left for the upstream, and there is room for new clients.
    """
    with ExitStack() as stack:
        known = [stack.enter_context(Talk(gateway)) for _ in range(THREADS // 2)]
        for talk in known:
            assert talk.exchange(body=message()).status == 200
        hundreds(stack, gateway, said)
        for _ in range(3):
            for talk in known:
                talk.ask(body=message(streamed=True))
            assert [talk.answer().status for talk in known] == [200] * len(known)
            assert OPEN_FILES - descriptors(gateway) >= THREADS
        assert gateway.request("POST", "/v1/messages", message()).status == 200
        assert all(talk.exchange(body=message()).status == 200 for talk in known)
    assert_nothing_is_short(gateway)


def test_a_full_worker_says_so_once(gateway: GatewayProcess) -> None:
    """Given more connections than a worker takes, then one warning says so, however long it lasts; all recovers."""
    with ExitStack() as stack:
        hundreds(stack, gateway, b"")
        assert wait_until(lambda: "as many as this worker takes" in gateway.log, SOON_SECONDS)
        for _ in range(5):
            assert gateway.request("POST", "/v1/messages", message()).status == 200
    assert wait_until(lambda: descriptors(gateway) < OPEN_FILES // 4, SOON_SECONDS)
    assert gateway.request("POST", "/v1/messages", message()).status == 200
    assert gateway.log.count("as many as this worker takes") == 1
    assert_nothing_is_short(gateway)


def test_answered_clients_that_do_not_hang_up_are_bounded(gateway: GatewayProcess) -> None:
    """Given hundreds of connections that the gateway ends and their clients do not, then they hold few descriptors."""
    before = descriptors(gateway)
    with ExitStack() as stack:
        for _ in range(400):
            talk = stack.enter_context(Talk(gateway))
            talk.send(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            assert talk.answer().status == 200
            assert descriptors(gateway) <= before + 120
    assert_nothing_is_short(gateway)

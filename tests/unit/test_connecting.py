"""Connecting has one deadline, over the name, all its addresses, and what follows."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from requests.exceptions import ConnectTimeout

from gateway.upstream.connections import Connections, Route
from tests.unit.tiny_server import Recorder, TinyServer

LIMIT_SECONDS = 1.0
LOOKUPS_AT_ONCE = 8

Lookup = Callable[..., list[tuple[object, ...]]]


def address(host: str, port: int) -> tuple[object, ...]:
    """One of the entries that getaddrinfo gives."""
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


@pytest.fixture
def black_holes() -> Iterator[list[tuple[object, ...]]]:
    """Addresses that take no connection and refuse none: listening sockets whose queue is full."""
    with ExitStack() as stack:
        holes = []
        for number in range(1, 5):
            listener = stack.enter_context(socket.socket())
            listener.bind((f"127.0.0.{number}", 0))
            listener.listen(0)
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            holes.append(address(*listener.getsockname()))
        yield holes


def by_name(answer: Callable[[], list[tuple[object, ...]]]) -> Lookup:
    """A getaddrinfo that knows names only, as it is for what is no address."""

    def lookup(*_: object, flags: int = 0, **__: object) -> list[tuple[object, ...]]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        return answer()

    return lookup


def connections(port: int = 80) -> Connections:
    return Connections(Route(f"http://upstream.test:{port}", LIMIT_SECONDS, 30.0))


def seconds_until_timed_out(dialling: Connections) -> float:
    begun_at = time.monotonic()
    with pytest.raises(ConnectTimeout):
        dialling.dial()
    return time.monotonic() - begun_at


def test_deadline_bounds_all_addresses_together(
    monkeypatch: pytest.MonkeyPatch, black_holes: list[tuple[object, ...]]
) -> None:
    """Given a name with many addresses, none of which answers, when it is dialled, then one time-out bounds them all.

    Threefold the limit is allowed; twelve addresses with a time-out each would take twelvefold.
    """
    monkeypatch.setattr(socket, "getaddrinfo", by_name(lambda: black_holes * 3))
    assert seconds_until_timed_out(connections()) < 3 * LIMIT_SECONDS


def test_refusing_address_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a name whose first address refuses, when it is dialled, then the next one is connected to."""
    with socket.socket() as refusing, TinyServer(Recorder(b"")) as server:
        refusing.bind(("127.0.0.1", 0))  # bound, not listening
        found = [address(*refusing.getsockname()), address("127.0.0.1", server.port)]
        monkeypatch.setattr(socket, "getaddrinfo", by_name(lambda: found))
        connections().dial().close()


def test_name_server_that_does_not_answer_is_bounded_by_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a name server that is silent, when many names are looked up, then each dial ends in time; later, it works.

    There are more of them than lookups at once.
    """
    answers = threading.Event()
    with TinyServer(Recorder(b"")) as server:

        def answer() -> list[tuple[object, ...]]:
            assert answers.wait(30)
            return [address("127.0.0.1", server.port)]

        monkeypatch.setattr(socket, "getaddrinfo", by_name(answer))
        taken: list[float] = []
        dials = [
            threading.Thread(target=lambda: taken.append(seconds_until_timed_out(connections())))
            for _ in range(LOOKUPS_AT_ONCE + 2)
        ]
        try:
            for dial in dials:
                dial.start()
            for dial in dials:
                dial.join(20)
                assert not dial.is_alive()
        finally:
            answers.set()
        assert len(taken) == len(dials)
        assert max(taken) < 3 * LIMIT_SECONDS
        connections().dial().close()


def test_slow_name_server_leaves_the_addresses_what_is_left(
    monkeypatch: pytest.MonkeyPatch, black_holes: list[tuple[object, ...]]
) -> None:
    """Given a name that was slow to be found and addresses that do not answer, then both together are bounded."""
    is_slow = threading.Event()

    def answer() -> list[tuple[object, ...]]:
        is_slow.wait(LIMIT_SECONDS / 2)
        return black_holes

    monkeypatch.setattr(socket, "getaddrinfo", by_name(answer))
    assert seconds_until_timed_out(connections()) < 3 * LIMIT_SECONDS

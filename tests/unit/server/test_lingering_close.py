"""How connections end: the client has its answer, and time to hang up, but not for ever and not without number."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateway.runtime.client_socket import ClientSocket
from gateway.server import lingering_close
from gateway.server.lingering_close import LingeringCloses
from tests.harness import wait_until

SOON_SECONDS = 30.0


@pytest.fixture
def poller() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as made:
        yield made


@pytest.fixture
def pairs() -> Iterator[list[tuple[ClientSocket, socket.socket]]]:
    """The gateway's end and the client's, of some connections."""
    with ExitStack() as stack:
        made = []
        for _ in range(4):
            ours, theirs = socket.socketpair()
            made.append((stack.enter_context(ClientSocket.adopt(ours)), stack.enter_context(theirs)))
        yield made


def dispatch(poller: selectors.BaseSelector) -> None:
    for key, _ in poller.select(0):
        key.data(key.fileobj)


def test_a_client_that_hangs_up_is_let_go(poller, pairs):
    """Given a client that was answered, when it has read to the end and hangs up, then the connection is closed."""
    (client, their) = pairs[0]
    client.sendall(b"the answer")
    LingeringCloses(poller).begin(client)
    assert their.recv(100) == b"the answer"
    assert their.recv(100) == b""
    assert client.fileno() >= 0
    their.close()
    dispatch(poller)
    assert client.fileno() == -1


def test_clients_that_do_not_hang_up_are_bounded_in_number(poller, pairs, monkeypatch):
    """Given as many of them as there may be, when there is one more, then the first is closed, and no other."""
    monkeypatch.setattr(lingering_close, "_MOST_AT_ONCE", 3)
    said = LingeringCloses(poller)
    for client, _ in pairs:
        said.begin(client)
    assert [client.fileno() >= 0 for client, _ in pairs] == [False, True, True, True]
    assert len(poller.get_map()) == 3


def test_one_that_was_ended_in_the_same_round_is_not_heard(poller, pairs, monkeypatch):
    """Given a client of which the poller has told, when it is ended before its turn, then nothing goes wrong."""
    monkeypatch.setattr(lingering_close, "_MOST_AT_ONCE", 1)
    said = LingeringCloses(poller)
    (first, their), (second, _) = pairs[:2]
    said.begin(first)
    their.close()
    told = poller.select(SOON_SECONDS)
    said.begin(second)
    for key, _ in told:
        key.data(key.fileobj)
    assert first.fileno() == -1
    assert second.fileno() >= 0


def test_a_client_that_stays_is_let_go_in_time(poller, pairs, monkeypatch):
    """Given a client that neither hangs up nor sends, when its time is over, then the connection is closed."""
    monkeypatch.setattr(lingering_close, "_IDLE_SECONDS", 0.01)
    said = LingeringCloses(poller)
    (client, _) = pairs[0]
    said.begin(client)

    def is_closed() -> bool:
        said.sweep()
        return client.fileno() == -1

    assert wait_until(is_closed, SOON_SECONDS)

"""Clients that are being served: those that take nothing are cut off, once and with a word; slow ones are not."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateway.runtime.client_socket import ClientSocket
from gateway.server.clients_at_hand import ClientsAtHand


class Client(ClientSocket):
    """A client that has been sent much, and has taken what it is told to have."""

    taken = 0

    def _untaken_bytes(self) -> int:
        return 10**9 - self.taken


@pytest.fixture
def clients() -> Iterator[list[tuple[Client, socket.socket]]]:
    """The gateway's end and the client's, of two connections."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        pairs = []
        for _ in range(2):
            their = stack.enter_context(socket.create_connection(listener.getsockname()))
            client = stack.enter_context(Client.adopt(listener.accept()[0]))
            client._sent_bytes = 10**9
            pairs.append((client, their))
        yield pairs


def is_cut_off(their: socket.socket) -> bool:
    their.setblocking(False)
    try:
        return their.recv(1) == b""
    except BlockingIOError:
        return False


def test_a_client_that_takes_nothing_is_cut_off_and_told_of_once(clients, caplog):
    """Given one client that takes nothing and one that takes little, when the limit is over, then one is cut off.

    One warning names it; there is no traceback.
    """
    caplog.set_level(logging.INFO)
    (stuck, its), (slow, other) = clients
    at_hand = ClientsAtHand()
    at_hand.add(stuck)
    at_hand.add(slow)
    assert len(at_hand) == 2
    for now in range(0, 300, 5):
        slow.taken += 100
        at_hand.sweep(now, 60.0)
        assert is_cut_off(its) is (now >= 60)
    assert not is_cut_off(other)
    assert len(at_hand) == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert record.getMessage() == "the client at 127.0.0.1 has taken nothing for 60 s: its connection is closed"


@pytest.mark.parametrize(
    ("taken", "limit_seconds", "patience_seconds"),
    [
        pytest.param(0, 60.0, 60, id="nothing"),
        pytest.param(20_000, 60.0, 80, id="little"),
        pytest.param(10**8, 60.0, 60 + 131, id="no-more-than-a-receive-buffer"),
        pytest.param(10**8, 1.0, 6, id="no-more-than-five-limits"),
    ],
)
def test_a_client_has_the_time_to_read_what_its_own_system_holds(clients, taken, limit_seconds, patience_seconds):
    """Given a client that has taken something, then it may read 1,000 bytes a second before it is to take more."""
    (client, their), _ = clients
    client.taken = taken
    at_hand = ClientsAtHand()
    at_hand.add(client)
    now = 0.0
    while not is_cut_off(their):
        now += 0.25
        at_hand.sweep(now, limit_seconds)
    assert patience_seconds <= now <= patience_seconds + 11


def test_a_reset_frees_what_the_kernel_holds(clients):
    """Given a client that was cut off, when its socket is closed, then the connection is reset."""
    (client, _), _ = clients
    at_hand = ClientsAtHand()
    at_hand.add(client)
    at_hand.sweep(0.0, 1.0)
    at_hand.sweep(100.0, 1.0)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == b"\1\0\0\0\0\0\0\0"


def test_one_that_has_gone_is_nobodys_trouble(clients, caplog):
    """Given a client that hung up, or whose socket is closed already, when clients are looked at, then no word."""
    (first, its), (second, _) = clients
    at_hand = ClientsAtHand()
    at_hand.add(first)
    at_hand.add(second)
    at_hand.sweep(0.0, 1.0)
    its.close()
    second.close()
    at_hand.sweep(100.0, 1.0)
    at_hand.cut_off_all()
    assert "Traceback" not in caplog.text


def test_all_are_cut_off_at_the_end(clients):
    """Given the end of the drain time, then every connection is ended, whatever its client takes."""
    at_hand = ClientsAtHand()
    for client, _ in clients:
        at_hand.add(client)
    at_hand.discard(clients[1][0])
    at_hand.cut_off_all()
    assert [is_cut_off(their) for _, their in clients] == [True, False]

"""A client's socket: what it takes is known, what it sends has a deadline, and what the network says is translated."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gateway.runtime import client_socket
from gateway.runtime.client_socket import ClientSocket, ReadDeadlineExceeded
from gateway.runtime.keepalive import keep_alive
from tests.harness import wait_until

SOON_SECONDS = 60.0
Pair = tuple[ClientSocket, socket.socket]


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        their = socket.socket()
        their.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        their.connect(listener.getsockname())
        ours, _ = listener.accept()
        return ours, their


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The gateway's end of a connection, and the client's, which holds little."""
    ours, their = _tcp_pair() if request.param == "tcp" else socket.socketpair()
    with ClientSocket.adopt(ours) as client, their:
        yield client, their


def fill(client: ClientSocket) -> None:
    """Send until the client's connection takes no more, for good."""
    last = -1
    while client.taken_bytes != last:
        last = client.taken_bytes
        try:
            while True:
                client.send(b"x" * 10_000, socket.MSG_DONTWAIT)
        except BlockingIOError:
            wait_until(lambda: client.taken_bytes != last, 0.3)  # noqa: B023


def test_everything_is_sent_however_slowly_it_is_taken(pair):
    """Given a client that reads little at a time, when megabytes are sent, then all of it arrives, in order."""
    client, their = pair
    said = bytes(range(256)) * 20_000
    sender = threading.Thread(target=client.sendall, args=(said,))
    sender.start()
    taken = bytearray()
    while len(taken) < len(said):
        taken += their.recv(3000)
    sender.join(SOON_SECONDS)
    assert not sender.is_alive()
    assert taken == said
    assert wait_until(lambda: client.taken_bytes == len(said), SOON_SECONDS)


def test_a_client_that_takes_nothing_is_stalled(pair):
    """Given a client for which there is something, when it takes none of it, then the time counts; else it does not."""
    client, their = pair
    assert client.stalled_seconds(0.0) == 0
    assert client.stalled_seconds(100.0) == 0  # nothing was sent
    fill(client)
    assert client.stalled_seconds(200.0) == 0  # the first look that finds something
    assert client.stalled_seconds(230.0) == 30
    assert client.stalled_seconds(290.0) == 90
    before = client.taken_bytes
    while client.taken_bytes == before:
        their.recv(2000)
    assert client.stalled_seconds(300.0) == 0
    assert client.stalled_seconds(307.0) == 7


def test_what_is_sent_besides_does_not_count_as_taken(pair):
    """Given a stalled client, when pings go into the kernel's buffer, then it is stalled all the same."""
    client, _ = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    fill(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
    client.stalled_seconds(0.0)
    for second in range(10, 60, 10):
        assert client.send(b"ping", socket.MSG_DONTWAIT) == 4
        assert client.stalled_seconds(second) == second


def test_shutting_down_wakes_who_sends(pair):
    """Given a thread that sends to a client that takes nothing, when the connection is shut down, then it raises."""
    client, _ = pair
    failed: list[OSError] = []

    def send() -> None:
        try:
            client.sendall(b"x" * 20_000_000)
        except OSError as error:
            failed.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    assert wait_until(lambda: client._sent_bytes > 0, SOON_SECONDS)
    client.shutdown(socket.SHUT_RDWR)
    sender.join(SOON_SECONDS)
    assert [type(error) for error in failed] == [BrokenPipeError]


def test_a_read_ends_at_its_deadline(pair):
    """Given a deadline, when nothing comes, then ReadDeadlineExceeded; what is there already is read all the same."""
    client, their = pair
    client.read_deadline_at = time.monotonic() - 1
    with pytest.raises(ReadDeadlineExceeded):
        client.recv(10)
    assert client.receive_now(10) is None
    their.send(b"late")
    assert client.is_readable(SOON_SECONDS)
    assert client.recv(10) == b"late"
    their.close()
    assert client.is_readable(SOON_SECONDS)
    assert client.receive_now(10) == b""


class Lost(socket.socket):
    """A socket of which the kernel has given up the peer."""

    number = errno.ETIMEDOUT

    def recv(self, *_: object) -> bytes:
        raise OSError(self.number, "the kernel's words")


class LostClient(ClientSocket, Lost):
    """The same, as the gateway has it."""


def send_to_the_lost(client: Lost, *_: object) -> int:
    raise OSError(client.number, "the kernel's words")


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH])
@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda client: client.send(b"x"), id="send"),
        pytest.param(lambda client: client.sendall(b"x"), id="sendall"),
        pytest.param(lambda client: client.recv(1), id="recv"),
        pytest.param(lambda client: client.receive_now(1), id="receive_now"),
    ],
)
def test_a_client_that_the_network_lost_is_a_connection_error(monkeypatch, number, use):
    """Given a client that has vanished, however the kernel says so, then it is what a client that hung up is."""
    monkeypatch.setattr(Lost, "number", number)
    monkeypatch.setattr(client_socket, "_send", send_to_the_lost)
    with LostClient() as client, pytest.raises(ConnectionResetError):
        use(client)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_silent_connections_are_probed_every_minute(family):
    """Given a TCP socket, then the kernel asks after 60 s of silence, every 15 s, and gives up after four."""
    with socket.socket(family) as sock:
        keep_alive(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
        assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [60, 15, 4]


def test_accepted_connections_are_probed():
    """Given a connection that was accepted, then keepalive is on; a socket in the file system has no such thing."""
    ours, their = _tcp_pair()
    with ClientSocket.adopt(ours) as client, their:
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    left, right = socket.socketpair()
    with ClientSocket.adopt(left) as client, right:
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0

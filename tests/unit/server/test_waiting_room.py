"""Connections that wait without a thread: who is served, who is sent away, with a word or without, who goes first."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser
from gunicorn.http.errors import LimitRequestHeaders

from gateway.runtime.client_socket import ClientSocket, ReadDeadlineExceeded
from gateway.server import waiting_room
from gateway.server.connection import Connection, Progress
from gateway.server.head_collector import HeadRules
from gateway.server.request_head import HeadParser, KnownLines
from gateway.server.waiting_room import WaitingRoom
from tests.unit.server.test_request_head import config_of

GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
ADDRESS = ("127.0.0.1", 4000)
LONG_SECONDS = 1000.0


class Room:
    """A waiting room over real sockets, and what has become of its connections."""

    def __init__(self, stack: ExitStack, config: Config) -> None:
        self.config = config
        self.served: list[Connection] = []
        self.left: list[Connection] = []
        self.head_seconds = LONG_SECONDS
        self._stack = stack
        self._poller = stack.enter_context(selectors.DefaultSelector())
        self._rules = HeadRules(KnownLines(config), config)
        self.waiting = WaitingRoom(self._poller, self.served.append, self.left.append, lambda: self.head_seconds)

    def connect(self) -> tuple[Connection, socket.socket]:
        """A new connection, and the client's end of it."""
        ours, their = socket.socketpair()
        client = self._stack.enter_context(ClientSocket.adopt(ours))
        self._stack.enter_context(their)
        connection = Connection(self._rules, lambda _: None, self.config, client, ADDRESS, "")
        self.waiting.welcome(connection)
        return connection, their

    def kept(self) -> tuple[Connection, socket.socket]:
        """A connection that was served, and waits for the next request."""
        connection, their = self.connect()
        their.send(GET)
        self.poll()
        assert self.served.pop() is connection
        assert self.serve(connection) == "/healthz"
        assert connection.collect_read_ahead() is Progress.WAITING
        self.waiting.keep(connection, LONG_SECONDS)
        return connection, their

    def serve(self, connection: Connection) -> str:
        """What a thread does: the path of the request that the connection has brought."""
        connection.init()
        return str(next(connection.parser).path)

    def poll(self) -> None:
        """One round of the main loop, for what is there now."""
        for key, _ in self._poller.select(0):
            key.data(key.fileobj)

    @property
    def watched(self) -> int:
        """How many connections the poller knows."""
        return len(self._poller.get_map())


@pytest.fixture
def room() -> Iterator[Room]:
    with ExitStack() as stack:
        yield Room(stack, config_of())


def test_a_head_in_pieces_is_served_when_it_is_whole(room):
    """Given a head that comes in pieces, then it waits without a thread, and is served whole."""
    connection, their = room.connect()
    for position in range(len(GET) - 1):
        their.send(GET[position : position + 1])
        room.poll()
    assert room.served == []
    assert repr(room.waiting) == "<WaitingRoom: 0 silent, 1 begun, 0 kept>"
    their.send(GET[-1:])
    room.poll()
    assert room.served == [connection]
    assert room.watched == 0
    assert len(room.waiting) == 0
    assert room.serve(connection) == "/healthz"


def test_a_malformed_head_is_served_at_once(room):
    """Given a head that cannot become well-formed, then a thread has it, so that it is refused, without its end."""
    connection, their = room.connect()
    their.send(b"no http at all\r\n")
    room.poll()
    assert room.served == [connection]
    assert connection.refusal is None  # that is up to the parser


@pytest.mark.parametrize("begun", [b"", b"GET / HT"], ids=["silent", "half-a-head"])
def test_a_client_that_hangs_up_is_let_go(room, begun):
    """Given a client that has not sent a whole head, when it hangs up, then it is let go without a thread."""
    connection, their = room.connect()
    their.send(begun)
    room.poll()
    their.close()
    room.poll()
    assert (room.served, room.left) == ([], [connection])
    assert room.watched == 0


def test_bytes_that_a_thread_has_read_ahead_are_part_of_the_next_head(room):
    """Given a request with half of another behind it, then the other waits for its rest, and is served whole."""
    connection, their = room.connect()
    their.send(GET + b"GET /readyz HT")
    room.poll()
    assert room.serve(room.served.pop()) == "/healthz"
    assert connection.collect_read_ahead() is Progress.WAITING
    room.waiting.keep(connection, LONG_SECONDS)
    assert repr(room.waiting) == "<WaitingRoom: 0 silent, 1 begun, 0 kept>"
    their.send(b"TP/1.1\r\n\r\n")
    room.poll()
    assert room.serve(room.served.pop()) == "/readyz"


def test_a_whole_request_read_ahead_is_ready(room):
    """Given two requests in one segment, then the second needs no waiting."""
    connection, their = room.connect()
    their.send(GET + b"GET /readyz HTTP/1.1\r\n\r\n")
    room.poll()
    assert room.serve(room.served.pop()) == "/healthz"
    assert connection.collect_read_ahead() is Progress.READY
    assert room.serve(connection) == "/readyz"
    assert connection.collect_read_ahead() is Progress.WAITING


def test_who_has_begun_a_request_is_told_that_its_time_is_over(room):
    """Given silent, begun and kept connections, when their time is over, then those that have begun are answered."""
    silent, _ = room.connect()
    kept, _ = room.kept()
    begun, their = room.connect()
    their.send(b"GET")
    room.poll()
    room.waiting.expire()
    assert (room.served, room.left) == ([], [])
    room.waiting.hurry(0.0)
    assert room.waiting.left_seconds == 0
    room.waiting.expire()
    assert room.served == [begun]
    assert isinstance(begun.refusal, ReadDeadlineExceeded)
    assert set(room.left) == {silent, kept}
    assert room.watched == 0
    assert room.waiting.left_seconds == float("inf")


def test_a_head_has_its_time_from_its_first_byte(room):
    """Given a connection that was silent for a while, when its first byte comes, then the head's time begins."""
    connection, their = room.connect()
    connection.timeout -= LONG_SECONDS - 1
    waits_since = connection.waits_since
    their.send(b"G")
    room.poll()
    assert connection.timeout > waits_since + LONG_SECONDS - 1
    deadline = connection.timeout
    their.send(b"E")
    room.poll()
    assert connection.timeout == deadline


def ages(connection: Connection, seconds: float) -> Connection:
    """It has waited for so long already."""
    connection.waits_since -= seconds
    return connection


def test_room_is_made_by_those_that_have_waited_longest_and_unknown_ones_first(room):
    """Given connections of all kinds, when room is made, then half-sent heads go first, known clients last.

    Nobody goes who has only just come.
    """
    kept = [ages(room.kept()[0], 20) for _ in range(2)]
    silent = [ages(room.connect()[0], 2) for _ in range(2)]
    begun, their = room.connect()
    their.send(b"GET")
    room.poll()
    ages(begun, 2)
    fresh = [room.connect()[0], room.kept()[0]]
    room.waiting.make_room(1)
    assert (room.served, room.left) == ([begun], [])
    assert isinstance(begun.refusal, ReadDeadlineExceeded)
    room.waiting.make_room(1)
    assert room.left == silent[:1]
    room.waiting.make_room(2)
    assert room.left == [*silent, kept[0]]
    room.waiting.make_room(100)
    assert room.left == [*silent, *kept]
    assert room.watched == len(fresh)


def test_a_known_client_that_paused_for_a_moment_stays(room):
    """Given a served connection that has been idle for some seconds, when room is made, then it stays."""
    ages(room.kept()[0], 10)
    room.waiting.make_room(1)
    assert room.left == []


def test_all_heads_together_are_bounded(room, monkeypatch):
    """Given half-sent heads that hold as much as they may, when a large one grows, then it is refused as too large."""
    monkeypatch.setattr(waiting_room, "_MOST_HELD_BYTES", 6000)
    monkeypatch.setattr(waiting_room, "_ORDINARY_HEAD_BYTES", 2000)
    clients = [room.connect() for _ in range(4)]
    for _, their in clients:
        their.send(b"GET / HTTP/1.1\r\nX: " + b"a" * 1400)
        room.poll()
    assert room.served == []
    large, their = clients[0]
    their.send(b"a" * 1000)
    room.poll()
    assert room.served == [large]
    assert isinstance(large.refusal, LimitRequestHeaders)
    second, their = clients[1]
    their.send(b"a" * 1000)  # there is room for it now
    room.poll()
    assert room.served == [large]
    their.send(b"\r\n\r\n")
    room.poll()
    assert room.served == [large, second]
    assert second.refusal is None


def test_a_head_beyond_the_parsers_limit_is_refused():
    """Given a head that is longer than gunicorn allows, then it is refused as that, without its end."""
    with ExitStack() as stack:
        room = Room(stack, config_of(limit_request_fields=2, limit_request_field_size=100))
        connection, their = room.connect()
        their.send(b"GET / HTTP/1.1\r\nX: " + b"a" * 300)
        room.poll()
        assert room.served == [connection]
        assert isinstance(connection.refusal, LimitRequestHeaders)


def test_closing_lets_go_of_all(room):
    """Given connections of all kinds, when the worker ends, then nothing of them is left."""
    connections = [room.connect()[0], room.kept()[0]]
    begun, their = room.connect()
    their.send(b"GET")
    room.poll()
    room.waiting.close()
    assert set(room.left) == {*connections, begun}
    assert (room.watched, len(room.waiting)) == (0, 0)


@pytest.mark.parametrize(
    ("protocol", "is_ours"), [pytest.param("http", True, id="http"), pytest.param("uwsgi", False, id="uwsgi")]
)
def test_a_connection_has_the_parser_that_knows_lines(protocol, is_ours):
    """Given a connection, when its first request comes, then it has the parser, unless it speaks uWSGI."""
    with ExitStack() as stack:
        room = Room(stack, config_of(protocol=protocol))
        connection, their = room.connect()
        their.send(GET)
        room.poll()
        assert room.served == [connection]
        connection.init()
        parser = connection.parser
        assert isinstance(parser, HeadParser) is is_ours
        assert type(parser) is not RequestParser
        assert parser.unreader.buf.getvalue() == GET
        connection.init()
        assert connection.parser is parser

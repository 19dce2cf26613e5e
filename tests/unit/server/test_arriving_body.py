"""Request bodies as they arrive: all is there when that is said, and what they are stays gunicorn's word."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException

from gateway.runtime.client_socket import ClientSocket, ReadDeadlineExceeded
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import complete
from gateway.server.arriving_body import ArrivingBody
from gateway.server.head_collector import HeadRules
from gateway.server.request_head import KnownLines
from gateway.web.request_body import ARRIVING, discarded, read_body
from tests.unit.server.test_request_head import PROXY

LARGE = 1 << 30
BODY = bytes(range(256)) * 4
NEXT = b"POST /next HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
SIZES = [1, 2, 3, 7, 64, 1000, 100_000]


class Asked:
    """A request whose head has come; its body comes from `client`."""

    def __init__(self, *lines: str, begun: bytes = b"") -> None:
        ours, self.client = socket.socketpair()
        self.ours = ClientSocket.adopt(ours)
        head = "\r\n".join(["POST / HTTP/1.1", "Host: h", *lines, "", ""]).encode()
        config = Config()
        self.parser: Any = HeadRules(KnownLines(config), config).parser(self.ours, PROXY)
        self.parser.unreader.unread(head + begun)
        self.request = next(self.parser)
        self.body = ArrivingBody(self.request, self.ours)

    def read(self, size: int = LARGE) -> bytes:
        """What gunicorn reads without waiting. Raises ReadDeadlineExceeded where it would wait."""
        self.ours.read_deadline_at = time.monotonic()
        data: bytes = self.request.body.read(size)
        return data

    def environ(self, **more: str) -> dict[str, Any]:
        """What the application has of it."""
        known: dict[str, Any] = {ARRIVING: self.body, "gunicorn.socket": self.ours, "wsgi.input": self.request.body}
        return known | more


@pytest.fixture
def asks() -> Iterator[list[Asked]]:
    """Requests; their sockets are closed in the end."""
    made: list[Asked] = []
    yield made
    for asked in made:
        asked.ours.close()
        asked.client.close()


def chunked(body: bytes, size: int, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """A body in chunks of this size."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return chunks + b"0\r\n" + trailers + b"\r\n"


def arrive(asked: Asked, data: bytes, size: int, limit_bytes: int = LARGE) -> int:
    """Send this in pieces until the body is there; how much of it has been sent by then."""
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        asked.client.sendall(piece)
        if asked.body.receive(limit_bytes):
            return at + len(piece)
    pytest.fail("all was sent, and the body is not there")


TRAILERS = b"x-checksum: abc\r\nx-more: d\r\n"
FRAMINGS = {
    "length": (f"Content-Length: {len(BODY)}", BODY),
    "one-chunk": ("Transfer-Encoding: chunked", chunked(BODY, 5000)),
    "chunks": ("Transfer-Encoding: chunked", chunked(BODY, 100)),
    "chunks-of-a-byte": ("Transfer-Encoding: chunked", chunked(BODY, 1)),
    "trailers": ("Transfer-Encoding: chunked", chunked(BODY, 300, trailers=TRAILERS)),
    "extensions": ("Transfer-Encoding: chunked", chunked(BODY, 300, extension=b';a=b;c="d e"')),
}
every_framing = pytest.mark.parametrize(("line", "data"), FRAMINGS.values(), ids=FRAMINGS)


@every_framing
@pytest.mark.parametrize("size", SIZES)
def test_a_body_is_there_with_its_last_byte(asks: list[Asked], line: str, data: bytes, size: int) -> None:
    """Given a body in pieces, then it is said to be there when its last byte has come and not before, and gunicorn
    reads all of it without waiting."""
    asked = Asked(line)
    asks.append(asked)
    assert not asked.body.receive(LARGE)
    assert arrive(asked, data, size) == len(data)
    assert asked.read() == BODY
    assert asked.read() == b""


@every_framing
@pytest.mark.parametrize("begun", [1, 5, 700, -1, None])
def test_what_came_with_the_head_counts(asks: list[Asked], line: str, data: bytes, begun: int | None) -> None:
    """Given a body of which a part came with the head, or all, then the rest is waited for, or nothing."""
    asked = Asked(line, begun=data[:begun])
    asks.append(asked)
    if begun is not None:
        assert not asked.body.receive(LARGE)
        asked.client.sendall(data[begun:])
    assert asked.body.receive(LARGE)
    assert asked.read() == BODY


@every_framing
@pytest.mark.parametrize("size", [1, 50, 100_000])
def test_the_next_request_is_left_whole(asks: list[Asked], line: str, data: bytes, size: int) -> None:
    """Given a client that does not wait for its answer, then its next request is read as it was sent."""
    asked = Asked(line)
    asks.append(asked)
    sent = arrive(asked, data + NEXT, size)
    assert asked.read() == BODY
    asked.client.sendall((data + NEXT)[sent:])
    asked.ours.read_deadline_at = time.monotonic()
    following = next(asked.parser)
    assert (following.path, following.body.read()) == ("/next", b"abc")


@pytest.mark.parametrize("lines", [[], ["Content-Length: 0"]], ids=["no-length", "length-of-0"])
def test_no_body_is_there_at_once(asks: list[Asked], lines: list[str]) -> None:
    """Given a request without a body, then nothing is waited for, and what is there is not touched."""
    asked = Asked(*lines)
    asks.append(asked)
    asked.client.sendall(NEXT)
    assert asked.body.receive(LARGE)
    assert asked.read() == b""
    assert asked.ours.receive_now(1000) == NEXT


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"zz\r\n", id="no-size"),
        pytest.param(b"5\r\nabcdefgh", id="no-line-end-behind-a-chunk"),
        pytest.param(b"-1\r\n", id="negative"),
        pytest.param(b"0x5\r\nabcde\r\n", id="prefix"),
        pytest.param(b"5\r\nabcde\r\n\r\n", id="no-last-chunk"),
        pytest.param(b"fffffffffffffffff\r\n", id="beyond-64-bits"),
    ],
)
@pytest.mark.parametrize("size", [1, 100])
def test_a_malformed_chunk_is_not_waited_for(asks: list[Asked], data: bytes, size: int) -> None:
    """Given chunks that are none, then no more is waited for, and gunicorn says so, or finds no end."""
    asked = Asked("Transfer-Encoding: chunked")
    asks.append(asked)
    arrive(asked, data, size)
    with pytest.raises((ParseException, ReadDeadlineExceeded)):
        asked.read()


@every_framing
@pytest.mark.parametrize("begun", [0, 1, 500, -1])
def test_an_end_in_the_middle_is_not_waited_beyond(asks: list[Asked], line: str, data: bytes, begun: int) -> None:
    """Given a client that hangs up before the end of its body, then no more is waited for, and it is not taken for
    whole."""
    asked = Asked(line)
    asks.append(asked)
    asked.client.sendall(data[:begun])
    asked.client.shutdown(socket.SHUT_WR)
    assert asked.body.receive(LARGE)
    if "Length" in line:
        assert asked.read() == data[:begun]
    else:
        with pytest.raises((ParseException, NoMoreData)):
            asked.read()


@pytest.mark.parametrize("limit_bytes", [0, 1, 1000, 1 << 20, (1 << 20) + 10, 3 << 20])
@pytest.mark.parametrize("chunk_bytes", [1000, 70_000])
@pytest.mark.parametrize("begun", [0, 8000], ids=["later", "begun-with-the-head"])
def test_more_than_the_limit_is_enough(asks: list[Asked], limit_bytes: int, chunk_bytes: int, begun: int) -> None:
    """Given chunks without an end, when there is more than the limit, then gunicorn gives so much without waiting."""
    data = chunked(bytes(limit_bytes + 200_000), chunk_bytes)[: -len(b"0\r\n\r\n")]
    asked = Asked("Transfer-Encoding: chunked", begun=data[:begun])
    asks.append(asked)
    arrive(asked, data[begun:], 1000, limit_bytes)
    assert len(asked.read(limit_bytes + 1)) == limit_bytes + 1


@pytest.mark.parametrize("junk", [b"5;" + b"x" * 1000, b"0\r\n" + b"x-a: b\r\n" * 100], ids=["extension", "trailers"])
def test_what_is_no_body_is_bounded_too(asks: list[Asked], junk: bytes) -> None:
    """Given a chunk's extension or trailers without an end, then they are not kept without an end."""
    asked = Asked("Transfer-Encoding: chunked", begun=junk)
    asks.append(asked)
    filler = junk[-8:] * 8000
    sent = 0
    while not asked.body.receive(100_000):
        asked.client.sendall(filler)
        sent += len(filler)
        assert sent < 10_000_000
    with pytest.raises((ParseException, ReadDeadlineExceeded)):
        asked.read()


# What the application makes of it.


@every_framing
def test_a_body_is_read_whole(asks: list[Asked], lifecycle: Lifecycle, line: str, data: bytes) -> None:
    """Given a body on its way, when it is read, then there is a Pause for each piece, and then all of it."""
    asked = Asked(line)
    asks.append(asked)
    told = {"CONTENT_LENGTH": str(len(BODY))} if "Length" in line else {"HTTP_TRANSFER_ENCODING": "chunked"}
    reading = read_body(asked.environ(**told), LARGE, 60.0, lifecycle)
    for at in range(0, len(data), 500):
        pause = next(reading)
        assert [descriptor for descriptor, _ in pause.wanted] == [asked.ours.fileno()]
        asked.client.sendall(data[at : at + 500])
    assert complete(reading) == BODY


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
def test_a_body_that_nobody_wants_is_thrown_away_as_it_comes(asks: list[Asked], is_chunked: bool) -> None:
    """Given a refused request whose body is still coming, then all of it is taken, and the next request is met."""
    body = bytes(200_000 if is_chunked else 2_000_000)
    told = {"HTTP_TRANSFER_ENCODING": "chunked"} if is_chunked else {"CONTENT_LENGTH": str(len(body))}
    asked = Asked("Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}")
    asks.append(asked)
    data = (chunked(body, 5000) if is_chunked else body) + NEXT
    pauses = 0
    asked.client.setblocking(False)
    for _ in discarded(asked.environ(**told), LARGE):
        pauses += 1
        data = data[asked.client.send(data[:50_000]) :]
    assert pauses > 1
    asked.ours.setblocking(True)
    asked.client.setblocking(True)
    asked.client.sendall(data)
    asked.ours.read_deadline_at = time.monotonic()
    assert next(asked.parser).path == "/next"

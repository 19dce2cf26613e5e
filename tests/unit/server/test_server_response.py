"""How the server writes responses: what leaves with what."""

from __future__ import annotations

import contextlib
import socket
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName
from gunicorn.http.wsgi import Response

from gateway.server.server_response import PromptResponse


class RecordingSocket:
    """Keeps what is sent, by call."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes, flags: int) -> int:
        self.sent.append(data)
        return len(data)


def response_over(
    client: object, *headers: tuple[str, str], status: str = "200 OK", method: str = "POST", minor: int = 1
) -> PromptResponse:
    """A response whose head is known."""
    request = SimpleNamespace(method=method, version=(1, minor), should_close=lambda: False)
    response = PromptResponse(request, client, Config())
    response.start_response(status, list(headers))
    return response


def begun(
    *headers: tuple[str, str], status: str = "200 OK", method: str = "POST"
) -> tuple[PromptResponse, list[bytes]]:
    """A response whose head is known, and what has been sent of it."""
    client = RecordingSocket()
    return response_over(client, *headers, status=status, method=method), client.sent


def test_the_head_leaves_with_the_body():
    """Given a whole answer, then head and body are one send, and nothing follows."""
    response, sent = begun(("content-length", "2"), ("x-a", "b"))
    response.write(b"ok")
    response.close()
    (data,) = sent
    head, _, body = data.partition(b"\r\n\r\n")
    assert body == b"ok"
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    lines = head.split(b"\r\n")
    assert {b"content-length: 2", b"x-a: b", b"Connection: keep-alive"} <= set(lines)
    assert len([line for line in lines if line.startswith(b"Date: ")]) == 1


def test_an_empty_piece_sends_the_head_that_is_due():
    """Given a stream whose first event is not there yet, then its head goes out alone, once."""
    response, sent = begun()
    response.write(b"")
    assert [data.endswith(b"\r\n\r\n") for data in sent] == [True]
    response.write(b"event")
    response.write(b"")
    response.close()
    assert sent[1:] == [b"5\r\nevent\r\n", b"0\r\n\r\n"]


def test_the_head_of_a_stream_leaves_with_its_first_event():
    """Given a stream whose first event is there, then head and event are one send."""
    response, sent = begun()
    response.write(b"event")
    assert len(sent) == 1
    assert sent[0].endswith(b"\r\n\r\n5\r\nevent\r\n")


@pytest.mark.parametrize(
    ("status", "method"),
    [
        pytest.param("204 No Content", "POST", id="204"),
        pytest.param("200 OK", "HEAD", id="head"),
    ],
)
def test_a_response_without_a_body_is_its_head(status, method):
    """Given a response that has no body, then its head is sent when it ends, and nothing with it."""
    response, sent = begun(status=status, method=method)
    response.close()
    assert len(sent) == 1
    assert sent[0].endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([("x-a", "b"), ("X-A", "b"), ("x-a", "c")], id="repeated"),
        pytest.param([("x-a", " \tb c\t "), ("x-empty", ""), ("x-blank", " ")], id="spaces"),
        pytest.param([("x-a", "é\xff")], id="latin-1"),
        pytest.param([("Content-Length", " 12 "), ("x-a", "b")], id="length"),
        pytest.param([("content-length", "many")], id="length-of-letters"),
        pytest.param([("connection", "close"), ("Keep-Alive", "1"), ("x-a", "b")], id="hop-by-hop"),
        pytest.param([("transfer-encoding", "chunked"), ("TE", "x"), ("trailer", "x")], id="framing"),
        pytest.param(
            [("connection", "Upgrade"), ("upgrade", "websocket"), ("server", "x"), ("date", "y")], id="upgrade"
        ),
        pytest.param([("x-a", "b"), ("x-a", "b\r\nx-smuggled: c")], id="line-break"),
        pytest.param([("x-a", "b"), ("x-a", "\n")], id="only-a-line-break"),
        pytest.param([("x-a", "b"), ("x-a", "b\0")], id="nul"),
        pytest.param([("x-a", "b"), ("x-a", "ā")], id="not-latin-1"),
        pytest.param([("x-a", "b"), ("x a", "b")], id="name-with-a-space"),
        pytest.param([("x-a:", "b")], id="name-with-a-colon"),
        pytest.param([("", "b")], id="no-name"),
        pytest.param([("x-a\r\n", "b")], id="name-with-a-line-break"),
        pytest.param([(b"x-a", "b")], id="name-of-bytes"),
        pytest.param([("x-a", "b"), ("x-a", b"b")], id="value-of-bytes"),
        pytest.param([("x-a", "b"), ("x-a", None)], id="no-value"),
        pytest.param([(["x-a"], "b")], id="name-that-is-no-key"),
    ],
)
def test_headers_are_taken_and_refused_as_by_gunicorn(headers):
    """Given an application's headers, whose names were there before or not, then they come to what gunicorn says."""
    expected = outcome_of(Response, headers)
    assert outcome_of(PromptResponse, headers) == expected
    assert outcome_of(PromptResponse, headers) == expected


def outcome_of(kind: type[Response], headers: list[tuple[object, object]]) -> object:
    """What a response keeps of headers, or with which words it refuses them."""
    response = kind(SimpleNamespace(), RecordingSocket(), Config())
    try:
        response.process_headers(headers)
    except (TypeError, ValueError, InvalidResponseHeader, InvalidResponseHeaderName) as error:
        return type(error), str(error), response.headers
    return response.headers, response.response_length, response.upgrade


def test_names_of_headers_are_looked_at_once(monkeypatch):
    """Given a name that was found good, then gunicorn is not asked about it again."""
    begun(("x-looked-at", "once"))
    monkeypatch.delattr(Response, "process_headers")
    response, _ = begun(("x-looked-at", "never"))
    assert response.headers == [("x-looked-at", "never")]


def taken_until(end: bytes, client: socket.socket) -> bytes:
    """What a client reads up to these bytes."""
    client.settimeout(10)
    data = b""
    while not data.endswith(end):
        piece = client.recv(1 << 20)
        assert piece, f"closed behind {data[-50:]!r}"
        data += piece
    return data


def flushed(response: PromptResponse, client: socket.socket) -> bytes:
    """What a client gets that reads until the response is held up no more."""
    client.setblocking(False)
    data = b""
    while response.held:
        data += client.recv(1 << 20)
        response.flush()
    with contextlib.suppress(BlockingIOError):
        while True:
            data += client.recv(1 << 20)
    return data


@pytest.mark.parametrize(
    ("minor", "framed"),
    [pytest.param(1, b"5\r\nevent\r\n", id="chunked"), pytest.param(0, b"event", id="to-the-end-of-the-connection")],
)
def test_a_piece_that_is_taken_is_sent_at_once(minor, framed):
    """Given a client that takes what it is sent, then it has it, framed and counted, and nothing is left for later."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        response = response_over(ours, minor=minor)
        response.write(b"first")
        taken_until(b"first\r\n" if minor else b"first", theirs)
        response.write(b"event")
        assert not response.held
        assert taken_until(framed, theirs) == framed
        assert response.sent == len(b"firstevent")


@pytest.mark.parametrize("minor", [1, 0], ids=["chunked", "to-the-end-of-the-connection"])
@pytest.mark.parametrize("follows", [[], [b"more"], [b"y" * 3_000_000, b"z" * 20]], ids=["nothing", "a-piece", "much"])
def test_what_a_client_did_not_take_leaves_first(follows, minor):
    """Given a piece that was taken in part, then nobody waits; the rest comes first, with what follows it or without,
    no byte lost or twice; and then nothing is held."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        response = response_over(ours, minor=minor)
        response.write(b"")
        taken_until(b"\r\n\r\n", theirs)
        pieces = [b"x" * 3_000_000, *follows]
        for piece in pieces:
            response.write(piece)
            assert response.held
        expected = b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) if minor else piece for piece in pieces)
        assert flushed(response, theirs) == expected
        response.write(b"last")
        assert not response.held


def test_an_end_that_is_held_up_leaves_with_the_rest():
    """Given a client that takes nothing more, when the response ends, then its end leaves once there is room."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        response = response_over(ours)
        response.write(b"x" * 3_000_000)
        response.close()
        assert response.held
        assert flushed(response, theirs).endswith(b"xx\r\n0\r\n\r\n")


def test_the_head_of_a_client_that_takes_nothing_is_held():
    """Given a client whose queue is full, when a response begins, then its head waits for room, and comes whole."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        filling = 0
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filling += ours.send(b"#" * 65536)
        response = response_over(ours, ("content-length", "2"))
        response.write(b"ok")
        response.close()
        assert response.held
        came = flushed(response, theirs)
        assert came[:filling].strip(b"#") == b""
        assert came[filling:].startswith(b"HTTP/1.1 200 OK\r\n")
        assert came.endswith(b"\r\n\r\nok")


def test_a_client_that_is_gone_shows_with_the_next_piece():
    """Given a broken connection, when something is sent on or written, then BrokenPipeError."""
    ours, theirs = socket.socketpair()
    with ours:
        response = response_over(ours)
        response.write(b"x" * 3_000_000)
        theirs.close()
        with pytest.raises(BrokenPipeError):
            response.flush()
        with pytest.raises(BrokenPipeError):
            response.write(b"event")

"""The upstream's adapter in a `requests.Session`, used as anybody would use any other."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
from requests.exceptions import ChunkedEncodingError

from gateway.upstream.adapter import SocketAdapter
from gateway.upstream.dialer import Route
from tests.unit.tiny_server import Script, TinyServer, take_request

OK = b"HTTP/1.1 200 OK\r\n"
WAIT_SECONDS = 10.0


@contextmanager
def serving(script: Script) -> Iterator[tuple[TinyServer, requests.Session]]:
    """A server that runs this script on each connection, and a session that has the adapter for it."""
    with TinyServer(script) as server, requests.Session() as session:
        session.trust_env = False
        session.mount(server.url, SocketAdapter(Route(server.url, WAIT_SECONDS, WAIT_SECONDS)))
        yield server, session


def answer_with(*pieces: bytes) -> Script:
    """Answers every request on a connection with these bytes, all of them."""

    def script(client: socket.socket) -> None:
        while take_request(client):
            for piece in pieces:
                client.sendall(piece)

    return script


def test_a_whole_answer_has_all_that_a_response_has() -> None:
    """Given a session with the adapter, when it posts, then the response is as complete as any other."""
    document = b'{"type":"message"}'
    head = OK + b"Content-Type: application/json; charset=utf-8\r\nSet-Cookie: a=b; Path=/\r\n"
    with serving(answer_with(head + b"Content-Length: %d\r\n\r\n%b" % (len(document), document))) as (server, session):
        response = session.post(server.url + "/v1/messages?beta=true", json={"model": "m"}, timeout=WAIT_SECONDS)
        assert (response.status_code, response.ok, response.reason) == (200, True, "OK")
        assert response.json() == {"type": "message"}
        assert (response.text, response.content) == (document.decode(), document)
        assert response.headers["content-TYPE"] == "application/json; charset=utf-8"
        assert response.encoding == "utf-8"
        assert response.url == server.url + "/v1/messages?beta=true"
        assert response.cookies["a"] == "b"
        assert session.cookies["a"] == "b"
        assert response.elapsed.total_seconds() > 0
        assert response.request.method == "POST"


def test_connections_are_kept_between_answers() -> None:
    """Given answers that were read, then one connection carries all."""
    with serving(answer_with(OK + b"Content-Length: 2\r\n\r\nok")) as (server, session):
        assert [session.get(server.url, timeout=WAIT_SECONDS).text for _ in range(3)] == ["ok"] * 3
        with session.get(server.url, stream=True, timeout=WAIT_SECONDS) as response:
            assert response.content == b"ok"
        assert session.get(server.url, timeout=WAIT_SECONDS).text == "ok"
        assert server.connections == 1


def test_a_stream_is_read_piece_by_piece_and_decoded() -> None:
    """Given a chunked, compressed stream of lines, when it is iterated, then lines come as they were written."""
    packed = gzip.compress(b"one\ntwo\nthree\n")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in packed) + b"0\r\n\r\n"
    head = OK + b"Content-Type: text/plain\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(answer_with(head, chunks)) as (server, session):
        response = session.get(server.url, stream=True, timeout=(1.0, WAIT_SECONDS))
        assert list(response.iter_lines()) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_is_raised_for_when_asked(status: int) -> None:
    """Given an error's status, then `raise_for_status` raises, with its reason in words."""
    with serving(answer_with(b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n" % status)) as (server, session):
        response = session.get(server.url, timeout=WAIT_SECONDS)
        with pytest.raises(requests.HTTPError, match=str(status)):
            response.raise_for_status()


def test_an_upstream_that_falls_silent_is_given_up() -> None:
    """Given half a body, when the rest does not come, then requests' own exception is raised."""
    half = answer_with(OK + b"Content-Length: 9\r\n\r\nhalf")
    with serving(half) as (server, session), pytest.raises(requests.ConnectionError, match="timed out"):
        session.get(server.url, timeout=0.1)


def test_a_body_that_breaks_off_is_not_taken_for_whole() -> None:
    """Given a body that ends early, then reading it raises."""

    def script(client: socket.socket) -> None:
        take_request(client)
        client.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")

    with serving(script) as (server, session):
        response = session.get(server.url, stream=True, timeout=WAIT_SECONDS)
        with pytest.raises(ChunkedEncodingError):
            _ = response.content


def test_a_closed_response_frees_its_connection() -> None:
    """Given a stream that is left in the middle, when it is closed, then its connection is not used again."""
    with serving(answer_with(OK + b"Content-Length: 100\r\n\r\nhalf")) as (server, session):
        with session.get(server.url, stream=True, timeout=WAIT_SECONDS) as response:
            assert response.raw.read(4) == b"half"
        session.get(server.url, stream=True, timeout=WAIT_SECONDS).close()
        assert server.connections == 2

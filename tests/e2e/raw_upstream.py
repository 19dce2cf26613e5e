"""An upstream on a raw socket, for what no well-meant server does: heads nobody should send, answers in mid-upload.

Owns: reading a request, and the plays: what an upstream may do with one. A test changes `play`; what it needs to
know is in `requests`. Nothing here knows the gateway.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from tests.unit.tiny_server import TinyServer

TIMEOUT_SECONDS = 60.0
_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)

Play = Callable[["Incoming"], object]


def event(name: str, **members: object) -> bytes:
    """One event as the Messages API writes it."""
    return f"event: {name}\ndata: {json.dumps({'type': name} | members)}\n\n".encode()


FIRST_EVENT = event("message_start", message={"model": "claude-raw", "usage": {"input_tokens": 1}})
LAST_EVENT = event("message_stop")
MESSAGE = json.dumps({"type": "message", "model": "claude-raw", "content": []}).encode()


def head(*lines: str, status: str = "200 OK") -> bytes:
    """An answer's head."""
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def whole(body: bytes = MESSAGE, *lines: str, status: str = "200 OK") -> bytes:
    """A whole JSON answer."""
    return head("Content-Type: application/json", f"Content-Length: {len(body)}", *lines, status=status) + body


def stream_head(*lines: str) -> bytes:
    """The head of a stream that ends with its connection."""
    return head("Content-Type: text/event-stream", "Connection: close", *lines)


def zeros_gzipped(mebibytes: int) -> Iterator[bytes]:
    """Very few bytes that stand for that many mebibytes of zeros: gzip members, one for each 64 of them."""
    member = gzip.compress(bytes(64 << 20))
    for _ in range(mebibytes // 64):
        yield member


@dataclass
class Incoming:
    """A request whose head has come; `body` holds what has been read of its body so far."""

    client: socket.socket
    head: bytes
    body: bytearray

    @property
    def length(self) -> int:
        """The body's length as announced."""
        found = _LENGTH.search(self.head)
        return int(found[1]) if found else 0

    def read(self, up_to: int | None = None) -> bytes:
        """Read on until that much of the body is there, by default all of it."""
        wanted = self.length if up_to is None else up_to
        while len(self.body) < wanted:
            piece = self.client.recv(1 << 20)
            if not piece:
                raise ConnectionResetError("hung up in mid-body")
            self.body += piece
        return bytes(self.body)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.client.sendall(data)

    def until_hung_up(self) -> None:
        """Say nothing more until the other side hangs up."""
        while self.client.recv(1 << 16):
            pass


def answer(data: bytes) -> Play:
    """Read all, send this, keep the connection."""

    def play(incoming: Incoming) -> None:
        incoming.read()
        incoming.send(data)

    return play


def close_behind(data: bytes) -> Play:
    """Read all, send this, close."""

    def play(incoming: Incoming) -> None:
        answer(data)(incoming)
        incoming.client.shutdown(socket.SHUT_RDWR)

    return play


def fall_silent_behind(data: bytes) -> Play:
    """Read all, send this, then nothing more."""

    def play(incoming: Incoming) -> None:
        answer(data)(incoming)
        incoming.until_hung_up()

    return play


stream_without_end = fall_silent_behind(stream_head() + FIRST_EVENT)


class RawUpstream:
    """Listens on a free loopback port and lets `play` answer each request."""

    def __init__(self) -> None:
        self.play: Play = answer(whole())
        self.requests: list[Incoming] = []
        self._lock = threading.Lock()  # guards requests
        self._server = TinyServer(self._serve)
        self.url = self._server.url

    def __enter__(self) -> RawUpstream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.__exit__()

    def _serve(self, client: socket.socket) -> None:
        while True:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = client.recv(1 << 16)
                if not piece:
                    return
                data += piece
            first, _, rest = data.partition(b"\r\n\r\n")
            incoming = Incoming(client, first, bytearray(rest))
            with self._lock:
                self.requests.append(incoming)
            self.play(incoming)

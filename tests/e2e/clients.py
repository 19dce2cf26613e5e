"""Clients that see every byte: raw sockets, with the moments at which bytes came, and all the ways to hang up.

They speak to the gateway and, over plain HTTP or TLS, straight to the simulator, so that the two can be compared.
Owns: HTTP/1.1 as a client reads it. Nothing here knows the gateway.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 60.0
ERROR_EVENT = b"event: error\n"


def message_body(is_streamed: bool, **members: object) -> bytes:
    """A small request for a message."""
    document: dict[str, object] = {
        "model": "claude-simulated",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "hello"}],
    }
    if is_streamed:
        document["stream"] = True
    return json.dumps(document | members).encode()


def events_of(body: bytes) -> list[tuple[str, Any]]:
    """Name and data of every whole event; comments left out."""
    text = body.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    found = []
    for block in text.split("\n\n")[:-1]:
        fields = [line.partition(":") for line in block.split("\n") if not line.startswith(":")]
        data = "\n".join(value.removeprefix(" ") for name, _, value in fields if name == "data")
        names = [value.removeprefix(" ") for name, _, value in fields if name == "event"]
        if data:
            found.append((names[-1] if names else "message", json.loads(data)))
    return found


@dataclass(slots=True)
class Received:
    """What has come of an answer so far. `body` is out of its chunks and content coding, `raw_body` is not.

    `arrivals` holds, for every read that brought bytes of the body, the monotonic time and the length of `raw_body`
    behind it; `head_at` is the time of the head. `is_complete` says whether the framing has told the body's end.
    """

    status: int
    headers: list[tuple[str, str]]
    head_at: float
    raw_body: bytes = b""
    is_complete: bool = False
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """The only header of that name, None if there is none."""
        values = [value for known, value in self.headers if known.lower() == name]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def body(self) -> bytes:
        """As much of the body as can be decoded."""
        bits = {"gzip": 31, "deflate": 15}.get(self.header("content-encoding") or "")
        return zlib.decompressobj(wbits=bits).decompress(self.raw_body) if bits else self.raw_body

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Name and data of every whole event."""
        return events_of(self.body)

    def json(self) -> Any:
        """The body as a document."""
        return json.loads(self.body)


class Client:
    """One connection. Not thread-safe."""

    def __init__(self, url: str, ca_file: str = "", address: str = "") -> None:
        """`address` is one of this machine's, to connect from."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host = parts.netloc
        source = (address, 0) if address else None
        self.socket = socket.create_connection((parts.hostname, parts.port), TIMEOUT_SECONDS, source)
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=ca_file)
            self.socket = context.wrap_socket(self.socket, server_hostname=parts.hostname)
        self._buffer = b""
        self._has_ended = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(
        self, body: bytes = b"", *, method: str = "POST", path: str = "/v1/messages", headers: Iterable[str] = ()
    ) -> None:
        """Send a whole request; `headers` are lines."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", *headers]
        if body or method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    @property
    def port(self) -> int:
        """The port that it connects from."""
        return int(self.socket.getsockname()[1])

    def read_head(self) -> Received:
        """The head of the next answer, informational ones passed over."""
        while True:
            while b"\r\n\r\n" not in self._buffer:
                assert self._fill(), f"closed in the head: {self._buffer!r}"
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            status = int(first.split(" ")[1])
            if status >= 200:
                pairs = (line.partition(":") for line in lines)
                return Received(status, [(name, value.strip()) for name, _, value in pairs], time.monotonic())

    def read_body(self, answer: Received, is_enough: Callable[[bytes], bool] = lambda body: False) -> Received:
        """Read on until that much of the raw body is there, the body has ended, or the connection."""
        take = self._take_chunk if answer.header("transfer-encoding") == "chunked" else self._take_plain
        while not is_enough(answer.raw_body):
            if self._buffer and take(answer):
                answer.arrivals.append((time.monotonic(), len(answer.raw_body)))
                continue
            if answer.is_complete or answer.header("content-length") == str(len(answer.raw_body)):
                answer.is_complete = True
                break
            if not self._fill():
                break
        return answer

    def read_answer(self) -> Received:
        """The next answer, to the end of its body or of the connection."""
        return self.read_body(self.read_head())

    def close(self) -> None:
        """Hang up with a FIN."""
        self.socket.close()

    def reset(self) -> None:
        """Hang up with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def shut_down(self) -> None:
        """Hang up by half: nothing more will be sent, and nothing is read."""
        self.socket.shutdown(socket.SHUT_WR)

    def _take_plain(self, answer: Received) -> bool:
        answer.raw_body += self._buffer
        self._buffer = b""
        return True

    def _take_chunk(self, answer: Received) -> bool:
        size, line_end, rest = self._buffer.partition(b"\r\n")
        if not line_end:
            return False
        length = int(size, 16)
        if len(rest) < length + 2:
            return False
        assert rest[length : length + 2] == b"\r\n"
        self._buffer = rest[length + 2 :]
        answer.raw_body += rest[:length]
        answer.is_complete = length == 0
        return length > 0

    def _fill(self) -> bool:
        try:
            data = b"" if self._has_ended else self.socket.recv(1 << 16)
        except (ConnectionResetError, ssl.SSLError):
            data = b""
        self._has_ended = not data
        self._buffer += data
        return bool(data)


def ask(
    url: str,
    body: bytes = b"",
    *,
    ca_file: str = "",
    method: str = "POST",
    path: str = "/v1/messages",
    headers: Iterable[str] = (),
) -> Received:
    """One request on a connection of its own, and its answer to the end."""
    with Client(url, ca_file) as client:
        client.send(body, method=method, path=path, headers=headers)
        return client.read_answer()

"""A client's side of one connection, driven by hand: what the tests of limits, stopping and malformed requests need.

Owns: one socket, and reading answers off it. Nothing here knows how the gateway works inside.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tests.harness import Answer, GatewayProcess

TIMEOUT_SECONDS = 60.0


def message(*, streamed: bool = False, text: str = "hello", pad_bytes: int = 0, **members: object) -> bytes:
    """A Messages request body; `pad_bytes` makes it at least so large."""
    document: dict[str, object] = {
        "model": "claude-simulated",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": text + "x" * pad_bytes}],
    }
    if streamed:
        document["stream"] = True
    return json.dumps(document | members).encode()


def token_line(name: str, token: str, role: str = "") -> str:
    """The token file's line for a token."""
    return f"{name} sha256:{hashlib.sha256(token.encode()).hexdigest()} {role}".strip() + "\n"


def error_of(answer: Answer) -> tuple[int, str, str]:
    """Status, Anthropic type and message of an error in the protocol's shape."""
    document = json.loads(answer.body)
    assert document["type"] == "error"
    assert document["request_id"] == answer.headers["request-id"]
    assert answer.headers["content-type"] == "application/json"
    return answer.status, document["error"]["type"], document["error"]["message"]


def events_of(body: bytes) -> list[tuple[str, Any]]:
    """Name and data of every whole event of a stream."""
    events = []
    for block in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        events.append((fields["event"], json.loads(fields["data"])))
    return events


class Talk:
    """One connection to a gateway. Closed by `close` or at the end of `with`."""

    def __init__(self, gateway: GatewayProcess, *, receive_buffer_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(TIMEOUT_SECONDS)
        try:
            self.socket.connect(("127.0.0.1", gateway.port))
        except OSError:
            self.socket.close()
            raise
        self._method = "GET"
        self._response: http.client.HTTPResponse | None = None

    def __enter__(self) -> Talk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; may be called again."""
        if self._response is not None:
            self._response.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def send_head(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> None:
        """Send a request's head."""
        self._method = method
        lines = [
            f"{method} {path} HTTP/1.1",
            *(f"{n}: {v}" for n, v in ({"Host": "127.0.0.1"} | dict(headers or {})).items()),
        ]
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")

    def ask(
        self,
        method: str = "POST",
        path: str = "/v1/messages",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole request, its length announced."""
        length = {"Content-Length": str(len(body))} if body or method == "POST" else {}
        self.send_head(method, path, length | dict(headers or {}))
        self.send(body)

    def begin_answer(self) -> http.client.HTTPResponse:
        """Wait for an answer's head; the body is left to be read."""
        response = http.client.HTTPResponse(self.socket, method=self._method)
        response.begin()
        self._response = response
        return response

    def answer(self) -> Answer:
        """The next answer, read to its end."""
        response = self._response if self._response is not None and not self._response.isclosed() else None
        response = response or self.begin_answer()
        named = {name.lower(): value for name, value in response.getheaders()}
        body = response.read()
        self._response = None
        return Answer(response.status, named, body)

    def exchange(
        self,
        method: str = "POST",
        path: str = "/v1/messages",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask and read the answer; the connection stays open if the gateway keeps it."""
        self.ask(method, path, body, headers)
        return self.answer()

    def begin_stream(self, headers: Mapping[str, str] | None = None) -> bytes:
        """Ask for a streamed message and wait for its first bytes, which are returned."""
        self.ask(body=message(streamed=True), headers=headers)
        response = self.begin_answer()
        assert response.status == 200, response.read()
        return response.read1()

    def rest(self) -> bytes:
        """What is left of the answer that was begun. Raises IncompleteRead if it is cut."""
        assert self._response is not None
        return self._response.read()

    def is_closed_by_gateway(self, timeout_seconds: float = TIMEOUT_SECONDS) -> bool:
        """Whether the gateway closes its side within the time; what it still sends is thrown away."""
        self.socket.settimeout(timeout_seconds)
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionResetError:
            pass
        return True

"""How the server writes a response: gunicorn's own way, with fewer system calls.

Owns: the bytes of a response's head and the framing of its body. Belongs to whoever runs the response.
gunicorn sends the head by itself; here it leaves with the first piece of the body, in one segment, and wakes the client
once. An empty first piece still means that the head is due now. Names of headers are looked at once. Nothing waits for
the client: what it does not take at once is held, and nothing more should be written before that has gone.
"""

from __future__ import annotations

import socket
import time
from functools import lru_cache
from typing import Any

from gunicorn import util
from gunicorn.http.message import TOKEN_RE
from gunicorn.http.wsgi import HEADER_VALUE_RE, Response

_AT_ONCE = int(socket.MSG_DONTWAIT)  # as a plain number: an IntFlag takes its time


class PromptResponse(Response):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's Response with its head held until something goes with it. What sends raises OSError.

    `held` is what was written and the client has not taken.
    """

    headers_sent: bool
    held: bytes | memoryview = b""

    def flush(self) -> None:
        """Send on what the client has not taken."""
        self._send(b"")

    def default_headers(self) -> list[str]:
        """The first lines of the head."""
        connection = "close" if self.should_close() else "keep-alive"
        major, minor = self.req.version
        lines = [
            f"HTTP/{major}.{minor} {self.status}\r\n",
            f"Server: {self.version}\r\nDate: {_date.now()}\r\nConnection: {connection}\r\n",
        ]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        return lines

    def process_headers(self, headers: Any) -> None:
        """Take the application's headers; those that are not plain and good go gunicorn's way, and raise as there."""
        is_good = HEADER_VALUE_RE.fullmatch
        for header in headers:
            name, value = header
            if isinstance(name, str) and isinstance(value, str) and _is_plain(name) and is_good(value):
                stripped = value.strip(" \t")
                self.headers.append(header if stripped == value else (name, stripped))
            else:
                super().process_headers([header])

    def send_headers(self) -> None:
        """Make the head; it leaves with what comes next."""
        if self.headers_sent:
            return
        lines = self.default_headers()
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        self.held = "".join(lines).encode("latin-1") + b"\r\n"
        self.headers_sent = True

    def write(self, arg: Any) -> None:
        """Send a piece of the body, the head before it if it has not gone out."""
        if self.chunked and self.headers_sent and arg:  # every event but the first comes this way
            self.sent += len(arg)
            self._send(b"%X\r\n%b\r\n" % (len(arg), arg))
            return
        super().write(arg)
        if self.held:
            self._send(b"")

    def close(self) -> None:
        """End the response."""
        self.send_headers()
        end = b"0\r\n\r\n" if self.chunked else b""
        if self.held or end:
            self._send(end)

    def _emit_body(self, data: bytes) -> None:
        self._send(b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def _send(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        if self.held:
            rest = b"".join((self.held, data)) if data else self.held  # what is held may be megabytes
            self.held = b""
        try:
            sent = self.sock.send(rest, _AT_ONCE)
        except BlockingIOError:
            sent = 0
        if sent < len(rest):
            self.held = memoryview(rest)[sent:]


@lru_cache(maxsize=256)
def _is_plain(name: str) -> bool:
    """Whether a header of this name is sent as it is: a token, and none that gunicorn decides about."""
    return bool(TOKEN_RE.fullmatch(name)) and name.lower() != "content-length" and not util.is_hoppish(name)


class _Date:
    """The date as heads have it, made once a second. Races make it twice."""

    def __init__(self) -> None:
        self._made: tuple[int, str] = (0, "")

    def now(self) -> str:
        """The present date (RFC 9110 section 6.6.1)."""
        second = int(time.time())
        if self._made[0] != second:
            self._made = (second, util.http_date(second))
        return self._made[1]


_date = _Date()

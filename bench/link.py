"""One connection of the load generator: requests out, answers in, as cheaply as Python can."""

from __future__ import annotations

import socket
import time

import httptools

_RECEIVE_BYTES = 256 * 1024


class Link:
    """A kept connection that carries one exchange at a time. Times are nanoseconds of CLOCK_MONOTONIC.

    `events` counts the whole server-sent events of the exchange, `fresh` holds those that the last `read` brought.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)  # a request of 100 KB goes out at once
        self.socket.setblocking(False)
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # httptools calls it
        self._parser = httptools.HttpResponseParser(self)
        self._begin()

    def ask(self, request: bytes) -> None:
        """Send a request; the last exchange is over."""
        self._begin()
        self.sent_at = time.monotonic_ns()
        if self.socket.send(request) != len(request):
            raise OSError("the request did not go out at once")

    def _begin(self) -> None:
        self.is_complete = False
        self.sent_at = self.first_at = 0
        self.events = 0
        self.fresh = self._half = b""
        self._has_stopped = False

    def read(self) -> bool:
        """Take in what has come; False if the connection has ended, or what came is no HTTP."""
        self.fresh = b""
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            return False
        if self._pieces:
            self._take_body()
        return True

    def _take_body(self) -> None:
        if not self.first_at:
            self.first_at = time.monotonic_ns()
        text = self._half + b"".join(self._pieces)
        self._pieces.clear()
        end = text.rfind(b"\n\n") + 2
        if end > 1:
            self.fresh, self._half = text[:end], text[end:]
            self.events += self.fresh.count(b"\n\n")
            self._has_stopped = self._has_stopped or b"event: message_stop" in self.fresh
        else:
            self._half = text

    @property
    def is_good(self) -> bool:
        """Whether the exchange has ended well: 200, and a stream with its last event."""
        return self.is_complete and self._parser.get_status_code() == 200 and (self._has_stopped or not self.events)

    def on_message_complete(self) -> None:
        """httptools calls it."""
        self.is_complete = True

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

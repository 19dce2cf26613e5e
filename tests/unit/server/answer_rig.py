"""Responses whose pieces the test writes, over real sockets on both sides.

Owns: a client, an upstream that is a bare socket, and what a worker does with a response but for its connection.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

from gunicorn.config import Config

from gateway.runtime.client_socket import ClientSocket
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import READABLE, Pause
from gateway.server.answer import Answer
from gateway.server.connection import Connection
from gateway.server.server_response import PromptResponse

Pieces = Callable[["Served"], Iterator[bytes]]


class Log:
    """gunicorn's log: keeps what is told of responses that are over."""

    def __init__(self) -> None:
        self.ended: list[object] = []

    def access(self, response: object, request: object, environ: object, duration: object) -> None:
        self.ended.append(response)


class Served:
    """A response of these pieces. `ran_in` names the threads that ran it, `is_over` is set at its end."""

    def __init__(self, lifecycle: Lifecycle, pieces: Pieces) -> None:
        accepted, self.client = socket.socketpair()
        self.ours = ClientSocket.adopt(accepted)
        self.upper, self.upstream = socket.socketpair()
        request = SimpleNamespace(method="POST", version=(1, 1), should_close=lambda: False)
        self.response = PromptResponse(request, self.ours, Config())
        self.answer = Answer(cast(Connection, SimpleNamespace(sock=self.ours)), request, self.response, {})
        self.pause = Pause(self.ours.fileno(), lifecycle.fileno())
        self.log = Log()
        self.ran_in: list[str] = []
        self.is_over = threading.Event()
        self.error: BaseException | None = None
        self._pieces = pieces

    def begin(self) -> bool:
        """Call the application, and run it as far as it goes."""
        self.answer.begin(self._application)
        return self.answer.run()

    def until_readable(self, until_at: float, needs_thread: bool = False) -> Pause:
        """A Pause until the upstream has sent something, or a monotonic time."""
        self.pause.wanted = ((self.upper.fileno(), READABLE),)
        self.pause.until_at = until_at
        self.pause.needs_thread = needs_thread
        return self.pause

    def go_on(self) -> bool:
        """What a worker does."""
        self.ran_in.append(threading.current_thread().name)
        try:
            if self.answer.run():
                return True
        except Exception as error:  # noqa: BLE001  # what it is, is asserted
            self.error = error
        self.answer.end(self.log)
        self.is_over.set()
        return False

    def taken(self) -> bytes:
        """What the client can read now, without its head."""
        self.client.setblocking(False)
        data = b""
        with contextlib.suppress(BlockingIOError):
            while piece := self.client.recv(1 << 20):
                data += piece
        return data.partition(b"\r\n\r\n")[2] if data.startswith(b"HTTP/1.1") else data

    def close(self) -> None:
        """Close all sockets."""
        for end in (self.ours, self.client, self.upper, self.upstream):
            end.close()

    def _application(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return self._pieces(self)


def framed(*pieces: bytes) -> bytes:
    """Pieces as they go over the wire."""
    return b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


END = b"0\r\n\r\n"

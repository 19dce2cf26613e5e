"""How connections end whose clients were answered.

Owns: closing without waiting in the main loop, and without a reset that overtakes the answer. Web layer; the main
loop's thread, but for `Connection.init`.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

from gunicorn import util
from gunicorn.http import RequestParser
from gunicorn.workers.gthread import TConn

from gateway.client_socket import ClientSocket
from gateway.request_head import HeadParser, KnownLines

# How long a client that was answered may take to hang up, and, while it still sends, in all.
_GOODBYE_SECONDS = 2.0
_LONGEST_GOODBYE_SECONDS = 30.0


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A connection that does not wait for its client when it is closed: `goodbye` sees to that.

    Its requests' heads are read by the help of `known_lines`.
    """

    goodbye: Callable[[ClientSocket], None]
    known_lines: KnownLines
    parser: Any

    def init(self) -> None:
        """Be ready to read a request; called before each, in its thread."""
        super().init()
        if type(self.parser) is RequestParser:  # not yet ours, and no uWSGI
            self.parser = HeadParser(self.known_lines, self.cfg, self.sock, self.client)

    def close(self, graceful: bool = False) -> None:
        """Close now, or as soon as the client has had the answer; may be called again."""
        if graceful:
            self.goodbye(self.sock)
        else:
            util.close(self.sock)


class Goodbyes:
    """Answered connections whose clients are given time to hang up first, so that they lose nothing of the answer.

    A reset would overtake it: that is what closing does while the client still sends (RFC 9112 section 9.6).
    """

    def __init__(self, poller: selectors.BaseSelector) -> None:
        self._poller = poller
        self._waiting: dict[ClientSocket, tuple[float, float]] = {}  # the next deadline, and the last

    def say(self, client: ClientSocket) -> None:
        """End our side; close when the client has ended its own, or after a while."""
        try:
            client.setblocking(False)
            client.shutdown(socket.SHUT_WR)
            self._poller.register(client, selectors.EVENT_READ, self._heard)
        except OSError:
            util.close(client)
            return
        now = time.monotonic()
        self._waiting[client] = (now + _GOODBYE_SECONDS, now + _LONGEST_GOODBYE_SECONDS)

    def sweep(self) -> None:
        """Close those that have had their time."""
        now = time.monotonic()
        for client in [client for client, deadlines in self._waiting.items() if min(deadlines) <= now]:
            self._end(client)

    def _heard(self, client: ClientSocket) -> None:
        client.read_deadline_at = None
        try:
            is_over = not client.recv(64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            is_over = True
        if is_over:
            self._end(client)
        else:
            self._waiting[client] = (time.monotonic() + _GOODBYE_SECONDS, self._waiting[client][1])

    def _end(self, client: ClientSocket) -> None:
        del self._waiting[client]
        self._poller.unregister(client)
        util.close(client)

"""How connections end whose clients were answered.

Owns: closing without waiting in the main loop, and without a reset that overtakes the answer. The main
loop's thread.
"""

from __future__ import annotations

import selectors
import socket
import time

from gunicorn import util

from gateway.runtime.client_socket import ClientSocket

# How long a client that was answered may take to hang up, and, while it still sends, in all.
_IDLE_SECONDS = 2.0
_LONGEST_SECONDS = 30.0
_MOST_AT_ONCE = 100  # at once: each holds a descriptor that others may need


class LingeringCloses:
    """Answered connections whose clients are given time to hang up first, so that they lose nothing of the answer.

    A reset would overtake it: that is what closing does while the client still sends (RFC 9112 section 9.6).
    """

    def __init__(self, poller: selectors.BaseSelector) -> None:
        self._poller = poller
        self._waiting: dict[ClientSocket, tuple[float, float]] = {}  # the next deadline, and the last

    def begin(self, client: ClientSocket) -> None:
        """End our side; close when the client has ended its own, or after a while.

        If there are too many, the first has had its time.
        """
        if len(self._waiting) >= _MOST_AT_ONCE:
            self._end(next(iter(self._waiting)))
        try:
            client.shutdown(socket.SHUT_WR)
            self._poller.register(client, selectors.EVENT_READ, self._heard)
        except OSError:
            util.close(client)
            return
        now = time.monotonic()
        self._waiting[client] = (now + _IDLE_SECONDS, now + _LONGEST_SECONDS)

    def sweep(self) -> None:
        """Close those that have had their time."""
        now = time.monotonic()
        for client in [client for client, deadlines in self._waiting.items() if min(deadlines) <= now]:
            self._end(client)

    def _heard(self, client: ClientSocket) -> None:
        if client not in self._waiting:  # it was ended when the poller had already told of it
            return
        try:
            data = client.receive_now(64 * 1024)
        except OSError:
            data = b""
        if data == b"":
            self._end(client)
        elif data:
            self._waiting[client] = (time.monotonic() + _IDLE_SECONDS, self._waiting[client][1])

    def _end(self, client: ClientSocket) -> None:
        del self._waiting[client]
        self._poller.unregister(client)
        util.close(client)

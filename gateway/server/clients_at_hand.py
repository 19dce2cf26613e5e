"""The clients whose requests are being served, and whether they take what is sent to them.

Owns: ending the connections of clients that take nothing. Threads add and discard, the main loop does the
rest; single steps are atomic. A response to such a client is held up without a limit of its own: shutting the
connection down ends that, so that the request is counted and recorded.
"""

from __future__ import annotations

import logging
import socket
import struct
from contextlib import suppress

from gateway.runtime.client_socket import ClientSocket

log = logging.getLogger(__name__)

_MOST_SECONDS_BETWEEN_LOOKS = 5.0
# A client's own system tells only now and then that there is room again: when a good part of its receive buffer is
# empty. A client that reads slowly is given the time that this takes it, beside the time limit. Of one that reads
# nothing that cannot be told apart, so it is bounded.
_SLOWEST_BYTES_A_SECOND = 1000
_RECEIVE_BUFFER_BYTES = 128 * 1024
_MOST_TIMES_THE_LIMIT = 5
# What the kernel holds for such a client is thrown away when the socket is closed, and not kept for minutes.
_RESET = struct.pack("ii", 1, 0)


class ClientsAtHand:
    """Clients whose requests have come and not ended."""

    def __init__(self) -> None:
        self._clients: set[ClientSocket] = set()
        self._looks_again_at = 0.0

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: ClientSocket) -> None:
        """A request of this client has come; it may be known already."""
        self._clients.add(client)

    def discard(self, client: ClientSocket) -> None:
        """Its request has ended."""
        self._clients.discard(client)

    def sweep(self, now: float, limit_seconds: float) -> None:
        """Cut off those that have taken nothing for so long; called often, and looks every now and then."""
        if now < self._looks_again_at:
            return
        self._looks_again_at = now + min(_MOST_SECONDS_BETWEEN_LOOKS, limit_seconds / 4)
        for client in list(self._clients):
            with suppress(OSError, ValueError):  # it has been closed meanwhile
                seconds = client.stalled_seconds(now)
                if seconds >= limit_seconds + _grace_seconds(client.taken_bytes, limit_seconds):
                    self._cut_off(client, seconds)

    def cut_off_all(self) -> None:
        """End all connections: their time is over."""
        for client in list(self._clients):
            with suppress(OSError):  # it has hung up
                client.shutdown(socket.SHUT_RDWR)

    def _cut_off(self, client: ClientSocket, seconds: float) -> None:
        peer = client.getpeername() if client.family != socket.AF_UNIX else ("a socket",)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.shutdown(socket.SHUT_RDWR)
        self._clients.discard(client)  # so that it is told once
        log.warning("the client at %s has taken nothing for %.0f s: its connection is closed", peer[0], seconds)


def _grace_seconds(taken_bytes: int, limit_seconds: float) -> float:
    """How long a slow client may need to read what its system holds for it."""
    held_bytes = min(taken_bytes, _RECEIVE_BUFFER_BYTES)
    return min(held_bytes / _SLOWEST_BYTES_A_SECOND, _MOST_TIMES_THE_LIMIT * limit_seconds)

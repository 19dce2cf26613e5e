"""Waiting on an upstream without forgetting the client.

Owns: how a request's thread waits for its upstream, and for a tool's result. A Watch belongs to one request and its
thread. Every wait for the upstream, to connect, to send or to receive, also watches the client's connection and the
end of the drain time, so the kernel wakes the thread for whichever comes first: it does not wake at intervals to look.
What the client sends and takes is waited for elsewhere (`request_body`, `client_socket`), and so are all streams that
are lent (`relay.lending`, which does look at intervals).

The client's socket is watched for its hang-up alone (POLLRDHUP): bytes of a pipelined next request are none of
our business here, and a client that shuts its sending side is taken for gone, as nginx does too.
"""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Mapping

from gateway.protocol.errors import ClientGone, Stopping
from gateway.runtime.lifecycle import Lifecycle

READABLE = select.POLLIN
WRITABLE = select.POLLOUT

_HANG_UP = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere POLLHUP, which poll reports unasked
_LONGEST_WAIT_SECONDS = 1e6
_GONE = _HANG_UP | select.POLLHUP | select.POLLERR | select.POLLNVAL


class Watch:
    """Waits for one request's upstream socket, its client's, and the end of the drain time.

    `client` is the client's connection, or None where there is none to watch.
    """

    def __init__(self, client: socket.socket | None, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._client_fd = client.fileno() if client is not None else None
        self._poll = select.poll()
        if self._client_fd is not None:
            self._poll.register(self._client_fd, _HANG_UP)
        self._poll.register(lifecycle.fileno(), select.POLLIN)
        self._upstream: tuple[int, int] | None = None
        self._is_found_readable = False

    @property
    def descriptors(self) -> tuple[int, int] | None:
        """The upstream's and the client's, if an answer is being waited for and both are watched: for the relay."""
        if self._client_fd is None or self._upstream is None or self._upstream[1] != READABLE:
            return None
        return self._upstream[0], self._client_fd

    def found_readable(self) -> None:
        """Another has waited, and the upstream is readable: the next wait is over at once."""
        self._is_found_readable = True

    def wait(self, descriptor: int, events: int, timeout_seconds: float) -> int:
        """Wait until the upstream's descriptor is READABLE or WRITABLE as asked.

        Returns what it is ready for, or 0 when the time is over. Raises ClientGone and Stopping.
        """
        if self._is_found_readable:
            self._is_found_readable = False
            return READABLE
        if self._upstream != (descriptor, events):
            self._follow(descriptor, events)
        polled = self._poll.poll(_milliseconds(timeout_seconds))
        if len(polled) == 1 and polled[0][0] == descriptor:  # as nearly always
            return polled[0][1]
        return self._ready_of(polled).get(descriptor, 0)

    def wait_any(self, wanted: Mapping[int, int], timeout_seconds: float) -> dict[int, int]:
        """Wait until one of several descriptors is ready as asked: while it is not yet known which is the upstream's.

        Returns those that are, and for what; none when the time is over. Raises ClientGone and Stopping.
        """
        self.forget()
        for descriptor, events in wanted.items():
            self._poll.register(descriptor, events)
        try:
            return self._ready_of(self._poll.poll(_milliseconds(timeout_seconds)))
        finally:
            for descriptor in wanted:
                self._poll.unregister(descriptor)

    def check(self) -> None:
        """Raise Stopping if the drain time is over: for a thread that is too busy to wait."""
        if self._lifecycle.is_over:
            raise Stopping("the gateway is stopping; try again")

    def forget(self) -> None:
        """Stop watching the upstream's descriptor: it is about to be closed or reused."""
        if self._upstream is not None:
            self._poll.unregister(self._upstream[0])
            self._upstream = None
            self._is_found_readable = False  # it was said of that descriptor

    def _ready_of(self, polled: list[tuple[int, int]]) -> dict[int, int]:
        """What is ready, by descriptor, unless the client is gone or the gateway stops."""
        ready = dict(polled)
        if self._client_fd is not None and ready.get(self._client_fd, 0) & _GONE:
            raise ClientGone
        if self._lifecycle.fileno() in ready:
            raise Stopping("the gateway is stopping; try again")
        return ready

    def _follow(self, descriptor: int, events: int) -> None:
        self.forget()
        self._poll.register(descriptor, events)
        self._upstream = (descriptor, events)


def _milliseconds(seconds: float) -> int:
    return math.ceil(min(max(0.0, seconds), _LONGEST_WAIT_SECONDS) * 1000)

"""Connections that no thread serves: those that have not said anything yet, or not all of a head.

Owns: their place in the poller, their deadlines, and who goes first when there is no room for new ones. The
main loop's thread.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from functools import partial

from gateway.runtime.client_socket import ClientSocket, ReadDeadlineExceeded
from gateway.server.connection import Connection, Progress

# Who has waited for longer may be sent away to make room. Heads come in a moment, from clients that mean well; and one
# that was served before is known, and often asks again.
_HEAD_SECONDS = 1.0
_IDLE_SECONDS = 15.0
# All heads together; beyond it none may be larger than nginx's 32 KB.
_MOST_HELD_BYTES = 32 * 1024 * 1024
_ORDINARY_HEAD_BYTES = 32 * 1024

_Queue = dict[Connection, int]  # in the order of their deadlines; how much of a head each has brought


class WaitingRoom:
    """Has `serve` called for a connection that is ready, or refused, and `leave` for one that is not to be answered.

    `head_seconds` says how long a head may take from its first byte.
    """

    def __init__(
        self,
        poller: selectors.BaseSelector,
        serve: Callable[[Connection], None],
        leave: Callable[[Connection], None],
        head_seconds: Callable[[], float],
    ) -> None:
        self._poller = poller
        self._serve = serve
        self._leave = leave
        self._head_seconds = head_seconds
        self._silent: _Queue = {}  # new ones
        self._begun: _Queue = {}  # part of a head is there
        self._kept: _Queue = {}  # served before
        self._queues = (self._begun, self._silent, self._kept)
        self._held_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    @property
    def kept(self) -> int:
        """How many have been served before and say nothing."""
        return len(self._kept)

    def welcome(self, connection: Connection) -> None:
        """Wait for a new connection's first byte, as long as for a head. Raises OSError if it cannot be watched."""
        self._watch(connection)
        self._join(self._silent, connection, self._head_seconds())

    def keep(self, connection: Connection, seconds: float) -> None:
        """Wait for a served connection's next request; part of its head may be there. Raises OSError."""
        self._watch(connection)
        if connection.head_bytes:
            self._join(self._begun, connection, self._head_seconds())
        else:
            self._join(self._kept, connection, seconds)

    def expire(self) -> None:
        """Send away those whose time is over: with a word, if they have begun a request."""
        now = time.monotonic()
        for queue in self._queues:
            while queue and (first := next(iter(queue))).timeout <= now:
                self._send_away(first)

    @property
    def left_seconds(self) -> float:
        """How long until `expire` has something to do; infinite if nobody waits."""
        ends_at = [next(iter(queue)).timeout for queue in self._queues if queue]
        return max(0.0, min(ends_at) - time.monotonic()) if ends_at else float("inf")

    def hurry(self, deadline: float) -> None:
        """Nobody's time ends later than this."""
        for queue in self._queues:
            for connection in queue:
                connection.timeout = min(connection.timeout, deadline)

    def make_room(self, number: int) -> None:
        """Send away so many, those first that have waited longest; unknown clients before known ones."""
        now = time.monotonic()
        for queue in self._queues:
            least_seconds = _IDLE_SECONDS if queue is self._kept else _HEAD_SECONDS
            while number > 0 and queue and now - (first := next(iter(queue))).waits_since >= least_seconds:
                self._send_away(first)
                number -= 1

    def close(self) -> None:
        """Let go of all without a word."""
        for queue in self._queues:
            for connection in list(queue):
                self._forget(connection)
                self._leave(connection)

    def _watch(self, connection: Connection) -> None:
        self._poller.register(connection.sock, selectors.EVENT_READ, partial(self._readable, connection))

    def _join(self, queue: _Queue, connection: Connection, seconds: float) -> None:
        connection.waits_since = time.monotonic()
        connection.timeout = connection.waits_since + seconds
        queue[connection] = connection.head_bytes
        self._held_bytes += connection.head_bytes

    def _forget(self, connection: Connection) -> None:
        for queue in self._queues:
            self._held_bytes -= queue.pop(connection, 0)
        self._poller.unregister(connection.sock)

    def _send_away(self, connection: Connection) -> None:
        if connection in self._begun:
            connection.refusal = ReadDeadlineExceeded()
            self._forget(connection)
            self._serve(connection)
        else:
            self._forget(connection)
            self._leave(connection)

    def _readable(self, connection: Connection, client: ClientSocket) -> None:
        progress = connection.collect()
        if progress is Progress.WAITING and self._may_grow(connection):
            return
        self._forget(connection)
        if progress is Progress.GONE:
            self._leave(connection)
        else:
            self._serve(connection)

    def _may_grow(self, connection: Connection) -> bool:
        """Note how much has come of a head; false if there is no room for the rest of it, and it is refused."""
        held_bytes = connection.head_bytes
        if connection in self._begun:
            self._held_bytes += held_bytes - self._begun[connection]
            self._begun[connection] = held_bytes
        elif held_bytes:  # the first of it
            self._silent.pop(connection, None)
            self._kept.pop(connection, None)
            self._join(self._begun, connection, self._head_seconds())
        if held_bytes > _ORDINARY_HEAD_BYTES and self._held_bytes > _MOST_HELD_BYTES:
            connection.refuse_size()
            return False
        return True

    def __repr__(self) -> str:
        return f"<WaitingRoom: {len(self._silent)} silent, {len(self._begun)} begun, {len(self._kept)} kept>"

"""Connections to the upstream: keeping them, dropping them, and bytes over them.

Owns: every upstream socket that is connected. A Connection belongs to one exchange at a time; the pool of
idle ones is thread-safe. No socket blocks: what waits yields the request's Pause.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Generator

from requests.exceptions import ReadTimeout

from gateway.runtime.pause import READABLE, WRITABLE, Pause, Wanted
from gateway.upstream.dialer import Dialer, Route
from gateway.upstream.tls import Stream, is_tls
from gateway.upstream.watch import Watch

_RECEIVE_BYTES = 64 * 1024
_WANTS_READ = (BlockingIOError, ssl.SSLWantReadError)


class Connection:
    """One connected socket. `has_sent_all` is False when a request was cut short: no further one may follow.

    `wanted` is what a `receive` that found nothing waits for: `readable`, most often. `is_drained`: the last piece was
    most likely all that there was. `receive` will say so once; who waits without asking it clears that.
    """

    __slots__ = ("_is_tls", "_quiet_poll", "_socket", "descriptor", "has_sent_all", "is_drained", "readable", "wanted")

    def __init__(self, stream: Stream) -> None:
        self._socket = stream
        self.descriptor = stream.fileno()
        self.readable: Wanted = ((self.descriptor, READABLE),)
        self.wanted: Wanted = self.readable
        self._is_tls = is_tls(stream)
        self.is_drained = False
        self._quiet_poll: select.poll | None = None
        self.has_sent_all = True

    def send(
        self, data: bytes, watch: Watch, timeout_seconds: float, heard: Callable[[bytes], bool]
    ) -> Generator[Pause, None, None]:
        """Send all of `data`, or stop early when the upstream answers before it has read everything.

        What comes meanwhile goes to `heard`, which says whether that is the answer. Raises OSError if the connection
        breaks, ReadTimeout if the upstream takes nothing for so long, ClientGone, Stopping.
        """
        rest = memoryview(data)
        self.has_sent_all = False
        silent_until = math.inf  # counted from the first wait
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
                silent_until = math.inf
                continue
            except ssl.SSLWantReadError:
                wanted = READABLE
            except (BlockingIOError, ssl.SSLWantWriteError):
                wanted = WRITABLE | READABLE
            early = self.receive()
            if early is not None and (not early or heard(early)):
                return
            now = time.monotonic()
            silent_until = min(silent_until, now + timeout_seconds)
            if now >= silent_until:
                raise ReadTimeout("the upstream took no more of the request")
            yield watch.pause(((self.descriptor, wanted),), silent_until)
            watch.check()
        self.has_sent_all = True

    def receive(self) -> bytes | None:
        """What is there; b"" at the end; None if nothing is, or most likely nothing: who has waited asks again.

        Raises OSError.
        """
        if self.is_drained:
            self.is_drained = False
            self.wanted = self.readable
            return None
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
            self.is_drained = not self._is_tls and 0 < len(data) < _RECEIVE_BYTES
            return data
        except _WANTS_READ:
            self.wanted = self.readable
        except ssl.SSLWantWriteError:
            self.wanted = ((self.descriptor, WRITABLE),)
        return None

    def is_quiet(self) -> bool:
        """Whether an idle connection is still open and silent, as it must be before it is used again."""
        if self._quiet_poll is None:
            self._quiet_poll = select.poll()
            self._quiet_poll.register(self.descriptor, select.POLLIN)
        if not self._quiet_poll.poll(0):
            return True
        try:  # a TLS record that carries no data, such as a session ticket, is no reason to drop it
            return self._is_tls and self.receive() is None
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket; may be called again."""
        if not self.has_sent_all and self._socket.fileno() >= 0:
            # An upstream that does not read would not see a FIN behind what it has not taken: reset the connection.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


class Connections:
    """The idle connections of one route, newest first, and the dialling of new ones. Thread-safe."""

    def __init__(self, route: Route, clock: Callable[[], float] = time.monotonic) -> None:
        self._route = route
        self._dialer = Dialer(route)
        self._clock = clock
        self._lock = threading.Lock()  # guards _idle and _is_closed
        self._idle: deque[tuple[Connection, float]] = deque()
        self._is_closed = False

    def take(self) -> Connection | None:
        """An idle connection that is still good, or None."""
        oldest_at = self._clock() - self._route.idle_seconds
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, idle_since_at = self._idle.pop()
            if idle_since_at > oldest_at and connection.is_quiet():
                return connection
            connection.close()

    def put(self, connection: Connection) -> None:
        """Keep a connection whose exchange is complete."""
        with self._lock:
            if not self._is_closed:
                self._idle.append((connection, self._clock()))
                return
        connection.close()

    def drop_stale(self) -> None:
        """Close what has been idle for too long."""
        oldest_at = self._clock() - self._route.idle_seconds
        stale = []
        with self._lock:
            while self._idle and self._idle[0][1] <= oldest_at:
                stale.append(self._idle.popleft()[0])
        for connection in stale:
            connection.close()

    def close(self) -> None:
        """Close the idle ones now and the others when they come back."""
        with self._lock:
            self._is_closed = True
            idle = list(self._idle)
            self._idle.clear()
        for connection, _ in idle:
            connection.close()

    def dial(self, watch: Watch) -> Generator[Pause, None, Connection]:
        """Connect anew. Raises as Dialer.dial does."""
        return Connection((yield from self._dialer.dial(watch)))

    def __repr__(self) -> str:
        with self._lock:
            return f"<Connections of {self._dialer!r}, {len(self._idle)} idle>"

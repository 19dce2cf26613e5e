"""What ends the sync thread's rest: a mark made here, and what other processes publish of theirs.

Owns: the connection that hears, and the words of a message. A message says that its sender has changed something, and
no more: who hears it looks, as it does twice a second anyway. So a message that is lost, or that an earlier gateway
never sent, costs half a second and nothing else; and a server that lets nobody subscribe costs that each time.
(https://redis.io/docs/latest/develop/pubsub/)
"""

from __future__ import annotations

import math
import os
import select
import threading
import time

import redis

from gateway.keys.redis.wire import SERVER_ERRORS, Connection, Server
from gateway.runtime.background import GrowingPause

# A connection that something on the way has dropped in silence hears nothing, so it is asked for a sign of life.
_LIFE_SECONDS = 15.0
_SHORTEST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 60.0
_SOUND_SECONDS = 10.0  # a connection that held for so long was a good one: the next is made at once
_FAILURES_TOLD = 2  # one alone is a server that restarts


class News:
    """Takes the place of a BackgroundThread's event. `set` may be called by any thread, all else by that thread alone.

    `sender` is what this process publishes: that it hears itself is no news.
    """

    def __init__(self, server: Server, sender: str, life_seconds: float = _LIFE_SECONDS) -> None:
        self._server = server
        self._sender = sender.encode()
        self._life_seconds = life_seconds
        self._lock = threading.Lock()  # guards the next three
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_set = False
        self._is_closed = False
        self._connection: Connection | None = None
        self._descriptor = -1
        self._connected_at = 0.0
        self._asked_at = self._heard_at = 0.0  # when a sign of life was asked for, and when anything came
        self._listens_at = 0.0
        self._connects_at = 0.0
        self._pause = GrowingPause(_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._failure_count = 0
        self._error: Exception | None = None

    @property
    def failure(self) -> Exception | None:
        """Why nothing can be heard, if that was tried more than once; a connection has to last before it is trusted."""
        return self._error if self._failure_count >= _FAILURES_TOLD and not self._is_sound() else None

    # A thread's event

    def set(self) -> None:
        """End the rest."""
        with self._lock:
            if not self._is_set and not self._is_closed:
                self._is_set = True
                os.eventfd_write(self._bell, 1)

    def clear(self) -> None:
        """Forget that it was set."""
        with self._lock:
            if self._is_set:
                self._is_set = False
                os.eventfd_read(self._bell)

    def wait(self, timeout: float | None) -> None:
        """Rest until it is set, another process has news, `tend` is due, or the time is over."""
        until = min(math.inf if timeout is None else time.monotonic() + timeout, self._due_at())
        while (left_seconds := until - time.monotonic()) > 0:
            listens_in_seconds = self._listens_at - time.monotonic()
            poll = select.poll()
            poll.register(self._bell, select.POLLIN)
            if self._connection is not None and listens_in_seconds <= 0:
                poll.register(self._descriptor, select.POLLIN)
            elif self._connection is not None:
                left_seconds = min(left_seconds, listens_in_seconds)
            came = dict(poll.poll(None if left_seconds == math.inf else math.ceil(left_seconds * 1000)))
            if self._bell in came or (came and self._has_news()):
                return

    # The connection

    def tend(self) -> None:
        """Connect if there is no connection, and see that the one there is lives. Raises nothing."""
        now = time.monotonic()
        try:
            if self._connection is not None and now >= self._due_at():
                if self._heard_at < self._asked_at:
                    raise redis.TimeoutError("no sign of life")
                self._asked_at = now
                self._connection.ask_for_life()
        except SERVER_ERRORS as error:
            self._failed(error)
        if self._connection is None and now >= self._connects_at:
            self._connect()

    def rest_for(self, seconds: float) -> None:
        """Let what comes wait for so long: many marks are looked at together."""
        self._listens_at = time.monotonic() + seconds

    def disconnect(self) -> None:
        """Close the connection: the server is not reached, so what failed says nothing of subscribing."""
        self._drop()
        self._connects_at, self._failure_count = 0.0, 0

    def close(self) -> None:
        """Hear nothing more, for good."""
        self.disconnect()
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self._bell)

    def _connect(self) -> None:
        connection = None
        try:
            connection = self._server.connect()
            self._descriptor = connection.subscribe(self._server.channel)
        except SERVER_ERRORS as error:
            if connection is not None:
                connection.close()
            self._failed(error)
            return
        self._connection = connection
        self._connected_at = self._asked_at = self._heard_at = time.monotonic()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _failed(self, error: Exception) -> None:
        now = time.monotonic()
        if self._is_sound():
            self._failure_count = 0
            self._pause.reset()
        self._drop()
        self._error = error
        self._failure_count += 1
        self._connects_at = now + (self._pause.next_seconds() if self._failure_count > 1 else 0.0)

    def _is_sound(self) -> bool:
        return self._connection is not None and time.monotonic() >= self._connected_at + _SOUND_SECONDS

    def _has_news(self) -> bool:
        """Whether another process has said so; or the connection is lost, and with it perhaps a message."""
        assert self._connection is not None
        try:
            messages = self._connection.heard()
        except SERVER_ERRORS as error:
            self._failed(error)
            return True
        self._heard_at = time.monotonic()
        return any(
            isinstance(said, list) and said[:1] == [b"message"] and said[2:] != [self._sender] for said in messages
        )

    def _due_at(self) -> float:
        return self._connects_at if self._connection is None else self._asked_at + self._life_seconds

    def __repr__(self) -> str:
        return f"<News of {self._server.channel} is_connected={self._connection is not None}>"

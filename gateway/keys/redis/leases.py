"""Who may try a key on trial, among all machines: the one question that a request puts to the server and waits for.

Owns: the connection for that question.

What it buys: when a key's rest is over, one request of all processes tries it. Without the question one of each process
does (8 of 8, `bench.marks lease`), and each of these clients waits for a refusal first, if the key is still limited.
Only a request with a key on trial asks. A connection is kept ready, for to make one may take longer than it waits.
"""

from __future__ import annotations

import queue
import secrets
import time
from enum import Enum

from gateway.keys.key_record import Record, joined
from gateway.keys.redis.scripts import LEASE
from gateway.keys.redis.wire import SERVER_ERRORS, Connection, Server, ServerClock, record_from, understood

# A lease request is void this long after its sender has stopped waiting; more than the clock's tolerance.
_LEASE_GRACE_SECONDS = 0.1
_ASK_AGAIN_SECONDS = 0.05


class LeaseAnswer(Enum):
    """What may be said of a lease in one word."""

    GRANTED = "granted"
    UNKNOWN = "the server is too slow to be asked"


class LeaseDesk:
    """Where requests ask the server for leases: one connection, kept ready, lent to one thread at a time.

    Thread-safe; `open` and `close` are the sync thread's. A connection that failed is not lent again. One question
    without an answer may be this machine's own haste, in the very crowd that a lease is there to hold back: so it is
    put again a moment later, and only a second silence in a row means that the server is too slow to be asked.
    """

    def __init__(self, server: Server, server_clock: ServerClock, timeout_seconds: float) -> None:
        self._server = server
        self._server_clock = server_clock
        self._timeout_seconds = timeout_seconds
        self._process = secrets.token_hex(8) + ":"
        self._ready: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        # Written by whoever holds the connection, or knows that there is none.
        self.is_wanted = True  # a connection
        self._was_answered = True

    def open(self) -> None:
        """Make a connection if there is none. Raises SERVER_ERRORS."""
        if self.is_wanted:
            connection = self._server.connect()
            try:
                connection.load(LEASE)
            except SERVER_ERRORS:
                connection.close()
                raise
            self.is_wanted = False
            self._ready.put(connection)

    def lease(self, name: str, until_at: float, now: float, record: Record) -> LeaseAnswer | float | Record:
        """Ask for a lease until then of a key on trial.

        Returns until when to stay away if another process holds it, or nobody knows yet; the server's record if there
        is nothing to try. Waits for the time-out at most.
        """
        deadline = time.monotonic() + self._timeout_seconds
        try:
            connection = self._ready.get(timeout=0 if self.is_wanted else self._timeout_seconds)
        except queue.Empty:
            return now + _ASK_AGAIN_SECONDS
        has_answered = False
        try:
            answer = self._asked(connection, name, until_at, now, record, max(0.0, deadline - time.monotonic()))
            has_answered = True
            return answer
        except SERVER_ERRORS:
            return now + _ASK_AGAIN_SECONDS if self._was_answered else LeaseAnswer.UNKNOWN
        finally:
            self._was_answered = has_answered
            if has_answered:
                self._ready.put(connection)
            else:
                connection.close()
                self.is_wanted = True

    def _asked(
        self, connection: Connection, name: str, until_at: float, now: float, record: Record, timeout_seconds: float
    ) -> LeaseAnswer | float | Record:
        to_server = self._server_clock.to_server
        arguments = (
            to_server(now + timeout_seconds + _LEASE_GRACE_SECONDS),
            self._process,
            self.written(until_at),
            max(1, round((until_at - now) * 1000)),
        )
        keys = (self._server.key("clock"), self._server.key("key", name), self._server.key("lease", name))
        answer = connection.quick_script(LEASE, keys, arguments, timeout_seconds)
        with understood():
            held_ms, fields = answer
            if fields:
                shown = record_from(fields, self._server_clock)
                if shown.generation > record.generation or not joined(shown, record).is_on_trial(now):
                    return shown
            return LeaseAnswer.GRANTED if held_ms < 0 else now + held_ms / 1000

    def written(self, until_at: float) -> str:
        """A lease as the server keeps it."""
        return f"{self._process}{until_at!r}"

    def close(self) -> None:
        """Close the connection, unless a request has it: that one will see for itself."""
        try:
            self._ready.get_nowait().close()
        except queue.Empty:
            return
        self.is_wanted = True

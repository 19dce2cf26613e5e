"""What is said to a Redis server about the keys: the server's clock as seen from here, the connections, the words.

Owns: every socket to the server. Edge layer. The form of the data and the reason for it are in redis_scripts. Works
with Redis 6 and later and with Valkey.
"""

from __future__ import annotations

import hashlib
import queue
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import redis
from redis.connection import parse_url

from gateway.records import Record
from gateway.redis_scripts import EXCHANGE, LEASE
from gateway.replica import Told

SERVER_ERRORS = (redis.RedisError, OSError)

# How long the sync thread waits for one answer; what it sent is void after half of that.
ANSWER_SECONDS = 1.0
# A lease request is void this long after its sender has stopped waiting; more than the clock's tolerance.
_LEASE_GRACE_SECONDS = 0.1
_ASK_AGAIN_SECONDS = 0.05
# An estimate of the server's clock is kept while it is this good, for one that moved would move the deadlines.
_CLOCK_TOLERANCE_SECONDS = 0.01

# Above what the URL says. Whoever uses a connection decides what happens after a failure, so nothing is tried again.
_CONNECTION_OPTIONS: Mapping[str, Any] = {
    "socket_timeout": ANSWER_SECONDS,
    "socket_connect_timeout": ANSWER_SECONDS,
    "decode_responses": False,
    "protocol": 2,
    "retry": None,
    "retry_on_timeout": False,
    "health_check_interval": 0,
}


class ServerClock:
    """How far the server's clock is ahead of this machine's, which may be wrong by minutes.

    One thread observes; any may convert.
    """

    def __init__(self) -> None:
        self._ahead_seconds: float | None = None

    def observe(self, sent_at: float, server_at: float, received_at: float) -> None:
        """The server read its clock between these two points of this machine's."""
        lowest, highest = server_at - received_at, server_at - sent_at
        ahead = self._ahead_seconds
        if ahead is None or not lowest - _CLOCK_TOLERANCE_SECONDS <= ahead <= highest + _CLOCK_TOLERANCE_SECONDS:
            self._ahead_seconds = (lowest + highest) / 2

    def to_server(self, at: float) -> int:
        """A point in time as the server writes it."""
        return round((at + (self._ahead_seconds or 0.0)) * 1e6) if at else 0

    def from_server(self, microseconds: int) -> float:
        """A point in time of this machine's clock."""
        return microseconds / 1e6 - (self._ahead_seconds or 0.0) if microseconds else 0.0


class Server:
    """One Redis server as its URL names it: whence connections come, what things are called there.

    `place` may be shown; the URL may not, for it can hold a password. Raises ValueError if the URL is none.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self._prefix = prefix
        try:
            options = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated
            self._connection_class: Callable[..., Any] = options.pop("connection_class", redis.Connection)
            self._options: dict[str, Any] = options | _CONNECTION_OPTIONS
            self._connection_class(**self._options)  # connects nowhere
        except (ValueError, TypeError, redis.RedisError):
            # The message may quote the URL, and the URL a password.
            raise ValueError(
                "not a Redis URL: want redis://, rediss:// or unix://, special characters in the password "
                "percent-encoded, and only options that redis-py knows"
            ) from None
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        self.place = str(options.get("path", f"{host}:{port}"))

    def connect(self) -> Connection:
        """A new connection, logged in. Raises SERVER_ERRORS."""
        raw = self._connection_class(**self._options)
        raw.connect()
        return Connection(raw)

    def key(self, kind: str, name: str = "") -> str:
        """What a thing is called on the server."""
        return f"{self._prefix}{kind}:{name}" if name else f"{self._prefix}{kind}"


class Connection:
    """One connection; belongs to one thread at a time.

    All methods raise SERVER_ERRORS. After one it is not used again, for the library might connect anew, unnoticed.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def command(self, *words: str | int) -> Any:
        """Send one command and wait for its answer."""
        self.send(*words)
        return self._raw.read_response()

    def script(self, script: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """Run a script, which the server may not have seen before."""
        rest = (len(keys), *keys, *arguments)
        try:
            return self.command("EVALSHA", _sha(script), *rest)
        except redis.exceptions.NoScriptError:
            return self.command("EVAL", script, *rest)

    def quick_script(
        self, script: str, keys: Sequence[str], arguments: Sequence[str | int], timeout_seconds: float
    ) -> Any:
        """Run a script that the server knows, and wait no longer than that for its answer."""
        self.send("EVALSHA", _sha(script), len(keys), *keys, *arguments)
        # The answer is small and comes at once or not at all: after its first byte nothing is waited for.
        if not self._raw.can_read(timeout_seconds):
            raise redis.TimeoutError("no answer in time")
        return self._raw.read_response()

    def send(self, *words: str | int) -> None:
        """Send one command."""
        self._raw.send_command(*words)

    def close(self) -> None:
        """Close it; again does nothing."""
        self._raw.disconnect()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says at the end of an exchange; None for a key that it does not know."""

    epoch: bytes
    records: Mapping[str, Record | None]


class Exchanges:
    """The sync thread's connection. Not thread-safe."""

    def __init__(self, server: Server, server_clock: ServerClock, clock: Callable[[], float]) -> None:
        self._server = server
        self._server_clock = server_clock
        self._clock = clock
        self._connection: Connection | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, which may have broken unnoticed."""
        return self._connection is not None

    def connect(self) -> None:
        """Connect, if there is no connection. Raises SERVER_ERRORS."""
        if self._connection is None:
            self._connection = self._server.connect()

    def names(self) -> list[str]:
        """The keys that the server knows; the clocks are compared on the way. Raises SERVER_ERRORS."""
        assert self._connection is not None
        sent_at = self._clock()
        seconds, microseconds = self._connection.command("TIME")
        self._server_clock.observe(sent_at, int(seconds) + int(microseconds) / 1e6, self._clock())
        return [name.decode() for name in self._connection.command("SMEMBERS", self._server.key("keys"))]

    def exchange(self, told: Mapping[str, Told]) -> Answer:
        """Tell what is known, hear what the server knows then. Raises SERVER_ERRORS."""
        assert self._connection is not None
        keys = [self._server.key("epoch"), self._server.key("keys")]
        void_after = self._server_clock.to_server(self._clock() + ANSWER_SECONDS / 2)
        arguments: list[str | int] = [void_after, secrets.token_hex(16)]
        for name, what in told.items():
            keys += self._server.key("key", name), self._server.key("lease", name)
            arguments += name, what.released
            arguments += self._fields(what) if what.is_news else [""]
        epoch, *records = self._connection.script(EXCHANGE, keys, arguments)
        return Answer(
            epoch,
            {
                name: _decoded(fields, self._server_clock) if fields else None
                for name, fields in zip(told, records, strict=True)
            },
        )

    def _fields(self, what: Told) -> Iterator[str | int]:
        record, to_server = what.record, self._server_clock.to_server
        yield record.generation
        yield to_server(record.cooling_until_at)
        yield to_server(record.confirmed_at)
        yield int(record.is_retired)
        yield int(record.is_disabled)
        yield to_server(record.marked_at)
        yield record.reason
        yield record.status
        yield what.limited_count
        yield what.refused_count
        yield record.limited_count - what.limited_count
        yield record.refused_count - what.refused_count

    def close(self) -> None:
        """Close the connection; the next exchange needs another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


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
                connection.command("SCRIPT", "LOAD", LEASE)
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
            record.generation,
            to_server(record.cooling_until_at),
        )
        keys = (self._server.key("key", name), self._server.key("lease", name))
        verdict, *rest = connection.quick_script(LEASE, keys, arguments, timeout_seconds)
        if verdict == b"granted":
            return LeaseAnswer.GRANTED
        if verdict == b"held":
            return now + max(0, int(rest[0])) / 1000
        return _decoded(rest[0], self._server_clock)

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


def _decoded(fields: Sequence[bytes], server_clock: ServerClock) -> Record:
    try:
        return _record(fields, server_clock)
    except ValueError as error:
        raise redis.InvalidResponse("what is stored of a key was not written by a gateway") from error


def _record(fields: Sequence[bytes], server_clock: ServerClock) -> Record:
    generation, cooling_until, confirmed, is_retired, is_disabled, marked, reason, status, limited, refused = fields
    return Record(
        generation=int(generation),
        cooling_until_at=server_clock.from_server(int(cooling_until)),
        confirmed_at=server_clock.from_server(int(confirmed)),
        is_retired=is_retired == b"1",
        is_disabled=is_disabled == b"1",
        marked_at=server_clock.from_server(int(marked)),
        reason=reason.decode(),
        status=int(status),
        limited_count=int(limited),
        refused_count=int(refused),
    )


def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()

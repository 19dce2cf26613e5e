"""What is said to a Redis server about the keys: the server's clock as seen from here, the connections, the words.

Owns: every socket to the server. The form of the data and the reason for it are in redis.scripts. Works
with Redis 6 and later and with Valkey. Whatever a server answers, all that comes of it is a record or one of
SERVER_ERRORS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import redis
from redis.connection import parse_url

from gateway.keys.key_record import Record
from gateway.keys.redis.answers import AnswerReader

SERVER_ERRORS = (redis.RedisError, OSError)

# How long the sync thread waits for one answer; what it sent is void after half of that.
ANSWER_SECONDS = 1.0
# An estimate of the server's clock is kept while it is this good.
_CLOCK_TOLERANCE_SECONDS = 0.01
_CLOCK_STEP_SECONDS = 1.0
_MOST_CONVERTED = 65536  # more than a store has records

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
    """How far the server's clock is ahead of this machine's.

    A point in time that came from there is converted once: however the server's clock is set afterwards, it stays where
    it was by the clock of this machine. One thread observes; any may convert.
    """

    def __init__(self) -> None:
        self._ahead_seconds: float | None = None
        self._converted: dict[int, float] = {}

    def observe(self, sent_at: float, server_at: float, received_at: float) -> bool:
        """The server read its clock between these two points of this machine's; True if it has been set meanwhile."""
        lowest, highest = server_at - received_at, server_at - sent_at
        ahead = self._ahead_seconds
        if ahead is not None and lowest - _CLOCK_TOLERANCE_SECONDS <= ahead <= highest + _CLOCK_TOLERANCE_SECONDS:
            return False
        self._ahead_seconds = (lowest + highest) / 2
        return ahead is not None and abs(ahead - self._ahead_seconds) > _CLOCK_STEP_SECONDS

    def to_server(self, at: float) -> int:
        """A point in time as the server writes it."""
        return round((at + (self._ahead_seconds or 0.0)) * 1e6) if at else 0

    def from_server(self, microseconds: int) -> float:
        """A point in time of this machine's clock."""
        if not microseconds:
            return 0.0
        at = self._converted.get(microseconds)
        if at is None:
            at = microseconds / 1e6 - (self._ahead_seconds or 0.0)
            if len(self._converted) >= _MOST_CONVERTED:
                self._converted.clear()
            self._converted[microseconds] = at
        return at


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
                "not a Redis URL: redis://, rediss:// or unix:// was expected, special characters in the password "
                "percent-encoded, and only options that redis-py knows"
            ) from None
        # Where a database hears of changes; what is published is heard in all databases of a server.
        self.channel = f"{prefix}news:{options.get('db', 0)}"
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        self.place = str(options.get("path", f"{host}:{port}"))

    def connect(self) -> Connection:
        """A new connection, logged in. Raises SERVER_ERRORS."""
        reader = AnswerReader(ANSWER_SECONDS)
        raw = self._connection_class(**self._options, parser_class=reader)
        with understood():
            raw.connect()
        return Connection(raw, reader)

    def key(self, kind: str, name: str = "") -> str:
        """What a thing is called on the server."""
        return f"{self._prefix}{kind}:{name}" if name else f"{self._prefix}{kind}"


class Connection:
    """One connection; belongs to one thread at a time.

    All methods raise SERVER_ERRORS. After one it is not used again, for the library might connect anew, unnoticed.
    """

    def __init__(self, raw: Any, reader: AnswerReader) -> None:
        self._raw = raw
        self._reader = reader

    def script(self, script: str, keys: Sequence[str], arguments: Sequence[str | int] = ()) -> Any:
        """Run a script, which the server may not have seen before."""
        rest = (len(keys), *keys, *arguments)
        try:
            return self._command("EVALSHA", _sha(script), *rest)
        except redis.exceptions.NoScriptError:
            return self._command("EVAL", script, *rest)

    def load(self, script: str) -> None:
        """Let the server know a script, for `quick_script`."""
        self._command("SCRIPT", "LOAD", script)

    def quick_script(
        self, script: str, keys: Sequence[str], arguments: Sequence[str | int], timeout_seconds: float
    ) -> Any:
        """Run a script that the server knows, and wait no longer than that for its answer."""
        self._reader.answer_seconds = timeout_seconds
        return self._command("EVALSHA", _sha(script), len(keys), *keys, *arguments)

    def subscribe(self, channel: str) -> int:
        """Hear what is published there, by `heard`, and ask nothing else any more. The descriptor to wait for."""
        self._command("SUBSCRIBE", channel)
        return self._reader.fileno()

    def heard(self) -> list[Any]:
        """What has come since the last call: messages, and answers to `ask_for_life`. Waits for nothing."""
        with understood():
            return self._reader.read_what_came()

    def ask_for_life(self) -> None:
        """Send what even a subscribed connection is answered; `heard` has the answer."""
        with understood():
            self._raw.send_command("PING")

    def close(self) -> None:
        """Close it; again does nothing."""
        self._raw.disconnect()

    def _command(self, *words: str | int) -> Any:
        if self._reader.can_read():
            raise redis.InvalidResponse("an answer came that nobody had asked for")
        with understood():
            self._raw.send_command(*words)
            return self._raw.read_response()


@contextmanager
def understood() -> Iterator[None]:
    """An answer that is not of the form that was asked for is one of SERVER_ERRORS, not a defect of this program."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise redis.InvalidResponse(f"an answer is not what was asked for ({type(error).__name__})") from error


def read_record(fields: Sequence[bytes]) -> Record:
    """A record as the scripts answer it: points in time are whole microseconds of the server's clock.

    Raises SERVER_ERRORS.
    """
    with understood():
        generation, cooling, confirmed, is_retired, is_disabled, marked, reason, status, limited, refused = fields
        return Record(
            generation=int(generation),
            cooling_until_at=int(cooling),
            confirmed_at=int(confirmed),
            is_retired=is_retired == b"1",
            is_disabled=is_disabled == b"1",
            marked_at=int(marked),
            reason=reason.decode(),
            status=int(status),
            limited_count=int(limited),
            refused_count=int(refused),
        )


def written_record(record: Record) -> tuple[str | int, ...]:
    """The fields of a record whose points in time are microseconds of the server's clock."""
    return (
        record.generation,
        int(record.cooling_until_at),
        int(record.confirmed_at),
        int(record.is_retired),
        int(record.is_disabled),
        int(record.marked_at),
        record.reason,
        record.status,
        record.limited_count,
        record.refused_count,
    )


def record_from(fields: Sequence[bytes], server_clock: ServerClock) -> Record:
    """A record as the scripts answer it, by this machine's clock. Raises SERVER_ERRORS."""
    return _by(read_record(fields), lambda at: server_clock.from_server(int(at)))


def record_for(record: Record, server_clock: ServerClock) -> Record:
    """A record of this machine's, by the server's clock."""
    return _by(record, server_clock.to_server)


def _by(record: Record, clock: Callable[[float], float]) -> Record:
    with understood():
        return replace(
            record,
            cooling_until_at=clock(record.cooling_until_at),
            confirmed_at=clock(record.confirmed_at),
            marked_at=clock(record.marked_at),
        )


def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()

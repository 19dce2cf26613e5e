"""What is told to the server about all keys, and what is heard from it.

Owns: the sync thread's connection, and the words of an exchange. Edge layer.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gateway.records import Record
from gateway.redis_scripts import EXCHANGE, LOOK
from gateway.redis_wire import ANSWER_SECONDS, Connection, Server, ServerClock, record_from, understood
from gateway.replica import Told

_NAME = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says at the end of an exchange; None for a key that it does not know.

    `odd` are those keys among them in whose place something stands that no gateway has written.
    """

    epoch: bytes
    records: Mapping[str, Record | None]
    odd: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Look:
    """What the server says at the beginning of an exchange: the keys it knows, and whether its clock has been set.

    `odd` are members of the set of names that are no names.
    """

    names: tuple[str, ...]
    odd: frozenset[bytes]
    is_clock_set: bool


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

    def look(self) -> Look:
        """Which keys the server knows; the clocks are compared on the way. Raises SERVER_ERRORS."""
        assert self._connection is not None
        sent_at = self._clock()
        answer = self._connection.script(LOOK, (self._server.key("clock"), self._server.key("keys")))
        with understood():
            shown, members = answer
            is_clock_set = self._server_clock.observe(sent_at, int(shown) / 1e6, self._clock())
            names = [member for member in members if _NAME.fullmatch(member)]
            return Look(tuple(name.decode() for name in names), frozenset(members) - frozenset(names), is_clock_set)

    def exchange(self, told: Mapping[str, Told]) -> Answer:
        """Tell what is known, hear what the server knows then. Raises SERVER_ERRORS."""
        assert self._connection is not None
        keys = [self._server.key("clock"), self._server.key("epoch"), self._server.key("keys")]
        void_after = self._server_clock.to_server(self._clock() + ANSWER_SECONDS / 2)
        arguments: list[str | int] = [void_after, secrets.token_hex(16)]
        for name, what in told.items():
            keys += self._server.key("key", name), self._server.key("lease", name)
            arguments += name, what.released
            arguments += self._fields(what) if what.is_news else [""]
        answer = self._connection.script(EXCHANGE, keys, arguments)
        with understood():
            epoch, *found = answer
            if not isinstance(epoch, bytes):
                raise TypeError("the epoch is none")
            by_name = dict(zip(told, found, strict=True))
            odd = frozenset(name for name, fields in by_name.items() if fields == [b"odd"])
            records = {
                name: record_from(fields, self._server_clock) if fields and name not in odd else None
                for name, fields in by_name.items()
            }
        return Answer(epoch, records, odd)

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

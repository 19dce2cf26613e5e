"""What is told to the server, and what is heard from it.

Owns: the sync thread's connection, and the words of an exchange. What is told is merged here, by key_record's rules,
with the record that the server is thought to hold; it takes the result only if it holds just that, and else shows what
it holds instead, for another try.

A mark that nobody races takes one round trip, as it would if the server merged; where 16 processes mark one key at the
same moment it is 7, and the first of them arrives after one (bench/RESULTS.md, "What the shortcuts buy").
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import redis

from gateway.keys.key_record import Record, joined
from gateway.keys.redis.scripts import EXCHANGE, LOOK
from gateway.keys.redis.wire import (
    ANSWER_SECONDS,
    Connection,
    Server,
    ServerClock,
    read_record,
    record_for,
    record_from,
    understood,
    written_record,
)
from gateway.keys.replica import Told
from gateway.keys.subjects import DAY_SECONDS, MOST_DETAILED, is_sound

_NAME = re.compile(r"[0-9a-f]{64}")
MOST_AT_ONCE = 500  # names in one exchange: the server does nothing else meanwhile
_SWEPT_AT_ONCE = 32
_MOST_TRIES = 100
_ODD = [b"odd"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says at the end of an exchange; None for a subject that it does not know.

    `odd` are those among them in whose place something stands that no gateway has written.
    """

    epoch: bytes
    records: Mapping[str, Record | None]
    odd: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Look:
    """What the server says at the beginning of an exchange: what has changed, and whether its clock has been set.

    `names` are to be asked about, `odd` are names that are none. `has_bases`: the records of bases have changed, and
    all of them are named. `is_more`: further ones have changed, and another look names them.
    """

    epoch: bytes
    names: tuple[str, ...]
    odd: frozenset[bytes]
    has_bases: bool
    is_more: bool
    is_clock_set: bool


class Exchanges:
    """The sync thread's connection, and how far it has seen the server's changes. Not thread-safe.

    `sender` is what the server publishes where this process has changed something (see redis.news).
    What a look has named counts as seen: so after a failure all is seen once more, on another connection.
    """

    def __init__(self, server: Server, server_clock: ServerClock, clock: Callable[[], float], sender: str = "") -> None:
        self._server = server
        self._sender = sender
        self._server_clock = server_clock
        self._clock = clock
        self._connection: Connection | None = None
        self.start_over()

    def start_over(self) -> None:
        """Let the next looks name everything."""
        self._digest = b""
        self._version = 0.0
        self._swept_to = 0.0
        self._held: dict[str, Sequence[bytes]] = {}  # what the server last showed; that it has none is empty

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, which may have broken unnoticed."""
        return self._connection is not None

    def connect(self) -> None:
        """Connect, if there is no connection. Raises SERVER_ERRORS."""
        if self._connection is None:
            self._connection = self._server.connect()
            self.start_over()

    def look(self) -> Look:
        """What has changed since the last time; the clocks are compared on the way. Raises SERVER_ERRORS."""
        assert self._connection is not None
        keys = [self._server.key(kind) for kind in ("clock", "epoch", "keys", "version", "details")]
        places = (self._digest.decode(), repr(self._version), repr(self._swept_to), _SWEPT_AT_ONCE, MOST_AT_ONCE)
        sent_at = self._clock()
        answer = self._connection.script(LOOK, keys, (self._server.key("key:"), *places))
        with understood():
            shown, epoch, digest, version, bases, changed, swept_to, gone = answer
            if not isinstance(epoch, bytes) or not isinstance(digest, bytes) or not digest.isalnum():
                raise TypeError("the epoch or the digest is none")
            is_clock_set = self._server_clock.observe(sent_at, int(shown) / 1e6, self._clock())
            names, odd = _sifted([*bases, *changed[::2], *gone])
            has_bases, self._digest = digest != self._digest, digest
            is_cut, is_lost = len(changed) >= 2 * MOST_AT_ONCE, float(version) < self._version
            self._version = 0.0 if is_lost else float(changed[-1]) if is_cut else float(version)
            self._swept_to = float(swept_to)
        return Look(epoch, names, odd, has_bases, is_cut or is_lost, is_clock_set)

    def exchange(self, told: Mapping[str, Told]) -> Answer:
        """Tell what is known, hear what the server knows then. Raises SERVER_ERRORS."""
        epoch, left, odd = b"", dict(told), set[str]()
        for _ in range(_MOST_TRIES):
            before, epoch = epoch, self._tell(left, odd)
            if before not in (b"", epoch):
                raise redis.ResponseError("the server lost its data during an exchange")
            if not left:
                records = {
                    name: record_from(fields, self._server_clock) if (fields := self._held[name]) else None
                    for name in told
                }
                self._forget_many()
                return Answer(epoch, records, frozenset(odd))
        raise redis.ResponseError("the records on the server are others whenever they are looked at")

    def _tell(self, left: dict[str, Told], odd: set[str]) -> bytes:
        """Tell it once; in `left` stays what the server did not take. The epoch."""
        assert self._connection is not None
        keys = [self._server.key(kind) for kind in ("clock", "epoch", "keys", "version", "details")]
        void_after = self._server_clock.to_server(self._clock() + ANSWER_SECONDS / 2)
        arguments: list[str | int] = [void_after, secrets.token_hex(16), self._server.key("key:")]
        arguments += self._server.key("lease:"), round(DAY_SECONDS * 1000), MOST_DETAILED
        arguments += self._server.channel, self._sender
        for name, what in left.items():
            keys += self._server.key("key", name), self._server.key("lease", name)
            arguments += name, what.released
            arguments += self._change(self._held.get(name, ()), what) if what.is_news else ["-"]
        answer = self._connection.script(EXCHANGE, keys, arguments)
        with understood():
            epoch, *found = answer
            if not isinstance(epoch, bytes):
                raise TypeError("the epoch is none")
            for name, is_as_told, fields in zip(list(left), found[::2], found[1::2], strict=True):
                self._held[name] = [] if fields == _ODD else fields
                if fields == _ODD:
                    odd.add(name)
                if is_as_told:
                    del left[name]
                else:
                    odd.discard(name)  # it is replaced next
        return epoch

    def _change(self, fields: Sequence[bytes], what: Told) -> list[str | int]:
        """What is to stand there in place of these fields, in the script's words."""
        held = read_record(fields) if fields else None
        mine = record_for(what.record, self._server_clock)
        record = _merged(held, mine, what)
        is_over = held is None or _state_of(record) != _state_of(held)
        found = b" ".join(fields).decode()
        ends = "lasting" if record.is_permanent else "", "over" if is_over else ""
        return [found, *written_record(record), *ends]

    def _forget_many(self) -> None:
        if len(self._held) > MOST_DETAILED:
            self._held.clear()

    def close(self) -> None:
        """Close the connection; the next exchange needs another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _merged(held: Record | None, mine: Record, what: Told) -> Record:
    """What the server is to hold; of the counts, what came on top of those that it had shown is added."""
    mine = replace(mine, limited_count=what.limited_count, refused_count=what.refused_count)
    both = mine if held is None else joined(held, mine)
    return replace(
        both,
        limited_count=both.limited_count + what.record.limited_count - what.limited_count,
        refused_count=both.refused_count + what.record.refused_count - what.refused_count,
    )


def _state_of(record: Record) -> tuple[float | bool, ...]:
    """What ends a trial when it changes."""
    return (
        record.generation,
        record.cooling_until_at,
        record.confirmed_at,
        record.is_retired,
        record.is_disabled,
    )


def _sifted(members: Iterable[bytes]) -> tuple[tuple[str, ...], frozenset[bytes]]:
    """Those that are names, and those that are none."""
    names, odd = [], []
    for member in members:
        name = member.decode(errors="replace")
        if _NAME.fullmatch(name.partition("/")[0]) and is_sound(name):
            names.append(name)
        else:
            odd.append(member)
    return tuple(names), frozenset(odd)

"""What happened lately, for whoever looks at the status page: traffic of the last minutes, and the last events.

Owns: what counts as a failure, the words of events, and their form in memory that all workers of a gateway share. The
master and each worker write a part of their own; whichever worker is asked reads all parts. Thread-safe. It is lost
when the gateway ends: the log and the records have everything.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from gateway.access.credential import CredentialKind
from gateway.protocol.outcomes import NO_FAILURES, Ending, Exhaustion, Outcome
from gateway.protocol.safe_text import safe_text
from gateway.records.interception_record import InterceptionRecord
from gateway.runtime.machine_clock import machine_time
from gateway.runtime.shared_ring import SharedRing

WINDOW_SECONDS = 300
MOST_EVENTS = 20
NO_TOKEN = "clients without a token"
REFUSED = "clients that were refused at once"

_BIN_SECONDS = 10
_BINS = WINDOW_SECONDS // _BIN_SECONDS
_BIN_BYTES = 2048
_MOST_NAMES = 16  # of those affected, in ten seconds and one worker; more are counted together
_OTHERS = "others"
_LONGEST_NAME = 60
_EVENT_BYTES = 1024
_LONGEST_TEXT = 200  # of up to four bytes each
_SAME_SECONDS = 60.0  # the same event again within this time is counted, not told again
_ROUTES = ("messages", "count_tokens", "models", "model")
_SERVER_ERROR, _OVERLOADED = Outcome.SERVER_ERROR.value, Outcome.OVERLOADED.value
_NO_ANSWER = Outcome.TRANSPORT_ERROR.value
_FAILURES = frozenset(ending.value for ending in Ending if ending not in (*NO_FAILURES, Ending.REJECTED))
# An upstream's error that came with such an attempt is about the request, and the client's to mend.
_CLIENTS = frozenset(outcome.value for outcome in (Outcome.CLIENT_ERROR, Outcome.REQUEST, Outcome.NOT_ENTITLED))
_EXHAUSTIONS = {
    Exhaustion.RATE_LIMITED: "no key left: all are cooling down or retired",
    Exhaustion.AUTH_FAILED: "no key left: all were refused",
    Exhaustion.OUT_OF_MONEY: "no key left: all are out of money or retired",
    Exhaustion.FORBIDDEN: "every key was forbidden the request",
}


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened to the gateway, in words; `at` is when it last did, in epoch seconds.

    `key` names the key that it happened to. If it happened several times in a row, it did `times` times since
    `first_at`. What happens to the whole gateway may be told by several of its workers at once: it happened once.
    """

    at: float
    what: str
    key: str = ""
    times: int = 1
    first_at: float = 0.0
    is_of_all: bool = False

    def again(self, other: Event) -> Event:
        """Both as one."""
        first_at = min(self.first_at or self.at, other.first_at or other.at)
        if self.is_of_all:
            return Event(first_at, self.what, self.key, is_of_all=True)
        return Event(max(self.at, other.at), self.what, self.key, self.times + other.times, first_at)

    def is_like(self, other: Event) -> bool:
        """Whether it is the same happening again, and soon."""
        between_seconds = max(self.first_at or self.at, other.first_at or other.at) - min(self.at, other.at)
        return (self.what, self.key) == (other.what, other.key) and between_seconds <= _SAME_SECONDS


class _Bin(msgspec.Struct, array_like=True):
    """What one worker has served in ten seconds."""

    number: int
    requests: int = 0
    failed: int = 0
    upstream_5xx: int = 0
    upstream_529: int = 0
    upstream_silent: int = 0
    affected: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests that ended in the last `seconds`, over all workers.

    A request has failed if the gateway could not answer it well through no fault of the client's: a status from 500
    upwards, no usable key, a stream that broke. Refusals by a limit and clients that leave have not failed. `affected`
    are the tokens of admitted requests that failed, the most affected first. `upstream_...` count attempts, of which a
    request can have several: answered with 529 (overloaded), with another status from 500 upwards, or not answered.
    """

    seconds: float
    requests: int = 0
    failed: int = 0
    upstream_5xx: int = 0
    upstream_529: int = 0
    upstream_silent: int = 0
    affected: tuple[tuple[str, int], ...] = ()

    @property
    def requests_per_minute(self) -> float:
        """The rate."""
        return 60 * self.requests / self.seconds

    @property
    def failed_percent(self) -> float:
        """The share of requests that have failed."""
        return 100 * self.failed / self.requests if self.requests else 0.0

    @property
    def upstream_troubles(self) -> int:
        """Attempts that the upstream failed."""
        return self.upstream_5xx + self.upstream_529 + self.upstream_silent


class RecentBoard:
    """The memory, made by the master before it forks: with it the gateway's uptime begins."""

    def __init__(self, parts: int) -> None:
        self.began_at = machine_time()
        self.events = SharedRing(parts, MOST_EVENTS, _EVENT_BYTES)
        self.bins = SharedRing(parts, _BINS + 1, _BIN_BYTES)


class Recent:
    """One process's part of the board to write, and all parts to read."""

    def __init__(
        self,
        board: RecentBoard | None = None,
        part: int = 0,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = machine_time,
    ) -> None:
        self._board = board if board is not None else RecentBoard(part + 1)
        self._part = part
        self._wall_clock = wall_clock
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows, and the order in which they are written
        self._bin: _Bin | None = None
        self._last: Event | None = None

    @property
    def uptime_seconds(self) -> float:
        """How long ago the gateway was started."""
        return max(0.0, self._clock() - self._board.began_at)

    def happened(self, what: str, key: str = "", ago_seconds: float = 0.0, *, is_of_all: bool = False) -> None:
        """Something has happened to the gateway, or to one of its keys; `is_of_all`: other workers may tell it, too."""
        event = Event(self._wall_clock() - ago_seconds, safe_text(what, _LONGEST_TEXT), key, is_of_all=is_of_all)
        with self._lock:
            if self._last is not None and event.is_like(self._last) and not is_of_all:
                self._last = event.again(self._last)
                self._board.events.replace_last(self._part, msgspec.json.encode(self._last))
            else:
                self._last = event
                self._board.events.add(self._part, msgspec.json.encode(event))

    def exhausted(self, why: Exhaustion) -> None:
        """A turn found no usable key."""
        self.happened(_EXHAUSTIONS[why])

    def refused(self, route: str, status: int) -> None:
        """A request was refused before it was admitted; only those to the API count."""
        if route not in _ROUTES:
            return
        with self._lock:
            counted = self._present()
            counted.requests += 1
            if status >= 500:
                counted.failed += 1
                self._affect(counted, REFUSED)
            self._write(counted)

    def ended(self, record: InterceptionRecord) -> None:
        """An admitted request has ended."""
        outcomes = [attempt.outcome for attempt in record.attempts]
        with self._lock:
            counted = self._present()
            counted.requests += 1
            counted.upstream_5xx += outcomes.count(_SERVER_ERROR)
            counted.upstream_529 += outcomes.count(_OVERLOADED)
            counted.upstream_silent += outcomes.count(_NO_ANSWER)
            if _has_failed(record):
                counted.failed += 1
                self._affect(counted, record.token or NO_TOKEN)
            self._write(counted)

    def traffic(self) -> Traffic:
        """What was served in the last five minutes, or since the start."""
        first = self._number() - _BINS + 1
        bins = [found for found in self._read_bins() if found.number >= first]
        affected: Counter[str] = Counter()
        for each in bins:
            affected.update(each.affected)
        return Traffic(
            min(float(WINDOW_SECONDS), max(self.uptime_seconds, 1.0)),
            requests=sum(each.requests for each in bins),
            failed=sum(each.failed for each in bins),
            upstream_5xx=sum(each.upstream_5xx for each in bins),
            upstream_529=sum(each.upstream_529 for each in bins),
            upstream_silent=sum(each.upstream_silent for each in bins),
            affected=tuple(sorted(affected.items(), key=lambda pair: (-pair[1], pair[0]))),
        )

    def events(self) -> list[Event]:
        """The last events, the latest first."""
        told: list[Event] = []
        for event in sorted(map(_event, self._board.events.read()), key=lambda event: -event.at):
            if told and told[-1].is_like(event):
                told[-1] = told[-1].again(event)
            else:
                told.append(event)
        return told[:MOST_EVENTS]

    def _number(self) -> int:
        return int(self._clock() // _BIN_SECONDS)  # no clock that is set: old bins would look new

    def _present(self) -> _Bin:
        number = self._number()
        if self._bin is None or self._bin.number != number:
            self._bin = _Bin(number)
            self._board.bins.add(self._part, msgspec.json.encode(self._bin))
        return self._bin

    def _affect(self, counted: _Bin, name: str) -> None:
        known, name = counted.affected, name[:_LONGEST_NAME]
        if name not in known and len(known) >= _MOST_NAMES:
            name = _OTHERS
        counted.affected = {**known, name: known.get(name, 0) + 1}

    def _write(self, counted: _Bin) -> None:
        self._board.bins.replace_last(self._part, msgspec.json.encode(counted))

    def _read_bins(self) -> list[_Bin]:
        return [msgspec.json.decode(entry, type=_Bin) for entry in self._board.bins.read()]


def _has_failed(record: InterceptionRecord) -> bool:
    """Whether a request has failed through no fault of its client's."""
    if record.status >= 500:
        return True
    if record.outcome != Ending.UPSTREAM_ERROR.value or record.status < 400:
        return record.outcome in _FAILURES
    is_byok = record.credential == CredentialKind.BYOK.value
    return not (is_byok or (record.attempts and record.attempts[-1].outcome in _CLIENTS))


def _event(entry: bytes) -> Event:
    return msgspec.json.decode(entry, type=Event)

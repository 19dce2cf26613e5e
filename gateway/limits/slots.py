"""How counts lie in memory that several processes share, and what a subject's counts are.

Owns: the layout. Edge layer; whoever holds the memory's lock. All are words of 64 bits, but the columns, which have 16:

    a page    magic, version, the machine's id (2), the sequence number, how many slots, the clock's offset;
              then a byte a column: whether a process has taken it
    a slot    the subject's name, its facts, what other machines have used, 64 seconds of requests, 64 seconds of
              tokens, and a column a process: how many requests it runs

A process may be killed between any two words. So a slot counts when the number of slots says so, a column is written
before the sum of all, and the sums of seconds are added up again each second: a kill costs one request's count at most.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import NamedTuple

from gateway.limits.calendar import Today

PAGE_BYTES = 4096
COLUMNS = 256
WINDOW_SECONDS = 61  # the second that runs, and the sixty before it: any minute lies within
MOST = 2**63 - 1
HEARD_SECONDS = 1.8  # how long what another machine runs, and its last minute, count after it was heard of

MAGIC = int.from_bytes(b"mgwlimit", "little")
VERSION = 1
_MAGIC_AT, _VERSION_AT, _MACHINE_AT, _SEQUENCE_AT, _COUNT_AT, _OFFSET_AT = 0, 1, 2, 4, 5, 6
_TAKEN_AT_BYTE = 1024
_MIDDLE = 2**62  # the clock's offset may be negative, and words are not

_NAME_BYTES = 128
_RING = 64
_FACTS = struct.Struct("=11Q")
_OTHERS = struct.Struct("=8Q")
_FACTS_AT = _NAME_BYTES // 8
_OTHERS_AT = _FACTS_AT + 16
_REQUESTS_AT = _OTHERS_AT + 8
_TOKENS_AT = _REQUESTS_AT + _RING
_COLUMNS_AT = _TOKENS_AT + _RING
_SLOT_WORDS = _COLUMNS_AT + COLUMNS // 4
SLOT_BYTES = _SLOT_WORDS * 8
_NO_SECONDS = memoryview(bytes(_RING * 8)).cast("Q")


class Others(NamedTuple):
    """What other machines have used, as it was heard at a point of the machine's clock (milliseconds; 0: never)."""

    heard_ms: int = 0
    running: int = 0
    requests: int = 0
    tokens: int = 0
    day: int = 0
    picodollars_today: int = 0
    month: int = 0
    picodollars_this_month: int = 0

    def at(self, now: float) -> Others:
        """What of it counts at this point of the machine's clock: money stays, the rest is soon too old."""
        if self.heard_ms <= now * 1000 <= self.heard_ms + HEARD_SECONDS * 1000:
            return self
        return self.money

    @property
    def money(self) -> Others:
        """Their money alone."""
        return self._replace(running=0, requests=0, tokens=0)


NOBODY = Others()


class Slot:
    """A subject's counts, read from the memory; `save` writes its facts back, the rest is written at once."""

    __slots__ = (
        *("_at", "_slots", "changed", "day", "month", "picodollars_this_month", "picodollars_today", "requests"),
        *("running", "second", "told_this_month", "told_today", "tokens"),
    )

    second: int  # the last in which anything was counted
    requests: int
    tokens: int
    running: int
    changed: int  # the number of the last change
    day: int
    picodollars_today: int
    told_today: int  # the share of a limit, in percent, of which the log was told
    month: int
    picodollars_this_month: int
    told_this_month: int

    def __init__(self, slots: Slots, at: int) -> None:
        self._slots = slots
        self._at = at
        facts = _FACTS.unpack_from(slots.memory, (at + _FACTS_AT) * 8)
        self.second, self.requests, self.tokens, self.running, self.changed = facts[:5]
        self.day, self.picodollars_today, self.told_today = facts[5:8]
        self.month, self.picodollars_this_month, self.told_this_month = facts[8:]

    def save(self) -> None:
        """Write the facts to the memory."""
        _FACTS.pack_into(
            *(self._slots.memory, (self._at + _FACTS_AT) * 8),
            *(self.second, self.requests, self.tokens, self.running, self.changed),
            *(self.day, self.picodollars_today, self.told_today),
            *(self.month, self.picodollars_this_month, self.told_this_month),
        )

    def roll(self, second: int, today: Today) -> None:
        """It is this second, and this day: what is over no longer counts."""
        if second != self.second:
            self._roll_seconds(second)
        # A clock that was wrong may have left a day to come. One day is what clocks may differ by at midnight.
        if self.day != today.day and self.day != today.day + 1:
            self.day, self.picodollars_today, self.told_today = today.day, 0, 0
        if self.month != today.month and self.month != today.tomorrows_month:
            self.month, self.picodollars_this_month, self.told_this_month = today.month, 0, 0

    def _roll_seconds(self, second: int) -> None:
        passed = second - self.second
        if passed == -1:  # read before another process's
            return
        words, at = self._slots.words, self._at
        if 0 < passed < WINDOW_SECONDS:
            # The seconds that have begun, and the three places of the ring that are older than the window.
            for begun in range(self.second + 1, second + 1 + _RING - WINDOW_SECONDS):
                words[at + _REQUESTS_AT + begun % _RING] = words[at + _TOKENS_AT + begun % _RING] = 0
            self.requests = min(MOST, sum(words[at + _REQUESTS_AT : at + _TOKENS_AT]))
            self.tokens = min(MOST, sum(words[at + _TOKENS_AT : at + _COLUMNS_AT]))
        else:  # all is older; or the clock has begun again, with the machine
            words[at + _REQUESTS_AT : at + _TOKENS_AT] = words[at + _TOKENS_AT : at + _COLUMNS_AT] = _NO_SECONDS
            self.requests = self.tokens = 0
        self.second = second

    def count(self, requests: int, tokens: int) -> None:
        """Add to the second that runs."""
        words, place = self._slots.words, self._at + self.second % _RING
        if requests:
            words[place + _REQUESTS_AT] = min(MOST, words[place + _REQUESTS_AT] + requests)
            self.requests = min(MOST, self.requests + requests)
        if tokens:
            words[place + _TOKENS_AT] = min(MOST, words[place + _TOKENS_AT] + tokens)
            self.tokens = min(MOST, self.tokens + tokens)

    def uncount_request(self, second: int) -> None:
        """Take a request of that second back, unless it no longer counts."""
        place = self._at + _REQUESTS_AT + second % _RING
        if 0 <= self.second - second < WINDOW_SECONDS and self._slots.words[place]:
            self._slots.words[place] -= 1
            self.requests = max(0, self.requests - 1)

    def spend(self, today: int, this_month: int) -> None:
        """Add money to the day and to the month, in picodollars."""
        self.picodollars_today = min(MOST, self.picodollars_today + today)
        self.picodollars_this_month = min(MOST, self.picodollars_this_month + this_month)

    def seconds_until_fewer(self, count: int, *, is_tokens: bool) -> int | None:
        """How many seconds it takes until so many of these requests or tokens have left the window; None: too many."""
        at = self._at + (_TOKENS_AT if is_tokens else _REQUESTS_AT)
        for second in range(self.second - WINDOW_SECONDS + 1, self.second + 1):
            count -= self._slots.words[at + second % _RING]
            if count <= 0:
                return second + WINDOW_SECONDS - self.second
        return None

    def run(self, column: int, count: int) -> None:
        """A process runs so many of its requests."""
        place = self._at * 4 + _COLUMNS_AT * 4 + column
        before, self._slots.columns[place] = self._slots.columns[place], min(count, 0xFFFF)
        self.running = min(MOST, max(0, self.running + count - before))

    def recount(self) -> None:
        """Add up what all processes run."""
        begin = (self._at + _COLUMNS_AT) * 4
        self.running = sum(self._slots.columns[begin : begin + COLUMNS])

    @property
    def others(self) -> Others:
        """What other machines have used."""
        if not self._slots.words[self._at + _OTHERS_AT]:
            return NOBODY
        return Others._make(_OTHERS.unpack_from(self._slots.memory, (self._at + _OTHERS_AT) * 8))

    def hear(self, others: Others) -> None:
        """Other machines have used this."""
        capped = [min(MOST, value) for value in others]
        _OTHERS.pack_into(self._slots.memory, (self._at + _OTHERS_AT) * 8, *capped)


class Slots:
    """All subjects' counts in one piece of memory, which is writable and a whole number of words long.

    `places` may be those of the same memory when it was smaller.
    """

    def __init__(self, memory: memoryview, places: dict[str, int] | None = None) -> None:
        self.memory = memory
        self.words = memory.cast("Q")
        self.columns = memory.cast("H")
        self.places = {} if places is None else places
        self._by_name: dict[bytes, int] = {}
        self._read_count = 0  # so many names have been read
        self._room = _room_in(len(memory))

    @property
    def is_sound(self) -> bool:
        """Whether this is what a gateway of this version has written."""
        words = self.words
        return words[_MAGIC_AT] == MAGIC and words[_VERSION_AT] == VERSION and words[_COUNT_AT] <= self._room

    @property
    def machine(self) -> str:
        """The id under which other machines know this one."""
        return bytes(self.memory[_MACHINE_AT * 8 : _MACHINE_AT * 8 + 16]).hex()

    def next_sequence(self, at_least: int) -> int:
        """A number greater than all before: a change has one."""
        number = min(MOST, max(self.words[_SEQUENCE_AT] + 1, at_least))
        self.words[_SEQUENCE_AT] = number
        return number

    @property
    def clock_offset_seconds(self) -> float:
        """How far the store's clock is ahead of the wall clock here."""
        written: int = self.words[_OFFSET_AT]
        return (written - _MIDDLE) / 1e6 if written else 0.0

    def set_clock_offset(self, seconds: float) -> None:
        """The store's clock is ahead by so much."""
        self.words[_OFFSET_AT] = _MIDDLE + round(seconds * 1e6) if seconds else 0

    def find(self, subject: str) -> Slot | None:
        """A subject's counts, if there are any."""
        at = self.places.get(subject)
        if at is None:
            name = name_of(subject)
            at = self._read_names().get(name)
            if at is None:
                return None
            self.places[subject] = at
        return Slot(self, at)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for one more subject."""
        count: int = self.words[_COUNT_AT]
        return count >= self._room

    def add(self, subject: str) -> Slot:
        """Begin a subject, which is not there yet and for which there is room."""
        number = self.words[_COUNT_AT]
        at = (PAGE_BYTES + number * SLOT_BYTES) // 8
        name = name_of(subject)
        self.memory[at * 8 : at * 8 + SLOT_BYTES] = name.ljust(SLOT_BYTES, b"\0")
        self.words[_COUNT_AT] = number + 1  # from here on it counts
        self.places[subject] = at
        return Slot(self, at)

    def _read_names(self) -> dict[bytes, int]:
        count = self.words[_COUNT_AT]
        for number in range(self._read_count, count):
            at = PAGE_BYTES + number * SLOT_BYTES
            self._by_name[bytes(self.memory[at : at + _NAME_BYTES]).rstrip(b"\0")] = at // 8
        self._read_count = count
        return self._by_name

    def all(self) -> list[tuple[str, Slot]]:
        """Every subject; a name that was too long is its hash."""
        names = self._read_names()
        return [(name.decode(errors="replace"), Slot(self, at)) for name, at in names.items()]

    def taken_columns(self) -> list[int]:
        """The columns that a process has taken, which may be dead by now."""
        taken = self.memory[_TAKEN_AT_BYTE : _TAKEN_AT_BYTE + COLUMNS]
        return [column for column, is_taken in enumerate(taken) if is_taken]

    def take_column(self, column: int) -> None:
        """A process has this column from now on, and runs nothing yet."""
        self.memory[_TAKEN_AT_BYTE + column] = 1
        self._clear(column)

    def drop_column(self, column: int) -> None:
        """Its process has ended."""
        self._clear(column)
        self.memory[_TAKEN_AT_BYTE + column] = 0

    def _clear(self, column: int) -> None:
        first = (PAGE_BYTES // 8 + _COLUMNS_AT) * 4 + column
        for number, count in enumerate(self.columns[first :: _SLOT_WORDS * 4].tolist()[: self.words[_COUNT_AT]]):
            if count:
                slot = Slot(self, PAGE_BYTES // 8 + number * _SLOT_WORDS)
                slot.run(column, 0)
                slot.recount()
                slot.save()


def first_page(machine: bytes) -> bytes:
    """The page of new counts without any subject. `machine` is an id of 16 bytes."""
    return (struct.pack("=2Q", MAGIC, VERSION) + machine).ljust(PAGE_BYTES, b"\0")


def is_sound(page: bytes, size_bytes: int) -> bool:
    """Whether a gateway of this version has written this first page of a file of that size."""
    if len(page) < PAGE_BYTES or size_bytes % 8:
        return False
    words = struct.unpack_from("=6Q", page)
    return words[:2] == (MAGIC, VERSION) and words[_COUNT_AT] <= _room_in(size_bytes)


def _room_in(size_bytes: int) -> int:
    return (size_bytes - PAGE_BYTES) // SLOT_BYTES


def name_of(subject: str) -> bytes:
    """A subject's name in the memory."""
    name = subject.encode(errors="surrogatepass")
    return name if len(name) <= _NAME_BYTES else b"#" + sha256(name).hexdigest().encode()

"""How counts lie in memory that several processes share.

Owns: the layout. Whoever holds the memory's lock. Words of 64 bits:

    a page    magic, version, the machine's id (2), an unused word, how many slots, the clock's offset, which data of
              the store have been filled, when all was last told; then a byte a column: whether it is taken
    a slot    a subject's counts (see `slot`)

A process may be killed between any two words. So a slot counts when the number of slots says so, a column is written
before the sum of all, and the sums of seconds are added up again each second: a kill costs one request's count at most.
"""

from __future__ import annotations

import struct
from hashlib import sha256

from gateway.limits.slot import (
    ACTIVE_FACTS,
    COLUMNS,
    COLUMNS_AT,
    FACTS_AT,
    NAME_BYTES,
    SLOT_BYTES,
    SLOT_WORDS,
    Slot,
    Views,
)

PAGE_BYTES = 4096

_MAGIC = int.from_bytes(b"mgwlimit", "little")
_VERSION = 2
_MAGIC_AT, _VERSION_AT, _MACHINE_AT, _COUNT_AT, CLOCK_OFFSET_AT, _EPOCH_AT, _ROUND_AT = 0, 1, 2, 5, 6, 7, 8
_TAKEN_AT_BYTE = 1024
_MIDDLE = 2**62  # the clock's offset may be negative, and words are not


class Slots(Views):
    """All subjects' counts in one piece of memory.

    `places` may be those of the same memory when it was smaller.
    """

    def __init__(self, memory: memoryview, places: dict[str, int] | None = None) -> None:
        super().__init__(memory)
        self.places = {} if places is None else places
        self.known: dict[str, Slot] = {}  # what `find` has found
        self._by_name: dict[bytes, int] = {}
        self._read_count = 0  # so many names have been read
        self._room = _room_in(len(memory))
        self._machine_word = self.words[_MACHINE_AT]

    def is_sound(self) -> bool:
        """Whether these are still the counts that they were at first."""
        words = self.words
        return bool(words[_MACHINE_AT] == self._machine_word and words[_COUNT_AT] <= self._room)

    @property
    def machine(self) -> str:
        """The id under which other machines know this one."""
        return bytes(self.memory[_MACHINE_AT * 8 : _MACHINE_AT * 8 + 16]).hex()

    @property
    def clock_offset_seconds(self) -> float:
        """How far the store's clock is ahead of the wall clock here."""
        written: int = self.words[CLOCK_OFFSET_AT]
        return (written - _MIDDLE) / 1e6 if written else 0.0

    def set_clock_offset(self, seconds: float) -> None:
        """The store's clock is ahead by so much."""
        self.words[CLOCK_OFFSET_AT] = _MIDDLE + round(seconds * 1e6) if seconds else 0

    @property
    def epoch(self) -> int:
        """Which data of the store have been filled with all that is here; 0: none."""
        found: int = self.words[_EPOCH_AT]
        return found

    def set_epoch(self, epoch: int) -> None:
        """These have."""
        self.words[_EPOCH_AT] = epoch

    def claim_round(self, now: float, every_seconds: float) -> bool:
        """Whether it is time to tell all once more; then it is the caller's to do."""
        now_ms = int(now * 1000)
        if 0 <= now_ms - self.words[_ROUND_AT] < every_seconds * 1000:
            return False
        self.words[_ROUND_AT] = now_ms
        return True

    def find(self, subject: str) -> Slot | None:
        """A subject's counts, if there are any."""
        slot = self.known.get(subject)
        if slot is not None:
            return slot
        at = self.places.get(subject)
        if at is None:
            name = name_of(subject)
            at = self._read_names().get(name)
            if at is None:
                return None
            self.places[subject] = at
        slot = self.known[subject] = Slot(self, at, subject)
        return slot

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
        return Slot(self, at, subject)

    def _read_names(self) -> dict[bytes, int]:
        count = self.words[_COUNT_AT]
        for number in range(self._read_count, count):
            at = PAGE_BYTES + number * SLOT_BYTES
            self._by_name[bytes(self.memory[at : at + NAME_BYTES]).rstrip(b"\0")] = at // 8
        self._read_count = count
        return self._by_name

    def all(self) -> list[Slot]:
        """Every subject; a name that was too long is its hash."""
        return [Slot(self, at, name.decode(errors="replace")) for name, at in self._read_names().items()]

    def names(self) -> list[str]:
        """All subjects; a name that was too long is its hash."""
        return [name.decode(errors="replace") for name in self._read_names()]

    def active(self) -> list[str]:
        """The subjects that run something, or of which something was counted in what is their last minute: it may be
        over, which shows when they are looked at."""
        names = self.names()
        counts = zip(*(self._facts(number, len(names)) for number in ACTIVE_FACTS), strict=True)
        return [name for name, each in zip(names, counts, strict=True) if any(each)]

    def _facts(self, number: int, count: int) -> list[int]:
        return self.words[PAGE_BYTES // 8 + FACTS_AT + number :: SLOT_WORDS].tolist()[:count]

    def taken_columns(self) -> list[int]:
        """The columns that a process has taken, which may be dead by now."""
        taken = self.memory[_TAKEN_AT_BYTE : _TAKEN_AT_BYTE + COLUMNS]
        return [column for column, is_taken in enumerate(taken) if is_taken]

    def take_column(self, column: int) -> None:
        """A process has this column from now on, and runs nothing yet."""
        self.memory[_TAKEN_AT_BYTE + column] = 1
        self._empty(column)

    def drop_column(self, column: int) -> None:
        """Its process has ended."""
        self._empty(column)
        self.memory[_TAKEN_AT_BYTE + column] = 0

    def _empty(self, column: int) -> None:
        first = (PAGE_BYTES // 8 + COLUMNS_AT) * 4 + column
        for number, count in enumerate(self.columns[first :: SLOT_WORDS * 4].tolist()[: self.words[_COUNT_AT]]):
            if count:
                slot = Slot(self, PAGE_BYTES // 8 + number * SLOT_WORDS, "")
                slot.run(column, 0)
                slot.recount(self.taken_columns())


def first_page(machine: bytes) -> bytes:
    """The page of new counts without any subject. `machine` is an id of 16 bytes."""
    return (struct.pack("=2Q", _MAGIC, _VERSION) + machine).ljust(PAGE_BYTES, b"\0")


def is_sound(page: bytes, size_bytes: int) -> bool:
    """Whether a gateway of this version has written this first page of a file of that size."""
    if len(page) < PAGE_BYTES or size_bytes % 8:
        return False
    words = struct.unpack_from("=6Q", page)
    return words[:2] == (_MAGIC, _VERSION) and words[_COUNT_AT] <= _room_in(size_bytes)


def _room_in(size_bytes: int) -> int:
    return (size_bytes - PAGE_BYTES) // SLOT_BYTES


def name_of(subject: str) -> bytes:
    """A subject's name in the memory."""
    name = subject.encode(errors="replace")
    return name if len(name) <= NAME_BYTES else b"#" + sha256(name).hexdigest().encode()

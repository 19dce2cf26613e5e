"""One subject's counts: the last minute by seconds, what runs, the money of a day and a month.

Owns: their layout, and what happens to them as time passes. For whoever holds the memory's lock. Words of 64 bits, but
the columns, which have 16:

    the subject's name, facts, what other machines have used, 64 seconds of requests, 64 seconds of tokens, and a column
    a process: how many of the requests it runs

Every request reads and writes the facts of all who limit it, so they travel as one tuple.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from gateway.limits.calendar import Today
from gateway.limits.statements import NOBODY, Others, Statement

COLUMNS = 256
NAME_BYTES = 128
WINDOW_SECONDS = 61  # the second that runs, and the sixty before it: any minute lies within
MOST = 2**63 - 1
_LATEST = 2**52  # a clock may be wrong, and other machines compare numbers up to 2**53 exactly

_RING = 64
_FACTS = struct.Struct("=15Q")
_unpack_facts = _FACTS.unpack_from
_PART = struct.Struct("=5Q")  # the first five facts, and the next, are written most often
_pack_pace = _pack_money = _PART.pack_into
_OTHERS = struct.Struct("=8Q")
FACTS_AT = NAME_BYTES // 8
ACTIVE_FACTS = (1, 2, 3)  # the places of requests, tokens and running
_OTHERS_AT = FACTS_AT + 16
_REQUESTS_AT = _OTHERS_AT + 8
_TOKENS_AT = _REQUESTS_AT + _RING
COLUMNS_AT = _TOKENS_AT + _RING
SLOT_WORDS = COLUMNS_AT + COLUMNS // 4
SLOT_BYTES = SLOT_WORDS * 8
_NO_SECONDS = memoryview(bytes(_RING * 8)).cast("Q")


class Views:
    """A piece of memory, which is writable and a whole number of words long, in the units that are read in it."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.words = memory.cast("Q")
        self.columns = memory.cast("H")


class Facts(NamedTuple):
    """A subject's counts but for the single seconds and processes, as they were at `second`.

    `changed` is the number of the last change. `told_today` and `told_this_month` are the shares of a budget, in
    percent, of which the log was told. The day and the month before are kept: a wall clock that is wrong for a moment
    comes back to them.
    """

    second: int = 0  # the last in which anything was counted
    requests: int = 0
    tokens: int = 0
    running: int = 0
    changed: int = 0
    day: int = 0
    picodollars_today: int = 0
    told_today: int = 0
    month: int = 0
    picodollars_this_month: int = 0
    told_this_month: int = 0
    earlier_day: int = 0
    picodollars_earlier_day: int = 0
    earlier_month: int = 0
    picodollars_earlier_month: int = 0

    def on(self, today: Today) -> Facts:
        """The same on another day: its money is what it was when it last was that day, if that was the one before."""
        facts = self._replace(
            day=today.day,
            picodollars_today=self.picodollars_earlier_day if self.earlier_day == today.day else 0,
            told_today=0,
            earlier_day=self.day,
            picodollars_earlier_day=self.picodollars_today,
        )
        if self.month == today.month:
            return facts
        return facts._replace(
            month=today.month,
            picodollars_this_month=self.picodollars_earlier_month if self.earlier_month == today.month else 0,
            told_this_month=0,
            earlier_month=self.month,
            picodollars_earlier_month=self.picodollars_this_month,
        )


class Slot:
    """Where a subject's counts lie. What is written is there at once."""

    __slots__ = (
        *("_columns", "_columns_at", "_memory", "_money_byte", "_pace_byte", "_requests_at", "_words"),
        *("others_at", "subject"),
    )

    def __init__(self, views: Views, at: int, subject: str) -> None:
        self.subject = subject
        self._memory, self._words, self._columns = views.memory, views.words, views.columns
        self._pace_byte = (at + FACTS_AT) * 8
        self._money_byte = self._pace_byte + _PART.size
        self.others_at = at + _OTHERS_AT
        self._requests_at = at + _REQUESTS_AT
        self._columns_at = (at + COLUMNS_AT) * 4

    @property
    def facts(self) -> Facts:
        """As they were written last."""
        return Facts._make(_unpack_facts(self._memory, self._pace_byte))

    def write(self, facts: tuple[int, ...]) -> None:
        """Replace the facts."""
        _FACTS.pack_into(self._memory, self._pace_byte, *facts)

    def facts_at(self, second: int, today: Today) -> tuple[int, ...]:
        """The facts, in their order, at this second of this day: what is over no longer counts."""
        facts: tuple[int, ...] = _unpack_facts(self._memory, self._pace_byte)
        if facts[0] == second and facts[5] == today.day:
            return facts
        rolled = Facts._make(facts)
        if rolled.second != second:
            rolled = self._at_second(rolled, second)
        if rolled.day != today.day:
            rolled = rolled.on(today)
        self.write(rolled)
        return rolled

    def _at_second(self, facts: Facts, second: int) -> Facts:
        passed = second - facts.second
        if passed == -1:  # read before another process's
            return facts
        words, requests_at, tokens_at = self._words, self._requests_at, self._requests_at + _RING
        end = tokens_at + _RING
        if not 0 < passed < WINDOW_SECONDS:  # all is older; or the clock has begun again, with the machine
            words[requests_at:tokens_at] = words[tokens_at:end] = _NO_SECONDS
            return facts._replace(second=second, requests=0, tokens=0)
        # The seconds that have begun, and the three places of the ring that are older than the window.
        for begun in range(facts.second + 1, second + 1 + _RING - WINDOW_SECONDS):
            words[requests_at + begun % _RING] = words[tokens_at + begun % _RING] = 0
        requests, tokens = sum(words[requests_at:tokens_at]), sum(words[tokens_at:end])
        return facts._replace(second=second, requests=requests, tokens=tokens)

    def begin(self, facts: tuple[int, ...], column: int, count: int, least_change: int) -> None:
        """A request begins in a process, which runs `count` of them then. `facts` are those of now."""
        second, requests, tokens, running, changed = facts[:5]
        self._words[self._requests_at + second % _RING] += 1
        columns, place = self._columns, self._columns_at + column
        running += count - columns[place]
        columns[place] = count
        change = least_change if changed < least_change else changed + 1
        _pack_pace(self._memory, self._pace_byte, second, requests + 1, tokens, running if running > 0 else 0, change)

    def end(
        self, facts: tuple[int, ...], column: int, count: int, tokens: int, picodollars: int, least_change: int
    ) -> None:
        """A request has ended in a process, which runs `count` of them then, and has used so much."""
        second, requests, spoken, running, changed = facts[:5]
        if tokens:
            self._words[self._requests_at + _RING + second % _RING] += tokens
            spoken += tokens
        if picodollars:
            day, today, told, month, this_month = facts[5:10]
            today, this_month = today + picodollars, this_month + picodollars
            if this_month > MOST:
                today, this_month = min(today, MOST), MOST
            _pack_money(self._memory, self._money_byte, day, today, told, month, this_month)
        columns, place = self._columns, self._columns_at + column
        running += count - columns[place]
        columns[place] = count
        change = least_change if changed < least_change else changed + 1
        _pack_pace(self._memory, self._pace_byte, second, requests, spoken, running if running > 0 else 0, change)

    def count(self, facts: Facts, requests: int, tokens: int) -> Facts:
        """Add to the second of these facts; they are not written."""
        place = self._requests_at + facts.second % _RING
        if requests:
            self._words[place] += requests
        if tokens:
            self._words[place + _RING] += tokens
        return facts._replace(requests=facts.requests + requests, tokens=facts.tokens + tokens)

    def without_request(self, facts: Facts, second: int) -> Facts:
        """Take a request of that second back, unless it no longer counts; the facts are not written."""
        place = self._requests_at + second % _RING
        if 0 <= facts.second - second < WINDOW_SECONDS and self._words[place]:
            self._words[place] -= 1
            return facts._replace(requests=max(0, facts.requests - 1))
        return facts

    def seconds_until_fewer(self, last_second: int, count: int, *, is_tokens: bool) -> int | None:
        """How many seconds after the last one it takes until so many of these requests or tokens have left the window;
        None: too many."""
        at = self._requests_at + (_RING if is_tokens else 0)
        for second in range(last_second - WINDOW_SECONDS + 1, last_second + 1):
            count -= self._words[at + second % _RING]
            if count <= 0:
                return second + WINDOW_SECONDS - last_second
        return None

    def run(self, column: int, count: int) -> None:
        """A process runs so many of its requests."""
        facts, place = self.facts, self._columns_at + column
        running = facts.running + count - self._columns[place]
        self._columns[place] = count
        self.write(facts._replace(running=max(0, running)))

    def recount(self, columns: Sequence[int]) -> None:
        """Add up what all processes run, which have these columns."""
        running = sum([self._columns[self._columns_at + column] for column in columns])
        self.write(self.facts._replace(running=running))

    @property
    def statement(self) -> Statement:
        """What is told of it to other machines."""
        facts = self.facts
        return Statement(
            *(self.subject, facts.changed, facts.running, facts.requests, facts.tokens),
            *(facts.day, facts.picodollars_today, facts.month, facts.picodollars_this_month),
        )

    def known(self, column: int) -> Others:
        """All that is counted here but what one process runs, as another machine would tell it."""
        facts, others = self.facts, self.others
        running = facts.running - self._columns[self._columns_at + column]
        return Others(
            facts.second * 1000,
            max(0, running) + others.running,
            facts.requests + others.requests,
            facts.tokens + others.tokens,
            facts.day,
            spent_today(facts, others),
            facts.month,
            spent_this_month(facts, others),
        )

    @property
    def others(self) -> Others:
        """What other machines have used."""
        if not self._words[self.others_at]:
            return NOBODY
        return Others._make(_OTHERS.unpack_from(self._memory, self.others_at * 8))

    def hear(self, others: Others) -> None:
        """Other machines have used this."""
        capped = [min(MOST, value) for value in others]
        _OTHERS.pack_into(self._memory, self.others_at * 8, *capped)


def least_change(wall_at: float) -> int:
    """The least number of a change that is made now. By the clock, so that a file that is older than what others have
    heard goes on behind it."""
    number = int(wall_at * 1e6)
    return number if number <= _LATEST else 0


def spent_today(facts: Facts, others: Others) -> int:
    """The day's picodollars on all machines."""
    return facts.picodollars_today + (others.picodollars_today if others.day == facts.day else 0)


def spent_this_month(facts: Facts, others: Others) -> int:
    """The month's picodollars on all machines."""
    return facts.picodollars_this_month + (others.picodollars_this_month if others.month == facts.month else 0)

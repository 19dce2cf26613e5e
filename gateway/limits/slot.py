"""One subject's counts: the last minute by seconds, what runs, the money of a day and a month.

Owns: their layout, and what happens to them as time passes. For whoever holds the memory's lock. Words of 64 bits, but
the columns, which have 16:

    the subject's name, facts, what other machines have used, 64 seconds of requests, 64 seconds of tokens, and a column
    a process: how many of the requests it runs

The facts begin with what every request looks at: it is read in one piece (`Counts`), and what a request changes is
written in one piece. The second that runs is counted there, too, and goes to its place among the 64 when it is over.
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
FACTS_AT = NAME_BYTES // 8
_OTHERS_AT = FACTS_AT + 20
_REQUESTS_AT = _OTHERS_AT + 8
_TOKENS_AT = _REQUESTS_AT + _RING
COLUMNS_AT = _TOKENS_AT + _RING
SLOT_WORDS = COLUMNS_AT + COLUMNS // 4
SLOT_BYTES = SLOT_WORDS * 8
ACTIVE_FACTS = (4, 5, 6, 7, 8)  # the places of what was counted in the last minute, and of what runs
_FACTS = struct.Struct("=17Q")
_OTHERS = struct.Struct("=8Q")
_COUNTS = struct.Struct(f"=11Q{(_OTHERS_AT - FACTS_AT - 11) * 8}xQ")
unpack_counts = _COUNTS.unpack_from
_BEGIN_AT, _END_AT = 6, 7  # from where on a request that begins, and one that ends, changes so many facts
_pack_begin, _pack_end = struct.Struct("=2Q").pack_into, struct.Struct("=4Q").pack_into
_NO_SECONDS = memoryview(bytes(_RING * 8)).cast("Q")

# The first eleven of `Facts`, and when other machines were heard of (0: never).
Counts = tuple[int, ...]


class Views:
    """A piece of memory, which is writable and a whole number of words long, in the units that are read in it."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.words = memory.cast("Q")
        self.columns = memory.cast("H")


class Facts(NamedTuple):
    """A subject's counts but for the seconds that are over and the processes, as they were at `second`.

    `told_today` and `told_this_month` are the shares of a budget, in percent, of which the log was told. The day and
    the month before are kept: a wall clock that is wrong for a moment comes back to them. `changed` is the number under
    which other machines were told last.
    """

    second: int = 0  # the last in which anything was counted
    day: int = 0
    told_today: int = 0
    told_this_month: int = 0
    requests_before: int = 0  # in the minute before that second
    tokens_before: int = 0
    requests_now: int = 0  # in that second
    running: int = 0
    tokens_now: int = 0
    picodollars_today: int = 0
    picodollars_this_month: int = 0
    month: int = 0
    changed: int = 0
    earlier_day: int = 0
    picodollars_earlier_day: int = 0
    earlier_month: int = 0
    picodollars_earlier_month: int = 0

    @property
    def requests(self) -> int:
        """The last minute's."""
        return self.requests_before + self.requests_now

    @property
    def tokens(self) -> int:
        """The last minute's."""
        return self.tokens_before + self.tokens_now

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
        *("_begin_byte", "_columns", "_columns_at", "_end_byte", "_memory", "_others_at"),
        *("_requests_at", "_words", "at_byte", "subject"),
    )

    def __init__(self, views: Views, at: int, subject: str) -> None:
        self.subject = subject
        self._memory, self._words, self._columns = views.memory, views.words, views.columns
        self.at_byte = (at + FACTS_AT) * 8
        self._begin_byte = self.at_byte + _BEGIN_AT * 8
        self._end_byte = self.at_byte + _END_AT * 8
        self._others_at = at + _OTHERS_AT
        self._requests_at = at + _REQUESTS_AT
        self._columns_at = (at + COLUMNS_AT) * 4

    @property
    def facts(self) -> Facts:
        """As they were written last."""
        return Facts._make(_FACTS.unpack_from(self._memory, self.at_byte))

    def write(self, facts: Facts) -> None:
        """Replace the facts."""
        _FACTS.pack_into(self._memory, self.at_byte, *facts)

    def counts_at(self, second: int, today: Today) -> Counts:
        """What a request looks at, at this second of this day: what is over no longer counts."""
        counts: Counts = unpack_counts(self._memory, self.at_byte)
        if counts[0] == second and counts[1] == today.day:
            return counts
        self.facts_at(second, today)
        counts = unpack_counts(self._memory, self.at_byte)
        return counts

    def facts_at(self, second: int, today: Today) -> Facts:
        """The facts at this second of this day."""
        facts = self.facts
        if facts.second != second:
            facts = self._at_second(facts, second)
        if facts.day != today.day:
            facts = facts.on(today)
        self.write(facts)
        return facts

    def _at_second(self, facts: Facts, second: int) -> Facts:
        passed = second - facts.second
        if passed == -1:  # read before another process's
            return facts
        words, requests_at, tokens_at = self._words, self._requests_at, self._requests_at + _RING
        end = tokens_at + _RING
        if 0 < passed < WINDOW_SECONDS:
            place = requests_at + facts.second % _RING
            words[place], words[place + _RING] = facts.requests_now, facts.tokens_now
            # The seconds that have begun, and the three places of the ring that are older than the window.
            for begun in range(facts.second + 1, second + 1 + _RING - WINDOW_SECONDS):
                words[requests_at + begun % _RING] = words[tokens_at + begun % _RING] = 0
        else:  # all is older; or the clock has begun again, with the machine
            words[requests_at:tokens_at] = words[tokens_at:end] = _NO_SECONDS
        requests, tokens = sum(words[requests_at:tokens_at]), sum(words[tokens_at:end])
        return facts._replace(
            second=second, requests_before=requests, requests_now=0, tokens_before=tokens, tokens_now=0
        )

    def begin(self, counts: Counts, column: int, count: int) -> None:
        """A request begins in a process, which runs `count` of them then. `counts` are those of now."""
        columns, place = self._columns, self._columns_at + column
        running = counts[7] + count - columns[place]
        columns[place] = count
        _pack_begin(self._memory, self._begin_byte, counts[6] + 1, running if running > 0 else 0)

    def end(self, counts: Counts, column: int, count: int, used_tokens: int, picodollars: int) -> tuple[int, int]:
        """A request has ended in a process, which runs `count` of them then, and has used so much.

        Returns the day's and the month's picodollars.
        """
        _, _, _, _, _, _, _, running, tokens, today, this_month, _ = counts
        columns, place = self._columns, self._columns_at + column
        running += count - columns[place]
        columns[place] = count
        today, this_month = today + picodollars, this_month + picodollars
        if this_month > MOST:  # it stays at the most
            today, this_month = min(today, MOST), MOST
        running = running if running > 0 else 0
        _pack_end(self._memory, self._end_byte, running, tokens + used_tokens, today, this_month)
        return today, this_month

    def take_back(self, second: int) -> None:
        """A request of that second has not taken place; one that no longer counts is left."""
        facts, place = self.facts, self._requests_at + second % _RING
        if facts.second == second:
            self.write(facts._replace(requests_now=max(0, facts.requests_now - 1)))
        elif 0 < facts.second - second < WINDOW_SECONDS and self._words[place]:
            self._words[place] -= 1
            self.write(facts._replace(requests_before=max(0, facts.requests_before - 1)))

    def seconds_until_fewer(self, count: int, *, is_tokens: bool) -> int | None:
        """How many seconds after the last one it takes until so many of these requests or tokens have left the window;
        None: too many."""
        facts = self.facts
        at = self._requests_at + (_RING if is_tokens else 0)
        for second in range(facts.second - WINDOW_SECONDS + 1, facts.second):
            count -= self._words[at + second % _RING]
            if count <= 0:
                return second + WINDOW_SECONDS - facts.second
        count -= facts.tokens_now if is_tokens else facts.requests_now
        return WINDOW_SECONDS if count <= 0 else None

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

    def told(self, wall_at: float) -> Statement:
        """What is told of it to other machines now: under a number that is greater than any before."""
        facts = self.facts
        self.write(facts._replace(changed=max(facts.changed + 1, _least_change(wall_at))))
        return self.statement

    @property
    def statement(self) -> Statement:
        """What was told of it last, by the counts of now."""
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
        if not self._words[self._others_at]:
            return NOBODY
        return Others._make(_OTHERS.unpack_from(self._memory, self._others_at * 8))

    def hear(self, others: Others) -> None:
        """Other machines have used this."""
        capped = [min(MOST, value) for value in others]
        _OTHERS.pack_into(self._memory, self._others_at * 8, *capped)


def _least_change(wall_at: float) -> int:
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

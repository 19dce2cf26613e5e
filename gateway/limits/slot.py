"""One subject's counts: the last minute by seconds, what runs, the money of a day and a month.

Owns: their layout, and what happens to them as time passes. Edge layer; whoever holds the memory's lock. Words of 64
bits, but the columns, which have 16:

    the subject's name, facts, what other machines have used, 64 seconds of requests, 64 seconds of tokens, and a column
    a process: how many of the requests it runs
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from gateway.limits.calendar import Today
from gateway.limits.statements import NOBODY, Others, Statement

COLUMNS = 256
NAME_BYTES = 128
WINDOW_SECONDS = 61  # the second that runs, and the sixty before it: any minute lies within
MOST = 2**63 - 1

_RING = 64
_FACTS = struct.Struct("=11Q")
_OTHERS = struct.Struct("=8Q")
FACTS_AT = NAME_BYTES // 8
SECOND_FACT, RUNNING_FACT = 0, 3
_FACTS_BYTE = FACTS_AT * 8
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


class Slot:
    """A subject's counts, read from the memory; `save` writes its facts back, the rest is written at once."""

    __slots__ = (
        *("_at", "_views", "changed", "day", "month", "picodollars_this_month", "picodollars_today", "requests"),
        *("running", "second", "subject", "told_this_month", "told_today", "tokens"),
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

    def __init__(self, views: Views, at: int, subject: str) -> None:
        self.subject = subject
        self._views = views
        self._at = at
        (
            self.second,
            self.requests,
            self.tokens,
            self.running,
            self.changed,
            self.day,
            self.picodollars_today,
            self.told_today,
            self.month,
            self.picodollars_this_month,
            self.told_this_month,
        ) = _FACTS.unpack_from(views.memory, at * 8 + _FACTS_BYTE)

    def begin(self, column: int, running: int, sequence: int) -> None:
        """A request begins in a process, which runs so many of them then. Saves the facts."""
        words, place = self._views.words, self._at + self.second % _RING + _REQUESTS_AT
        words[place] += 1
        self.requests += 1
        self.run(column, running)
        self.changed = sequence
        self.save()

    def end(self, column: int, running: int, tokens: int, sequence: int) -> None:
        """A request has ended in a process, which runs so many of them then, and has used tokens. Saves the facts."""
        if tokens:
            words, place = self._views.words, self._at + self.second % _RING + _TOKENS_AT
            words[place] += tokens
            self.tokens += tokens
        self.run(column, running)
        self.changed = sequence
        self.save()

    def save(self) -> None:
        """Write the facts to the memory."""
        _FACTS.pack_into(
            self._views.memory,
            self._at * 8 + _FACTS_BYTE,
            self.second,
            self.requests,
            self.tokens,
            self.running,
            self.changed,
            self.day,
            self.picodollars_today,
            self.told_today,
            self.month,
            self.picodollars_this_month,
            self.told_this_month,
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
        words, at = self._views.words, self._at
        if 0 < passed < WINDOW_SECONDS:
            # The seconds that have begun, and the three places of the ring that are older than the window.
            for begun in range(self.second + 1, second + 1 + _RING - WINDOW_SECONDS):
                words[at + _REQUESTS_AT + begun % _RING] = words[at + _TOKENS_AT + begun % _RING] = 0
            self.requests = sum(words[at + _REQUESTS_AT : at + _TOKENS_AT])
            self.tokens = sum(words[at + _TOKENS_AT : at + COLUMNS_AT])
        else:  # all is older; or the clock has begun again, with the machine
            words[at + _REQUESTS_AT : at + _TOKENS_AT] = words[at + _TOKENS_AT : at + COLUMNS_AT] = _NO_SECONDS
            self.requests = self.tokens = 0
        self.second = second

    @property
    def is_active(self) -> bool:
        """Whether anything runs, or was counted within the last minute."""
        return bool(self.running or self.requests or self.tokens)

    def known(self, column: int) -> Others:
        """All that is counted here but what one process runs, as another machine would tell it."""
        others, running = self.others, self.running - self._views.columns[(self._at + COLUMNS_AT) * 4 + column]
        return Others(
            self.second * 1000,
            max(0, running) + others.running,
            self.requests + others.requests,
            self.tokens + others.tokens,
            self.day,
            self.picodollars_today + (others.picodollars_today if others.day == self.day else 0),
            self.month,
            self.picodollars_this_month + (others.picodollars_this_month if others.month == self.month else 0),
        )

    def count(self, requests: int, tokens: int) -> None:
        """Add to the second that runs."""
        words, place = self._views.words, self._at + self.second % _RING
        if requests:
            words[place + _REQUESTS_AT] += requests
            self.requests += requests
        if tokens:
            words[place + _TOKENS_AT] += tokens
            self.tokens += tokens

    def uncount_request(self, second: int) -> None:
        """Take a request of that second back, unless it no longer counts."""
        place = self._at + _REQUESTS_AT + second % _RING
        if 0 <= self.second - second < WINDOW_SECONDS and self._views.words[place]:
            self._views.words[place] -= 1
            self.requests = max(0, self.requests - 1)

    def spend(self, today: int, this_month: int) -> None:
        """Add money to the day and to the month, in picodollars."""
        self.picodollars_today = min(MOST, self.picodollars_today + today)
        self.picodollars_this_month = min(MOST, self.picodollars_this_month + this_month)

    def seconds_until_fewer(self, count: int, *, is_tokens: bool) -> int | None:
        """How many seconds it takes until so many of these requests or tokens have left the window; None: too many."""
        at = self._at + (_TOKENS_AT if is_tokens else _REQUESTS_AT)
        for second in range(self.second - WINDOW_SECONDS + 1, self.second + 1):
            count -= self._views.words[at + second % _RING]
            if count <= 0:
                return second + WINDOW_SECONDS - self.second
        return None

    def run(self, column: int, count: int) -> None:
        """A process runs so many of its requests."""
        columns, place = self._views.columns, (self._at + COLUMNS_AT) * 4 + column
        running = self.running + count - columns[place]
        columns[place] = count
        self.running = running if running > 0 else 0

    @property
    def statement(self) -> Statement:
        """What is told of it to other machines."""
        return Statement(
            *(self.subject, self.changed, self.running, self.requests, self.tokens),
            *(self.day, self.picodollars_today, self.month, self.picodollars_this_month),
        )

    def recount(self, columns: Sequence[int]) -> None:
        """Add up what all processes run, which have these columns."""
        begin = (self._at + COLUMNS_AT) * 4
        self.running = sum([self._views.columns[begin + column] for column in columns])

    @property
    def others(self) -> Others:
        """What other machines have used."""
        if not self._views.words[self._at + _OTHERS_AT]:
            return NOBODY
        return Others._make(_OTHERS.unpack_from(self._views.memory, (self._at + _OTHERS_AT) * 8))

    def hear(self, others: Others) -> None:
        """Other machines have used this."""
        capped = [min(MOST, value) for value in others]
        _OTHERS.pack_into(self._views.memory, (self._at + _OTHERS_AT) * 8, *capped)

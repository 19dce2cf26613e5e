"""What machines tell each other of a subject's counts.

Owns: the values. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

HEARD_SECONDS = 1.8  # how long what another machine runs, and its last minute, count after it was heard of


class Unanswered(Exception):
    """The server that machines share is out of reach, or too slow to be asked."""


class Statement(NamedTuple):
    """What a machine has to say of a subject. The one with the greatest sequence number is the latest."""

    subject: str
    sequence: int
    running: int
    requests: int
    tokens: int
    day: int
    picodollars_today: int
    month: int
    picodollars_this_month: int


class Report(NamedTuple):
    """A machine's statements. Without a machine there are none: this process counts by itself."""

    machine: str = ""
    statements: Sequence[Statement] = ()


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
        return self if self.is_fresh(now) else self._replace(running=0, requests=0, tokens=0)

    def on(self, day: int, month: int) -> Others:
        """What of it counts on this day of this month: money of another is over, or not yet known."""
        if self.day == day and self.month == month:
            return self
        today, this_month = self.picodollars_today, self.picodollars_this_month
        return self._replace(
            day=day,
            picodollars_today=today if self.day == day else 0,
            month=month,
            picodollars_this_month=this_month if self.month == month else 0,
        )

    def is_fresh(self, now: float) -> bool:
        """Whether it was heard just now."""
        return 0 < self.heard_ms <= now * 1000 + 1 <= self.heard_ms + HEARD_SECONDS * 1000

    @property
    def amounts(self) -> Others:
        """Their money and tokens alone."""
        return self._replace(running=0, requests=0)


NOBODY = Others()

"""Days and months in UTC, as the numbers that amounts of money are kept under.

Owns: which day and month it is, and when they end. Pure; any thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_DAY_SECONDS = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_DAY = 2_900_000  # datetime ends with the year 9999


@dataclass(frozen=True, slots=True)
class Today:
    """A day and its month: `day` counts from 1970-01-01, `month` is twelve times the year, and the month.

    `begins_at` and `ends_at` are the day's.
    """

    day: int
    month: int
    tomorrows_month: int
    begins_at: float
    ends_at: float
    day_ends: datetime
    month_ends: datetime


def today(wall_at: float) -> Today:
    """The day of a point in time by the wall clock."""
    day = min(max(int(wall_at // _DAY_SECONDS), 0), _LAST_DAY)
    begins = _EPOCH + timedelta(days=day)
    day_ends = begins + timedelta(days=1)
    month_ends = (begins.replace(day=1) + timedelta(days=32)).replace(day=1)
    begins_at, ends_at = begins.timestamp(), day_ends.timestamp()
    return Today(day, _month(begins), _month(day_ends), begins_at, ends_at, day_ends, month_ends)


def seconds_until(end: datetime, wall_at: float) -> float:
    """How long it is until then."""
    return max(0.0, end.timestamp() - wall_at)


def _month(at: datetime) -> int:
    return at.year * 12 + at.month

"""Days and months in UTC: their numbers, and when they end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.limits.calendar import Today, seconds_until, today


def at(*day: int) -> datetime:
    return datetime(*day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("wall_at", "day", "month", "tomorrows_month", "begins", "month_ends"),
    [
        pytest.param(0.0, 0, 1970 * 12 + 1, 1970 * 12 + 1, at(1970, 1, 1), at(1970, 2, 1), id="the first"),
        pytest.param(-5.0, 0, 1970 * 12 + 1, 1970 * 12 + 1, at(1970, 1, 1), at(1970, 2, 1), id="before the first"),
        pytest.param(86_399.9, 0, 1970 * 12 + 1, 1970 * 12 + 1, at(1970, 1, 1), at(1970, 2, 1), id="its last second"),
        pytest.param(86_400.0, 1, 1970 * 12 + 1, 1970 * 12 + 1, at(1970, 1, 2), at(1970, 2, 1), id="the second"),
        pytest.param(
            at(2028, 2, 29).timestamp(),
            21_243,
            2028 * 12 + 2,
            2028 * 12 + 3,
            at(2028, 2, 29),
            at(2028, 3, 1),
            id="leap",
        ),
        pytest.param(
            at(2026, 12, 31, 23).timestamp(),
            *(20_818, 2026 * 12 + 12, 2027 * 12 + 1, at(2026, 12, 31), at(2027, 1, 1)),
            id="new year's eve",
        ),
        pytest.param(
            1e18, 2_900_000, 9909 * 12 + 12, 9909 * 12 + 12, at(9909, 12, 7), at(9910, 1, 1), id="a clock gone mad"
        ),
    ],
)
def test_a_day_knows_its_number_its_month_and_its_end(
    wall_at: float, day: int, month: int, tomorrows_month: int, begins: datetime, month_ends: datetime
) -> None:
    """Given a time by the wall clock, then its day and month have these numbers, and end at these midnights."""
    begins_at = begins.timestamp()
    ends = datetime.fromtimestamp(begins_at + 86_400, UTC)
    expected = Today(day, month, tomorrows_month, begins_at, begins_at + 86_400, ends, month_ends)
    assert today(wall_at) == expected


def test_what_is_over_is_no_longer_waited_for() -> None:
    """Given an end, then the time until it is told; none once it has come."""
    end = at(1970, 1, 2)
    assert [seconds_until(end, wall_at) for wall_at in (0.0, 86_399.5, 86_400.0, 90_000.0)] == [86_400.0, 0.5, 0, 0]

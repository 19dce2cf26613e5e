"""What other machines say: how long it counts, and on which days."""

from __future__ import annotations

import pytest

from gateway.limits.statements import NOBODY, Others, Report

HEARD = Others(1_000_000, 2, 3, 4, 10, 50, 1, 60)
OLD = Others(1_000_000, 0, 0, 0, 10, 50, 1, 60)


def test_nothing_was_heard_at_first() -> None:
    """Given no word of other machines, then they have used nothing."""
    assert NOBODY == Others() == (0,) * 8
    assert Report() == ("", ())


@pytest.mark.parametrize(
    ("heard_ms", "now", "is_fresh"),
    [
        pytest.param(1_000_000, 1000.0, True, id="now"),
        pytest.param(1_000_000, 1001.75, True, id="a while ago"),
        pytest.param(1_000_201, 1002.0, True, id="just within"),
        pytest.param(1_000_200, 1002.0, False, id="just over"),
        pytest.param(1_002_001, 1002.0, True, id="in the millisecond that runs"),
        pytest.param(1_002_002, 1002.0, False, id="in the future"),
        pytest.param(1, 0.0, True, id="at the first moment"),
        pytest.param(0, 0.0, False, id="never"),
    ],
)
def test_what_runs_elsewhere_counts_for_less_than_two_seconds(heard_ms: int, now: float, is_fresh: bool) -> None:
    """Given when others were heard of, then what they run and their minute count for 1.8 s, and their money always."""
    heard = HEARD._replace(heard_ms=heard_ms)
    assert heard.is_fresh(now) is is_fresh
    assert heard.at(now) == (heard if is_fresh else OLD._replace(heard_ms=heard_ms))


@pytest.mark.parametrize(
    ("day", "month", "money"),
    [(10, 1, (50, 60)), (11, 1, (0, 60)), (9, 1, (0, 60)), (40, 2, (0, 0)), (10, 2, (50, 0))],
    ids=["the same", "the next day", "the day before", "the next month", "a wrong month"],
)
def test_money_of_another_day_is_over(day: int, month: int, money: tuple[int, int]) -> None:
    """Given what others spent, then it counts on its own day, in its own month; the rest stays as it is."""
    assert HEARD.on(day, month) == Others(1_000_000, 2, 3, 4, day, money[0], month, money[1])


def test_amounts_are_money_and_tokens() -> None:
    """Given what was heard, then what runs and requests are left out of the amounts."""
    assert HEARD.amounts == Others(1_000_000, 0, 0, 4, 10, 50, 1, 60)

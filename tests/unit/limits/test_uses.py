"""What is used of each limit: one entry a limit, the nearest to its end first."""

from __future__ import annotations

from gateway.config.limit_rules import Limited, Limits, LimitUse
from gateway.limits.limiter import Used
from gateway.limits.uses import limit_uses


def test_each_limit_has_an_entry_and_the_nearest_to_its_end_comes_first() -> None:
    """Given what two have used, then each limit that they have is told with its use, its most, and when all is free."""
    ann = Limited("token", "ann", Limits(10, 200, 4, 1000, 5000))
    team = Limited("group", "team", Limits(concurrent=2))
    found = limit_uses([Used(ann, 1, 40, 2, 300, 2000, 3600.0, 86_400.0), Used(team, 9, 9, 1, 9, 9, 1.0, 1.0)])
    assert found == [
        LimitUse(team, "concurrent", 1, 2, None),
        LimitUse(ann, "concurrent", 2, 4, None),
        LimitUse(ann, "dollars_per_month", 2000, 5000, 86_400.0),
        LimitUse(ann, "dollars_per_day", 300, 1000, 3600.0),
        LimitUse(ann, "tokens_per_minute", 40, 200, 60.0),
        LimitUse(ann, "requests_per_minute", 1, 10, 60.0),
    ]

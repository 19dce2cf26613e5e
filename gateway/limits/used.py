"""What has been used of limits, as it is shown.

Owns: reading that off the counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.config.limit_rules import Limited
from gateway.limits.calendar import seconds_until, today
from gateway.limits.limiter import Used
from gateway.limits.slot import spent_this_month, spent_today
from gateway.limits.slots import Slots


def used_of(slots: Slots, everybody: Sequence[Limited], now: float, wall_at: float) -> list[Used]:
    """What each of these has used, by counts that are locked, or a copy of them."""
    day = today(wall_at)
    resets = seconds_until(day.day_ends, wall_at), seconds_until(day.month_ends, wall_at)
    found = []
    for limited in everybody:
        slot = slots.find(limited.subject)
        if slot is None:
            found.append(Used(limited, 0, 0, 0, 0, 0, *resets))
            continue
        facts, others = slot.facts_at(int(now), day), slot.others.at(now)
        found.append(
            Used(
                limited,
                facts.requests + others.requests,
                facts.tokens + others.tokens,
                facts.running + others.running,
                spent_today(facts, others),
                spent_this_month(facts, others),
                *resets,
            )
        )
    return found

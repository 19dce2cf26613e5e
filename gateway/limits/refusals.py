"""Which limit says no, and the words of it.

Owns: the order in which limits are looked at, and what a refused client and the log are told. Money comes first, for
asking again does not help there; then requests, tokens and running requests. Pure; under the counts' lock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from gateway.errors import LimitReached, SpendLimitReached
from gateway.limit_rules import Limited
from gateway.limits.calendar import Today, seconds_until
from gateway.limits.slot import WINDOW_SECONDS, Slot
from gateway.limits.statements import Others
from gateway.pricing.money import PICODOLLARS, dollars

TOLD_PERCENTS = (75, 95, 100)
# A window may take a second longer; but at longer waits than a minute clients give up (Claude Code does at once).
_LONGEST_WAIT_SECONDS = 60
_PICODOLLARS_OF_A_CENT = PICODOLLARS // 100
REQUESTS, TOKENS, CONCURRENT = "requests_per_minute", "tokens_per_minute", "concurrent"
DAY, MONTH = "dollars_per_day", "dollars_per_month"


class Held(NamedTuple):
    """Somebody who has limits, their counts here, and those of other machines as far as they are to be looked at."""

    limited: Limited
    slot: Slot
    others: Others

    def is_guess(self, now: float) -> bool:
        """Whether what others have used of money and tokens matters, and is not known well."""
        limits = self.limited.limits
        matters = (limits.tokens_per_minute, limits.picodollars_per_day, limits.picodollars_per_month)
        return matters != (None, None, None) and not self.others.is_fresh(now)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A limit that does not hold. For money: `spent` picodollars, and when it begins again."""

    limited: Limited
    limit: str
    retry_after_seconds: int = 1
    spent: int = 0
    resets: datetime | None = None


def first_refusal(held: Sequence[Held], today: Today, wall_at: float, *, is_paid: bool) -> Refusal | None:
    """The first limit that lets no further request in; None if all hold. `is_paid`: money and tokens matter."""
    if is_paid:
        for one in held:
            if (refusal := _money(one, today, wall_at)) is not None:
                return refusal
    for one in held:
        if (refusal := _pace(one, is_paid)) is not None:
            return refusal
    return None


def _money(one: Held, today: Today, wall_at: float) -> Refusal | None:
    limits = one.limited.limits
    # The month first: when it is over, so is the day.
    if limits.picodollars_per_month is not None:
        spent = spent_this_month(one.slot, one.others)
        if spent >= limits.picodollars_per_month:
            return _spent_out(one, MONTH, spent, today.month_ends, wall_at)
    if limits.picodollars_per_day is not None:
        spent = spent_today(one.slot, one.others)
        if spent >= limits.picodollars_per_day:
            return _spent_out(one, DAY, spent, today.day_ends, wall_at)
    return None


def _spent_out(one: Held, limit: str, spent: int, resets: datetime, wall_at: float) -> Refusal:
    return Refusal(one.limited, limit, max(1, math.ceil(seconds_until(resets, wall_at))), spent, resets)


def _pace(one: Held, is_paid: bool) -> Refusal | None:
    limits, slot, others = one.limited.limits, one.slot, one.others
    if limits.requests_per_minute is not None:
        surplus = slot.requests + others.requests + 1 - limits.requests_per_minute
        if surplus > 0:
            return Refusal(one.limited, REQUESTS, seconds_to_wait(slot, others.requests, surplus, is_tokens=False))
    if is_paid and limits.tokens_per_minute is not None:
        surplus = slot.tokens + others.tokens + 1 - limits.tokens_per_minute
        if surplus > 0:
            return Refusal(one.limited, TOKENS, seconds_to_wait(slot, others.tokens, surplus, is_tokens=True))
    if limits.concurrent is not None and slot.running + others.running >= limits.concurrent:
        return Refusal(one.limited, CONCURRENT)
    return None


def seconds_to_wait(slot: Slot, others_count: int, surplus: int, *, is_tokens: bool) -> int:
    """How long until so many have left the window. When those of other machines leave is not known: they may have come
    evenly."""
    seconds = slot.seconds_until_fewer(surplus, is_tokens=is_tokens)
    if others_count:
        count = others_count + (slot.tokens if is_tokens else slot.requests)
        evenly = math.ceil(WINDOW_SECONDS * min(1.0, surplus / count))
        seconds = evenly if seconds is None else min(seconds, evenly)
    return WINDOW_SECONDS if seconds is None else max(1, seconds)


def spent_today(slot: Slot, others: Others) -> int:
    """The day's picodollars on all machines."""
    return slot.picodollars_today + (others.picodollars_today if others.day == slot.day else 0)


def spent_this_month(slot: Slot, others: Others) -> int:
    """The month's picodollars on all machines."""
    return slot.picodollars_this_month + (others.picodollars_this_month if others.month == slot.month else 0)


def error_of(refusal: Refusal) -> LimitReached:
    """What the client gets."""
    limited, limits = refusal.limited, refusal.limited.limits
    names = {"limit": refusal.limit, "holder_kind": limited.kind, "holder": limited.name}
    if refusal.limit in (DAY, MONTH):
        is_day = refusal.limit == DAY
        most = (limits.picodollars_per_day if is_day else limits.picodollars_per_month) or 0
        return SpendLimitReached(
            f"spend limit reached ({'daily' if is_day else 'monthly'}; resets {refusal.resets:%Y-%m-%d %H:%M} UTC): "
            f"{limited} {_has(limited)} spent {_amount(refusal.spent, most)} of {_amount(most, most)} dollars",
            retry_after_seconds=refusal.retry_after_seconds,
            **names,
        )
    allowed = {
        REQUESTS: f"{limits.requests_per_minute} requests a minute",
        TOKENS: f"{limits.tokens_per_minute} tokens a minute",
        CONCURRENT: f"{limits.concurrent} running requests",
    }[refusal.limit]
    wait_seconds = min(refusal.retry_after_seconds, _LONGEST_WAIT_SECONDS)
    return LimitReached(
        f"{limited} {_has(limited)} used {_its(limited)} {allowed}; try again in {wait_seconds} s",
        retry_after_seconds=wait_seconds,
        **names,
    )


@dataclass(frozen=True, slots=True)
class Crossing:
    """Somebody has spent a share of what they may, for the first time in a period."""

    limited: Limited
    limit: str
    percent: int

    def __str__(self) -> str:
        limits, is_day = self.limited.limits, self.limit == DAY
        most = (limits.picodollars_per_day if is_day else limits.picodollars_per_month) or 0
        return (
            f"{self.limited} {_has(self.limited)} spent {self.percent} % of {_its(self.limited)} "
            f"{_amount(most, most)} dollars a {'day' if is_day else 'month'}"
        )


def crossings(one: Held) -> list[Crossing]:
    """The shares of money that somebody has spent by now and that nobody was told of; the slot notes that they were."""
    limits, slot = one.limited.limits, one.slot
    found = []
    if (most := limits.picodollars_per_day) is not None:
        spent = spent_today(slot, one.others)
        told = _percent(spent, most) if spent * 100 >= TOLD_PERCENTS[0] * most else 0
        if told > slot.told_today:
            found.append(Crossing(one.limited, DAY, told))
        slot.told_today = told  # less than before if the limit was raised
    if (most := limits.picodollars_per_month) is not None:
        spent = spent_this_month(slot, one.others)
        told = _percent(spent, most) if spent * 100 >= TOLD_PERCENTS[0] * most else 0
        if told > slot.told_this_month:
            found.append(Crossing(one.limited, MONTH, told))
        slot.told_this_month = told
    return found


def _percent(spent: int, most: int) -> int:
    return [percent for percent in TOLD_PERCENTS if spent * 100 >= percent * most][-1]


def _amount(picodollars: int, most: int) -> str:
    """Dollars and cents; where the limit is finer, as fine as can be."""
    text = dollars(picodollars)
    return text if most % _PICODOLLARS_OF_A_CENT else text[:-4]


def _has(limited: Limited) -> str:
    return "has" if limited.name else "have"


def _its(limited: Limited) -> str:
    return "its" if limited.name else "their"

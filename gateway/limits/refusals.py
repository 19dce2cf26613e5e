"""Which limit says no, and the words of it.

Owns: the order in which limits are looked at, and what a refused client and the log are told. Money comes first, for
asking again does not help there; then requests, tokens and running requests. Pure; under the counts' lock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.config.limit_rules import FIRST_TOLD_PERCENT, Limited
from gateway.limits.calendar import Today, seconds_until
from gateway.limits.slot import WINDOW_SECONDS, Counts, Slot, spent_this_month, spent_today
from gateway.limits.statements import Others
from gateway.pricing.money import PICODOLLARS, dollars
from gateway.protocol.errors import LimitReached, SpendLimitReached

TOLD_PERCENTS = (FIRST_TOLD_PERCENT, 95, 100)
# A window may take a second longer; but at longer waits than a minute clients give up (Claude Code does at once).
_LONGEST_WAIT_SECONDS = 60
_PICODOLLARS_OF_A_CENT = PICODOLLARS // 100
REQUESTS, TOKENS, CONCURRENT = "requests_per_minute", "tokens_per_minute", "concurrent"
DAY, MONTH = "dollars_per_day", "dollars_per_month"


# Who has limits, where their counts lie, and these as they are now.
Read = tuple[Limited, Slot, Counts]
# Who has limits, where their counts lie, these as they are now, and those of other machines as far as they matter.
Held = tuple[Limited, Slot, Counts, Others]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A limit that does not hold. For money: `spent` picodollars, and when it begins again."""

    limited: Limited
    limit: str
    retry_after_seconds: int = 1
    spent: int = 0
    resets: datetime | None = None


def surely_hold(read: Sequence[Read], is_paid: bool) -> bool:
    """Whether all limits let one more request in, and nothing was heard of other machines: so it is nearly always.

    Else `first_refusal` says whether one refuses, and which.
    """
    for limited, _, counts in read:
        most_running, most_requests, most_tokens, most_today, most_this_month = limited.bounds
        _, _, _, _, requests, tokens, requests_now, running, tokens_now, today, this_month, heard = counts
        if heard or requests + requests_now >= most_requests or running >= most_running:
            return False
        if is_paid and (tokens + tokens_now >= most_tokens or today >= most_today or this_month >= most_this_month):
            return False
    return True


def is_guess(one: Held, now: float) -> bool:
    """Whether what others have used of money and tokens matters, and is not known well."""
    limited, _, _, others = one
    limits = limited.limits
    matters = (limits.tokens_per_minute, limits.picodollars_per_day, limits.picodollars_per_month)
    return matters != (None, None, None) and not others.is_fresh(now)


def first_refusal(held: Sequence[Held], day: Today, wall_at: float, *, is_paid: bool) -> Refusal | None:
    """The first limit that lets no further request in, money before the others; None if all hold.

    `is_paid`: money and tokens matter.
    """
    first: tuple[Held, str] | None = None
    for one in held:
        limited, _, counts, others = one
        most_running, most_requests, most_tokens, most_today, most_this_month = limited.bounds
        _, _, _, _, requests, tokens, requests_now, running, tokens_now, today, this_month, _ = counts
        running, requests, tokens = running + others.running, requests + others.requests, tokens + others.tokens
        today, this_month = today + others.picodollars_today, this_month + others.picodollars_this_month
        # The month comes before the day: when it is over, so is the day.
        if is_paid and this_month >= most_this_month:
            return _refusal(one, MONTH, day, wall_at)
        if is_paid and today >= most_today:
            return _refusal(one, DAY, day, wall_at)
        if first is not None:
            continue
        if requests + requests_now >= most_requests:
            first = one, REQUESTS
        elif is_paid and tokens + tokens_now >= most_tokens:
            first = one, TOKENS
        elif running >= most_running:
            first = one, CONCURRENT
    return None if first is None else _refusal(*first, day, wall_at)


def _refusal(one: Held, limit: str, today: Today, wall_at: float) -> Refusal:
    """What is to be said of a limit that is reached."""
    limited, slot, _, others = one
    limits, facts = limited.limits, slot.facts
    if limit == MONTH:
        return _spent_out(limited, MONTH, spent_this_month(facts, others), today.month_ends, wall_at)
    if limit == DAY:
        return _spent_out(limited, DAY, spent_today(facts, others), today.day_ends, wall_at)
    if limit == CONCURRENT:
        return Refusal(limited, CONCURRENT)
    is_tokens = limit == TOKENS
    own, foreign = (facts.tokens, others.tokens) if is_tokens else (facts.requests, others.requests)
    most = (limits.tokens_per_minute if is_tokens else limits.requests_per_minute) or 0
    surplus = own + foreign + 1 - most
    seconds = slot.seconds_until_fewer(surplus, is_tokens=is_tokens)
    return Refusal(limited, limit, _seconds_to_wait(seconds, own, foreign, surplus))


def _spent_out(limited: Limited, limit: str, spent: int, resets: datetime, wall_at: float) -> Refusal:
    return Refusal(limited, limit, max(1, math.ceil(seconds_until(resets, wall_at))), spent, resets)


def _seconds_to_wait(seconds: int | None, own: int, foreign: int, surplus: int) -> int:
    """How long until so many have left the window, if by their own `seconds` would do. When those of other machines
    leave is not known: they may have come evenly."""
    if foreign:
        evenly = math.ceil(WINDOW_SECONDS * min(1.0, surplus / (own + foreign)))
        seconds = evenly if seconds is None else min(seconds, evenly)
    return WINDOW_SECONDS if seconds is None else max(1, seconds)


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


def crossings(limited: Limited, slot: Slot, others: Others) -> list[Crossing]:
    """The shares of money that somebody has spent by now and that nobody was told of; the slot notes that they were."""
    facts = slot.facts
    of_day = _told_share(spent_today(facts, others), limited.limits.picodollars_per_day)
    of_month = _told_share(spent_this_month(facts, others), limited.limits.picodollars_per_month)
    found = []
    if of_day > facts.told_today:
        found.append(Crossing(limited, DAY, of_day))
    if of_month > facts.told_this_month:
        found.append(Crossing(limited, MONTH, of_month))
    if of_day != facts.told_today or of_month != facts.told_this_month:  # less than before if a limit was raised
        slot.write(facts._replace(told_today=of_day, told_this_month=of_month))
    return found


def _told_share(spent: int, most: int | None) -> int:
    """The largest share, in percent, that is told of and is spent; 0 if none is."""
    if most is None or spent * 100 < TOLD_PERCENTS[0] * most:
        return 0
    return [percent for percent in TOLD_PERCENTS if spent * 100 >= percent * most][-1]


def _amount(picodollars: int, most: int) -> str:
    """Dollars and cents; where the limit is finer, as fine as can be."""
    text = dollars(picodollars)
    return text if most % _PICODOLLARS_OF_A_CENT else text[:-4]


def _has(limited: Limited) -> str:
    return "has" if limited.name else "have"


def _its(limited: Limited) -> str:
    return "its" if limited.name else "their"

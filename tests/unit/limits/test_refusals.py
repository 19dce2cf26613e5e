"""Which limit refuses, for how long, in which words; and which shares of a budget are told."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.config.limit_rules import Limited, Limits
from gateway.limits.calendar import today
from gateway.limits.refusals import (
    Crossing,
    Refusal,
    crossings,
    error_of,
    first_refusal,
    is_guess,
    surely_hold,
)
from gateway.limits.slot import SLOT_BYTES, Facts, Slot, Views
from gateway.limits.statements import NOBODY, Others
from gateway.pricing.money import PICODOLLARS
from gateway.protocol.errors import LimitReached, SpendLimitReached

NOON = 1_796_040_000.0  # 2026-11-30 12:00 UTC
DAY = today(NOON)
MIDNIGHT = datetime(2026, 12, 1, tzinfo=UTC)
SECOND = 1000
HERE = {"requests_before": 2, "requests_now": 1, "running": 3, "tokens_before": 20, "tokens_now": 10}
HERE |= {"picodollars_today": 30, "picodollars_this_month": 30}
ELSEWHERE = Others(SECOND * 1000, 1, 1, 1, DAY.day, 1, DAY.month, 1)


def limited(name: str = "a", kind: str = "group", **limits: int) -> Limited:
    return Limited(kind, name, Limits(**limits))


def slot_of(who: Limited, facts: dict[str, int], others: Others = NOBODY) -> Slot:
    slot = Slot(Views(memoryview(bytearray(SLOT_BYTES))), 0, who.subject)
    slot.write(Facts(second=SECOND, day=DAY.day, month=DAY.month)._replace(**facts))
    slot.hear(others)
    return slot


def refused(who: Limited, others: Others = NOBODY, *, is_paid: bool = True, **facts: int) -> Refusal | None:
    """What is said of one who has used what HERE says, or these facts."""
    slot = slot_of(who, facts or HERE, others)
    return first_refusal([(who, slot, slot.counts_at(SECOND, DAY), others)], DAY, NOON, is_paid=is_paid)


@pytest.mark.parametrize("others", [NOBODY, ELSEWHERE], ids=["alone", "others-too"])
@pytest.mark.parametrize(
    ("limit", "used", "is_of_money"),
    [
        ("requests_per_minute", 3, False),
        ("tokens_per_minute", 30, True),
        ("concurrent", 3, False),
        ("picodollars_per_day", 30, True),
        ("picodollars_per_month", 30, True),
    ],
)
def test_a_limit_refuses_once_it_is_used_up(limit: str, used: int, is_of_money: bool, others: Others) -> None:
    """Given what was used, here and elsewhere, then a limit of so much refuses, and one of more does not; what costs
    nothing is refused by no money and no tokens."""
    used += others.running
    name = limit.replace("picodollars", "dollars")
    for most, is_refused in ((used - 1, True), (used, True), (used + 1, False)):
        who = limited(**{limit: most})
        found = refused(who, others)
        assert (found.limit if found else None) == (name if is_refused else None)
        free = refused(who, others, is_paid=False)
        assert (free is not None) == (is_refused and not is_of_money)
        slot = slot_of(who, HERE)
        read = [(who, slot, slot.counts_at(SECOND, DAY))]
        if others is NOBODY:
            assert (surely_hold(read, True), surely_hold(read, False)) == (found is None, free is None)


def test_what_was_heard_of_others_has_to_be_looked_at() -> None:
    """Given room, then the quick look lets a request in; once other machines were heard of, it does not know."""
    who = limited(concurrent=9)
    for others, holds in ((NOBODY, True), (ELSEWHERE, False)):
        slot = slot_of(who, HERE, others)
        assert surely_hold([(who, slot, slot.counts_at(SECOND, DAY))], True) is holds
    assert surely_hold([], True)


ALL = {"requests_per_minute": 1, "tokens_per_minute": 1, "concurrent": 1}
MONEY = {"picodollars_per_day": 1, "picodollars_per_month": 1}


@pytest.mark.parametrize(
    ("everybody", "limit", "holder"),
    [
        ([ALL | MONEY], "dollars_per_month", 0),
        ([ALL | {"picodollars_per_day": 1}], "dollars_per_day", 0),
        ([ALL], "requests_per_minute", 0),
        ([{"tokens_per_minute": 1, "concurrent": 1}], "tokens_per_minute", 0),
        ([{"concurrent": 9}, {"concurrent": 1}], "concurrent", 1),
        ([{"concurrent": 1}, ALL], "concurrent", 0),
        ([ALL, MONEY], "dollars_per_month", 1),
        ([ALL, {"concurrent": 9}, MONEY], "dollars_per_month", 2),
        ([MONEY, MONEY], "dollars_per_month", 0),
        ([{"picodollars_per_day": 1}, MONEY], "dollars_per_day", 0),
    ],
)
def test_money_comes_first_and_then_whoever_is_first(everybody: list[dict[str, int]], limit: str, holder: int) -> None:
    """Given several limits that refuse, then money is told before what passes by itself, else the first's first."""
    held = []
    for number, limits in enumerate(everybody):
        who = limited(str(number), **limits)
        slot = slot_of(who, HERE)
        held.append((who, slot, slot.counts_at(SECOND, DAY), NOBODY))
    found = first_refusal(held, DAY, NOON, is_paid=True)
    assert found is not None
    assert (found.limit, found.limited.name) == (limit, str(holder))


def test_whoever_has_no_limits_is_refused_nothing() -> None:
    """Given nobody, then nothing refuses."""
    assert first_refusal([], DAY, NOON, is_paid=True) is None


# How long


def minute(limit: int, others: int = 0, *, is_tokens: bool = False) -> int:
    """How long to wait with 4 requests of sixty seconds ago, and 6 of now, and so many elsewhere."""
    name = "tokens_per_minute" if is_tokens else "requests_per_minute"
    kind = "tokens" if is_tokens else "requests"
    heard = Others(SECOND * 1000, **{kind: others}) if others else NOBODY
    who = limited(**{name: limit})
    slot = slot_of(who, {"second": SECOND - 60, f"{kind}_now": 4}, heard)
    slot.write(slot.facts_at(SECOND, DAY)._replace(**{f"{kind}_now": 6}))
    found = first_refusal([(who, slot, slot.counts_at(SECOND, DAY), heard)], DAY, NOON, is_paid=True)
    assert found is not None
    return found.retry_after_seconds


@pytest.mark.parametrize("is_tokens", [False, True], ids=["requests", "tokens"])
@pytest.mark.parametrize(
    ("limit", "others", "seconds"),
    [
        pytest.param(10, 0, 1, id="the-first-leave-at-once"),
        pytest.param(7, 0, 1, id="just-enough-leave-at-once"),
        pytest.param(6, 0, 61, id="one-of-now-has-to-leave"),
        pytest.param(10, 10, 34, id="others-leave-evenly"),  # 11 of 20, of 61 seconds: 33.55
        pytest.param(18, 10, 1, id="own-ones-leave-before"),
        pytest.param(15, 10, 19, id="others-leave-before"),  # 6 of 20: 18.3
        pytest.param(0, 10, 61, id="nothing-is-allowed"),
    ],
)
def test_the_wait_is_until_enough_have_left(limit: int, others: int, seconds: int, is_tokens: bool) -> None:
    """Given a full minute, then the wait is until there is room for one more: by one's own requests, or, as if they had
    come evenly, by those of other machines."""
    assert minute(limit, others, is_tokens=is_tokens) == seconds


@pytest.mark.parametrize("limit", ["picodollars_per_day", "picodollars_per_month"])
@pytest.mark.parametrize(("before_seconds", "wait_seconds"), [(100.0, 100), (99.25, 100), (0.25, 1), (0.0, 1)], ids=str)
def test_money_is_free_again_at_midnight(limit: str, before_seconds: float, wait_seconds: int) -> None:
    """Given a budget that is spent, then the wait is until its day or month ends, a second at least."""
    who = limited(**{limit: 5})
    slot = slot_of(who, HERE, ELSEWHERE)
    wall_at = MIDNIGHT.timestamp() - before_seconds
    found = first_refusal([(who, slot, slot.counts_at(SECOND, DAY), ELSEWHERE)], DAY, wall_at, is_paid=True)
    assert found == Refusal(who, limit.replace("picodollars", "dollars"), wait_seconds, 31, MIDNIGHT)


def test_a_place_may_be_free_at_any_moment() -> None:
    """Given all running requests that are allowed, then the client may come again in a second."""
    who = limited(concurrent=3)
    assert refused(who) == Refusal(who, "concurrent", 1, 0, None)


@pytest.mark.parametrize(
    ("limits", "others", "guesses"),
    [
        ({"concurrent": 1, "requests_per_minute": 1}, NOBODY, False),
        ({"tokens_per_minute": 1}, NOBODY, True),
        ({"picodollars_per_day": 0}, NOBODY, True),
        ({"picodollars_per_month": 1}, NOBODY, True),
        ({"picodollars_per_month": 1}, ELSEWHERE, False),
    ],
)
def test_only_money_and_tokens_of_others_are_waited_for(limits: dict[str, int], others: Others, guesses: bool) -> None:
    """Given limits and what was heard, then it is a guess where others' money or tokens matter and are not known."""
    who = limited(**limits)
    slot = slot_of(who, HERE, others)
    assert is_guess((who, slot, slot.counts_at(SECOND, DAY), others), float(SECOND)) is guesses


# In words


@pytest.mark.parametrize(
    ("refusal", "message", "seconds"),
    [
        pytest.param(
            Refusal(limited(requests_per_minute=2), "requests_per_minute", 61),
            "group a has used its 2 requests a minute; try again in 60 s",
            60,
            id="requests",
        ),
        pytest.param(
            Refusal(limited("", "token", tokens_per_minute=9), "tokens_per_minute", 59),
            "the clients of this gateway have used their 9 tokens a minute; try again in 59 s",
            59,
            id="tokens",
        ),
        pytest.param(
            Refusal(limited(concurrent=3), "concurrent"),
            "group a has used its 3 running requests; try again in 1 s",
            1,
            id="running",
        ),
        pytest.param(
            Refusal(
                limited(picodollars_per_day=5 * PICODOLLARS, picodollars_per_month=7 * PICODOLLARS),
                *("dollars_per_day", 100, 6 * PICODOLLARS, MIDNIGHT),
            ),
            "spend limit reached (daily; resets 2026-12-01 00:00 UTC): group a has spent 6.00 of 5.00 dollars",
            100,
            id="day",
        ),
        pytest.param(
            Refusal(
                limited(picodollars_per_day=5 * PICODOLLARS, picodollars_per_month=PICODOLLARS // 1000),
                *("dollars_per_month", 100, PICODOLLARS // 500, MIDNIGHT),
            ),
            "spend limit reached (monthly; resets 2026-12-01 00:00 UTC): "
            "group a has spent 0.002000 of 0.001000 dollars",
            100,
            id="month",
        ),
        pytest.param(
            Refusal(limited(picodollars_per_day=0), "dollars_per_day", 1, 0, MIDNIGHT),
            "spend limit reached (daily; resets 2026-12-01 00:00 UTC): group a has spent 0.00 of 0.00 dollars",
            1,
            id="no-money-at-all",
        ),
    ],
)
def test_the_client_is_told_in_words_and_fields(refusal: Refusal, message: str, seconds: int) -> None:
    """Given a refusal, then the error says which limit, whose, how much was used, and when to come again."""
    error = error_of(refusal)
    assert (error.message, error.retry_after_seconds) == (message, seconds)
    assert (error.limit, error.holder_kind, error.holder) == (
        *(refusal.limit, refusal.limited.kind, refusal.limited.name),
    )
    assert type(error) is (SpendLimitReached if "dollars" in refusal.limit else LimitReached)


# Shares of a budget


@pytest.mark.parametrize(
    ("spent", "told", "now_told"),
    [
        (0, 0, 0),
        (749, 0, 0),
        (750, 0, 75),
        (949, 75, 75),
        (950, 75, 95),
        (999, 95, 95),
        (1000, 95, 100),
        (5000, 0, 100),
        (800, 100, 75),
        (100, 95, 0),
    ],
)
@pytest.mark.parametrize(
    ("limit", "fact", "note"),
    [
        ("picodollars_per_day", "picodollars_today", "told_today"),
        ("picodollars_per_month", "picodollars_this_month", "told_this_month"),
    ],
    ids=["day", "month"],
)
def test_a_share_is_told_once(limit: str, fact: str, note: str, spent: int, told: int, now_told: int) -> None:
    """Given what was spent of a budget of 1000, and what was told, then a share that is new is told and noted; where
    the budget was raised, that is noted alone."""
    who = limited(**{limit: 1000})
    slot = slot_of(who, {fact: spent - 1, note: told} if spent else {fact: spent, note: told})
    others = ELSEWHERE if spent else NOBODY  # one of it was spent elsewhere
    found = crossings(who, slot, others)
    assert [(one.limited, one.percent) for one in found] == ([(who, now_told)] if now_told > told else [])
    assert {one.limit for one in found} <= {limit.replace("picodollars", "dollars")}
    assert getattr(slot.facts, note) == now_told
    assert crossings(who, slot, others) == []


def test_shares_of_a_day_and_a_month_are_told_each() -> None:
    """Given a day's and a month's budget, then each share is told of its own; what has no budget has none."""
    who = limited(picodollars_per_day=10, picodollars_per_month=1000)
    facts = {"picodollars_today": 10, "picodollars_this_month": 800}
    assert crossings(who, slot_of(who, facts), NOBODY) == [
        *(Crossing(who, "dollars_per_day", 100), Crossing(who, "dollars_per_month", 75)),
    ]
    assert crossings(limited(concurrent=1), slot_of(who, facts), NOBODY) == []


@pytest.mark.parametrize(
    ("crossing", "words"),
    [
        (Crossing(limited(picodollars_per_day=5 * PICODOLLARS), "dollars_per_day", 75), "5.00 dollars a day"),
        (Crossing(limited(picodollars_per_month=1), "dollars_per_month", 75), "0.000000 dollars a month"),
        (Crossing(limited(picodollars_per_day=0), "dollars_per_day", 75), "0.00 dollars a day"),
        (
            Crossing(
                limited(picodollars_per_day=2 * PICODOLLARS, picodollars_per_month=9 * PICODOLLARS),
                *("dollars_per_month", 75),
            ),
            "9.00 dollars a month",
        ),
    ],
    ids=["day", "month", "nothing", "month-of-both"],
)
def test_a_share_is_told_in_words(crossing: Crossing, words: str) -> None:
    """Given a share that is spent, then the log says whose, how much of what."""
    assert str(crossing) == f"group a has spent 75 % of its {words}"

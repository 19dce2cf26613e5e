"""One subject's counts: the minute that slides, money by days and months, what runs, and what others have used."""

from __future__ import annotations

import pytest

from gateway.limits.calendar import Today, today
from gateway.limits.slot import (
    COLUMNS,
    MOST,
    SLOT_BYTES,
    SLOT_WORDS,
    Facts,
    Slot,
    Views,
    spent_this_month,
    spent_today,
)
from gateway.limits.statements import NOBODY, Others, Statement
from tests.unit.fakes import NOW

DAY_SECONDS = 86_400.0
TODAY, TOMORROW, AFTER_IT = (today(NOW + days * DAY_SECONDS) for days in range(3))
NEXT_MONTH = today(NOW + 20 * DAY_SECONDS)
SECOND = 1000
FACTS = Facts(
    *(SECOND, TODAY.day, 75, 95, 11, 12, 13, 14, 15, 60, 70, TODAY.month, 9),
    *(TODAY.day - 1, 50, TODAY.month - 1, 40),
)


def slot_of(**facts: int) -> Slot:
    """A subject with these facts, today at SECOND; before it and behind it lies memory that is full."""
    views = Views(memoryview(bytearray(b"\xff" * SLOT_BYTES * 3)))
    views.memory[SLOT_BYTES : 2 * SLOT_BYTES] = bytes(SLOT_BYTES)
    slot = Slot(views, SLOT_WORDS, "group/a")
    slot.write(Facts(second=SECOND, day=TODAY.day, month=TODAY.month)._replace(**facts))
    return slot


def memory_of(slot: Slot) -> bytes:
    return bytes(slot._memory)


def test_facts_are_read_as_they_were_written() -> None:
    """Given facts, then all of them are read again, what a request looks at in one piece with them, and nothing else
    of the memory is changed."""
    slot = slot_of()
    slot.write(FACTS)
    assert slot.facts == FACTS
    assert slot.counts_at(SECOND, TODAY) == (*FACTS[:11], 0)
    assert (slot.facts.requests, slot.facts.tokens) == (11 + 13, 12 + 15)
    assert Facts() == (0,) * 17
    assert slot.others == NOBODY
    memory = memory_of(slot)
    assert memory[:SLOT_BYTES] == memory[2 * SLOT_BYTES :] == b"\xff" * SLOT_BYTES


# The minute


@pytest.mark.parametrize(
    "steps", [[1], [2], [7], [59, 1], [60], [61], [62], [1, 60, 3, 61, 2, 64, 1, 1, 58, 130]], ids=str
)
def test_the_last_minute_is_the_second_that_runs_and_sixty_before_it(steps: list[int]) -> None:
    """Given requests and tokens in some seconds, then those of the last sixty and of the present one are counted."""
    slot, second, counted = slot_of(), SECOND, {}
    for number in range(60):
        second += steps[number % len(steps)]
        facts = slot.facts_at(second, TODAY)
        counted[second] = (number % 3 + 1, number % 5)
        slot.write(facts._replace(requests_now=counted[second][0], tokens_now=counted[second][1]))
        last = [each for at, each in counted.items() if at >= second - 60]
        assert slot.facts.requests == sum(requests for requests, _ in last)
        assert slot.facts.tokens == sum(tokens for _, tokens in last)
        assert slot.counts_at(second, TODAY)[:2] == (second, TODAY.day)
    memory = memory_of(slot)
    assert memory[:SLOT_BYTES] == memory[2 * SLOT_BYTES :] == b"\xff" * SLOT_BYTES


@pytest.mark.parametrize(
    ("passed", "second", "requests", "now"),
    [(0, SECOND, 8, 3), (-1, SECOND, 8, 3), (-2, SECOND - 2, 0, 0), (1, SECOND + 1, 8, 0), (61, SECOND + 61, 0, 0)],
    ids=["the same", "read before another's", "a clock that began again", "the next", "long after"],
)
def test_what_is_over_no_longer_counts(passed: int, second: int, requests: int, now: int) -> None:
    """Given counts of a second, when looked at in another one, then the minute is that one's, and is written down."""
    slot = slot_of()
    slot.write(slot.facts._replace(second=SECOND - 1, requests_now=5))
    slot.write(slot.facts_at(SECOND, TODAY)._replace(requests_now=3))
    facts = slot.facts_at(SECOND + passed, TODAY)
    assert (facts.second, facts.requests, facts.requests_now) == (second, requests, now)
    assert slot.facts == facts
    assert slot.counts_at(second, TODAY)[6] == now


def test_what_a_request_looks_at_is_of_now() -> None:
    """Given counts of another second or another day, then a request sees them as they are now."""
    slot = slot_of(requests_now=3, picodollars_today=9, picodollars_this_month=9)
    assert slot.counts_at(SECOND + 1, TODAY)[4:7] == (3, 0, 0)
    assert slot.counts_at(SECOND + 1, TOMORROW)[9:11] == (0, 9)
    assert slot.facts.day == TOMORROW.day


@pytest.mark.parametrize(
    ("second", "before", "now", "left"),
    [
        pytest.param(SECOND, 5, 2, (5, 1), id="of-this-second"),
        pytest.param(SECOND, 5, 0, (5, 0), id="of-this-second-but-none-was"),
        pytest.param(SECOND - 1, 5, 2, (4, 2), id="of-the-last"),
        pytest.param(SECOND - 60, 5, 2, (4, 2), id="of-the-first-that-counts"),
        pytest.param(SECOND - 61, 5, 2, (5, 2), id="of-one-that-is-over"),
        pytest.param(SECOND + 1, 5, 2, (5, 2), id="of-one-to-come"),
        pytest.param(SECOND - 2, 5, 2, (5, 2), id="of-one-without-any"),
        pytest.param(SECOND - 1, 0, 2, (0, 2), id="of-a-minute-that-is-empty"),
    ],
)
def test_a_request_that_has_not_taken_place_is_taken_back(
    second: int, before: int, now: int, left: tuple[int, int]
) -> None:
    """Given a request of a second, then it no longer counts, in its second and in the sum; what is over is left."""
    slot = slot_of(second=SECOND - 60, requests_now=3)
    slot.write(slot.facts_at(SECOND - 1, TODAY)._replace(requests_now=2))
    assert slot.facts_at(SECOND, TODAY).requests_before == 5
    slot.write(slot.facts._replace(requests_before=before, requests_now=now))
    slot.take_back(second)
    assert (slot.facts.requests_before, slot.facts.requests_now) == left
    assert slot.facts_at(SECOND + 1, TODAY).requests_before == left[1] + (1 if second == SECOND - 1 else 2)


@pytest.mark.parametrize(
    ("count", "requests", "tokens"),
    [(1, 1, 1), (3, 1, 1), (4, 60, 1), (5, 60, 60), (6, 61, 60), (8, 61, 61), (9, None, 61), (10, None, None)],
)
def test_how_long_it_takes_until_some_have_left(count: int, requests: int | None, tokens: int | None) -> None:
    """Given three requests sixty seconds ago, two in the last second and three now, and four, two and three tokens,
    then it is known when so many have left the window."""
    slot = slot_of(second=SECOND - 60, requests_now=3, tokens_now=4)
    slot.write(slot.facts_at(SECOND - 1, TODAY)._replace(requests_now=2, tokens_now=2))
    slot.write(slot.facts_at(SECOND, TODAY)._replace(requests_now=3, tokens_now=3))
    assert slot.seconds_until_fewer(count, is_tokens=False) == requests
    assert slot.seconds_until_fewer(count, is_tokens=True) == tokens


# What runs


def test_requests_that_begin_and_end_are_counted_by_process() -> None:
    """Given processes that begin and end requests, then the sum is that of all; each request is counted once."""
    slot = slot_of()
    running = []
    for column, count in ((0, 1), (0, 2), (COLUMNS - 1, 1), (7, 4)):
        slot.begin(slot.counts_at(SECOND, TODAY), column, count)
        running.append(slot.facts.running)
    assert running == [1, 2, 3, 7]
    assert slot.facts.requests_now == 4
    assert slot.end(slot.counts_at(SECOND, TODAY), 7, 3, 20, 5) == (5, 5)
    assert slot.end(slot.counts_at(SECOND, TODAY), 0, 1, 1, 2) == (7, 7)
    assert slot.facts == Facts(
        *(SECOND, TODAY.day, 0, 0, 0, 0, 4, 5, 21, 7, 7, TODAY.month, 0, 0, 0, 0, 0),
    )
    slot.run(7, 9)
    assert slot.facts.running == 11
    slot.recount([0, COLUMNS - 1])
    assert slot.facts.running == 2
    memory = memory_of(slot)
    assert memory[:SLOT_BYTES] == memory[2 * SLOT_BYTES :] == b"\xff" * SLOT_BYTES


@pytest.mark.parametrize("act", ["begin", "end", "run"])
def test_never_less_than_nothing_runs(act: str) -> None:
    """Given a sum that a killed process has left too small, then it is nothing at least."""
    slot = slot_of()
    slot.run(3, 9)
    slot.write(slot.facts._replace(running=4))
    counts = slot.counts_at(SECOND, TODAY)
    {
        "begin": lambda: slot.begin(counts, 3, 2),
        "end": lambda: slot.end(counts, 3, 2, 0, 0),
        "run": lambda: slot.run(3, 2),
    }[act]()
    assert slot.facts.running == 0
    slot.run(3, 5)
    assert slot.facts.running == 3, "the process's own count is the new one"


@pytest.mark.parametrize(
    ("before", "spent", "after"),
    [
        pytest.param((5, 8), 2, (7, 10), id="added"),
        pytest.param((5, MOST - 2), 2, (7, MOST), id="just-the-most"),
        pytest.param((5, MOST - 2), 3, (8, MOST), id="too-much-for-a-month"),
        pytest.param((MOST - 5, MOST - 2), 9, (MOST, MOST), id="too-much-for-a-day"),
    ],
)
def test_money_adds_up_to_the_most(before: tuple[int, int], spent: int, after: tuple[int, int]) -> None:
    """Given money of today and this month, then what a request costs is added; what is too much stays the most."""
    slot = slot_of(picodollars_today=before[0], picodollars_this_month=before[1])
    assert slot.end(slot.counts_at(SECOND, TODAY), 0, 0, 0, spent) == after
    assert (slot.facts.picodollars_today, slot.facts.picodollars_this_month) == after


# Days and months


@pytest.mark.parametrize(
    ("days", "changed"),
    [
        pytest.param(
            [TOMORROW],
            {"day": TOMORROW.day, "picodollars_today": 0, "told_today": 0}
            | {"earlier_day": TODAY.day, "picodollars_earlier_day": 60},
            id="tomorrow",
        ),
        pytest.param(
            [TOMORROW, TODAY],
            {"told_today": 0, "earlier_day": TOMORROW.day, "picodollars_earlier_day": 0},
            id="back",
        ),
        pytest.param(
            [TOMORROW, AFTER_IT],
            {"day": AFTER_IT.day, "picodollars_today": 0, "told_today": 0}
            | {"earlier_day": TOMORROW.day, "picodollars_earlier_day": 0},
            id="the-day-after-it",
        ),
        pytest.param(
            [NEXT_MONTH],
            {"day": NEXT_MONTH.day, "picodollars_today": 0, "told_today": 0}
            | {"earlier_day": TODAY.day, "picodollars_earlier_day": 60}
            | {"month": NEXT_MONTH.month, "picodollars_this_month": 0, "told_this_month": 0}
            | {"earlier_month": TODAY.month, "picodollars_earlier_month": 70},
            id="next-month",
        ),
        pytest.param(
            [NEXT_MONTH, TODAY],
            {"told_today": 0, "earlier_day": NEXT_MONTH.day, "picodollars_earlier_day": 0, "told_this_month": 0}
            | {"earlier_month": NEXT_MONTH.month, "picodollars_earlier_month": 0},
            id="next-month-and-back",
        ),
    ],
)
def test_money_is_a_day_s_and_a_month_s(days: list[Today], changed: dict[str, int]) -> None:
    """Given money of today and this month, when other days come, then each has its own; the last one is kept."""
    slot = slot_of()
    slot.write(FACTS)
    for day in days:
        facts = slot.facts_at(SECOND, day)
    assert facts == slot.facts == FACTS._replace(**changed)


# What machines tell each other


@pytest.mark.parametrize(
    ("before", "wall_at", "number"),
    [
        pytest.param(9, NOW, int(NOW) * 10**6, id="by-the-clock"),
        pytest.param(9, 0.000_020, 20, id="early"),
        pytest.param(20, 0.000_020, 21, id="twice-in-a-moment"),
        pytest.param(9, 0.0, 10, id="without-a-clock"),
        pytest.param(9, 2**52 / 1e6, 2**52, id="the-latest"),
        pytest.param(9, (2**52 + 4) / 1e6, 10, id="a-clock-gone-mad"),
    ],
)
def test_what_is_told_has_a_greater_number_than_before(before: int, wall_at: float, number: int) -> None:
    """Given a number under which others were told last, then the next is greater, and the clock's if that is sane."""
    slot = slot_of()
    slot.write(FACTS._replace(changed=before))
    told = slot.told(wall_at)
    assert told == Statement("group/a", number, 14, 11 + 13, 12 + 15, TODAY.day, 60, TODAY.month, 70)
    assert slot.statement == told
    assert slot.facts == FACTS._replace(changed=number)


HEARD = Others(SECOND * 1000, 1, 2, 3, TODAY.day, 4, TODAY.month, 5)


def test_what_others_have_used_is_kept() -> None:
    """Given a word of other machines, then it is kept, as far as a number of it can be; the facts are as before."""
    slot = slot_of()
    slot.write(FACTS)
    slot.hear(HEARD)
    assert (slot.others, slot.facts) == (HEARD, FACTS)
    assert slot.counts_at(SECOND, TODAY) == (*FACTS[:11], SECOND * 1000)
    slot.hear(HEARD._replace(tokens=2**70, picodollars_today=MOST))
    assert slot.others == HEARD._replace(tokens=MOST, picodollars_today=MOST)
    slot.hear(HEARD._replace(heard_ms=0))
    assert slot.others is NOBODY


def test_what_is_known_is_all_but_what_one_process_runs() -> None:
    """Given what runs here and elsewhere, then a process is told of all the rest, as of another machine."""
    slot = slot_of()
    slot.write(FACTS._replace(running=0))
    slot.run(3, 5)
    slot.run(4, 2)
    slot.hear(HEARD)
    assert slot.known(3) == Others(SECOND * 1000, 2 + 1, 24 + 2, 27 + 3, TODAY.day, 64, TODAY.month, 75)
    slot.write(slot.facts._replace(running=1))
    assert slot.known(3).running == 1


def test_money_elsewhere_counts_on_its_own_day() -> None:
    """Given money that was spent on other machines, then it is added to that of the same day and month alone."""
    assert (spent_today(FACTS, HEARD), spent_this_month(FACTS, HEARD)) == (64, 75)
    other = HEARD._replace(day=TODAY.day + 1, month=TODAY.month + 1)
    assert (spent_today(FACTS, other), spent_this_month(FACTS, other)) == (60, 70)

"""Who is let in by their limits, in which words others are refused, and what is counted at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gateway.config.limit_rules import Limited, Limits
from gateway.limits.counters import Entry, MachineCounters
from gateway.limits.shared_limiter import SharedLimiter
from gateway.limits.statements import Unanswered
from gateway.pricing.money import PICODOLLARS
from gateway.protocol.errors import LimitReached, Overloaded, SpendLimitReached
from tests.harness import wait_until
from tests.unit.fakes import FakeClock, race

NOON = 1_796_040_000.0  # 2026-11-30 12:00 UTC
SOON_SECONDS = 30.0
CENT = PICODOLLARS // 100
ANY = Limits(1000, 10**9, 1000, 10**15, 10**15)


class Rig:
    """A limiter without a thread, under clocks that stand still."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.wall = FakeClock(1_000_000.0), FakeClock(NOON)
        self.counters = MachineCounters(folder, self.clock, self.wall)
        self.limiter = SharedLimiter(self.counters)

    def enter(self, *limited: Limited, costs: bool = True, is_own: bool = False):
        return self.limiter.enter(limited, costs=costs, is_own=is_own)

    def spend(self, who: Limited, tokens: int = 0, picodollars: int = 0) -> None:
        self.enter(who).settle(tokens, picodollars)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.limiter.close()


def group(**limits: int) -> Limited:
    return Limited("group", "research", Limits(**limits))


def everyone(**limits: int) -> Limited:
    return Limited("token", "", Limits(**limits))


# --- refusals


REFUSALS = [
    (
        group(requests_per_minute=2),
        (0, 0),
        "group research has used its 2 requests a minute; try again in 60 s",
        ("requests_per_minute", 60),
    ),
    (
        group(tokens_per_minute=1000),
        (600, 0),
        "group research has used its 1000 tokens a minute; try again in 60 s",
        ("tokens_per_minute", 60),
    ),
    (
        group(picodollars_per_day=50 * PICODOLLARS),
        (0, 25 * PICODOLLARS + CENT // 2),
        "spend limit reached (daily; resets 2026-12-01 00:00 UTC): group research has spent 50.01 of 50.00 dollars",
        ("dollars_per_day", 43_200),
    ),
    (
        everyone(picodollars_per_month=1),
        (0, CENT),
        "spend limit reached (monthly; resets 2026-12-01 00:00 UTC): the clients of this gateway have spent "
        "0.020000 of 0.000000 dollars",
        ("dollars_per_month", 43_200),
    ),
]


@pytest.mark.parametrize(("who", "each", "message", "facts"), REFUSALS, ids=[row[3][0] for row in REFUSALS])
def test_refusal_says_whose_limit_it_is_and_when_to_come_again(
    rig: Rig, who: Limited, each: tuple[int, int], message: str, facts: tuple[str, int]
) -> None:
    """Given two requests that used up a limit, then the third is told in words and in fields which, whose, and when."""
    admitted = [rig.enter(who), rig.enter(who)]
    for one in admitted:
        one.settle(*each)
    with pytest.raises(LimitReached) as refused:
        rig.enter(who)
    assert refused.value.message == message
    assert (refused.value.limit, refused.value.retry_after_seconds) == facts
    assert (refused.value.holder_kind, refused.value.holder) == (who.kind, who.name)
    assert isinstance(refused.value, SpendLimitReached) is facts[0].startswith("dollars")


def test_running_requests_of_an_open_gateway_are_its_clients(rig: Rig) -> None:
    """Given the default's one place on a gateway without tokens, then the words fit many people."""
    rig.enter(everyone(concurrent=1))
    with pytest.raises(LimitReached, match="the clients of this gateway have used their 1 running requests; try again"):
        rig.enter(everyone(concurrent=1))


def test_nothing_that_costs_is_let_through_by_no_money(rig: Rig) -> None:
    """Given a budget of nothing, then what costs is refused from the first request on, and the rest goes."""
    who = group(picodollars_per_day=0)
    with pytest.raises(SpendLimitReached):
        rig.enter(who)
    rig.enter(who, costs=False).settle(0, 0)
    rig.enter(who, is_own=True).settle(0, 0)


def test_money_is_told_before_what_passes_by_itself(rig: Rig) -> None:
    """Given a group out of requests and a token out of money for the month and the day, then the month is told."""
    team = group(requests_per_minute=1)
    alice = Limited("token", "alice", Limits(picodollars_per_day=1, picodollars_per_month=1))
    rig.enter(team, alice).settle(0, 5)
    with pytest.raises(SpendLimitReached) as refused:
        rig.enter(team, alice)
    assert (refused.value.holder, refused.value.limit) == ("alice", "dollars_per_month")


def test_whoever_has_no_limits_is_let_in(rig: Rig) -> None:
    """Given nobody who has limits, then a request goes, and its end counts nowhere."""
    rig.enter().settle(10, 10)


# --- the end of a request


def test_request_is_settled_once(rig: Rig) -> None:
    """Given an end that is told by many threads at once, then it counts once."""
    who = Limited("group", "research", ANY)
    other, admitted = rig.enter(who), rig.enter(who)
    race(8, lambda _: admitted.settle(100, 7))
    (used,) = rig.limiter.used([who])
    assert (used.running, used.tokens, used.picodollars_today) == (1, 100, 7)
    other.settle(0, 0)


@pytest.mark.parametrize(("costs", "is_own"), [(False, False), (True, True)], ids=["free route", "own credential"])
def test_who_does_not_cost_counts_as_a_request_alone(rig: Rig, costs: bool, is_own: bool) -> None:
    """Given a request that costs the gateway nothing, then it counts, and neither tokens nor money do."""
    who = Limited("group", "research", ANY)
    rig.enter(who, costs=costs, is_own=is_own).settle(500, 500)
    (used,) = rig.limiter.used([who])
    assert (used.requests, used.running, used.tokens, used.picodollars_today) == (1, 0, 0, 0)


@pytest.mark.parametrize("amount", [-1, -(10**30), 10**30], ids=str)
def test_settling_gives_the_place_back_whatever_was_used(rig: Rig, amount: int) -> None:
    """Given an amount that cannot be, then the request's place is free all the same, and nothing is raised."""
    who = Limited("group", "research", ANY)
    rig.enter(who).settle(amount, amount)
    (used,) = rig.limiter.used([who])
    assert used.running == 0
    assert used.tokens >= 0
    assert 0 <= used.picodollars_today < 2**63


def test_settling_raises_nothing(rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given counts that fail, then the log says so, and the request's end goes on."""
    admitted = rig.enter(Limited("group", "research", ANY))

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(rig.counters, "settle", fail)
    admitted.settle(1, 1)
    assert "could not be counted" in caplog.text


def test_shares_of_a_budget_are_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Given a request that takes a budget from nothing to its end, then one WARNING tells the share."""
    who = group(picodollars_per_month=800 * PICODOLLARS)
    with caplog.at_level(logging.WARNING):
        rig.spend(who, picodollars=760 * PICODOLLARS)
        rig.spend(who, picodollars=PICODOLLARS)
    assert caplog.messages == ["group research has spent 95 % of its 800.00 dollars a month"]


def test_raised_limit_lets_in_and_is_told_of_anew(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Given a budget at its end that is doubled, then requests go at once, and its own shares are told."""
    before, after = group(picodollars_per_day=10), group(picodollars_per_day=20)
    rig.spend(before, picodollars=10)
    with pytest.raises(SpendLimitReached):
        rig.enter(before)
    rig.spend(after, picodollars=1)
    caplog.clear()
    rig.spend(after, picodollars=5)
    assert "75 %" in caplog.text


# --- what is shown, and the end


def test_what_is_used_is_shown_for_who_used_nothing_too(rig: Rig) -> None:
    """Given a token that was used and one that was not, then both are shown, with the time until day and month end."""
    alice, bob = Limited("token", "alice", ANY), Limited("token", "bob", ANY)
    rig.enter(alice)
    used = rig.limiter.used([alice, bob])
    assert [(one.limited, one.requests, one.running) for one in used] == [(alice, 1, 1), (bob, 0, 0)]
    assert {(one.day_resets_in_seconds, one.month_resets_in_seconds) for one in used} == {(43_200.0, 43_200.0)}


def test_housekeeping_runs_beside_the_requests(tmp_path: Path) -> None:
    """Given a limiter that was started, then a removed file is there again soon, with what runs; after its end the next
    worker begins without that."""
    limiter, who = SharedLimiter(MachineCounters(tmp_path)), Limited("group", "research", ANY)
    limiter.start()
    limiter.enter([who], costs=True, is_own=False)
    (tmp_path / "limits.counts").unlink()
    assert wait_until((tmp_path / "limits.counts").exists, SOON_SECONDS)
    assert limiter.used([who])[0].running == 1
    limiter.close()
    counters = MachineCounters(tmp_path)
    assert counters.used([who])[0].running == 0
    counters.close()


def test_wall_clock_that_jumps_does_no_harm(rig: Rig) -> None:
    """Given a clock that is set to other years and back, then each day has its own money, and limits hold."""
    who = group(picodollars_per_day=10)
    for wall_at in (NOON, 0.0, 5e9, 1e11, NOON):
        rig.wall.now = wall_at
        rig.spend(who, picodollars=10)
        with pytest.raises(SpendLimitReached):
            rig.enter(who)


class _NeverAnswered:
    """A link whose questions the store takes, and does not answer in time."""

    is_up = True

    def __init__(self) -> None:
        self.told_anew: list[Limited] = []

    def ask(self, entry: Entry) -> tuple[int, str] | None:
        raise Unanswered

    def changed(self, limited: Sequence[Limited]) -> None:
        self.told_anew += limited

    def close(self) -> None:
        pass


def test_what_the_store_may_have_counted_is_told_anew(tmp_path: Path) -> None:
    """Given a question that the store did not answer in time, then the request is refused, and not counted here; and
    other machines, who may hear of it, are told that it does not run."""
    link, who = _NeverAnswered(), group(concurrent=1)
    counters = MachineCounters(tmp_path)
    limiter = SharedLimiter(counters, link, fails_closed=True)  # type: ignore[arg-type]
    with pytest.raises(Overloaded):
        limiter.enter([who], costs=True, is_own=False)
    assert counters.used([who])[0].running == 0
    assert link.told_anew == [who]
    limiter.close()

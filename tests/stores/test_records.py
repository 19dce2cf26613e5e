"""The rules by which knowledge of a key is merged. Pure: no store, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.keys.key_record import (
    NEVER_SEEN,
    Cause,
    Record,
    confirmed,
    cooled,
    disabled,
    enabled,
    joined,
    leased,
    released,
    retired,
    started_anew,
)

LIMITED = Cause("rate_limited", 429, 5.0)
REFUSED = Cause("unauthorized", 401, 5.0)
BY_HAND = Cause("operator", 0, 5.0)

# Few moments, so that they often coincide.
moments = st.integers(1, 12).map(float)


@dataclass(frozen=True)
class Cool:
    """A 429 at a moment, with a deadline."""

    at: float
    until_at: float

    def __call__(self, record: Record) -> Record:
        return cooled(record, self.until_at, 0, Cause("rate_limited", 429, self.at))


@dataclass(frozen=True)
class Retire:
    """A 401 or 403 at a moment."""

    at: float
    status: int

    def __call__(self, record: Record) -> Record:
        return retired(record, 0, Cause(f"refused {self.status}", self.status, self.at))


@dataclass(frozen=True)
class Confirm:
    """An answer at a moment."""

    at: float

    def __call__(self, record: Record) -> Record:
        return confirmed(record, 0, self.at)


@dataclass(frozen=True)
class Lease:
    """A request that would try the key."""

    at: float

    def __call__(self, record: Record) -> Record:
        return leased(record, self.at + 3, self.at)


cools = st.builds(Cool, moments, moments)
retires = st.builds(Retire, moments, st.sampled_from([401, 403]))
marks = st.one_of(cools, retires, st.builds(Confirm, moments))
changes = st.one_of(
    marks,
    st.builds(Lease, moments),
    st.just(enabled),
    moments.map(lambda at: lambda record: disabled(record, Cause("operator", 0, at))),
    moments.map(lambda at: lambda record: cooled(record, at + 2, record.generation, Cause("late", 429, at))),
)


def applied(steps: Iterable[object], record: Record = NEVER_SEEN) -> Record:
    return reduce(lambda known, step: step(known), steps, record)  # type: ignore[operator]


records = st.lists(changes, max_size=6).map(applied)


def usability(record: Record) -> tuple[object, ...]:
    """All that decides whether a key may be used, at any moment."""
    return (
        record.generation,
        record.cooling_until_at,
        record.confirmed_at,
        record.is_retired,
        record.is_disabled,
        record.is_unconfirmed,
    )


@given(data=st.data(), history=st.lists(marks, max_size=8))
def test_marks_in_any_order_say_the_same(data: st.DataObject, history: list[object]) -> None:
    other = applied(data.draw(st.permutations(history)))
    one = applied(history)
    assert usability(other) == usability(one)
    assert (other.limited_count, other.refused_count) == (one.limited_count, one.refused_count)


@given(history=st.lists(marks, max_size=8))
def test_marks_merge_to_the_latest_deadline_and_never_lose_a_retirement(history: list[object]) -> None:
    record = applied(history)
    assert record.cooling_until_at == max((m.until_at for m in history if isinstance(m, Cool)), default=0.0)
    assert record.confirmed_at == max((m.at for m in history if isinstance(m, Confirm)), default=0.0)
    assert record.is_retired is any(isinstance(m, Retire) for m in history)
    assert record.limited_count == sum(isinstance(m, Cool) for m in history)
    assert record.refused_count == sum(isinstance(m, Retire) for m in history)


@given(history=st.lists(st.tuples(marks, st.integers(0, 2)), max_size=10))
def test_joining_split_histories_gives_the_whole_history(history: list[tuple[object, int]]) -> None:
    """Three machines that each saw a part know together what one would know that saw everything."""
    parts = [applied(mark for mark, machine in history if machine == number) for number in range(3)]
    whole = applied(mark for mark, _ in history)
    assert usability(reduce(joined, parts)) == usability(whole)


@given(one=records, other=records)
def test_joining_commutes(one: Record, other: Record) -> None:
    assert joined(one, other) == joined(other, one)


@given(one=records, other=records, third=records)
@settings(max_examples=300)
def test_joining_associates(one: Record, other: Record, third: Record) -> None:
    assert joined(joined(one, other), third) == joined(one, joined(other, third))


@given(one=records, other=records)
def test_joining_again_changes_nothing(one: Record, other: Record) -> None:
    both = joined(one, other)
    assert joined(both, both) == both
    assert joined(both, one) == both
    assert joined(both, other) == both
    assert joined(one, one) == replace(one, lease_until_at=0.0)


@given(one=records, other=records)
def test_joining_leaves_leases_apart(one: Record, other: Record) -> None:
    assert joined(one, other).lease_until_at == 0.0


@given(one=records, other=records)
def test_joining_lowers_no_count(one: Record, other: Record) -> None:
    """Counts are of all generations, so the newer generation's do not hide what only the other has seen."""
    both = joined(one, other)
    assert both.limited_count == max(one.limited_count, other.limited_count)
    assert both.refused_count == max(one.refused_count, other.refused_count)


@given(record=records)
def test_joining_with_an_empty_record_changes_nothing(record: Record) -> None:
    assert joined(record, NEVER_SEEN) == replace(record, lease_until_at=0.0)


@given(record=records, at=moments, behind=st.integers(1, 3))
def test_marks_of_another_generation_are_dropped(record: Record, at: float, behind: int) -> None:
    for stale in (record.generation - behind, record.generation + behind):
        assert cooled(record, at + 100, stale, LIMITED) is record
        assert retired(record, stale, REFUSED) is record
        assert confirmed(record, stale, at + 100) is record


@given(record=records)
def test_enabling_begins_a_generation_with_nothing_held_against_the_key(record: Record) -> None:
    renewed = enabled(record)
    assert renewed == Record(
        generation=record.generation + 1, limited_count=record.limited_count, refused_count=record.refused_count
    )
    assert joined(renewed, record) == renewed


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        pytest.param([Retire(5, 401), Cool(7, 60)], "refused 401", id="limited after it was refused"),
        pytest.param([Cool(7, 60), Retire(5, 401)], "refused 401", id="refused after it was limited"),
        pytest.param([Retire(5, 401), Retire(7, 403)], "refused 401", id="refused twice"),
        pytest.param([Cool(5, 60), Cool(7, 8)], "rate_limited", id="limited twice"),
        pytest.param([Cool(5, 60), lambda r: disabled(r, BY_HAND)], "operator", id="limited, then disabled"),
        pytest.param([lambda r: disabled(r, BY_HAND), Retire(7, 401)], "operator", id="disabled, then refused"),
    ],
)
def test_why_a_key_is_out_of_use_is_not_hidden_by_a_later_mark(steps: list[object], reason: str) -> None:
    """Given two marks, when the operator asks why, then the one that keeps the key out of use is told."""
    assert applied(steps).reason == reason


def test_joining_tells_why_a_key_is_out_of_use() -> None:
    refused, limited_later = applied([Retire(5, 401)]), applied([Cool(7, 60)])
    both = joined(refused, limited_later)
    assert (both.reason, both.status, both.marked_at) == ("refused 401", 401, 5)


COOLED_DOWN = applied([Cool(5, 10)])  # on trial from 10 on
TRIED = leased(COOLED_DOWN, 40, 10)  # one request tries it until 40
CONFIRMED = confirmed(COOLED_DOWN, 0, 11)


@pytest.mark.parametrize(
    ("record", "now", "is_given"),
    [
        pytest.param(NEVER_SEEN, 10, False, id="never limited"),
        pytest.param(COOLED_DOWN, 9.9, False, id="still cooling down"),
        pytest.param(COOLED_DOWN, 10, True, id="cooldown just over"),
        pytest.param(TRIED, 39.9, False, id="another tries it"),
        pytest.param(TRIED, 40, True, id="the other's turn is over"),
        pytest.param(CONFIRMED, 12, False, id="confirmed"),
        pytest.param(cooled(CONFIRMED, 20, 0, LIMITED), 20, True, id="limited again after that"),
        pytest.param(retired(COOLED_DOWN, 0, REFUSED), 10, False, id="retired"),
        pytest.param(disabled(COOLED_DOWN, BY_HAND), 10, False, id="disabled"),
        pytest.param(enabled(COOLED_DOWN), 10, False, id="enabled"),
    ],
)
def test_lease_is_given_to_one_request_at_a_time(record: Record, now: float, is_given: bool) -> None:
    """Given a key, when a request would try it, then it may if the key is on trial and nobody else tries it."""
    after = leased(record, now + 30, now)
    assert (after is not record) is is_given
    assert after == (replace(record, lease_until_at=now + 30) if is_given else record)


@pytest.mark.parametrize(
    ("change", "lease_until_at"),
    [
        pytest.param(lambda r: released(r, 40), 0, id="given back"),
        pytest.param(lambda r: released(r, 39), 40, id="another's lease given back"),
        pytest.param(lambda r: confirmed(r, 0, 12), 0, id="confirmed"),
        pytest.param(lambda r: cooled(r, 60, 0, LIMITED), 0, id="limited"),
        pytest.param(lambda r: retired(r, 0, REFUSED), 0, id="refused"),
        pytest.param(enabled, 0, id="enabled"),
        pytest.param(lambda r: confirmed(r, 1, 12), 40, id="confirmed of another generation"),
        pytest.param(lambda r: leased(r, 45, 15), 40, id="wanted by another"),
    ],
)
def test_lease_ends_with_what_was_found_out(change: object, lease_until_at: float) -> None:
    """Given a key that one request tries, when this comes, then the lease is over or not."""
    assert applied([change], TRIED).lease_until_at == lease_until_at


def test_giving_back_a_lease_twice_changes_nothing() -> None:
    once = released(TRIED, 40)
    assert released(once, 40) is once
    again = leased(once, 50, 20)
    assert released(again, 40) is again


def test_only_the_upstream_s_refusals_are_counted() -> None:
    """Given marks of the upstream and of the operator, then the former alone are counted."""
    assert cooled(NEVER_SEEN, 9.0, 0, LIMITED).limited_count == 1
    assert cooled(NEVER_SEEN, 9.0, 0, BY_HAND).limited_count == 0
    assert cooled(NEVER_SEEN, 9.0, 0, Cause("odd", 1, 5.0)).limited_count == 1


def test_confirmation_ends_the_trial_and_no_cooldown() -> None:
    assert COOLED_DOWN.is_on_trial(10)
    assert not CONFIRMED.is_on_trial(12)
    assert not CONFIRMED.is_unconfirmed
    limited_meanwhile = confirmed(cooled(COOLED_DOWN, 60, 0, LIMITED), 0, 11)
    assert limited_meanwhile.is_cooling(11)
    assert limited_meanwhile.is_on_trial(60)


REFUSED_KEY = retired(NEVER_SEEN, 0, REFUSED)


@pytest.mark.parametrize(
    ("record", "is_on_trial", "is_cooling", "is_permanent"),
    [
        pytest.param(NEVER_SEEN, False, False, False, id="never seen"),
        pytest.param(REFUSED_KEY, True, False, False, id="refused"),
        pytest.param(cooled(REFUSED_KEY, 60, 0, LIMITED), False, True, False, id="refused while cooling down"),
        pytest.param(cooled(NEVER_SEEN, 60, 0, LIMITED), False, True, False, id="cooling"),
        pytest.param(COOLED_DOWN, True, False, False, id="cooled-down"),
        pytest.param(CONFIRMED, False, False, False, id="confirmed"),
        pytest.param(disabled(NEVER_SEEN, BY_HAND), False, False, True, id="disabled"),
        pytest.param(disabled(REFUSED_KEY, BY_HAND), False, False, True, id="refused and disabled"),
        pytest.param(retired(disabled(NEVER_SEEN, BY_HAND), 0, REFUSED), False, False, True, id="disabled, refused"),
    ],
)
def test_restart_gives_a_refused_key_one_trial(
    record: Record, is_on_trial: bool, is_cooling: bool, is_permanent: bool
) -> None:
    """Given what was known when the gateway stopped, when it starts at 20, then a refused key may be tried once."""
    after = started_anew(record, 20)
    assert (after.is_on_trial(20), after.is_cooling(20), after.is_permanent) == (is_on_trial, is_cooling, is_permanent)
    assert after.cooling_until_at == (20 if record == REFUSED_KEY else record.cooling_until_at)
    assert (after.reason, after.status, after.marked_at) == (record.reason, record.status, record.marked_at)
    assert (after is record) is (not record.is_retired or record.is_disabled)


def test_one_refusal_after_a_restart_retires_the_key_again() -> None:
    after = started_anew(REFUSED_KEY, 20)
    assert leased(after, 50, 20) is not after
    assert leased(leased(after, 50, 20), 51, 21).lease_until_at == 50
    assert retired(after, 0, REFUSED) is after, "a refusal from before the restart no longer counts"
    assert retired(after, after.generation, REFUSED).is_permanent
    assert started_anew(after, 30) is after, "the trial outlasts a further restart"


def test_a_refused_key_that_rested_when_the_gateway_stopped_keeps_its_deadline() -> None:
    after = started_anew(cooled(REFUSED_KEY, 60, 0, LIMITED), 20)
    assert after.cooling_until_at == 60
    assert not after.is_on_trial(59)
    assert after.is_on_trial(60)

"""The facts about keys: merges that commute, generations, one change told once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store import MemoryStore, Record
from tests.unit.fakes import NOW, race

KEY = "fingerprint"


def record_of(store: MemoryStore) -> Record:
    return store.read([KEY])[0]


@dataclass(frozen=True)
class Mark:
    """One mark on the key: a deadline, or a retirement when there is none."""

    until_at: float | None
    reason: str
    generation: int = 0
    now: float = NOW

    def apply(self, store: MemoryStore) -> bool:
        if self.until_at is None:
            return store.retire(KEY, self.generation, self.reason, self.now)
        return store.cool(KEY, self.until_at, self.generation, self.reason, self.now)


def after(marks) -> Record:
    store = MemoryStore()
    for mark in marks:
        mark.apply(store)
    return record_of(store)


marks = st.builds(
    Mark,
    until_at=st.one_of(st.none(), st.integers(1, 50).map(lambda seconds: NOW + seconds)),
    reason=st.sampled_from(["a", "b", "c"]),
    generation=st.sampled_from([0, 0, 0, 1]),
    now=st.integers(-5, 60).map(lambda seconds: NOW + seconds),
)


@given(st.lists(marks, max_size=8).flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))))
def test_merges_commute(orders):
    """Given marks in two orders, then deadline, retirement and generation end the same."""
    one, other = (replace(after(order), reason="", marked_at=0.0) for order in orders)
    assert one == other


@given(
    st.lists(marks, max_size=8, unique_by=lambda mark: mark.until_at).flatmap(
        lambda some: st.tuples(st.just(some), st.permutations(some))
    )
)
def test_reasons_commute_too_when_no_two_marks_are_level(orders):
    """Given marks of different deadlines and at most one retirement, then the whole record ends the same."""
    one, other = map(after, orders)
    assert one == other


@given(st.lists(marks, max_size=8))
def test_record_is_the_latest_deadline_and_any_retirement(some):
    """Given marks, then the record is what a naive reading of the valid ones says."""
    current = [mark for mark in some if mark.generation == 0]
    record = after(some)
    assert record.cooling_until_at == max((mark.until_at for mark in current if mark.until_at), default=0.0)
    assert record.is_retired == any(mark.until_at is None for mark in current)
    assert record.generation == 0


@given(st.lists(marks, max_size=10))
def test_a_mark_reports_a_change_exactly_when_it_made_one(some):
    """Given marks one after the other, then each says True when it turned a usable key unusable, or retired it."""
    store = MemoryStore()
    for mark in some:
        before = record_of(store)
        changed = mark.apply(store)
        record = record_of(store)
        if mark.until_at is None:
            assert changed == (record.is_retired and not before.is_retired)
        else:
            was_valid = not before.is_retired and before.cooling_until_at <= mark.now
            assert changed == (was_valid and record.cooling_until_at > before.cooling_until_at)


@pytest.mark.parametrize(
    ("marks_made", "told", "expected"),
    [
        pytest.param([], [], Record(), id="never-seen"),
        pytest.param([Mark(NOW + 5, "a")], [True], Record(0, NOW + 5, False, "a", NOW), id="cooled"),
        pytest.param([Mark(None, "a")], [True], Record(0, 0.0, True, "a", NOW), id="retired"),
        pytest.param(
            [Mark(NOW + 5, "a"), Mark(NOW + 9, "b")],
            [True, False],
            Record(0, NOW + 9, False, "b", NOW),
            id="later-wins",
        ),
        pytest.param(
            [Mark(NOW + 9, "a"), Mark(NOW + 5, "b")],
            [True, False],
            Record(0, NOW + 9, False, "a", NOW),
            id="sooner-loses",
        ),
        pytest.param(
            [Mark(NOW + 5, "a"), Mark(NOW + 5, "b")], [True, False], Record(0, NOW + 5, False, "a", NOW), id="level"
        ),
        pytest.param(
            [Mark(NOW + 5, "a"), Mark(NOW + 99, "b", now=NOW + 5)],
            [True, True],
            Record(0, NOW + 99, False, "b", NOW + 5),
            id="cooled-again-after-its-deadline",
        ),
        pytest.param(
            [Mark(None, "a"), Mark(NOW + 5, "b")], [True, False], Record(0, NOW + 5, True, "a", NOW), id="429-after-401"
        ),
        pytest.param(
            [Mark(NOW + 5, "a"), Mark(None, "b")], [True, True], Record(0, NOW + 5, True, "b", NOW), id="401-after-429"
        ),
        pytest.param(
            [Mark(None, "a"), Mark(None, "b")], [True, False], Record(0, 0.0, True, "a", NOW), id="401-then-403"
        ),
        pytest.param(
            [Mark(NOW + 5, "a", generation=1), Mark(None, "a", generation=1)], [False, False], Record(), id="stale"
        ),
    ],
)
def test_marks_give_this_record(marks_made, told, expected):
    """Given marks in this order, then each tells this and the record ends so."""
    store = MemoryStore()
    assert [mark.apply(store) for mark in marks_made] == told
    assert record_of(store) == expected


def test_marks_of_an_earlier_generation_are_dropped():
    """Given a key that was enabled again, when an attempt that began before marks it, then the mark is dropped."""
    store = MemoryStore()
    enabled = Record(generation=3)
    store._records[KEY] = enabled  # the command that enables a key does this
    assert not Mark(None, "late", generation=2).apply(store)
    assert not Mark(NOW + 60, "late", generation=2).apply(store)
    assert record_of(store) == enabled
    assert Mark(NOW + 60, "present", generation=3).apply(store)


@pytest.mark.parametrize("until_at", [NOW + 60, None], ids=["cool", "retire"])
def test_a_race_of_marks_reports_one_change(until_at):
    """Given 64 threads at a barrier, when all mark one key, then exactly one is told that it changed the key."""
    for _ in range(20):
        store = MemoryStore()
        told = race(64, lambda _, store=store: Mark(until_at, "a").apply(store))
        assert sum(told) == 1


def test_a_race_of_different_deadlines_keeps_the_latest():
    """Given 64 threads with a deadline each and one retirement, then the latest deadline and the retirement stand."""
    store = MemoryStore()

    def mark(number: int) -> tuple[bool, bool]:
        return Mark(NOW + 1 + number, "a").apply(store), number == 20 and Mark(None, "b").apply(store)

    told = race(64, mark)
    record = record_of(store)
    assert (record.cooling_until_at, record.is_retired, record.reason) == (NOW + 64, True, "b")
    assert sum(cooled for cooled, _ in told) <= 1
    assert sum(retired for _, retired in told) == 1


def test_keys_do_not_touch_each_other():
    """Given marks on one key, then another's record is empty, and records come in the order asked for."""
    store = MemoryStore()
    Mark(None, "a").apply(store)
    assert [record.is_retired for record in store.read(["other", KEY, "other"])] == [False, True, False]
    assert repr(store) == "<MemoryStore records=1>"

"""The store for the threads of one process: each method applies its rule, one change is told once.

The rules themselves are tested in tests/stores/test_records.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys import key_record
from gateway.keys.key_record import NEVER_SEEN, Cause, Record
from gateway.keys.store import MemoryStore
from tests.unit.fakes import NOW, race

KEY = "fingerprint"
LIMITED = Cause("rate_limited", 429, NOW)
REFUSED = Cause("unauthorized", 401, NOW)
BY_HAND = Cause("operator", 0, NOW)


def record_of(store: MemoryStore) -> Record:
    return store.read([KEY])[0]


def fresh(store):
    """Nothing is known of the key."""


def cooling(store):
    store.cool(KEY, NOW + 5, 0, LIMITED)


def on_trial(store):
    store.cool(KEY, NOW - 5, 0, LIMITED)


def leased(store):
    on_trial(store)
    store.lease(KEY, NOW + 30, NOW)


def retired(store):
    store.retire(KEY, 0, REFUSED)


def disabled(store):
    store.disable(KEY, BY_HAND)


HISTORIES = [fresh, cooling, on_trial, leased, retired, disabled]


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
@pytest.mark.parametrize(
    ("call", "rule"),
    [
        pytest.param(
            lambda store: store.cool(KEY, NOW + 9, 0, LIMITED),
            lambda record: key_record.cooled(record, NOW + 9, 0, LIMITED),
            id="cool",
        ),
        pytest.param(
            lambda store: store.retire(KEY, 0, REFUSED),
            lambda record: key_record.retired(record, 0, REFUSED),
            id="retire",
        ),
        pytest.param(
            lambda store: store.retire(KEY, 1, REFUSED),
            lambda record: key_record.retired(record, 1, REFUSED),
            id="stale",
        ),
        pytest.param(
            lambda store: store.confirm(KEY, 0, NOW), lambda record: key_record.confirmed(record, 0, NOW), id="confirm"
        ),
        pytest.param(
            lambda store: store.lease(KEY, NOW + 31, NOW),
            lambda record: key_record.leased(record, NOW + 31, NOW),
            id="lease",
        ),
        pytest.param(
            lambda store: store.release(KEY, NOW + 30),
            lambda record: key_record.released(record, NOW + 30),
            id="release",
        ),
        pytest.param(lambda store: store.enable(KEY), key_record.enabled, id="enable"),
        pytest.param(
            lambda store: store.disable(KEY, BY_HAND), lambda record: key_record.disabled(record, BY_HAND), id="disable"
        ),
    ],
)
def test_method_applies_its_rule(history, call, rule):
    """Given a key with some history, when a method is called, then its record is what the pure rule makes of it."""
    store = MemoryStore()
    history(store)
    expected = rule(record_of(store))
    call(store)
    assert record_of(store) == expected
    assert store.read(["other"]) == [NEVER_SEEN]


@pytest.mark.parametrize(
    ("history", "is_told_cool", "is_told_retire", "is_given_lease"),
    [
        pytest.param(fresh, True, True, False, id="fresh"),
        pytest.param(cooling, False, True, False, id="cooling"),
        pytest.param(on_trial, True, True, True, id="on-trial"),
        pytest.param(leased, True, True, False, id="leased"),
        pytest.param(retired, False, False, False, id="retired"),
        pytest.param(disabled, False, False, False, id="disabled"),
    ],
)
def test_what_is_told_depends_on_what_was(history, is_told_cool, is_told_retire, is_given_lease):
    """Given a key with some history, when it is marked, then True only if it was usable (or not out of use) before;
    when its lease is asked for, then True only if it is on trial and nobody tries it. A stale mark is never told."""

    def told(call) -> bool:
        store = MemoryStore()
        history(store)
        return call(store)

    assert told(lambda store: store.cool(KEY, NOW + 9, 0, LIMITED)) is is_told_cool
    assert told(lambda store: store.retire(KEY, 0, REFUSED)) is is_told_retire
    assert told(lambda store: store.lease(KEY, NOW + 30, NOW)) is is_given_lease
    assert told(lambda store: store.cool(KEY, NOW + 9, 1, LIMITED)) is False
    assert told(lambda store: store.retire(KEY, 1, REFUSED)) is False


@dataclass(frozen=True)
class Mark:
    """One mark at a moment: a cooldown of so many seconds, or a retirement when there is none."""

    cooldown_seconds: int | None
    at: float
    generation: int

    def apply(self, store: MemoryStore) -> bool:
        if self.cooldown_seconds is None:
            return store.retire(KEY, self.generation, Cause("unauthorized", 401, self.at))
        return store.cool(KEY, self.at + self.cooldown_seconds, self.generation, Cause("rate_limited", 429, self.at))


marks = st.builds(
    Mark,
    cooldown_seconds=st.one_of(st.none(), st.integers(1, 50)),
    at=st.integers(0, 60).map(lambda seconds: NOW + seconds),
    generation=st.sampled_from([0, 0, 0, 1]),
)


@given(st.lists(marks, max_size=10))
def test_a_mark_tells_a_change_exactly_when_it_made_one(some):
    """Given marks one after the other, then each says True when it turned a usable key unusable, or retired it."""
    store = MemoryStore()
    for mark in some:
        before = record_of(store)
        told = mark.apply(store)
        after = record_of(store)
        if mark.cooldown_seconds is None:
            assert told == (after.is_retired and not before.is_retired)
        else:
            was_usable = not before.is_permanent and not before.is_cooling(mark.at)
            assert told == (was_usable and after.is_cooling(mark.at))


@pytest.mark.parametrize(
    ("history", "generation", "is_told"),
    [(retired, 0, True), (retired, 1, False), (disabled, 0, False)],
    ids=["retired", "enabled-since", "disabled"],
)
def test_coming_back_is_told_once(history, generation, is_told):
    """Given a key that the upstream accepts, then it comes back if it was retired, and that is told once."""
    store = MemoryStore()
    history(store)
    assert store.revive(KEY, generation) is is_told
    assert store.revive(KEY, generation) is False


@pytest.mark.parametrize("cooldown_seconds", [60, None], ids=["cool", "retire"])
def test_a_race_of_marks_tells_one_change(cooldown_seconds):
    """Given 64 threads at a barrier, when all mark one key, then exactly one is told, and all are counted."""
    for _ in range(20):
        store = MemoryStore()
        told = race(64, lambda _, store=store: Mark(cooldown_seconds, NOW, 0).apply(store))
        assert sum(told) == 1
        record = record_of(store)
        assert record.limited_count + record.refused_count == 64


def test_a_race_of_different_deadlines_keeps_the_latest():
    """Given 64 threads with a deadline each and one retirement, then the latest deadline and the retirement stand."""
    store = MemoryStore()

    def mark(number: int) -> tuple[bool, bool]:
        return Mark(1 + number, NOW, 0).apply(store), number == 20 and Mark(None, NOW, 0).apply(store)

    told = race(64, mark)
    record = record_of(store)
    assert (record.cooling_until_at, record.is_retired, record.reason) == (NOW + 64, True, "unauthorized")
    assert sum(cooled for cooled, _ in told) <= 1
    assert sum(retired for _, retired in told) == 1


def test_a_race_for_a_lease_has_one_winner():
    """Given a key on trial, when 64 threads want its lease, then one has it; once given back, one more."""
    store = MemoryStore()
    on_trial(store)
    for _ in range(20):
        assert sum(race(64, lambda _: store.lease(KEY, NOW + 30, NOW))) == 1
        store.release(KEY, NOW + 30)


def test_a_store_of_one_process_is_always_up():
    """Given a store without a server, then it is up, and has nothing to hand on."""
    store = MemoryStore()
    store.tick()
    assert (store.is_up, store.flush()) == (True, True)


def test_records_come_in_the_order_asked_for():
    """Given marks on one key, then another's record is empty, and records come in the order asked for."""
    store = MemoryStore()
    retired(store)
    assert [record.is_retired for record in store.read(["other", KEY, "other"])] == [False, True, False]
    assert repr(store) == "<MemoryStore records=1>"


def test_a_process_alone_has_no_server_to_lose():
    """Given a store in memory, then it is always up, and a process that ends has nothing to hand on."""
    store = MemoryStore()
    cooling(store)
    before = record_of(store)
    store.flush()
    assert store.is_up
    assert record_of(store) == before


def test_of_a_subject_never_seen_nothing_is_known():
    """Given a subject that was never marked, then its record is empty: no time, no reason, no status, no count."""
    (record,) = MemoryStore().read(["k"])
    assert [getattr(record, name) for name in record.__slots__] == [0, 0, 0, False, False, 0, "", 0, 0, 0, 0]

"""Key states, derived from what is stored and the clock; the operator's hand on them; leases of keys on trial."""

from __future__ import annotations

import pytest

from gateway.access.credential import Key
from gateway.keys.pool import BY_OPERATOR, LEASE_SECONDS, Pool
from gateway.keys.standing import KeyState
from gateway.keys.store import MemoryStore
from tests.unit.fakes import NOW, FakeClock, cool, keys_of, pool_of, race, retire

VALID, TEMPORARY, PERMANENT = KeyState.VALID, KeyState.TEMPORARY, KeyState.PERMANENT


# Steps of the tables below: each does something to the first of a pool's keys, or to the time.


def cooled(seconds):
    return lambda pool, clock: cool(pool, 0, seconds)


def retired(pool, clock):
    return retire(pool, 0)


def confirmed(pool, clock):
    pool.confirm(pool.statuses()[0], costs=True)


def enabled(pool, clock):
    pool.enable(pool.keys[0])


def disabled(pool, clock):
    pool.disable(pool.keys[0])


def wait(seconds):
    return lambda pool, clock: clock.advance(seconds)


@pytest.mark.parametrize(
    ("steps", "state", "remaining", "reason"),
    [
        pytest.param([], VALID, 0, "", id="fresh"),
        pytest.param([cooled(5)], TEMPORARY, 5, "rate_limited", id="cooled"),
        pytest.param([cooled(5), wait(4.5)], TEMPORARY, 0.5, "rate_limited", id="nearly-over"),
        pytest.param([cooled(5), wait(5)], VALID, 0, "rate_limited", id="over-at-its-deadline"),
        pytest.param([cooled(5), wait(60)], VALID, 0, "rate_limited", id="long-over"),
        pytest.param([cooled(5), cooled(3)], TEMPORARY, 5, "rate_limited", id="later-deadline-wins"),
        pytest.param([cooled(3), wait(1), cooled(5)], TEMPORARY, 5, "rate_limited", id="deadline-is-extended"),
        pytest.param([cooled(5), wait(5), cooled(5)], TEMPORARY, 5, "rate_limited", id="limited-again"),
        pytest.param([cooled(5), confirmed], TEMPORARY, 5, "rate_limited", id="cools-though-another-answered"),
        pytest.param([retired], PERMANENT, 0, "unauthorized", id="retired"),
        pytest.param([retired, wait(1e9)], PERMANENT, 0, "unauthorized", id="retired-for-good"),
        pytest.param([retired, confirmed], PERMANENT, 0, "unauthorized", id="retired-though-another-answered"),
        pytest.param([cooled(5), retired], PERMANENT, 0, "unauthorized", id="401-after-429"),
        pytest.param([retired, cooled(5)], PERMANENT, 0, "unauthorized", id="never-downgraded-by-429"),
        pytest.param([retired, cooled(5), wait(9)], PERMANENT, 0, "unauthorized", id="nor-by-its-deadline"),
        pytest.param([disabled], PERMANENT, 0, BY_OPERATOR, id="disabled"),
        pytest.param([disabled, wait(1e9)], PERMANENT, 0, BY_OPERATOR, id="disabled-for-good"),
        pytest.param([retired, disabled], PERMANENT, 0, BY_OPERATOR, id="disabled-when-retired"),
        pytest.param([cooled(5), enabled], VALID, 0, BY_OPERATOR, id="enabled-while-it-cools"),
        pytest.param([retired, enabled], VALID, 0, BY_OPERATOR, id="enabled-when-retired"),
        pytest.param([disabled, enabled], VALID, 0, BY_OPERATOR, id="enabled-when-disabled"),
        pytest.param([retired, enabled, retired], PERMANENT, 0, "unauthorized", id="refused-after-it-was-enabled"),
    ],
)
def test_state_follows_marks_and_the_clock(steps, state, remaining, reason):
    """Given these steps, then the key is in this state for this reason; its neighbour stays valid."""
    clock = FakeClock()
    pool = pool_of(2, clock)
    for step in steps:
        step(pool, clock)
    marked, neighbour = pool.statuses()
    assert (marked.state, marked.remaining_seconds) == (state, pytest.approx(remaining))
    assert marked.record.reason == reason
    assert (neighbour.state, neighbour.remaining_seconds, neighbour.is_on_trial) == (VALID, 0, False)


@pytest.mark.parametrize(
    ("steps", "is_on_trial"),
    [
        pytest.param([], False, id="fresh"),
        pytest.param([cooled(5)], False, id="cooling"),
        pytest.param([cooled(5), wait(5)], True, id="cooled-down"),
        pytest.param([cooled(5), wait(5), confirmed], False, id="confirmed"),
        pytest.param([cooled(5), wait(5), confirmed, wait(1), cooled(5), wait(5)], True, id="cooled-down-again"),
        pytest.param([cooled(5), wait(5), retired], False, id="retired"),
        pytest.param([cooled(5), wait(5), disabled], False, id="disabled"),
        pytest.param([cooled(5), wait(5), enabled], False, id="enabled"),
    ],
)
def test_a_rested_key_is_on_trial_until_it_is_confirmed(steps, is_on_trial):
    """Given these steps, then the key is on trial or not."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    for step in steps:
        step(pool, clock)
    assert pool.statuses()[0].is_on_trial is is_on_trial


def test_lease_is_one_request_s_until_it_is_given_back_or_over():
    """Given a key on trial, then one lease is given at a time; a later one may follow its return or its end."""
    clock = FakeClock()
    pool = pool_of(1, clock)

    def lease() -> float | None:
        return pool.lease(pool.statuses()[0])

    assert lease() is None, "there is nothing to try"
    cool(pool, 0, 5)
    assert lease() is None, "it cools down"
    clock.advance(5)
    first = lease()
    assert first == clock.now + LEASE_SECONDS
    assert lease() is None
    pool.release(pool.statuses()[0], first)
    second = lease()
    assert second is not None
    clock.advance(LEASE_SECONDS)
    third = lease()
    assert third is not None
    pool.release(pool.statuses()[0], second)
    assert lease() is None, "what was given back was over already"


def test_status_tells_whether_the_key_is_being_tried():
    """Given a key on trial, then its status is leased from when a request tries it, until that gives up or is over."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    cool(pool, 0, 5)
    clock.advance(5)
    status = pool.statuses()[0]
    seen = [status.is_leased]
    lease = pool.lease(status)
    seen.append(pool.statuses()[0].is_leased)
    pool.release(status, lease)
    seen.append(pool.statuses()[0].is_leased)
    pool.lease(status)
    clock.advance(LEASE_SECONDS)
    seen.append(pool.statuses()[0].is_leased)
    assert seen == [False, True, False, False]


def test_a_race_for_a_lease_has_one_winner():
    """Given a key on trial, when 64 threads ask for its lease at once, then one has it."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    cool(pool, 0, 5)
    clock.advance(5)
    status = pool.statuses()[0]
    assert sum(lease is not None for lease in race(64, lambda _: pool.lease(status))) == 1


@pytest.mark.parametrize("step", [cooled(5), retired], ids=["limited", "refused"])
def test_what_began_before_the_operator_enabled_a_key_says_nothing_of_it(step):
    """Given a status that was read before the key was enabled, when its attempt ends, then nothing is changed; what is
    read after that counts again."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    retire(pool, 0)
    (before,) = pool.statuses()
    pool.enable(pool.keys[0])
    enabled_record = pool.statuses()[0].record
    assert not pool.cool(before, 5, "rate_limited", 429)
    assert not pool.retire(before, "unauthorized", 401)
    pool.confirm(before, costs=True)
    assert pool.statuses()[0].record == enabled_record
    step(pool, clock)
    assert pool.statuses()[0].record != enabled_record


def test_record_says_why_since_when_and_how_often():
    """Given marks, then the record has the last one's reason, status and time, and the counts of all."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    cool(pool, 0, 5)
    clock.advance(5)
    cool(pool, 0, 5)
    clock.advance(5)
    pool.retire(pool.statuses()[0], "forbidden", 403)
    record = pool.statuses()[0].record
    assert (record.reason, record.status, record.marked_at) == ("forbidden", 403, NOW + 10)
    assert (record.limited_count, record.refused_count) == (2, 1)
    pool.enable(pool.keys[0])
    record = pool.statuses()[0].record
    assert (record.limited_count, record.refused_count) == (2, 1), "the counts are of all that ever was"


def test_marks_tell_once_that_they_changed_something():
    """Given marks one after the other, then only those that changed the state say so."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    assert cool(pool, 0, 5)
    assert not cool(pool, 0, 9)
    clock.advance(9)
    assert cool(pool, 0, 5)
    assert retire(pool, 0)
    assert not retire(pool, 0)
    assert not cool(pool, 0, 99)
    pool.enable(pool.keys[0])
    assert retire(pool, 0)


def test_a_disabled_key_s_marks_change_nothing_that_is_told():
    """Given a disabled key, when an attempt under way is refused or limited, then no change is told."""
    pool = pool_of(1)
    (before,) = pool.statuses()
    pool.disable(pool.keys[0])
    assert not pool.cool(before, 5, "rate_limited", 429)
    assert not pool.retire(before, "unauthorized", 401)
    assert pool.statuses()[0].record.reason == BY_OPERATOR


@pytest.mark.parametrize("mark", ["cool", "retire"])
def test_a_race_of_marks_tells_one_change(mark):
    """Given 64 threads that mark one key at once, then one of them is told of the change."""
    pool = pool_of(3)
    status = pool.statuses()[1]

    def run(number: int) -> bool:
        if mark == "cool":
            return pool.cool(status, 5 + number, "rate_limited", 429)
        return pool.retire(status, "forbidden", 403)

    assert sum(race(64, run)) == 1


def test_states_are_kept_by_secret_across_configurations():
    """Given a reload that renames and reorders keys, then each key keeps the state its secret had."""
    clock, store = FakeClock(), MemoryStore()
    first, second, third = keys_of(3)
    before = Pool([first, second], store, clock)
    retire(before, 0)
    cool(before, 1, 5)
    renamed = Key("renamed", first.secret)
    now = Pool([third, second, renamed], store, clock)
    assert [(status.key.name, status.state) for status in now.statuses()] == [
        ("k2", VALID),
        ("k1", TEMPORARY),
        ("renamed", PERMANENT),
    ]


def test_order_is_the_order_given():
    """Given keys, then statuses come in that order."""
    keys = keys_of(5)[::-1]
    assert [status.key for status in Pool(keys, MemoryStore()).statuses()] == keys


def test_an_empty_pool_has_no_statuses():
    """Given no keys, as where clients bring their own, then the pool is there and empty."""
    assert Pool([], MemoryStore()).statuses() == []


def test_repr_shows_states_and_no_secrets():
    """Given a pool, then its repr names keys and states."""
    pool = pool_of(2)
    retire(pool, 1)
    assert repr(pool) == "<Pool k0=valid, k1=permanent>"

"""Key states, derived from what is stored and the clock."""

from __future__ import annotations

import pytest

from gateway.pool import KeyState, Pool
from gateway.store import MemoryStore
from tests.unit.fakes import FakeClock, keys_of, pool_of, race

VALID, TEMPORARY, PERMANENT = KeyState.VALID, KeyState.TEMPORARY, KeyState.PERMANENT


def cool(seconds):
    return lambda pool, clock: pool.cool(pool.keys[0], seconds, 0, "rate_limited")


def retire(pool, clock):
    return pool.retire(pool.keys[0], 0, "unauthorized")


def wait(seconds):
    return lambda pool, clock: clock.advance(seconds)


@pytest.mark.parametrize(
    ("steps", "state", "remaining", "reason"),
    [
        pytest.param([], VALID, 0, "", id="fresh"),
        pytest.param([cool(5)], TEMPORARY, 5, "rate_limited", id="cooled"),
        pytest.param([cool(5), wait(4.5)], TEMPORARY, 0.5, "rate_limited", id="nearly-over"),
        pytest.param([cool(5), wait(5)], VALID, 0, "", id="over-at-its-deadline"),
        pytest.param([cool(5), wait(60)], VALID, 0, "", id="long-over"),
        pytest.param([cool(5), cool(3)], TEMPORARY, 5, "rate_limited", id="later-deadline-wins"),
        pytest.param([cool(3), wait(1), cool(5)], TEMPORARY, 5, "rate_limited", id="deadline-is-extended"),
        pytest.param([cool(5), wait(5), cool(5)], TEMPORARY, 5, "rate_limited", id="limited-again"),
        pytest.param([retire], PERMANENT, 0, "unauthorized", id="retired"),
        pytest.param([retire, wait(1e9)], PERMANENT, 0, "unauthorized", id="retired-for-good"),
        pytest.param([cool(5), retire], PERMANENT, 0, "unauthorized", id="401-after-429"),
        pytest.param([retire, cool(5)], PERMANENT, 0, "unauthorized", id="never-downgraded-by-429"),
        pytest.param([retire, cool(5), wait(9)], PERMANENT, 0, "unauthorized", id="nor-by-its-deadline"),
        pytest.param([cool(5), wait(-3600)], TEMPORARY, 3605, "rate_limited", id="clock-set-back"),
    ],
)
def test_state_follows_marks_and_the_clock(steps, state, remaining, reason):
    """Given these steps, then the key is in this state; its neighbour stays valid."""
    clock = FakeClock()
    pool = pool_of(2, clock)
    for step in steps:
        step(pool, clock)
    marked, neighbour = pool.statuses()
    assert (marked.state, marked.remaining_seconds, marked.reason) == (state, pytest.approx(remaining), reason)
    assert (neighbour.state, neighbour.remaining_seconds) == (VALID, 0)
    assert pool.status(pool.keys[0]) == marked


def test_marks_tell_once_that_they_changed_something():
    """Given marks one after the other, then only those that changed the state say so."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    (key,) = pool.keys
    assert pool.cool(key, 5, 0, "rate_limited")
    assert not pool.cool(key, 9, 0, "rate_limited")
    clock.advance(9)
    assert pool.cool(key, 5, 0, "rate_limited")
    assert pool.retire(key, 0, "forbidden")
    assert not pool.retire(key, 0, "unauthorized")
    assert not pool.cool(key, 99, 0, "rate_limited")


@pytest.mark.parametrize("mark", ["cool", "retire"])
def test_a_race_of_marks_tells_one_change(mark):
    """Given 64 threads that mark one key at once, then one of them is told of the change."""
    pool = pool_of(3)
    key = pool.keys[1]

    def run(number: int) -> bool:
        if mark == "cool":
            return pool.cool(key, 5 + number, 0, "rate_limited")
        return pool.retire(key, 0, "forbidden")

    assert sum(race(64, run)) == 1


def test_states_are_kept_by_secret_across_configurations():
    """Given a reload that renames and reorders keys, then each key keeps the state its secret had."""
    clock, store = FakeClock(), MemoryStore()
    first, second, third = keys_of(3)
    before = Pool([first, second], store, clock)
    before.retire(first, 0, "forbidden")
    before.cool(second, 5, 0, "rate_limited")
    renamed = type(first)("renamed", first.secret)
    now = Pool([third, second, renamed], store, clock)
    assert [status.state for status in now.statuses()] == [VALID, TEMPORARY, PERMANENT]
    assert [status.state for status in now.statuses([renamed])] == [PERMANENT]


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
    pool.retire(pool.keys[1], 0, "forbidden")
    assert repr(pool) == "<Pool k0=valid, k1=permanent>"

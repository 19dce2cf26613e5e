"""What a pool remembers between readings: standings, places, looks, and which marks were its own."""

from __future__ import annotations

import pytest

from gateway.keys.key_record import Record
from gateway.keys.places import Place
from gateway.keys.pool import BY_OPERATOR, Pool
from gateway.keys.standing import KeyState, Subject
from gateway.keys.store import MemoryStore
from gateway.keys.verdict import Concern, Outcome
from tests.unit.fakes import FakeClock, cool, keys_of, pool_of, retire

OPUS = "messages/opus-4"
A1, A2, B1 = Place("orgA", "wsA1"), Place("orgA", "wsA2"), Place("orgB", "wsB1")


def two_processes(count: int = 1) -> tuple[FakeClock, Pool, Pool]:
    """Two pools of the same keys over one store, as two workers of a machine have them."""
    clock, store = FakeClock(), MemoryStore()
    return clock, Pool(keys_of(count), store, clock), Pool(keys_of(count), store, clock)


def whole(pool: Pool) -> Subject:
    return pool.statuses()[0].standing.whole


def in_scope(pool: Pool, concern: Concern) -> Subject:
    return pool.statuses(OPUS)[0].standing.subject(concern)


# What walks read


def test_walks_read_once_while_nothing_changes():
    """Given keys that are all valid, then walks are given the same statuses, however long; a mark makes new ones."""
    clock = FakeClock()
    pool = pool_of(2, clock)
    before = pool.recent(OPUS)
    assert pool.recent(OPUS) is before
    clock.advance(1e6)
    assert pool.recent(OPUS) is before
    cool(pool, 0, 5)
    assert pool.recent(OPUS)[0].state is KeyState.TEMPORARY


def test_how_long_a_rest_lasts_is_half_a_second_old_at_most():
    """Given a key that rests, then walks are told its rest as of up to half a second ago, then the present one."""
    clock = FakeClock()
    pool = pool_of(2, clock)
    cool(pool, 0, 5)
    before = pool.recent(OPUS)
    clock.advance(0.25)
    assert pool.recent(OPUS) is before
    clock.advance(0.25)
    assert pool.recent(OPUS)[0].remaining_seconds == 4.5


def test_a_key_is_valid_for_walks_at_the_moment_its_rest_is_over():
    """Given a rest that is over within the half second, then walks see the key valid at that very moment."""
    clock = FakeClock()
    pool = pool_of(2, clock)
    cool(pool, 0, 0.25)
    assert pool.recent(OPUS)[0].state is KeyState.TEMPORARY
    clock.advance(0.25)
    assert pool.recent(OPUS)[0].state is KeyState.VALID


def test_a_reading_of_the_future_is_not_used():
    """Given a clock that an odd machine has set back, then what was read later than now is not told."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    cool(pool, 0, 5)
    clock.advance(5)
    assert pool.recent(OPUS)[0].state is KeyState.VALID
    clock.advance(-2)
    assert pool.recent(OPUS)[0].state is KeyState.TEMPORARY


def test_readings_of_64_scopes_are_kept():
    """Given models without end, then 64 readings are kept, and the next one makes room."""
    pool = pool_of(1)
    scopes = [f"messages/model-{number}" for number in range(64)]
    kept = [pool.recent(scope) for scope in scopes]
    assert all(pool.recent(scope) is statuses for scope, statuses in zip(scopes, kept, strict=True))
    pool.recent("messages/one-more")
    assert (len(pool._recent), len(pool._kept)) == (1, 1)
    assert pool.recent(scopes[0]) is not kept[0]
    assert pool.recent("messages/one-more") is pool.recent("messages/one-more")


# Where prompt caches lie


@pytest.mark.parametrize(
    ("places", "has_several"),
    [
        pytest.param([], False, id="no-key"),
        pytest.param([None], False, id="one-key"),
        pytest.param([None, None], True, id="two-unknown"),
        pytest.param([A1, None], True, id="one-unknown"),
        pytest.param([A1, A1], False, id="one-workspace"),
        pytest.param([A1, A2], True, id="two-workspaces"),
    ],
)
def test_keys_of_one_workspace_are_one_group(places, has_several):
    """Given keys in these places, then caches lie in several or not; a process that has just begun knows as much."""
    _, here, there = two_processes(len(places))
    for key, place in zip(here.keys, places, strict=True):
        here.learn(key, place or Place())
    assert here.has_several_groups is has_several
    assert there.has_several_groups is has_several


def test_a_place_learned_by_another_process_is_known_within_a_second():
    """Given a place that another process learned, then it is looked for once a second."""
    clock, here, there = two_processes()
    (key,) = here.keys
    here.statuses()
    there.learn(key, A1)
    clock.advance(0.75)
    here.statuses()
    assert here.place(key) == Place()
    clock.advance(0.25)
    here.statuses()
    assert here.place(key) == A1
    assert here.statuses(OPUS)[0].place == A1, "what was kept without the place is read again"


def test_a_place_that_the_store_knew_already_is_known_to_walks_at_once():
    """Given a place that another process told at this very moment, when this one learns it, then walks have it."""
    _, here, there = two_processes()
    (key,) = here.keys
    here.statuses(OPUS)
    there.learn(key, A1)
    assert here.statuses(OPUS)[0].place == Place()
    here.learn(key, A1)
    assert here.statuses(OPUS)[0].place == A1


def test_how_long_ago_a_place_was_told_is_asked_of_the_store():
    """Given a place that another process told, then a process that has read nothing yet knows when that was."""
    clock, here, there = two_processes()
    (key,) = here.keys
    there.learn(key, A1)
    clock.advance(7)
    assert here.place_told_ago_seconds(key) == 7


def test_the_place_told_last_counts():
    """Given a key that has moved, then a process that begins later knows the place that was told last."""
    clock, here, _ = two_processes()
    (key,) = here.keys
    for place in (B1, A1):  # not in the order of their names
        here.learn(key, place)
        clock.advance(10)
    later = Pool(here.keys, here._store, clock)
    later.statuses()
    assert later.place(key) == A1
    assert later.place_told_ago_seconds(key) == 10


def test_a_place_that_is_known_is_told_again_after_an_hour():
    """Given answers that say the same, then the store is told at first and once an hour."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    (key,) = pool.keys
    assert pool.place_told_ago_seconds(key) == float("inf")
    pool.learn(key, A1)
    clock.advance(3599)
    pool.learn(key, A1)
    assert pool.place_told_ago_seconds(key) == 3599
    clock.advance(1)
    pool.learn(key, A1)
    assert pool.place_told_ago_seconds(key) == 0


# Looks, and what is forbidden


def test_one_process_looks_at_a_key_at_a_time():
    """Given a key to be looked at, then one process does, and another one may a minute after; asking defers nothing."""
    clock, here, there = two_processes()
    (key,) = here.keys
    assert here.looked_ago_seconds(key) == float("inf")
    assert here.begin_look(key, 60)
    clock.advance(59)
    assert not there.begin_look(key, 60)
    assert there.looked_ago_seconds(key) == 59
    clock.advance(1)
    assert there.begin_look(key, 60)
    assert here.looked_ago_seconds(key) == 0


def test_forgiveness_lasts_ten_minutes():
    """Given a key that was forgiven, then refusals for rights say nothing of it for ten minutes, in every process."""
    clock, here, there = two_processes()
    (key,) = here.keys
    here.retire(here.statuses()[0], "forbidden", 403)
    assert not there.is_forgiven(key)
    assert here.forgive(here.statuses()[0])
    assert there.is_forgiven(key)
    assert here.statuses()[0].state is KeyState.VALID
    clock.advance(599)
    assert there.is_forgiven(key)
    clock.advance(1)
    assert not there.is_forgiven(key)


def test_a_suspected_key_is_a_last_resort_until_it_is_known():
    """Given a retired key that was forbidden something, then it is tried last until that is looked into, or 90 s."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    (key,) = pool.keys
    pool.suspect(key)
    pool.retire(pool.statuses()[0], "forbidden", 403)
    assert pool.statuses(OPUS)[0].is_last_resort
    pool.end_suspicion(key)
    assert not pool.statuses(OPUS)[0].is_last_resort
    pool.suspect(key)
    clock.advance(90)
    assert not pool.statuses(OPUS)[0].is_last_resort


# Whose marks they are


def test_own_marks_are_told_apart_from_others():
    """Given two processes, when one cools or retires a key, then the mark is its own, and not the other's."""
    for mark in (lambda pool: cool(pool, 0, 5), lambda pool: retire(pool, 0)):
        _, here, there = two_processes()
        assert not here.has_made(whole(here)), "nothing was marked"
        mark(here)
        assert here.has_made(whole(here))
        assert not there.has_made(whole(there))


def test_a_later_mark_of_another_process_is_not_one_s_own():
    """Given a key that this process has cooled, when another one cools it later, then that is the other's mark."""
    clock, here, there = two_processes()
    cool(here, 0, 5)
    clock.advance(0.5)
    cool(there, 0, 9)
    assert not here.has_made(whole(here))
    assert there.has_made(whole(there))


def test_a_mark_that_the_store_has_rounded_is_still_one_s_own():
    """Given a store that rounds points in time, then a mark is known by less than a millisecond."""
    clock = FakeClock(1000.0)
    pool = pool_of(1, clock)
    cool(pool, 0, 5)
    known = whole(pool)
    for marked_at, is_own in ((1000.0004, True), (999.9996, True), (1000.0014, False), (999.9986, False)):
        assert pool.has_made(Subject(known.concern, known.name, Record(marked_at=marked_at))) is is_own
    pool = pool_of(1, FakeClock(0.002))
    cool(pool, 0, 5)
    assert not pool.has_made(Subject(known.concern, known.name, Record(marked_at=0.001))), "a whole millisecond"


def test_who_brings_a_key_back_knows_it():
    """Given a retired key that one process revives, then its coming back is that one's doing alone."""
    _, here, there = two_processes()
    retire(there, 0)
    assert here.revive(here.statuses()[0])
    assert here.has_made(whole(here))
    assert not there.has_made(whole(there))


def test_what_the_operator_does_is_nobody_s_own():
    """Given marks by the operator, by whatever process, then none takes them for its own."""
    pool = pool_of(1)
    pool.cool(pool.statuses()[0], 5, BY_OPERATOR, 0)
    assert not pool.has_made(whole(pool))


@pytest.mark.parametrize(
    "mark",
    [lambda pool: None, lambda pool: cool(pool, 0, 5), lambda pool: retire(pool, 0)],
    ids=["none", "cooled", "retired"],
)
def test_a_subject_of_which_nothing_is_known_was_not_marked_by_anybody(mark):
    """Given a mark that the store has forgotten since, or none, then it is nobody's."""
    pool = pool_of(1)
    mark(pool)
    for generation in (0, 1):
        forgotten = Subject(Concern.KEY, whole(pool).name, Record(generation=generation))
        assert not pool.has_made(forgotten)


# What goes with a key


def test_the_operator_s_hand_has_no_status_of_the_upstream():
    """Given a key that is disabled and enabled, then its record shows no status of the upstream's."""
    pool = pool_of(1)
    (key,) = pool.keys
    pool.disable(key)
    assert (whole(pool).record.reason, whole(pool).record.status) == (BY_OPERATOR, 0)
    pool.enable(key)
    assert (whole(pool).record.reason, whole(pool).record.status) == (BY_OPERATOR, 0)


def test_enabling_a_key_leaves_alone_what_is_not_held_against_it():
    """Given a key whose workspace and organisation have no mark, when it is enabled, then marks on them under way
    still count."""
    pool = pool_of(1)
    (key,) = pool.keys
    pool.learn(key, A1)
    (status,) = pool.statuses(OPUS)
    pool.enable(key)
    assert [subject.record.generation for subject in pool.statuses(OPUS)[0].standing.others] == [0, 0, 0]
    assert status.standing.subject(Concern.WORKSPACE).record.generation == 0


@pytest.mark.parametrize("concern", [Concern.SCOPE, Concern.WORKSPACE, Concern.ORGANISATION])
def test_enabling_a_key_clears_what_it_is_held_against_for(concern):
    """Given a rest of the key's scope, workspace or organisation, when the key is enabled, then that is over."""
    pool = pool_of(1)
    (key,) = pool.keys
    pool.learn(key, A1)
    pool.cool(pool.statuses(OPUS)[0], 5, "rate_limited", 429, concern)
    assert pool.statuses(OPUS)[0].state is KeyState.TEMPORARY
    pool.enable(key)
    assert pool.statuses(OPUS)[0].state is KeyState.VALID


@pytest.mark.parametrize("concern", [Concern.SCOPE, Concern.WORKSPACE, Concern.ORGANISATION])
def test_a_mark_goes_on_what_it_concerns(concern):
    """Given a mark on a scope, a workspace or an organisation, then the record is there, and the key's own is empty."""
    pool = pool_of(1)
    pool.learn(pool.keys[0], A1)
    pool.cool(pool.statuses(OPUS)[0], 5, "rate_limited", 429, concern)
    assert in_scope(pool, concern).record.reason == "rate_limited"
    assert whole(pool).record == Record()


def test_a_rest_for_no_scope_is_the_key_s():
    """Given a status of a key as a whole, when it is limited for a scope, then the key's own record has it."""
    pool = pool_of(1)
    pool.learn(pool.keys[0], A1)
    pool.cool(pool.statuses()[0], 5, "rate_limited", 429, Concern.SCOPE)
    assert whole(pool).record.reason == "rate_limited"


def test_what_is_noted_of_a_key_has_no_status():
    """Given a key that is under suspicion, then the note in the store is no answer of the upstream's."""
    clock, store = FakeClock(), MemoryStore()
    pool = Pool(keys_of(1), store, clock)
    pool.suspect(pool.keys[0])
    (note,) = store.read([f"{pool.keys[0].secret.fingerprint}/suspect"])
    assert (note.reason, note.status, note.marked_at) == ("note", 0, clock())


def test_a_workspace_that_this_answer_alone_has_told_is_marked():
    """Given a status from before its key's place was known, when its workspace is out of money, then the workspace is
    marked; where no place is known, the key is."""
    pool = pool_of(2)
    before, unknown = pool.statuses(OPUS)
    pool.learn(before.key, A1)
    pool.cool(before, 5, "out_of_money", 402, Concern.WORKSPACE)
    pool.cool(unknown, 5, "out_of_money", 402, Concern.WORKSPACE)
    first, second = pool.statuses(OPUS)
    assert (first.concern, second.concern) == (Concern.WORKSPACE, Concern.KEY)
    assert first.standing.whole.record == Record()


@pytest.mark.parametrize(
    ("concern", "is_doubtful"), [(Concern.KEY, False), (Concern.WORKSPACE, False), (Concern.ORGANISATION, True)]
)
def test_only_an_organisation_s_fault_puts_its_other_keys_in_doubt(concern, is_doubtful):
    """Given two keys of an organisation, when one is retired, then the other is in doubt if both are at fault."""
    clock = FakeClock()
    pool = pool_of(2, clock)
    for key, place in zip(pool.keys, (A1, A2), strict=True):
        pool.learn(key, place)
    pool.retire(pool.statuses(OPUS)[0], "unauthorized", 401, concern)
    assert bool(pool.statuses(OPUS)[1].doubt) is is_doubtful
    clock.advance(3600)
    assert not pool.statuses(OPUS)[1].doubt, "for an hour"


def test_only_a_request_that_costs_shows_that_there_is_money():
    """Given a key that was out of money and rested, then it stays on trial until a request that costs is answered."""
    clock = FakeClock()
    pool = pool_of(1, clock)
    pool.cool(pool.statuses()[0], 5, Outcome.OUT_OF_CREDIT.value, 402)
    clock.advance(5)
    pool.confirm(pool.statuses()[0], costs=False)
    assert pool.statuses()[0].is_on_trial
    pool.confirm(pool.statuses()[0], costs=True)
    assert not pool.statuses()[0].is_on_trial


def test_a_rest_for_a_scope_is_its_key_s_alone():
    """Given two keys, then each one's marks for a scope are its own, and shown for the key as a whole."""
    clock = FakeClock()
    pool = pool_of(2, clock)
    pool.cool(pool.statuses(OPUS)[0], 5, "rate_limited", 429, Concern.SCOPE)
    first, second = pool.statuses()
    assert [(rest.scope, rest.remaining_seconds) for rest in first.scopes] == [(OPUS, 5)]
    assert (first.state, second.state, second.scopes) == (KeyState.TEMPORARY, KeyState.VALID, ())

"""How the keys stand in operators' words: as a whole and for each scope, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.keys.key_record import Record
from gateway.keys.overview import _LONGEST_ID, KeyView, ScopeView, overview, short
from gateway.keys.places import Place
from gateway.keys.pool import BY_OPERATOR, Pool
from gateway.keys.standing import Doubt, KeyState
from gateway.keys.verdict import Concern
from tests.unit.fakes import FakeClock, pool_of

OPUS, SONNET = "messages/opus-4", "messages/sonnet-4"
PLACES = (Place("org-a", "ws-1"), Place("org-a", "ws-1"), Place("org-a", "ws-1"), Place("org-a", "ws-2"))
WORKSPACE, ORGANISATION = Concern.WORKSPACE, Concern.ORGANISATION

Mark = Callable[[Pool], object]


def placed_pool(clock: FakeClock | None = None) -> Pool:
    """Three keys of one workspace, one of another of the same organisation."""
    pool = pool_of(len(PLACES), clock)
    for key, place in zip(pool.keys, PLACES, strict=True):
        pool.learn(key, place)
    return pool


def limit(number: int, scope: str, seconds: float = 30.0, reason: str = "rate_limited") -> Mark:
    return lambda pool: pool.cool(pool.statuses(scope)[number], seconds, reason, 429, Concern.SCOPE)


def cooled(concern: Concern, reason: str, status: int = 429) -> Mark:
    return lambda pool: pool.cool(pool.statuses(OPUS)[0], 60.0, reason, status, concern)


def retire(reason: str, status: int, concern: Concern = Concern.KEY) -> Mark:
    return lambda pool: pool.retire(pool.statuses(OPUS)[0], reason, status, concern)


def views_after(*marks: Mark) -> list[KeyView]:
    pool = placed_pool()
    for mark in marks:
        mark(pool)
    return overview(pool.statuses)


@pytest.mark.parametrize(
    ("number", "marks", "cause", "advice"),
    [
        (0, [], "", ""),
        (0, [limit(0, OPUS)], "limited for messages/opus-4", "wait"),
        (0, [limit(0, OPUS), limit(0, SONNET)], "limited for messages/opus-4, messages/sonnet-4", "wait"),
        (0, [limit(0, OPUS, reason="forbidden")], "forbidden for messages/opus-4", "wait"),
        (
            2,
            [limit(0, OPUS), limit(1, OPUS)],
            "cools down with 2 others of its workspace, limited for messages/opus-4",
            "wait",
        ),
        (1, [limit(0, OPUS)], "tried late for messages/opus-4 (its workspace has a limited key)", ""),
        (3, [limit(0, OPUS)], "tried late for messages/opus-4 (its organisation has a limited key)", ""),
        (
            3,
            [cooled(ORGANISATION, "out_of_credit", 400)],
            "its organisation is out of credit",
            "top up credit, then: gateway keys enable k3",
        ),
        (
            1,
            [cooled(WORKSPACE, "spend_limited", 400)],
            "its workspace is over its spending limit",
            "raise the spending limit, then: gateway keys enable k1",
        ),
        (
            1,
            [cooled(WORKSPACE, "workspace_unusable", 400)],
            "its workspace cannot be used",
            "check the workspace's encryption key, then: gateway keys enable k1",
        ),
        (0, [cooled(Concern.KEY, BY_OPERATOR, 0)], "put aside by the operator", "wait"),
        (0, [cooled(Concern.KEY, "rate_limited")], "limited", "wait"),
        (1, [cooled(WORKSPACE, "rate_limited")], "its workspace is limited", "wait"),
        (0, [cooled(Concern.KEY, "forbidden", 403)], "refused (403)", "wait"),
        (1, [limit(0, OPUS, 0.5)], "tried late for messages/opus-4 (its workspace has a limited key)", ""),
        (0, [retire("unauthorized", 401)], "refused (401)", "replace or enable it: gateway keys enable k0"),
        (0, [retire("forbidden", 403)], "forbidden something (403)", "replace or enable it: gateway keys enable k0"),
        (
            0,
            [retire("forbidden", 403), lambda pool: pool.suspect(pool.keys[0])],
            "forbidden something (403); being looked into",
            "wait: it is being looked into",
        ),
        (
            3,
            [retire("unauthorized", 403, ORGANISATION)],
            "tried late: another key of its organisation was refused",
            "",
        ),
        (
            0,
            [lambda pool: pool.disable(pool.keys[0])],
            "disabled by the operator",
            "when it may be used again: gateway keys enable k0",
        ),
    ],
)
def test_cause_and_advice_say_what_is_wrong_with_whom(number, marks, cause, advice):
    """Given marks on a key, its workspace, organisation or neighbours, then its cause and what to do are in words."""
    view = views_after(*marks)[number]
    assert (view.cause, view.advice) == (cause, advice)


def test_scopes_tell_what_remains_of_each():
    """Given a key that cools down for one scope and is on trial for another, then each has its own line."""
    clock = FakeClock()
    pool = placed_pool(clock)
    limit(0, OPUS, 30)(pool)
    limit(0, SONNET, 5)(pool)
    clock.advance(10)
    view = overview(pool.statuses)[0]
    assert [(scope.scope, scope.word, scope.remaining_seconds, scope.cooldown_seconds) for scope in view.scopes] == [
        (OPUS, "cooling down", 20, 30),
        (SONNET, "on trial", 0, 5),
    ]


def test_key_on_trial_for_a_scope_is_on_trial():
    """Given a key whose cooldown for a scope is over, then that is its word, and the cause names the scope."""
    clock = FakeClock()
    pool = placed_pool(clock)
    limit(0, OPUS, 5)(pool)
    clock.advance(6)
    view = overview(pool.statuses)[0]
    assert (view.status.state, view.word, view.cause) == (KeyState.VALID, "on trial", "on trial for messages/opus-4")


def test_key_that_cools_with_others_is_temporary_as_a_whole():
    """Given two limited keys of a workspace, then its third cools down until the earlier deadline; others are in
    doubt."""
    views = views_after(limit(0, OPUS, 30), limit(1, OPUS, 20))
    third, other = views[2], views[3]
    assert (third.status.state, third.status.remaining_seconds) == (KeyState.TEMPORARY, 20)
    assert third.status.is_shared_cooldown
    assert [(scope.scope, scope.siblings) for scope in third.scopes] == [(OPUS, 2)]
    assert other.status.state is KeyState.VALID
    assert [(scope.scope, scope.word, scope.remaining_seconds, scope.doubt) for scope in other.scopes] == [
        (OPUS, "doubtful", 0, Doubt.ORGANISATION)
    ]


@pytest.mark.parametrize(
    ("mark", "cause"),
    [
        (cooled(Concern.KEY, "rate_limited"), "limited until now: one request tries it"),
        (
            cooled(ORGANISATION, "out_of_credit", 400),
            "its organisation is out of credit until now: one request tries it",
        ),
        (retire("unauthorized", 403, ORGANISATION), "refused (403)"),
    ],
    ids=["key", "organisation", "retired"],
)
def test_what_is_over_is_tried_by_one_request(mark, cause):
    """Given a mark on a whole key or its organisation, when its time is over, then a request tries what it was on; what
    another key was refused for counts no more."""
    clock = FakeClock()
    pool = placed_pool(clock)
    mark(pool)
    clock.advance(3600)
    assert [view.cause for view in overview(pool.statuses)[::3]] == [cause, cause if "organisation" in cause else ""]


def test_key_that_is_retired_is_on_trial_for_nothing():
    """Given a retired key whose cooldown for a scope is over, then it is retired."""
    clock = FakeClock()
    pool = placed_pool(clock)
    limit(0, OPUS, 5)(pool)
    retire("unauthorized", 401)(pool)
    clock.advance(6)
    assert overview(pool.statuses)[0].word == "retired"


@pytest.mark.parametrize(("marked_at", "seconds"), [(90.0, 10), (98.5, 1.5), (99.5, 1), (100.0, 1)])
def test_a_cooldown_takes_a_second_at_least(marked_at, seconds):
    """Given a mark and its end, then the whole cooldown is told, for a bar that shows how much of it is over."""
    assert ScopeView(OPUS, Record(cooling_until_at=100.0, marked_at=marked_at)).cooldown_seconds == seconds


def test_siblings_are_those_of_the_workspace_that_were_limited_themselves():
    """Given keys that are limited, retired, cool down as a whole, or belong elsewhere, then a key that cools down with
    others is told of the limited ones of its own workspace alone, two at least."""
    pool = pool_of(8)
    for number, key in enumerate(pool.keys):
        pool.learn(key, PLACES[3] if number in (4, 5) else PLACES[0])
    for number in (0, 1, 2, 4, 6):
        limit(number, OPUS)(pool)
    pool.retire(pool.statuses(OPUS)[5], "unauthorized", 401)
    pool.cool(pool.statuses(OPUS)[6], 90.0, "rate_limited", 429)
    assert [scope.siblings for scope in overview(pool.statuses)[3].scopes] == [3]
    for number in (0, 1):
        pool.cool(pool.statuses(OPUS)[number], 90.0, "rate_limited", 429)
    assert [scope.siblings for scope in overview(pool.statuses)[3].scopes] == [2]


def test_scopes_for_which_nothing_cools_are_not_read():
    """Given a scope on trial, then how others stand for it is not asked: it says nothing of them."""
    clock = FakeClock()
    pool = placed_pool(clock)
    limit(0, OPUS, 5)(pool)
    limit(0, SONNET, 30)(pool)
    clock.advance(6)
    asked = []
    overview(lambda scope: asked.append(scope) or pool.statuses(scope))
    assert asked == [None, SONNET]


@pytest.mark.parametrize(
    ("identifier", "shown"),
    [("", "-"), ("org-a", "org-a"), ("wrkspc_01JwQvzr7rXLA5AGx3HKfFUJ", "...HKfFUJ")],
)
def test_ids_are_shortened(identifier, shown):
    """Given an id, then a long one is shown by its end, and none is a dash."""
    assert short(identifier) == shown


def test_the_longest_id_that_is_shown_whole():
    """Given ids around the longest that a table has room for, then the longer one is shortened."""
    assert short("x" * _LONGEST_ID) == "x" * _LONGEST_ID
    assert short("x" * (_LONGEST_ID + 1)) == "...xxxxxx"


def test_keys_that_rest_with_others_are_not_counted_as_limited():
    """Given two limited keys of a workspace of four, then each of the other two rests with two, not with three."""
    pool = pool_of(4)
    for key in pool.keys:
        pool.learn(key, PLACES[0])
    for number in (0, 1):
        limit(number, OPUS)(pool)
    views = overview(pool.statuses)
    assert [[scope.siblings for scope in view.scopes] for view in views] == [[0], [0], [2], [2]]

"""Walks that know why: limits of scopes, workspaces and organisations, doubt, money, and what was forbidden."""

from __future__ import annotations

from collections.abc import Generator, Mapping

import pytest

from gateway.access.credential import Key
from gateway.keys.failover import Course, walk
from gateway.keys.places import Place
from gateway.keys.pool import Pool
from gateway.keys.standing import Doubt, KeyState
from gateway.keys.store import MemoryStore
from gateway.keys.verdict import COOLING, Concern, Verdict
from gateway.protocol.errors import AuthenticationExhausted, OutOfMoney, RateLimited
from gateway.protocol.outcomes import Outcome
from tests.unit.fakes import FakeAnswer, FakeClock, RecordingObserver, keys_of

OPUS, SONNET = Course("messages/opus-4"), Course("messages/sonnet-4")
COUNT = Course("count_tokens", costs=False)
A1, A2, B1 = Place("orgA", "wsA1"), Place("orgA", "wsA2"), Place("orgB", "wsB1")
VALID, TEMPORARY, PERMANENT = KeyState.VALID, KeyState.TEMPORARY, KeyState.PERMANENT


class Scene:
    """A pool whose keys have these places, and an upstream that answers by key; what it has called stays in `called`.

    Answers are given by an outcome, with whom it speaks of if it matters.
    """

    def __init__(self, *places: Place | None) -> None:
        self.clock, self.store = FakeClock(), MemoryStore()
        self.pool = Pool(keys_of(len(places)), self.store, self.clock)
        for key, place in zip(self.pool.keys, places, strict=True):
            if place is not None:
                self.pool.learn(key, place)
        self.observer = RecordingObserver()
        self.called: list[str] = []

    def ask(self, course: Course = OPUS, **answers: object) -> FakeAnswer:
        """One walk, whose calls alone are then in `called`."""
        self.called.clear()

        def attempt(key: Key) -> Generator[None, None, tuple[FakeAnswer, Verdict]]:
            self.called.append(key.name)
            yield
            return FakeAnswer(key), verdict_of(answers.get(key.name, Outcome.OK))

        walking = walk(self.pool, attempt, self.observer, course)
        while True:
            try:
                next(walking)
            except StopIteration as stop:
                return stop.value

    def refuses(self, course: Course = OPUS, **answers: object) -> Exception:
        with pytest.raises((RateLimited, OutOfMoney, AuthenticationExhausted)) as raised:
            self.ask(course, **answers)
        return raised.value

    def states(self, course: Course = OPUS) -> str:
        """The states as one letter each."""
        return "".join(status.state.value[0] for status in self.pool.statuses(course.scope))


def verdict_of(told: object) -> Verdict:
    """By an outcome, or an outcome with the seconds that a key cools down and whom it speaks of."""
    outcome, seconds, concern = told if isinstance(told, tuple) else (told, 60.0, None)
    assert isinstance(outcome, Outcome)
    return Verdict(outcome, seconds if outcome in COOLING else 0.0, 429, concern)


def limited(seconds: float) -> tuple[Outcome, float, None]:
    return Outcome.RATE_LIMITED, seconds, None


# Scopes


def test_limit_of_one_class_leaves_the_key_to_all_else():
    """Given a key that was limited for a class of models, then it answers other classes, counts and lists."""
    scene = Scene(None, None)
    scene.ask(OPUS, k0=limited(41))
    assert scene.called == ["k0", "k1"]
    for course in (SONNET, COUNT, Course("models", costs=False), Course("messages/opus-4+fast")):
        scene.ask(course)
        assert scene.called == ["k0"]
    scene.ask(OPUS)
    assert scene.called == ["k1"]
    assert (scene.states(OPUS), scene.states(SONNET)) == ("tv", "vv")


def test_all_limited_for_one_class_alone_are_refused_for_it():
    """Given all keys limited for a class, then a request of it is refused with the smallest cooldown, others are
    served."""
    scene = Scene(None, None)
    error = scene.refuses(OPUS, k0=limited(41), k1=limited(17))
    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds == 17
    scene.ask(SONNET)
    assert scene.called == ["k0"]


@pytest.mark.parametrize("other", [limited(0), Outcome.UNAUTHORIZED], ids=["limited", "unauthorized"])
def test_cooldown_that_is_over_when_the_walk_ends_is_still_a_limit(other):
    """Given a key whose cooldown is over before the last one has answered, then the client is told to come back
    soon."""
    scene = Scene(None, None)
    error = scene.refuses(k0=limited(0), k1=other)
    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds == 1


def test_key_is_on_trial_for_the_scope_that_it_was_limited_for():
    """Given a key whose cooldown for a class is over, then one request of that class tries it; others go on."""
    scene = Scene(None, None)
    scene.ask(OPUS, k0=limited(5))
    scene.clock.advance(5)
    opus, sonnet = scene.pool.statuses(OPUS.scope)[0], scene.pool.statuses(SONNET.scope)[0]
    assert (opus.is_on_trial, sonnet.is_on_trial) == (True, False)
    assert scene.pool.lease(opus) is not None
    scene.ask(OPUS)
    assert scene.called == ["k1"], "another request is trying it"
    scene.ask(SONNET)
    assert scene.called == ["k0"]


def test_key_as_a_whole_is_permanent_before_temporary_before_valid():
    """Given marks of all kinds, then the key as a whole shows the worst, and its scopes."""
    scene = Scene(None)
    scene.refuses(OPUS, k0=limited(41))
    (status,) = scene.pool.statuses()
    assert (status.state, status.remaining_seconds) == (TEMPORARY, 41)
    assert [(cooldown.scope, cooldown.remaining_seconds) for cooldown in status.scopes] == [("messages/opus-4", 41)]
    scene.refuses(SONNET, k0=Outcome.UNAUTHORIZED)
    assert scene.pool.statuses()[0].state is PERMANENT
    scene.pool.enable(scene.pool.keys[0])
    (status,) = scene.pool.statuses()
    assert (status.state, status.scopes) == (VALID, ())


def test_mark_from_before_the_operator_enabled_the_key_counts_no_more():
    """Given a limit that is told after the operator enabled the key meanwhile, then it is not held against the key."""
    scene = Scene(None)
    (before,) = scene.pool.statuses(OPUS.scope)
    scene.pool.enable(scene.pool.keys[0])
    assert not scene.pool.cool(before, 60, "rate_limited", 429, Concern.SCOPE)
    assert scene.states() == "v"


# Organisations and workspaces


def test_two_of_a_workspace_speak_for_the_rest():
    """Given three keys of a workspace, all limited, and one of another organisation, then the first is tried and the
    other organisation's; without that one, two of the workspace and no more."""
    scene = Scene(A1, A1, A1, B1)
    scene.ask(k0=limited(40), k1=limited(30), k2=limited(20))
    assert scene.called == ["k0", "k3"]
    error = scene.refuses(k1=limited(30), k2=limited(20), k3=limited(50))
    assert scene.called == ["k3", "k1"]
    assert scene.states() == "tttt", "the third cools down with the others"
    assert scene.pool.statuses(OPUS.scope)[2].is_shared_cooldown
    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds == 30, "until the earlier deadline"
    scene.refuses()
    assert scene.called == []
    scene.clock.advance(30)
    scene.ask()
    assert scene.called[0] in ("k1", "k2")


def test_keys_in_doubt_come_later_those_of_other_workspaces_first():
    """Given a limited key, then keys of other organisations come first, then those of its organisation, then those of
    its workspace."""
    scene = Scene(A1, A1, A2, B1, None)
    scene.ask(k0=limited(60))
    doubts = [status.doubt for status in scene.pool.statuses(OPUS.scope)]
    assert doubts == [Doubt.NONE, Doubt.WORKSPACE, Doubt.ORGANISATION, Doubt.NONE, Doubt.NONE]
    scene.ask(k3=limited(60), k4=limited(60), k2=limited(60))
    assert scene.called == ["k3", "k4", "k2", "k1"]


def test_doubt_is_of_a_scope():
    """Given a key limited for one class, then its siblings are not in doubt for another."""
    scene = Scene(A1, A1)
    scene.ask(OPUS, k0=limited(60))
    assert [status.doubt for status in scene.pool.statuses(SONNET.scope)] == [Doubt.NONE, Doubt.NONE]


def test_place_that_is_not_known_is_ones_own():
    """Given keys of which nothing is known, all limited, then each is tried."""
    scene = Scene(None, None, None)
    scene.refuses(k0=limited(3), k1=limited(3), k2=limited(3))
    assert scene.called == ["k0", "k1", "k2"]


def test_places_are_learned_by_other_processes_and_kept():
    """Given a place that one pool learned, then another pool over the same store knows it within a second."""
    scene = Scene(A1, None)
    other = Pool(scene.pool.keys, scene.store, scene.clock)
    assert [status.place for status in other.statuses()] == [A1, Place()]
    scene.pool.learn(scene.pool.keys[1], B1)
    scene.clock.advance(1)
    assert [status.place for status in other.statuses()] == [A1, B1]
    scene.clock.advance(1)
    other.learn(other.keys[0], A2)
    scene.clock.advance(1)
    assert [status.place for status in scene.pool.statuses()] == [A2, B1], "a key may move"


# Money


@pytest.mark.parametrize("outcome", [Outcome.OUT_OF_CREDIT, Outcome.SPEND_LIMITED])
def test_money_is_the_organisations(outcome):
    """Given an organisation without money, then all of its keys cool down, of every workspace, also one that is learned
    of later; enabling one of them lifts it."""
    scene = Scene(A1, A2, B1, None)
    scene.ask(k0=outcome)
    assert scene.called == ["k0", "k2"]
    assert scene.states() == "ttvv"
    scene.pool.learn(scene.pool.keys[3], A1)
    assert scene.states() == "ttvt"
    scene.pool.enable(scene.pool.keys[1])
    assert scene.states() == "vvvv"


def test_workspaces_own_limit_leaves_its_organisation_alone():
    """Given a workspace that has spent its limit, then the keys of that workspace cool down, and no others."""
    scene = Scene(A1, A1, A2)
    scene.ask(k0=(Outcome.SPEND_LIMITED, 60.0, Concern.WORKSPACE))
    assert scene.states() == "ttv"


def test_one_request_that_costs_tries_whether_there_is_money_again():
    """Given an organisation whose cooldown for money is over, then what costs nothing confirms nothing, and one request
    that costs tries it for all its keys."""
    scene = Scene(A1, A1, B1)
    scene.ask(k0=Outcome.OUT_OF_CREDIT)
    scene.clock.advance(60)
    scene.ask(COUNT)
    assert scene.called == ["k0"]
    statuses = scene.pool.statuses(OPUS.scope)
    assert [status.is_on_trial for status in statuses] == [True, True, False]
    assert scene.pool.lease(statuses[0]) is not None
    scene.ask()
    assert scene.called == ["k2"], "the one trial is under way"
    scene.clock.advance(60)
    scene.ask()
    assert [status.is_on_trial for status in scene.pool.statuses(OPUS.scope)] == [False, False, False]


def test_limit_in_a_trial_for_money_gives_the_trial_back():
    """Given a trial for money that ends with a rate limit, then the next request may try again at once."""
    scene = Scene(A1, A1)
    assert scene.ask(k0=(Outcome.OUT_OF_CREDIT, 5.0, None)).forbids_retries
    assert scene.called == ["k0"], "its organisation's other key has no money either"
    scene.clock.advance(5)
    scene.ask(k0=limited(60))
    assert scene.called == ["k0", "k1"]
    assert [status.is_on_trial for status in scene.pool.statuses(SONNET.scope)] == [False, False]


# Organisations that are done, and what is not allowed


def test_organisation_on_hold_puts_its_other_keys_in_doubt():
    """Given a key that is done because its organisation is, then its siblings are tried last, and not given up."""
    scene = Scene(A1, A2, B1)
    scene.ask(k0=(Outcome.UNAUTHORIZED, 0.0, Concern.ORGANISATION))
    assert scene.called == ["k0", "k2"]
    assert [status.doubt for status in scene.pool.statuses(OPUS.scope)] == [
        Doubt.NONE,
        Doubt.ORGANISATION,
        Doubt.NONE,
    ]
    scene.ask(k2=limited(9))
    assert scene.called == ["k2", "k1"]


def test_what_an_organisation_is_not_entitled_to_is_asked_of_others_alone():
    """Given an organisation that is not entitled, then its other keys are not asked, those of others are; nothing is
    marked, and the last refusal is the client's."""
    scene = Scene(A1, A2, B1)
    scene.ask(k0=Outcome.NOT_ENTITLED)
    assert scene.called == ["k0", "k2"]
    answer = scene.ask(k0=Outcome.NOT_ENTITLED, k2=Outcome.NOT_ENTITLED)
    assert (scene.called, answer.key.name) == (["k0", "k2"], "k2")
    assert scene.states() == "vvv"


def test_what_one_key_was_forbidden_does_not_hide_what_an_organisation_is_not_entitled_to():
    """Given an organisation that is not entitled, and a key of another that was forbidden it, then the client is told
    the first."""
    scene = Scene(A1, B1)
    assert scene.ask(k0=Outcome.NOT_ENTITLED, k1=Outcome.FORBIDDEN).key.name == "k0"


def test_right_that_a_key_lacks_says_nothing_of_others_and_is_no_limit():
    """Given a key that cools down for a scope because it lacks a right, then its siblings are in no doubt; and when no
    other key is left, that is no rate limit."""
    scene = Scene(A1, A1, A1, B1)
    for status in scene.pool.statuses(OPUS.scope)[:2]:
        scene.pool.cool(status, 3600, "forbidden", 403, Concern.SCOPE)
    assert [(s.state, s.doubt) for s in scene.pool.statuses(OPUS.scope)[2:]] == [(VALID, Doubt.NONE)] * 2
    error = scene.refuses(k2=Outcome.UNAUTHORIZED, k3=Outcome.UNAUTHORIZED)
    assert isinstance(error, AuthenticationExhausted)


class RecordingLooks:
    """Remembers what was to be looked into."""

    def __init__(self) -> None:
        self.told: list[tuple[list[str], str, bool]] = []

    def look_into(self, statuses, scope, *, was_answered, request=""):
        self.told.append(([status.key.name for status in statuses], scope, was_answered))


@pytest.mark.parametrize(
    ("answers", "end", "told"),
    [
        ({"k0": Outcome.FORBIDDEN}, "k1", (["k0"], True)),
        ({"k0": Outcome.FORBIDDEN, "k1": Outcome.FORBIDDEN}, "k1", (["k0", "k1"], False)),
        ({"k0": Outcome.FORBIDDEN, "k1": Outcome.UNAUTHORIZED}, AuthenticationExhausted, (["k0"], False)),
        ({"k0": Outcome.FORBIDDEN, "k1": Outcome.RATE_LIMITED}, RateLimited, (["k0"], False)),
        ({"k0": Outcome.FORBIDDEN, "k1": Outcome.OUT_OF_CREDIT}, "k1", (["k0"], False)),
        ({"k0": Outcome.FORBIDDEN, "k1": Outcome.SERVER_ERROR}, "k1", (["k0"], False)),
    ],
)
def test_what_was_forbidden_is_looked_into(answers: Mapping[str, Outcome], end, told):
    """Given a 403, then it fails over, and is looked into; the last 403 is the client's if all were forbidden."""
    scene, looks = Scene(None, None), RecordingLooks()
    course = Course(OPUS.scope, looks=looks)
    if isinstance(end, str):
        assert scene.ask(course, **answers).key.name == end
    else:
        assert isinstance(scene.refuses(course, **answers), end)
    assert looks.told == [(told[0], OPUS.scope, told[1])]
    assert scene.pool.statuses()[0].state is PERMANENT


def test_suspect_is_tried_last_and_not_given_up():
    """Given a key that is being looked into, then it is tried if no other is left; when it is known, it is not."""
    scene = Scene(None, None)
    scene.ask(k0=Outcome.FORBIDDEN)
    scene.pool.suspect(scene.pool.keys[0])
    scene.ask()
    assert scene.called == ["k1"]
    scene.ask(k1=limited(9))
    assert scene.called == ["k1", "k0"]
    scene.pool.end_suspicion(scene.pool.keys[0])
    scene.refuses()
    assert scene.called == []


def test_what_was_the_requests_affair_marks_nothing_for_a_while():
    """Given a key that was forgiven a 403, then it is valid, and further ones mark nothing for ten minutes."""
    scene, looks = Scene(None), RecordingLooks()
    course = Course(OPUS.scope, looks=looks)
    scene.ask(course, k0=Outcome.FORBIDDEN)
    assert scene.pool.forgive(scene.pool.statuses()[0])
    for _ in range(3):
        assert scene.ask(course, k0=Outcome.FORBIDDEN).key.name == "k0"
        assert scene.states() == "v"
    assert len(looks.told) == 1, "it is known what that means"
    scene.clock.advance(600)
    scene.ask(course, k0=Outcome.FORBIDDEN)
    assert (scene.states(), len(looks.told)) == ("p", 2)


class RecordingSession:
    """A session that stays nowhere, and remembers whether it was displaced."""

    group = None

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def answered(self, status, *, is_displaced):
        self.told.append((status.key.name, is_displaced))

    def told_of(self, container_id):
        raise NotImplementedError


@pytest.mark.parametrize("seconds", [60, 0], ids=["long", "over-at-once"])
def test_session_is_displaced_by_a_key_that_was_limited_however_shortly(seconds):
    """Given a session whose first key is limited, then it is displaced, although that key may be back by now."""
    scene, session = Scene(A1, B1), RecordingSession()
    scene.ask(Course(OPUS.scope, session=session), k0=limited(seconds))
    assert session.told == [("k1", True)]


def test_every_key_that_is_not_tried_is_told_of_those_after_a_tried_one_too():
    """Given a key that was tried, one that rests and one that is left, then a walk tells of the resting one each time,
    and never of the one that was tried."""
    scene = Scene(None, None, None)
    scene.pool.cool(scene.pool.statuses()[1], 60, "rate_limited", 429)
    scene.ask(k0=limited(9))
    assert scene.called == ["k0", "k2"]
    assert scene.observer.of("passed_over") == [("k1", "temporary")]


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome.FORBIDDEN, "permission_error"),
        (Outcome.OUT_OF_CREDIT, "billing_error"),
        (Outcome.SPEND_LIMITED, "billing_error"),
    ],
    ids=lambda one: getattr(one, "value", None),
)
def test_a_refusal_of_every_key_is_told_as_exhausted(outcome, kind):
    """Given keys that all refuse a request for one cause, then the client has the refusal, and the walk is told as
    exhausted, for that."""
    scene = Scene(None, None)
    assert scene.ask(k0=outcome, k1=outcome).key.name in ("k0", "k1")
    assert scene.observer.of("exhausted") == [(kind, 2)]
    assert scene.observer.of("walked") == []

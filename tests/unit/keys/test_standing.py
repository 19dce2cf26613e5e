"""What is known of a key becomes its state: for a scope, beside the keys of its workspace and organisation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.credential import Key, Secret
from gateway.keys.key_record import NEVER_SEEN, Record
from gateway.keys.places import NOWHERE, Place
from gateway.keys.standing import (
    Doubt,
    KeyState,
    KeyStatus,
    Standing,
    Subject,
    changes_at,
    overall_at,
    status_at,
    statuses_at,
)
from gateway.keys.verdict import Concern

NOW = 1000.0
VALID, TEMPORARY, PERMANENT = KeyState.VALID, KeyState.TEMPORARY, KeyState.PERMANENT
KEY, SCOPE, WORKSPACE, ORGANISATION = Concern.KEY, Concern.SCOPE, Concern.WORKSPACE, Concern.ORGANISATION
A1, A2, B1 = Place("orgA", "wsA1"), Place("orgA", "wsA2"), Place("orgB", "wsB1")

RETIRED = Record(is_retired=True, reason="unauthorized", status=401, marked_at=990)
FORBIDDEN = Record(is_retired=True, reason="forbidden", status=403, marked_at=990)
DISABLED = Record(is_disabled=True, reason="operator", marked_at=990)
BOTH = Record(is_retired=True, is_disabled=True, reason="forbidden", status=403, marked_at=990)
ON_TRIAL = Record(cooling_until_at=950, reason="rate_limited", status=429, marked_at=900)
LEASED = Record(cooling_until_at=950, lease_until_at=1010, reason="rate_limited", status=429, marked_at=900)
LEASE_OVER = Record(cooling_until_at=950, lease_until_at=NOW, reason="rate_limited", status=429, marked_at=900)
CONFIRMED = Record(cooling_until_at=950, confirmed_at=960, reason="rate_limited", status=429, marked_at=900)
UNPAID = Record(cooling_until_at=1600, reason="out_of_credit", status=400, marked_at=990)


def cooling(seconds: float, reason: str = "rate_limited") -> Record:
    return Record(cooling_until_at=NOW + seconds, reason=reason, status=429, marked_at=NOW - 5)


def standing(
    whole: Record = NEVER_SEEN,
    scope: Record | None = NEVER_SEEN,
    workspace: Record | None = None,
    organisation: Record | None = None,
    *,
    place: Place = NOWHERE,
    held_seconds: float = -NOW,
    looked_into_seconds: float = -NOW,
    name: str = "k",
) -> Standing:
    """What is known of a key; without a record of a concern, nothing of that kind is known to concern it."""
    named = ((SCOPE, scope), (WORKSPACE, workspace), (ORGANISATION, organisation))
    return Standing(
        Key(name, Secret(f"sk-{name}")),
        place,
        Subject(KEY, name, whole),
        tuple(Subject(concern, f"{name}/{concern.value}", record) for concern, record in named if record is not None),
        held_until_at=NOW + held_seconds,
        looked_into_until_at=NOW + looked_into_seconds,
    )


# One key


@pytest.mark.parametrize(
    ("known", "state", "remaining_seconds", "concern", "word"),
    [
        pytest.param(standing(), VALID, 0, KEY, "valid", id="nothing"),
        pytest.param(standing(scope=None), VALID, 0, KEY, "valid", id="nothing-as-a-whole"),
        pytest.param(standing(RETIRED), PERMANENT, 0, KEY, "retired", id="retired"),
        pytest.param(standing(DISABLED), PERMANENT, 0, KEY, "disabled", id="disabled"),
        pytest.param(standing(RETIRED, cooling(9)), PERMANENT, 0, KEY, "retired", id="retired-before-cooling"),
        pytest.param(standing(RETIRED, organisation=UNPAID), PERMANENT, 0, KEY, "retired", id="retired-before-money"),
        pytest.param(standing(cooling(9)), TEMPORARY, 9, KEY, "cooling down", id="cools-whole"),
        pytest.param(standing(scope=cooling(9)), TEMPORARY, 9, SCOPE, "cooling down", id="cools-for-the-scope"),
        pytest.param(standing(workspace=cooling(9)), TEMPORARY, 9, WORKSPACE, "cooling down", id="workspace-cools"),
        pytest.param(standing(organisation=UNPAID), TEMPORARY, 600, ORGANISATION, "cooling down", id="no-money"),
        pytest.param(
            standing(scope=cooling(9), organisation=UNPAID), TEMPORARY, 600, ORGANISATION, "cooling down", id="longest"
        ),
        pytest.param(
            standing(scope=cooling(700), organisation=UNPAID), TEMPORARY, 700, SCOPE, "cooling down", id="longest-2"
        ),
        pytest.param(standing(cooling(9), cooling(9)), TEMPORARY, 9, KEY, "cooling down", id="equally-long"),
        pytest.param(standing(cooling(0)), VALID, 0, KEY, "on trial", id="over-at-its-deadline"),
        pytest.param(standing(ON_TRIAL), VALID, 0, KEY, "on trial", id="on-trial"),
        pytest.param(standing(scope=ON_TRIAL), VALID, 0, SCOPE, "on trial", id="on-trial-for-the-scope"),
        pytest.param(
            standing(ON_TRIAL, ON_TRIAL, organisation=LEASED), VALID, 0, ORGANISATION, "on trial", id="widest"
        ),
        pytest.param(standing(ON_TRIAL, cooling(9)), TEMPORARY, 9, SCOPE, "cooling down", id="cooling-before-trial"),
        pytest.param(standing(CONFIRMED), VALID, 0, KEY, "valid", id="confirmed"),
    ],
)
def test_state_of_a_key(known, state, remaining_seconds, concern, word):
    """Given what is known of a key, then its state, rest and whom that is due to are these."""
    status = status_at(known, NOW)
    assert (status.state, status.remaining_seconds, status.concern) == (state, remaining_seconds, concern)
    assert status.word == word
    assert statuses_at([known], NOW)[0].state is state


@pytest.mark.parametrize(
    ("record", "is_leased"), [(ON_TRIAL, False), (LEASED, True), (LEASE_OVER, False)], ids=["free", "leased", "over"]
)
def test_trial_tells_whether_a_request_has_it(record, is_leased):
    """Given a key on trial, then it is leased until the lease's end."""
    status = status_at(standing(scope=record), NOW)
    assert (status.is_on_trial, status.is_leased) == (True, is_leased)


@pytest.mark.parametrize(
    ("known", "is_last_resort"),
    [
        pytest.param(standing(FORBIDDEN, looked_into_seconds=30), True, id="forbidden-and-looked-into"),
        pytest.param(standing(FORBIDDEN, looked_into_seconds=0), False, id="known-by-now"),
        pytest.param(standing(FORBIDDEN), False, id="forbidden"),
        pytest.param(standing(RETIRED, looked_into_seconds=30), False, id="refused"),
        pytest.param(standing(BOTH, looked_into_seconds=30), False, id="disabled"),
        pytest.param(standing(looked_into_seconds=30), False, id="valid"),
    ],
)
def test_last_resort_is_a_key_of_which_nobody_knows_yet(known, is_last_resort):
    """Given a key that was forbidden something, then it may still be tried while that is looked into."""
    assert status_at(known, NOW).is_last_resort is is_last_resort


def test_a_mark_goes_on_what_it_concerns_or_else_on_the_key():
    """Given what is known to concern a key, then a mark of each kind has its subject; what is not known is the key."""
    known = standing(organisation=UNPAID)
    found = [known.subject(concern).name for concern in (KEY, SCOPE, WORKSPACE, ORGANISATION)]
    assert found == ["k", "k/scope", "k", "k/organisation"]
    assert [subject.name for subject in known.subjects] == ["k", "k/scope", "k/organisation"]
    assert (known.for_scope, standing(scope=None, organisation=UNPAID).for_scope) == (NEVER_SEEN, NEVER_SEEN)


def test_why_is_the_deciding_mark_s():
    """Given marks of several kinds, then what decides is told, with its status, and how long ago."""
    status = status_at(standing(scope=cooling(9), organisation=UNPAID), NOW)
    assert (status.why, status.is_out_of_money, status.marked_ago_seconds) == ("out_of_credit (400)", True, 10)
    assert status_at(standing(CONFIRMED), NOW).why == ""
    assert (status_at(standing(FORBIDDEN), NOW).is_forbidden, status.is_forbidden) == (True, False)


# Several keys


def pool(*rows: tuple[Place, Record]) -> list[KeyStatus]:
    """The keys with these places, and these records for the scope."""
    return statuses_at(
        [standing(scope=record, place=place, name=f"k{number}") for number, (place, record) in enumerate(rows)], NOW
    )


@pytest.mark.parametrize(
    ("rows", "doubts"),
    [
        pytest.param([(A1, NEVER_SEEN), (A1, NEVER_SEEN)], [0, 0], id="all-well"),
        pytest.param([(A1, cooling(9)), (A1, NEVER_SEEN)], [0, 2], id="same-workspace"),
        pytest.param([(A1, cooling(9)), (A2, NEVER_SEEN)], [0, 1], id="same-organisation"),
        pytest.param([(A1, cooling(9)), (B1, NEVER_SEEN)], [0, 0], id="another-organisation"),
        pytest.param([(A1, cooling(9)), (NOWHERE, NEVER_SEEN)], [0, 0], id="nobody-knows"),
        pytest.param([(NOWHERE, cooling(9)), (NOWHERE, NEVER_SEEN)], [0, 0], id="nothing-is-known"),
        pytest.param([(Place("orgA"), cooling(9)), (Place("orgA"), NEVER_SEEN)], [0, 1], id="workspaces-unknown"),
        pytest.param([(A1, ON_TRIAL), (A1, NEVER_SEEN)], [0, 0], id="its-cooldown-is-over"),
        pytest.param([(A1, NEVER_SEEN), (A1, cooling(9)), (A2, cooling(9))], [2, 0, 0], id="the-nearer"),
        pytest.param([(A2, cooling(9)), (A2, cooling(9)), (A1, NEVER_SEEN)], [0, 0, 1], id="two-of-another-workspace"),
    ],
)
def test_doubt(rows, doubts):
    """Given keys that cool for a scope, then those of their workspace and organisation are in doubt, so much."""
    assert [status.doubt for status in pool(*rows)] == [Doubt(doubt) for doubt in doubts]


def test_what_concerns_a_key_whole_puts_no_other_in_doubt():
    """Given a key that cools down whole, or is retired, then its siblings are in no doubt for a scope."""
    for whole in (cooling(9), RETIRED):
        known = [standing(whole, place=A1, name="k0"), standing(place=A1, name="k1")]
        assert [status.doubt for status in statuses_at(known, NOW)] == [Doubt.NONE, Doubt.NONE]


def test_organisation_that_lost_a_key_puts_its_keys_in_doubt_for_a_while():
    """Given an organisation held for having lost a key, then its valid keys are in doubt until that is over."""
    known = [standing(place=A1, held_seconds=5, name="k0"), standing(place=B1, name="k1")]
    assert [status.doubt for status in statuses_at(known, NOW)] == [Doubt.ORGANISATION, Doubt.NONE]
    assert [status.doubt for status in statuses_at(known, NOW + 5)] == [Doubt.NONE, Doubt.NONE]


def test_two_of_a_workspace_let_the_rest_of_it_rest_until_the_earlier_deadline():
    """Given two keys of a workspace that cool, then its other keys cool down until the earlier deadline; others do
    not."""
    statuses = pool((A1, cooling(40)), (A1, cooling(30)), (A1, ON_TRIAL), (A2, NEVER_SEEN))
    third = statuses[2]
    assert (third.state, third.remaining_seconds, third.is_shared_cooldown) == (TEMPORARY, 30, True)
    assert (third.concern, third.why, third.is_leased) == (SCOPE, "rate_limited (429)", False)
    assert [status.is_shared_cooldown for status in statuses] == [False, False, True, False]
    assert statuses[3].doubt is Doubt.ORGANISATION
    assert [s.remaining_seconds for s in statuses[:2]] == [40, 30]


def test_permanent_key_stays_so_beside_others():
    """Given a retired key whose siblings cool, then it is permanent, and in no shared cooldown."""
    known = [standing(RETIRED, place=A1, name="k0"), *(standing(scope=cooling(9), place=A1, name=n) for n in "ab")]
    assert [status.state for status in statuses_at(known, NOW)] == [PERMANENT, TEMPORARY, TEMPORARY]


# Whatever is known

moments = st.sampled_from([0.0, 900.0, 999.5, 1000.0, 1000.5, 1030.0, 5000.0])
records = st.builds(
    Record,
    cooling_until_at=moments,
    confirmed_at=moments,
    is_retired=st.booleans(),
    is_disabled=st.booleans(),
    lease_until_at=moments,
    reason=st.sampled_from(["", "rate_limited", "forbidden", "unauthorized", "out_of_credit"]),
    marked_at=st.sampled_from([0.0, 900.0, 1000.0]),
)
scope_records = st.builds(Record, cooling_until_at=moments, confirmed_at=moments, lease_until_at=moments)


@st.composite
def pools(draw: st.DrawFn) -> list[Standing]:
    """Up to six keys of which anything may be known."""
    others = st.none() | scope_records
    return [
        standing(
            draw(records),
            draw(others),
            draw(others),
            draw(others),
            place=draw(st.sampled_from([NOWHERE, Place("orgA"), A1, A2, B1])),
            held_seconds=draw(st.sampled_from([-NOW, -1.0, 1.0])),
            looked_into_seconds=draw(st.sampled_from([-NOW, 1.0])),
            name=f"k{number}",
        )
        for number in range(draw(st.integers(1, 6)))
    ]


@given(pools())
def test_whatever_is_known_states_agree_with_it(known):
    """Given any knowledge of keys, then each has one state, in order; permanent is what is marked so as a whole, valid
    is no key that anything of its cools, and cooldowns are never negative."""
    statuses = statuses_at(known, NOW)
    assert [status.key for status in statuses] == [one.key for one in known]
    for one, status in zip(known, statuses, strict=True):
        is_cooling = any(subject.record.is_cooling(NOW) for subject in one.subjects)
        assert (status.state is PERMANENT) == one.whole.record.is_permanent
        assert status.remaining_seconds >= 0
        assert (status.remaining_seconds > 0) == (status.state is TEMPORARY)
        if status.state is VALID:
            assert not is_cooling
        if status.state is TEMPORARY:
            assert is_cooling or status.is_shared_cooldown
        if status.doubt is not Doubt.NONE or status.is_on_trial:
            assert status.state is VALID
        assert not status.is_last_resort or status.state is PERMANENT


@given(pools())
def test_others_only_ever_hold_a_key_back(known):
    """Given any knowledge of keys, then beside the others a key is what it is by itself, or cools down, or is in
    doubt."""
    for one, beside in zip(known, statuses_at(known, NOW), strict=True):
        alone = status_at(one, NOW)
        if beside.state is not alone.state:
            assert (alone.state, beside.state, beside.is_shared_cooldown) == (VALID, TEMPORARY, True)
        assert beside.is_last_resort == alone.is_last_resort


@given(pools())
def test_key_that_has_been_permanent_whole_is_permanent_for_every_scope(known):
    """Given a key that is permanent, then it is so for every scope, whatever its scopes' records say."""
    for one in known:
        if one.whole.record.is_permanent:
            for record in (NEVER_SEEN, cooling(60), ON_TRIAL):
                other = Standing(one.key, one.place, one.whole, (Subject(SCOPE, "other", record),), -NOW, -NOW)
                assert status_at(other, NOW).state is PERMANENT


def test_a_rest_for_a_scope_says_how_long_ago_it_was_marked():
    """Given a key that rests for a scope, then as a whole it is marked as long ago as that, and leased by nobody."""
    rest = Record(
        cooling_until_at=NOW + 9, lease_until_at=NOW + 5, reason="rate_limited", status=429, marked_at=NOW - 5
    )
    status = overall_at(standing(), {"messages/opus-4": rest}, NOW)
    assert (status.state, status.remaining_seconds, status.marked_ago_seconds) == (TEMPORARY, 9, 5)
    assert (status.record.lease_until_at, status.is_leased, status.concern) == (0, False, SCOPE)


def test_as_a_whole_a_key_rests_as_long_as_its_longest_scope_and_is_on_trial_for_others():
    """Given scopes that cool, are on trial and are confirmed, then the first two are told; the longest rest counts."""
    scopes = {"a": cooling(9), "b": cooling(30), "c": ON_TRIAL, "d": CONFIRMED}
    status = overall_at(standing(), scopes, NOW)
    assert (status.state, status.remaining_seconds) == (TEMPORARY, 30)
    assert [(rest.scope, rest.remaining_seconds) for rest in status.scopes] == [("a", 9), ("b", 30), ("c", 0)]
    assert not status.is_shared_cooldown
    assert overall_at(standing(), {"a": cooling(0.5)}, NOW).state is TEMPORARY


@pytest.mark.parametrize(
    ("whole", "state"), [(NEVER_SEEN, VALID), (RETIRED, PERMANENT), (cooling(3), TEMPORARY)], ids=["v", "p", "t"]
)
def test_a_trial_for_a_scope_changes_no_state_of_the_whole(whole, state):
    """Given a scope on trial alone, then the key as a whole is as it is by itself."""
    status = overall_at(standing(whole), {"c": ON_TRIAL}, NOW)
    assert (status.state, status.concern) == (state, KEY)
    assert status.remaining_seconds == (3 if state is TEMPORARY else 0)


def test_a_retired_key_s_scopes_leave_it_retired():
    """Given a retired key that cools for a scope, then it is retired as a whole; a rest of its own stays."""
    assert overall_at(standing(RETIRED), {"a": cooling(9)}, NOW).state is PERMANENT
    assert overall_at(standing(cooling(3)), {"a": cooling(9)}, NOW).remaining_seconds == 3


def test_the_next_change_is_the_next_deadline_of_all():
    """Given deadlines behind and ahead, then the nearest one ahead is told; with none ahead, none is."""
    assert changes_at([standing()], NOW) == float("inf")
    assert changes_at([standing(cooling(0))], NOW) == float("inf")
    assert changes_at([standing(cooling(9), cooling(4)), standing(held_seconds=6)], NOW) == NOW + 4
    assert changes_at([standing(cooling(9)), standing(held_seconds=6)], NOW) == NOW + 6
    assert changes_at([standing(cooling(9)), standing(looked_into_seconds=5)], NOW) == NOW + 5
    assert changes_at([standing(LEASED)], NOW) == NOW + 10

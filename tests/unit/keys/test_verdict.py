"""What a status says about a key, and how long each form of header lets it cool down."""

from __future__ import annotations

import time

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys.verdict import LONGEST_COOLDOWN_SECONDS, Concern, Next, Verdict, cooldown_seconds
from gateway.protocol.outcomes import Outcome
from tests.unit.fakes import NOW

DAY = 24 * 3600.0
DATE = "date"
THEIRS, THEIRS_AT = "Mon, 01 Jan 2035 00:00:00 GMT", 2_051_222_400.0
MS, RA, RESET = "retry-after-ms", "retry-after", "anthropic-ratelimit-unified-reset"


def test_outcomes_are_the_labels_that_the_design_names():
    """Given the metric's label, then its values are the bounded set of the design."""
    named = (
        "ok rate_limited not_entitled spend_limited out_of_credit workspace_unusable unauthorized forbidden request "
        "overloaded server_error client_error transport_error"
    )
    assert {outcome.value for outcome in Outcome} == set(named.split())


@pytest.mark.parametrize("outcome", Outcome, ids=lambda outcome: outcome.value)
def test_another_key_is_tried_only_after_a_refusal(outcome):
    """Given an outcome, then the next key is tried if and only if this one cools, is retired, or is not entitled."""
    verdict = Verdict(outcome)
    marks = verdict.cools or verdict.retires
    assert (verdict.next is Next.ANY) is marks
    assert not (verdict.cools and verdict.retires)
    assert not (verdict.vouches and marks)


# Whom it speaks of, and whether it is about money, is kept for the client, and vouches for the key.
SAYS = {
    Outcome.OK: (Concern.KEY, False, False, True),
    Outcome.RATE_LIMITED: (Concern.SCOPE, False, False, False),
    Outcome.NOT_ENTITLED: (Concern.KEY, False, True, False),
    Outcome.SPEND_LIMITED: (Concern.ORGANISATION, True, True, False),
    Outcome.OUT_OF_CREDIT: (Concern.ORGANISATION, True, True, False),
    Outcome.WORKSPACE_UNUSABLE: (Concern.WORKSPACE, False, False, False),
    Outcome.FORBIDDEN: (Concern.KEY, False, True, False),
    Outcome.CLIENT_ERROR: (Concern.KEY, False, False, True),
}


@pytest.mark.parametrize("outcome", Outcome, ids=lambda outcome: outcome.value)
def test_an_outcome_says_whom_it_is_about_and_what_the_client_gets(outcome):
    """Given an outcome, then it speaks of a scope, a workspace, an organisation or else the key, as the answer may say
    better; refusals that the client can do something about are kept."""
    verdict = Verdict(outcome)
    says = (verdict.concern, verdict.is_about_money, verdict.is_kept, verdict.vouches)
    assert says == SAYS.get(outcome, (Concern.KEY, False, False, False))
    assert verdict == Verdict(outcome, 0.0, 0, None)
    assert Verdict(outcome, 5.0, 429, Concern.WORKSPACE).concern is Concern.WORKSPACE


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param({}, 60, id="none"),
        pytest.param({MS: "2500"}, 2.5, id="milliseconds"),
        pytest.param({MS: "1500.5"}, 1.5005, id="fractional-milliseconds"),
        pytest.param({MS: "0.5"}, 0.0005, id="less-than-a-millisecond"),
        pytest.param({RA: "5"}, 5, id="seconds"),
        pytest.param({RA: " 5 "}, 5, id="seconds-with-spaces"),
        pytest.param({RA: "2.5"}, 2.5, id="fractional-seconds"),
        pytest.param({RA: "Fri, 15 Jan 2027 08:01:30 GMT"}, 90, id="http-date"),
        pytest.param({RA: "Friday, 15-Jan-27 08:01:30 GMT"}, 90, id="rfc-850-date"),
        pytest.param({RA: "Fri Jan 15 08:01:30 2027"}, 90, id="asctime-date"),
        pytest.param({RA: "Fri, 15 Jan 2027 09:01:30 +0100"}, 90, id="date-with-zone"),
        pytest.param({RA: "Fri, 15 Jan 2027 08:01:30 -0000"}, 90, id="date-without-zone-is-utc"),
        pytest.param({RESET: str(NOW + 45)}, 45, id="unified-reset"),
        pytest.param({RESET: str(int(NOW) + 45)}, 45, id="unified-reset-whole"),
        pytest.param({MS: "1000", RA: "5", RESET: str(NOW + 9)}, 1, id="milliseconds-come-first"),
        pytest.param({RA: "5", RESET: str(NOW + 9)}, 5, id="retry-after-comes-second"),
        pytest.param({MS: "soon", RA: "5"}, 5, id="unreadable-milliseconds-are-passed-by"),
        pytest.param({MS: "0", RA: "5"}, 5, id="zero-milliseconds-are-passed-by"),
        pytest.param({RA: "soon", RESET: str(NOW + 9)}, 9, id="unreadable-retry-after-is-passed-by"),
        pytest.param({RA: "Thu, 14 Jan 2027 08:00:00 GMT", RESET: str(NOW + 9)}, 9, id="past-date-is-passed-by"),
        pytest.param({RA: "0"}, 60, id="zero"),
        pytest.param({RA: "-1"}, 60, id="negative"),
        pytest.param({MS: "-1"}, 60, id="negative-milliseconds"),
        pytest.param({RA: ""}, 60, id="empty"),
        pytest.param({RA: "soon"}, 60, id="unreadable"),
        pytest.param({DATE: THEIRS, RA: "Mon, 01 Jan 2035 00:00:05 GMT"}, 5, id="date-of-their-clock"),
        pytest.param({DATE: THEIRS, RESET: str(THEIRS_AT + 45)}, 45, id="reset-by-their-clock"),
        pytest.param({DATE: THEIRS, RA: "5"}, 5, id="seconds-need-no-clock"),
        pytest.param({DATE: THEIRS, RA: "Fri, 15 Jan 2027 08:01:30 GMT"}, 60, id="past-by-their-clock"),
        pytest.param({DATE: "soon", RA: "Fri, 15 Jan 2027 08:01:30 GMT"}, 90, id="unreadable-date-is-passed-by"),
        pytest.param({RA: "5".rjust(40, "0")}, 5, id="as-many-digits-as-are-read"),
        pytest.param({RA: "5".rjust(41, "0")}, 60, id="too-many-digits"),
        pytest.param({RA: "5, 5"}, 60, id="twice"),
        pytest.param({RA: "1_000"}, 60, id="underscores"),
        pytest.param({RA: "0x10"}, 60, id="hexadecimal"),
        pytest.param({RA: "٣"}, 60, id="digits-that-are-not-ascii"),
        pytest.param({RA: "nan"}, 60, id="nan"),
        pytest.param({RA: "inf"}, 60, id="infinity"),
        pytest.param({RA: "-inf"}, 60, id="minus-infinity"),
        pytest.param({MS: "nan"}, 60, id="nan-milliseconds"),
        pytest.param({RESET: "nan"}, 60, id="nan-reset"),
        pytest.param({RA: "Thu, 14 Jan 2027 08:00:00 GMT"}, 60, id="past-date"),
        pytest.param({RA: "Fri, 15 Jan 2027 08:00:00 GMT"}, 60, id="date-of-now"),
        pytest.param({RA: "Fri, 99 Jan 2027 08:00:00 GMT"}, 60, id="impossible-date"),
        pytest.param({RA: "Fri, 15 Jan 999999999999 08:00:00 GMT"}, 60, id="date-past-the-calendar"),
        pytest.param({RESET: str(NOW)}, 60, id="reset-of-now"),
        pytest.param({RESET: str(NOW - 5)}, 60, id="past-reset"),
        pytest.param({RA: "100000000"}, DAY, id="capped"),
        pytest.param({RA: "86400"}, DAY, id="just-the-cap"),
        pytest.param({MS: "86400001"}, DAY, id="capped-milliseconds"),
        pytest.param({RA: "1e300"}, DAY, id="huge"),
        pytest.param({RESET: str(NOW * 1000)}, DAY, id="reset-in-milliseconds-is-capped"),
        pytest.param({RA: "Fri, 15 Jan 2100 08:00:00 GMT"}, DAY, id="far-date-is-capped"),
    ],
)
def test_cooldown_comes_from_the_headers(headers, seconds):
    """Given the headers of a 429, then the key cools down for what the table says."""
    assert cooldown_seconds(headers, NOW, 60.0) == pytest.approx(seconds, abs=1e-6)


def test_http_date_counts_from_the_clock():
    """Given a frozen clock, when an HTTP-date lies 75 seconds ahead of it, then the key cools down for 75 seconds."""
    with freeze_time("2026-11-22 23:59:00"):
        assert cooldown_seconds({RA: "Mon, 23 Nov 2026 00:00:15 GMT"}, time.time(), 60.0) == 75.0


@pytest.mark.parametrize(("default", "seconds"), [(7.5, 7.5), (1e6, DAY)], ids=["default", "default-is-capped"])
def test_default_is_a_setting(default, seconds):
    """Given no header, then the setting's value counts, capped as all others."""
    assert cooldown_seconds({}, NOW, default) == seconds


@given(
    st.dictionaries(
        st.sampled_from([MS, RA, RESET, DATE]), st.one_of(st.text(), st.floats().map(repr), st.dates().map(str))
    )
)
def test_no_header_can_break_or_unbound_a_cooldown(headers):
    """Given any texts in the headers, then the cooldown is positive and at most a day."""
    assert 0 < cooldown_seconds(headers, NOW, 60.0) <= LONGEST_COOLDOWN_SECONDS == DAY


@given(
    st.from_regex(
        r"\A[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,12} [0-9:.]{0,12} ?(GMT|[+-][0-9]{1,8})?\Z",
    )
)
def test_nothing_that_looks_like_a_date_breaks_a_cooldown(text):
    """Given anything of a date's shape, then the cooldown is positive and at most a day."""
    assert 0 < cooldown_seconds({RA: text}, NOW, 60.0) <= DAY

"""What the status page says: one verdict on the pool, and what has been counted."""

from __future__ import annotations

import pytest
from prometheus_client.core import CounterMetricFamily

from gateway.config.settings import Settings
from gateway.keys.pool import Pool
from gateway.keys.store import MemoryStore
from gateway.keys.verdict import Concern
from gateway.web.service import Gateway
from gateway.web.status import Counts, Limit, Tone, status_of, verdict_on
from tests.unit.fakes import NOW, FakeClock, cool, keys_of, pool_of, retire

GOOD, WARNING, BAD = Tone.GOOD, Tone.WARNING, Tone.BAD


@pytest.mark.parametrize(
    ("number", "cooling", "retired", "verdict", "tone"),
    [
        pytest.param(0, (), (), "No pool: clients bring their own credentials", GOOD, id="no-pool"),
        pytest.param(1, (), (), "The key is valid", GOOD, id="the-only-one"),
        pytest.param(3, (), (), "All 3 keys are valid", GOOD, id="all"),
        pytest.param(3, (0,), (), "2 of 3 keys are valid", WARNING, id="one-rests"),
        pytest.param(3, (0,), (2,), "One valid key left of 3", WARNING, id="one-left"),
        pytest.param(2, (0,), (1,), "No valid key: clients are refused until a key has rested", BAD, id="will-be-back"),
        pytest.param(2, (), (0, 1), "No valid key: all are out of use", BAD, id="all-retired"),
    ],
)
def test_the_verdict_says_how_bad_it_is(number, cooling, retired, verdict, tone):
    """Given a pool with resting and retired keys, then one line and its tone say what that means."""
    pool = pool_of(number)
    for position in cooling:
        cool(pool, position, 5)
    for position in retired:
        retire(pool, position)
    assert verdict_on(pool.statuses()) == (verdict, tone)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def gateway(clock) -> Gateway:
    return Gateway(Settings(keys=tuple(keys_of(3))), MemoryStore(), clock=clock, wall_clock=clock)


def test_a_row_says_state_reason_and_rest(gateway, clock):
    """Given a cooling, a retired and a valid key, later, then each row has its state, why, and what is left."""
    pool: Pool = gateway.configuration.pool
    cool(pool, 0, 30)
    retire(pool, 1)
    clock.advance(10)
    rows = status_of(gateway).keys
    assert [(row.status.word, row.status.why, row.since_at, row.tone) for row in rows] == [
        ("temporary", "rate_limited (429)", NOW, WARNING),
        ("permanent", "unauthorized (401)", NOW, BAD),
        ("valid", "", 0.0, GOOD),
    ]
    assert (rows[0].status.remaining_seconds, rows[0].rest_seconds) == (20, 30)


def test_a_key_on_trial_is_no_full_member_yet(gateway, clock):
    """Given a key whose rest is over and that nobody has tried since, then its row says so."""
    cool(gateway.configuration.pool, 0, 30)
    clock.advance(31)
    row = status_of(gateway).keys[0]
    assert (row.status.word, row.tone, row.status.remaining_seconds) == ("on trial", WARNING, 0)


def limit(pool: Pool, number: int, scope: str, seconds: float) -> None:
    pool.cool(pool.statuses(scope)[number], seconds, "rate_limited", 429, Concern.SCOPE)


@pytest.mark.parametrize(
    ("scopes", "verdict", "tone"),
    [
        (("a", "a"), "One valid key left of 3", WARNING),
        (("a", "b", "c"), "No key is valid for everything: each is limited for some requests", WARNING),
        (("a", "a", "a"), "No valid key for messages/a: such requests are refused until a key has rested", BAD),
    ],
    ids=["one-left", "each-for-another", "all-for-one"],
)
def test_the_verdict_knows_scopes(gateway, scopes, verdict, tone):
    """Given keys that are limited for one class of models each, then the verdict is bad if a class has no key left."""
    for number, scope in enumerate(scopes):
        limit(gateway.configuration.pool, number, f"messages/{scope}", 30)
    status = status_of(gateway)
    assert (status.verdict, status.tone) == (verdict, tone)


def test_the_scarcest_scope_s_limit_is_shown(gateway):
    """Given limits of two scopes, then that of which less is left is shown, by its scope's name."""
    metrics = gateway.metrics
    for scope, remaining in (("messages/a", "900"), ("messages/b", "100")):
        metrics.note_rate_limits("k0", scope, {"anthropic-ratelimit-tokens-limit": "1000"})
        metrics.note_rate_limits("k0", scope, {"anthropic-ratelimit-tokens-remaining": remaining})
    assert status_of(gateway).keys[0].limits == (Limit("tokens", 100, 1000, "messages/b"),)


def test_counts_are_those_of_the_metrics(gateway):
    """Given attempts, failovers, limits, streams and an exhaustion, then each is shown where it belongs."""
    metrics = gateway.metrics
    metrics.key_attempts.labels("k0", "ok").inc(7)
    metrics.key_attempts.labels("k0", "rate_limited").inc(2)
    metrics.key_failovers.labels("k0", "unauthorized").inc(1)
    metrics.key_failovers.labels("k0", "rate_limited").inc(2)
    metrics.note_rate_limits("k0", "models", {"anthropic-ratelimit-input-tokens-limit": "1000"})
    metrics.note_rate_limits("k0", "models", {"anthropic-ratelimit-input-tokens-remaining": "250"})
    metrics.requests_inflight.labels("messages").inc(3)
    metrics.streams_ended.labels("truncated").inc(4)
    metrics.count_exhaustion("rate_limited")
    status = status_of(gateway)
    row = status.keys[0]
    assert (row.answered, row.failovers) == (7, (("rate limited", 2), ("unauthorized", 1)))
    assert row.limits == (Limit("input tokens", 250, 1000),)
    assert (status.inflight, status.inflight_limit) == (3, gateway.configuration.settings.admission_limit)
    assert dict(status.streams)["cut by the upstream"] == 4
    assert [exhaustion.count for exhaustion in status.exhaustions] == [1, 0, 0, 0]
    assert status.exhaustions[0].last_at > 0
    assert (status.failover_count, status.exhaustion_count, status.valid_count) == (3, 1, 3)


@pytest.mark.parametrize(
    ("remaining", "limit", "percent"),
    [(0, 10, 0), (999, 1000, 99), (1000, 1000, 100), (12, 10, 100), (5, 0, 0)],
)
def test_what_is_left_is_told_in_percent(remaining, limit, percent):
    """Given what is left of a limit, then its share is between 0 and 100, and full only if nothing is gone."""
    assert Limit("requests", remaining, limit).percent_left == percent


def test_counts_are_summed_over_labels_that_do_not_matter():
    """Given samples, then a total spans all other labels, and a breakdown is largest first without zeros."""
    family = CounterMetricFamily("c", "", labels=["key", "reason"])
    for labels, value in ((["a", "x"], 1), (["a", "y"], 5), (["b", "x"], 2), (["a", "z"], 0)):
        family.add_metric(labels, value)
    counts = Counts([family])
    assert counts.total("c_total") == 8
    assert counts.total("c_total", key="a") == 6
    assert counts.by("reason", "c_total", key="a") == [("y", 5), ("x", 1)]
    assert counts.total("unknown") == 0

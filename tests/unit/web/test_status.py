"""What the status page gathers: the keys, which gateway it is, and what has been counted; and the same as data."""

from __future__ import annotations

import json
import socket
from dataclasses import replace

import pytest
from prometheus_client.core import CounterMetricFamily

from gateway import __version__
from gateway.config.mcp_servers import mcp_servers
from gateway.config.settings import Settings
from gateway.keys.pool import Pool
from gateway.keys.store import MemoryStore
from gateway.protocol.outcomes import Exhaustion
from gateway.web.headline import Tone
from gateway.web.service import Gateway
from gateway.web.status import Counts, Limit, Records, status_of
from gateway.web.status_data import as_data
from tests.unit.fakes import FakeClock, cool, keys_of, retire

GOOD, WARNING, BAD = Tone.GOOD, Tone.WARNING, Tone.BAD


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def gateway(clock) -> Gateway:
    return Gateway(Settings(keys=tuple(keys_of(3))), MemoryStore(), clock=clock, wall_clock=clock)


def test_rows_are_bad_keys_first(gateway, clock):
    """Given a cooling, a retired and a valid key, later, then each row has its state, why, and what is left; those that
    need somebody come first."""
    pool: Pool = gateway.configuration.pool
    cool(pool, 0, 30)
    retire(pool, 1)
    clock.advance(10)
    rows = status_of(gateway).keys
    assert [(row.place, row.view.word, row.view.cause, row.tone) for row in rows] == [
        (2, "retired", "refused (401)", BAD),
        (1, "cooling down", "limited", WARNING),
        (3, "valid", "", GOOD),
    ]
    assert (rows[1].status.remaining_seconds, rows[1].cooldown_seconds) == (20, 30)


def test_which_gateway_it_is(clock):
    """Given a gateway with a name, and one without, then the page has the name, or else the host's, and the
    cooldown."""
    named, unnamed = (Gateway(Settings(name=name), MemoryStore(), clock, clock) for name in ("blue", None))
    clock.advance(90)
    identity = status_of(named, "10.0.0.7:8080").gateway
    assert (identity.name, identity.address, identity.version) == ("blue", "10.0.0.7:8080", __version__)
    assert identity.uptime_seconds > 0
    assert identity.id == "blue 10.0.0.7:8080"
    assert status_of(unnamed).gateway.name == socket.gethostname()


def test_servers_records_and_stores_are_told(gateway):
    """Given an MCP server that is up and one that is down, waiting and lost records, and a database that is down, then
    the page has them, and the headline what is wrong."""
    servers = mcp_servers([{"name": name, "url": f"http://{name}.example/mcp"} for name in ("files", "web")])
    gateway.reload(replace(gateway.configuration.settings, mcp_servers=servers))
    gateway.metrics.mcp_server_up.labels("files").set(1)
    gateway.metrics.waiting(7)
    gateway.metrics.dropped("queue_full", 2)
    gateway.metrics.stores(False)
    status = status_of(gateway)
    assert status.mcp_servers == (("files", True), ("web", False))
    assert status.records == Records(is_kept=True, is_database_up=False, waiting=7, lost=2)
    assert "7 records wait on disk" in status.headline
    assert "MCP server web does not answer" in status.headline
    assert (status.store, status.is_store_up, status.is_reload_ok, status.tone) == (
        "the data folder",
        True,
        True,
        WARNING,
    )


def test_data_says_what_the_page_says(gateway, clock):
    """Given some trouble, then the data has the headline, the keys in the same order and words, and the events."""
    pool = gateway.configuration.pool
    retire(pool, 1)
    cool(pool, 0, 30)
    gateway.metrics.count_exhaustion(Exhaustion.RATE_LIMITED)
    clock.advance(10)
    data = json.loads(json.dumps(as_data(status_of(gateway, "a:1"))))
    assert (data["state"], data["headline"].split(":")[0]) == ("warning", "k1 was refused (401) 10 s ago")
    assert (data["at"], data["gateway"]["address"]) == ("2027-01-15T08:00:10Z", "a:1")
    assert [(key["key"], key["state"], key["cause"], key["since"]) for key in data["keys"]] == [
        ("k1", "retired", "refused (401)", "2027-01-15T08:00:00Z"),
        ("k0", "cooling down", "limited", "2027-01-15T08:00:00Z"),
        ("k2", "valid", "", None),
    ]
    assert data["keys"][0]["next"] == "replace or enable it: gateway keys enable k1"
    assert data["keys"][1]["remaining_seconds"] == 20
    assert [(event["what"], event["times"]) for event in data["events"]] == [
        ("no key left: all are cooling down or retired", 1)
    ]
    assert (data["key_store"], data["last_reload"]) == ({"kind": "the data folder", "state": "up"}, "applied")


def test_a_key_on_trial_is_no_full_member_yet(gateway, clock):
    """Given a key whose cooldown is over and that nobody has tried since, then its row says so."""
    cool(gateway.configuration.pool, 0, 30)
    clock.advance(31)
    row = status_of(gateway).keys[0]
    assert (row.status.word, row.tone, row.status.remaining_seconds) == ("on trial", WARNING, 0)


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
    metrics.count_exhaustion(Exhaustion.RATE_LIMITED)
    status = status_of(gateway)
    row = status.keys[0]
    assert (row.answered, row.failovers) == (7, (("rate limited", 2), ("unauthorized", 1)))
    assert row.limits == (Limit("input tokens", 250, 1000),)
    assert (status.inflight, status.inflight_limit) == (3, gateway.configuration.settings.max_requests)
    assert dict(status.streams)["cut off by the upstream"] == 4
    assert [each.count for each in status.no_key] == [1, 0, 0, 0]
    assert status.no_key[0].last_at > 0
    assert (status.failover_count, status.no_key_count, status.valid_count) == (3, 1, 3)
    assert [event.what for event in status.events] == ["no key left: all are cooling down or retired"]


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

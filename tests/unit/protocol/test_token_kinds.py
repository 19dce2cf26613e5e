"""The kinds of tokens: whatever counts or prices them has each, and the dashboard asks for none that is not there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import msgspec

from gateway.pricing.prices import Price
from gateway.protocol.token_kinds import API_COUNTS, API_LIFETIMES, COUNTED, FIELDS, LIFETIME_FIELDS, LIFETIMES, PRICED
from gateway.protocol.usage import BilledUsage, Usage
from gateway.records.interception_record import TurnUsage
from gateway.telemetry.usage_counters import _Used

DEPLOY = Path(__file__).parents[3] / "deploy"


def test_every_kind_is_counted_where_usage_is_kept() -> None:
    """Given what keeps an answer's counts; then each has a count of every kind."""
    for kept in (BilledUsage, TurnUsage):
        assert {*FIELDS, *LIFETIME_FIELDS} <= {field.name for field in msgspec.structs.fields(kept)}
    assert {*FIELDS, *LIFETIME_FIELDS} <= {field.name for field in fields(Usage)}
    assert _Used._fields == ("name", *COUNTED)


def test_every_priced_kind_has_a_rate() -> None:
    """Given a row of prices; then it has a rate for each kind but a write of no lifetime, which is one of both."""
    assert set(PRICED) <= {field.name for field in fields(Price)}
    assert {*COUNTED, *LIFETIMES} - set(PRICED) == {"cache_write"}


def test_what_the_api_says_is_kept_under_the_gateway_s_names() -> None:
    """Given a usage object that has all counts; then each is kept, under its own kind."""
    usage = Usage()
    lifetimes = dict(zip(API_LIFETIMES, (4, 5), strict=True))
    usage.take(dict(zip(API_COUNTS, (1, 2, 3, 9), strict=True)) | {"cache_creation": lifetimes})
    kept = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    assert [getattr(usage, name) for name in kept] == [1, 2, 3, 9]
    assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (4, 5)


def test_dashboard_and_rules_ask_for_types_that_are_counted() -> None:
    """Given the queries of the dashboard and of the alerts; then each type of token in them is one that is counted."""
    files = [*DEPLOY.glob("grafana/dashboards/*.json"), *DEPLOY.glob("prometheus/rules/*.yml")]
    asked = {kind for file in files for kind in re.findall(r'\btype[!=~]+\\*"(\w+)', file.read_text())}
    assert {"cache_read", "output"} <= asked <= set(COUNTED)

"""What answers have used and cost: the counters, by model and by who asked.

Owns: these metrics, and which of their labels a record counts under. Thread-safe.
"""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client import Counter

from gateway.pricing.money import PICODOLLARS
from gateway.pricing.prices import DEFAULT
from gateway.records.interception_record import InterceptionRecord, TurnUsage
from gateway.telemetry.instruments import OTHER, BoundedLabels, Instruments

_NOBODY = "-"  # no token, no group


class _OfModel(NamedTuple):
    """The counters of what answers of one model have used."""

    name: str
    input: Counter
    output: Counter
    cache_read: Counter
    cache_write: Counter


class UsageCounters:
    """Tokens, and dollars where the pool paid."""

    def __init__(self, instruments: Instruments) -> None:
        self._models = BoundedLabels(limit=100)
        self._askers = BoundedLabels(limit=1000)
        self._groups = BoundedLabels(limit=1000)
        self._of_model: dict[str | None, _OfModel] = {}
        self._spenders: dict[tuple[str | None, str | None], Counter] = {}
        self.tokens = instruments.counter("tokens", "Tokens that answers reported.", "model", "type")
        self._cost_dollars = instruments.counter("cost_dollars", "What answers cost, in dollars.", "model")
        self._token_cost_dollars = instruments.counter(
            "token_cost_dollars", "What answers cost, in dollars, by who asked.", "token", "group"
        )
        self._unpriced_tokens = instruments.counter(
            "unpriced_tokens", "Tokens of models without a price, which cost the default.", "model"
        )

    def count(self, record: InterceptionRecord) -> None:
        """Add what a request has used, and what it cost where the pool paid."""
        cost = record.cost_picodollars
        for used in record.usage:
            of_model = self._of_model.get(used.model) or self._bound_to_model(used.model)
            of_model.input.inc(used.input_tokens)
            of_model.output.inc(used.output_tokens)
            of_model.cache_read.inc(used.cache_read_tokens)
            of_model.cache_write.inc(used.cache_write_tokens)
            if used.cost_picodollars is not None:
                self._cost_dollars.labels(of_model.name).inc(used.cost_picodollars / PICODOLLARS)
            if used.price == DEFAULT:
                self._unpriced_tokens.labels(of_model.name).inc(_charged_tokens(used))
        if cost is not None:
            who = (record.token, record.token_group)
            (self._spenders.get(who) or self._bound_to_spender(*who)).inc(cost / PICODOLLARS)

    def _bound_to_model(self, model: str | None) -> _OfModel:
        """The counters of a model; always the same ones for the same model, so races do no harm."""
        name = self._models.fold(model) if model is not None else "unknown"
        bound = _OfModel(
            name,
            self.tokens.labels(name, "input"),
            self.tokens.labels(name, "output"),
            self.tokens.labels(name, "cache_read"),
            self.tokens.labels(name, "cache_write"),
        )
        if name != OTHER:  # so that these are no more than there are labels
            self._of_model[model] = bound
        return bound

    def _bound_to_spender(self, token: str | None, group: str | None) -> Counter:
        """The counter of what a token has spent; likewise."""
        asker, of_group = self._askers.fold(token or _NOBODY), self._groups.fold(group or _NOBODY)
        bound = self._token_cost_dollars.labels(asker, of_group)
        if OTHER not in (asker, of_group):
            self._spenders[token, group] = bound
        return bound


def _charged_tokens(used: TurnUsage) -> int:
    """All tokens of an inference that have a price; where nothing was said of a cache write's lifetime, it counts."""
    written = max(used.cache_write_tokens, used.cache_write_5m_tokens + used.cache_write_1h_tokens)
    return used.input_tokens + used.cache_read_tokens + written + used.guessed_output_tokens

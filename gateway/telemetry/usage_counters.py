"""What answers have used and cost: the counters, by model and by who asked.

Owns: these metrics, and which of their labels a record counts under. Thread-safe.
"""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client import Counter

from gateway.pricing.money import PICODOLLARS
from gateway.pricing.prices import DEFAULT
from gateway.protocol.token_kinds import COUNTED
from gateway.records.interception_record import InterceptionRecord, TurnUsage
from gateway.telemetry.instruments import OTHER, BoundedLabels, Instruments

_NOBODY = "-"  # no token, no group


class _Used(NamedTuple):
    """The counters of what answers of one model, or to one asker, have used."""

    name: str  # the model's; then as in COUNTED
    input: Counter
    output: Counter
    cache_read: Counter
    cache_write: Counter

    def add(self, used: TurnUsage) -> None:
        """Count an inference. Each count takes a lock, and many are zero."""
        self.input.inc(used.input_tokens)
        self.output.inc(used.output_tokens)
        if used.cache_read_tokens:
            self.cache_read.inc(used.cache_read_tokens)
        if used.cache_write_tokens:
            self.cache_write.inc(used.cache_write_tokens)


class UsageCounters:
    """Tokens, and dollars where the pool paid."""

    def __init__(self, instruments: Instruments) -> None:
        self._models = BoundedLabels(limit=100)
        self._askers = BoundedLabels(limit=1000)
        self._groups = BoundedLabels(limit=1000)
        self._of_model: dict[str | None, _Used] = {}
        self._of_asker: dict[tuple[str | None, str | None], _Used] = {}
        self._spenders: dict[tuple[str | None, str | None], Counter] = {}
        self.tokens = instruments.counter("tokens", "Tokens that answers reported.", "model", "type")
        self._token_usage = instruments.counter(
            "token_usage", "Tokens that answers reported, by who asked.", "token", "group", "type"
        )
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
        who = (record.token, record.token_group)
        for used in record.usage:
            of_model = self._of_model.get(used.model) or self._bound_to_model(used.model)
            of_model.add(used)
            (self._of_asker.get(who) or self._bound_to_asker(*who)).add(used)
            if used.cost_picodollars is not None:
                self._cost_dollars.labels(of_model.name).inc(used.cost_picodollars / PICODOLLARS)
            if used.price == DEFAULT:
                self._unpriced_tokens.labels(of_model.name).inc(_charged_tokens(used))
        if cost is not None:
            (self._spenders.get(who) or self._bound_to_spender(*who)).inc(cost / PICODOLLARS)

    def _bound_to_model(self, model: str | None) -> _Used:
        """The counters of a model; always the same ones for the same model, so races do no harm."""
        name = self._models.fold(model) if model is not None else "unknown"
        bound = _Used(name, *(self.tokens.labels(name, of_type) for of_type in COUNTED))
        if name != OTHER:  # so that these are no more than there are labels
            self._of_model[model] = bound
        return bound

    def _bound_to_asker(self, token: str | None, group: str | None) -> _Used:
        """The counters of what a token has used; likewise."""
        asker, of_group = self._folded(token, group)
        bound = _Used("", *(self._token_usage.labels(asker, of_group, of_type) for of_type in COUNTED))
        if OTHER not in (asker, of_group):
            self._of_asker[token, group] = bound
        return bound

    def _bound_to_spender(self, token: str | None, group: str | None) -> Counter:
        """The counter of what a token has spent; likewise."""
        asker, of_group = self._folded(token, group)
        bound = self._token_cost_dollars.labels(asker, of_group)
        if OTHER not in (asker, of_group):
            self._spenders[token, group] = bound
        return bound

    def _folded(self, token: str | None, group: str | None) -> tuple[str, str]:
        return self._askers.fold(token or _NOBODY), self._groups.fold(group or _NOBODY)


def _charged_tokens(used: TurnUsage) -> int:
    """All tokens of an inference that have a price; where nothing was said of a cache write's lifetime, it counts."""
    written = max(used.cache_write_tokens, used.cache_write_5m_tokens + used.cache_write_1h_tokens)
    return used.input_tokens + used.cache_read_tokens + written + used.guessed_output_tokens

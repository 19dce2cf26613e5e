"""Everything that the gateway counts, and how Prometheus reads it.

Owns: the registry and every metric's name, labels and buckets; docs/observability.md has their table,
and a test compares the two. May use the pure layer and `moment`, which reads what belongs to the present moment when
Prometheus asks.
Thread-safe: prometheus-client's metrics lock themselves.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Self

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.values import MutexValue

from gateway.config.limit_rules import LimitUse
from gateway.keys.overview import Statuses
from gateway.pricing.money import PICODOLLARS
from gateway.pricing.prices import DEFAULT
from gateway.protocol.counts import count_in
from gateway.protocol.safe_text import safe_text
from gateway.records.interception_record import InterceptionRecord, TurnUsage
from gateway.runtime.shared_counts import SharedCounts
from gateway.telemetry.moment import ASKED, Moment

# Their `_created` series would double what Prometheus stores, and nothing here reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
_NOBODY = "-"  # no token, no group

# What becomes of several workers' values: their sum, maximum or minimum over live ones, their maximum over all, or
# whichever was set last.
GaugeMode = Literal["livesum", "livemax", "livemin", "max", "mostrecent"]

_DURATION_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_STREAM_OUTCOMES = (
    *("completed", "upstream_error", "truncated"),
    *("client_disconnected", "idle_timeout", "drained"),
)
_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens")


class BoundedLabels:
    """Keeps a label's values to the first `limit` ones seen; later ones are `other`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()  # guards _seen
        self._seen: set[str] = set()

    def fold(self, value: str) -> str:
        """The value itself, or `other` past the limit."""
        if value in self._seen:
            return value
        with self._lock:
            if len(self._seen) < self._limit:
                self._seen.add(value)
                return value
        return OTHER


class _Bound(MetricWrapperBase):
    """Remembers a metric's children by their labels: prometheus-client itself looks them up under a lock, as texts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._bound: dict[tuple[object, ...], Self] = {}
        super().__init__(*args, **kwargs)

    def labels(self, *labelvalues: object, **labelkwargs: object) -> Self:
        """The child of these labels; always the same one for the same labels, so races do no harm."""
        if labelkwargs:
            return super().labels(*labelvalues, **labelkwargs)
        child = self._bound.get(labelvalues)
        if child is None:
            child = self._bound[labelvalues] = super().labels(*labelvalues)
        return child


class _Counter(_Bound, Counter):
    """A Counter that remembers."""


class _Gauge(_Bound, Gauge):
    """A Gauge that remembers."""


class _Histogram(_Bound, Histogram):
    """A Histogram that remembers."""


class _OfModel(NamedTuple):
    """The counters of what answers of one model have used."""

    name: str
    input: Counter
    output: Counter
    cache_read: Counter
    cache_write: Counter


_READINGS = 5  # of the files of counts, for one that tells something


class _AllWorkers(Collector):
    """What all workers have counted, and the present moment."""

    def __init__(self, counts: SharedCounts, mcp_servers: Collection[str], moment: Moment | None) -> None:
        self._counts = counts
        self._mcp_servers = mcp_servers
        self._moment = moment

    def collect(self) -> Iterable[Metric]:
        merged = self._merged()
        for metric in merged:
            if metric.name == "gateway_mcp_server_up":  # a file keeps what a reload has taken out
                metric.samples = [sample for sample in metric.samples if sample.labels["server"] in self._mcp_servers]
        return [*merged, *self._moment.families(merged)] if self._moment is not None else merged

    def _merged(self) -> list[Metric]:
        for left in reversed(range(_READINGS)):
            try:
                return list(MultiProcessCollector.merge(self._counts.paths()))  # type: ignore[no-untyped-call]
            except (OSError, ValueError, LookupError, struct.error):
                # A file was removed, or begun anew by the next worker in its slot, while it was read: so it is by now.
                if not left:
                    raise
        return []


class Metrics:
    """The gateway's metrics, by name. Units are in the names; label values come from bounded sets.

    With `counts` any worker answers for all: counters are summed, those of dead workers included, gauges of the moment
    over live ones only. A process has one of these.
    """

    def __init__(self, counts: SharedCounts | None = None) -> None:
        values.ValueClass = counts.value if counts is not None else MutexValue  # where prometheus-client looks it up
        self.registry = CollectorRegistry()
        self._counts = counts
        self._moment: Moment | None = None
        self._models = BoundedLabels(limit=100)
        self._of_model: dict[str | None, _OfModel] = {}
        self._spenders: dict[tuple[str | None, str | None], Counter] = {}
        self._tools = BoundedLabels(limit=1000)
        self._scopes = BoundedLabels(limit=50)
        self._askers = BoundedLabels(limit=1000)
        self._groups = BoundedLabels(limit=1000)
        self._holders = BoundedLabels(limit=1000)
        self.mcp_servers: Collection[str] = ()  # the names of those that are configured now
        self.key_attempts = self._counter("key_attempts", "Upstream exchanges by key.", "key", "outcome")
        self.key_failovers = self._counter(
            "key_failovers", "Answers of a key thrown away for another key's.", "key", "reason"
        )
        self.key_transitions = self._counter("key_transitions", "Changes of a key's state by a mark.", "key", "state")
        self.key_looks = self._counter("key_looks", "Looks at keys beside the requests.", "key", "outcome")
        self.pool_exhaustions = self._counter("pool_exhaustions", "Turns that found no usable key.", "outcome")
        self.pool_exhausted_at = self._gauge(
            "pool_last_exhaustion_timestamp_seconds", "When a turn last found no usable key.", "max", "outcome"
        )
        self.failover_attempts = Histogram(
            "gateway_failover_attempts",
            "Keys tried in a turn.",
            buckets=(1, 2, 3, 4, 5, 10, 25),
            registry=self.registry,
        )
        self.requests = self._counter("requests", "Answered requests.", "route", "credential", "status")
        self.requests_admitted = self._counter("requests_admitted", "Requests that were let in, and so have a record.")
        self.requests_inflight = self._gauge("requests_inflight", "Requests being served.", "livesum", "route")
        self.request_duration = self._histogram(
            "request_duration_seconds", "From a request's head to the last byte.", "route", "mode"
        )
        self.time_to_first_event = self._histogram(
            "time_to_first_event_seconds", "From a request's head to the first event relayed."
        )
        self.streams_ended = self._counter("streams_ended", "Streams by how they ended.", "outcome")
        self.rejections = self._counter("rejections", "Requests refused without an upstream call.", "reason")
        self.limit_refusals = self._counter(
            "limit_refusals", "Requests refused by a limit of the client's, or of its group.", "limit", "kind", "name"
        )
        self.tokens = self._counter("tokens", "Tokens that answers reported.", "model", "type")
        self.cost_dollars = self._counter("cost_dollars", "What answers cost, in dollars.", "model")
        self.token_cost_dollars = self._counter(
            "token_cost_dollars", "What answers cost, in dollars, by who asked.", "token", "group"
        )
        self.unpriced_tokens = self._counter(
            "unpriced_tokens", "Tokens of models without a price, which cost the default.", "model"
        )
        self.tool_calls = self._counter(
            "tool_calls", "Calls of injected tools by how they ended.", "server", "tool", "outcome"
        )
        self.tool_call_duration = self._histogram("tool_call_duration_seconds", "From a call to its result.", "server")
        self.key_ratelimit_limit = self._gauge(
            "key_ratelimit_limit",
            "The upstream's limit, as its last answer gave it.",
            "mostrecent",
            *("key", "scope", "limit"),
        )
        self.key_ratelimit_remaining = self._gauge(
            "key_ratelimit_remaining",
            "What is left of it, as the last answer gave it.",
            "mostrecent",
            *("key", "scope", "limit"),
        )
        self.scope_asked_at = self._gauge(
            ASKED.removeprefix("gateway_"), "When a key was last looked for, for a scope.", "max", "scope"
        )
        self._noted_asked: dict[str, float] = {}  # by scope; single steps of a dict are atomic
        self.recorder_dropped = self._counter("recorder_dropped", "Records of interceptions that were lost.", "reason")
        self.recorder_written = self._counter("recorder_written", "Records that lie on disk or in the database.")
        self.recorder_queue_length = self._gauge(
            "recorder_queue_length", "Records that wait to be stored in the database.", "livesum"
        )
        self.mcp_server_up = self._gauge(
            "mcp_server_up", "Whether every worker is in touch with an MCP server.", "livemin", "server"
        )
        self.mcp_listing_failures = self._counter(
            "mcp_listing_failures", "Failures to list an MCP server's tools, retries included.", "server"
        )
        self._rate_limits = {
            f"anthropic-ratelimit-{limit}-{kind}": (gauge, limit.replace("-", "_"))
            for limit in _LIMITS
            for kind, gauge in (("limit", self.key_ratelimit_limit), ("remaining", self.key_ratelimit_remaining))
        }
        self._noted_limits: dict[tuple[str, str, str], str] = {}  # by key, scope and header; atomic likewise
        self.admission_limit = self._gauge("admission_limit", "Interceptions all workers serve at once.", "livesum")
        self.build_info = self._gauge("build_info", "Always 1; the version is the label.", "livemax", "version")
        for counter, shown in (
            (
                self.pool_exhaustions,
                (
                    "rate_limited",
                    "auth_failed",
                    "out_of_money",
                    "forbidden",
                ),
            ),
            (self.streams_ended, _STREAM_OUTCOMES),
            (self.rejections, ("overloaded_error",)),
            (
                self.recorder_dropped,
                (
                    "queue_full",
                    "journal_full",
                    "damaged",
                    "refused",
                ),
            ),
        ):
            _begin_at_zero(counter, *shown)

    def watch(
        self,
        statuses: Statuses,
        reload_ok: Callable[[], bool],
        store_up: Callable[[], bool],
        limit_uses: Callable[[], Iterable[LimitUse]] = tuple,
    ) -> None:
        """Read key states, the last reload's result, the store's reach and the limits from these at every scrape."""
        self._moment = Moment(statuses, reload_ok, store_up, self.scope_asked_at.collect, self._scopes.fold, limit_uses)
        self.registry.register(self._moment)

    def count_refusal(self, route: str, status: int, kind: str) -> None:
        """Count a request that was refused before it was admitted; `kind` is the error's type."""
        self.requests.labels(route, "none", status).inc()
        self.rejections.labels(kind).inc()

    def count_limit_refusal(self, limit: str, kind: str, name: str) -> None:
        """Count a request that a limit of a group or a token has refused."""
        self.limit_refusals.labels(limit, kind, self._holders.fold(name)).inc()

    def count_exhaustion(self, outcome: str) -> None:
        """Count a turn that found no usable key, now."""
        self.pool_exhaustions.labels(outcome).inc()
        self.pool_exhausted_at.labels(outcome).set_to_current_time()

    def count_usage(self, record: InterceptionRecord) -> None:
        """Add what a request has used, and what it cost where the pool paid."""
        cost = record.cost_picodollars
        for used in record.usage:
            of_model = self._of_model.get(used.model) or self._bound_to_model(used.model)
            of_model.input.inc(used.input_tokens)
            of_model.output.inc(used.output_tokens)
            of_model.cache_read.inc(used.cache_read_tokens)
            of_model.cache_write.inc(used.cache_write_tokens)
            if used.cost_picodollars is not None:
                self.cost_dollars.labels(of_model.name).inc(used.cost_picodollars / PICODOLLARS)
            if used.price == DEFAULT:
                self.unpriced_tokens.labels(of_model.name).inc(_charged_tokens(used))
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
        bound = self.token_cost_dollars.labels(asker, of_group)
        if OTHER not in (asker, of_group):
            self._spenders[token, group] = bound
        return bound

    def count_tool_call(self, server: str, tool: str, outcome: str, seconds: float | None) -> None:
        """Count one call of an injected tool, and how long it took if it was made."""
        self.tool_calls.labels(server, self._tools.fold(safe_text(tool)), outcome).inc()
        if seconds is not None:
            self.tool_call_duration.labels(server).observe(seconds)

    def note_asked(self, scope: str) -> None:
        """A key is looked for, for this scope: for `settle` to write."""
        self._noted_asked[self._scopes.fold(scope)] = time.time()

    def note_rate_limits(self, key: str, scope: str, headers: Mapping[str, str]) -> None:
        """Keep what an answer's `anthropic-ratelimit-*` headers say of its key's limits, for `settle` to write."""
        for name in self._rate_limits:
            if name in headers:
                self._noted_limits[key, self._scopes.fold(scope), name] = headers[name]

    def settle(self) -> None:
        """Write what was noted since the last time: of many answers only the last one's limits matter."""
        for scope in list(self._noted_asked):
            at = self._noted_asked.pop(scope, None)  # another thread may have been quicker
            if at is not None:
                self.scope_asked_at.labels(scope).set(at)
        for key, scope, name in list(self._noted_limits):
            value = self._noted_limits.pop((key, scope, name), "")
            count = count_in(value)
            if count is not None:
                gauge, limit = self._rate_limits[name]
                gauge.labels(key, scope, limit).set(count)
        if self._counts is not None:
            self._counts.settle()

    def dropped(self, reason: str, number: int) -> None:
        """Count records that are lost."""
        self.recorder_dropped.labels(reason).inc(number)

    def written(self, number: int) -> None:
        """So many records outlive this worker now, however it ends."""
        self.recorder_written.inc(number)

    def waiting(self, number: int) -> None:
        """So many of this worker's records wait to be stored."""
        self.recorder_queue_length.set(number)

    def of_all_workers(self) -> CollectorRegistry:
        """What all workers have counted, and the present moment."""
        self.settle()
        if self._counts is None:
            return self.registry
        everybodys = CollectorRegistry()
        everybodys.register(_AllWorkers(self._counts, self.mcp_servers, self._moment))
        return everybodys

    def render(self) -> bytes:
        """The text exposition format, https://prometheus.io/docs/instrumenting/exposition_formats/."""
        return generate_latest(self.of_all_workers())

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return _Counter(f"gateway_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, mode: GaugeMode, *labels: str) -> Gauge:
        return _Gauge(f"gateway_{name}", meaning, labels, registry=self.registry, multiprocess_mode=mode)

    def _histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        return _Histogram(f"gateway_{name}", meaning, labels, buckets=_DURATION_BUCKETS, registry=self.registry)


def _begin_at_zero(counter: Counter, *values: str) -> None:
    """Show these label values before their first count: from nothing to 1 is no increase to Prometheus."""
    for value in values:
        counter.labels(value)


def _charged_tokens(used: TurnUsage) -> int:
    """All tokens of an inference that have a price; where nothing was said of a cache write's lifetime, it counts."""
    written = max(used.cache_write_tokens, used.cache_write_5m_tokens + used.cache_write_1h_tokens)
    return used.input_tokens + used.cache_read_tokens + written + used.guessed_output_tokens

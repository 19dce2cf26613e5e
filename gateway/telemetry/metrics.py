"""Everything that the gateway counts, and how Prometheus reads it.

Owns: the list of all metrics with their names and labels; docs/observability.md has their table, and a test compares
the two. `usage_counters` has what answers use and cost; `moment` reads what belongs to the moment when Prometheus
asks. Thread-safe: prometheus-client's metrics lock themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.values import MutexValue

from gateway.config.limit_rules import LimitUse
from gateway.keys.overview import Statuses
from gateway.protocol.counts import count_in
from gateway.protocol.outcomes import STREAM_ENDINGS, Exhaustion, ToolOutcome
from gateway.protocol.safe_text import safe_text
from gateway.runtime.shared_counts import SharedCounts
from gateway.telemetry.all_workers import AllWorkers
from gateway.telemetry.instruments import BoundedLabels, Instruments, begin_at_zero
from gateway.telemetry.moment import ASKED, Moment
from gateway.telemetry.outage import outage_of_database
from gateway.telemetry.recent import Recent
from gateway.telemetry.usage_counters import UsageCounters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Those that an answer's `anthropic-ratelimit-*` headers tell of, by the label that they have here.
RATE_LIMITS = ("requests", "tokens", "input_tokens", "output_tokens")


class Metrics:
    """The gateway's metrics, by name. Units are in the names; label values come from bounded sets.

    With `counts` any worker answers for all: counters are summed, those of dead workers included, gauges of the moment
    over live ones only. A process has one of these. `recent` hears of what the status page tells of the last minutes.
    """

    def __init__(self, counts: SharedCounts | None = None, recent: Recent | None = None) -> None:
        values.ValueClass = counts.value if counts is not None else MutexValue  # where prometheus-client looks it up
        instruments = Instruments()
        self.registry = instruments.registry
        self.recent = recent if recent is not None else Recent()
        self._database_outage = outage_of_database(self.recent)
        self._counts = counts
        self._moment: Moment | None = None
        self._tools = BoundedLabels(limit=1000)
        self._scopes = BoundedLabels(limit=50)
        self._holders = BoundedLabels(limit=1000)
        self.mcp_servers: Collection[str] = ()  # the names of those that are configured now
        self.key_attempts = instruments.counter("key_attempts", "Upstream exchanges by key.", "key", "outcome")
        self.key_failovers = instruments.counter(
            "key_failovers", "Answers of a key thrown away for another key's.", "key", "reason"
        )
        self.key_transitions = instruments.counter(
            "key_transitions", "Changes of a key's state by a mark.", "key", "state"
        )
        self.key_looks = instruments.counter("key_looks", "Looks at keys beside the requests.", "key", "outcome")
        self.pool_exhaustions = instruments.counter("pool_exhaustions", "Turns that found no usable key.", "outcome")
        self.pool_exhausted_at = instruments.gauge(
            "pool_last_exhaustion_timestamp_seconds", "When a turn last found no usable key.", "max", "outcome"
        )
        self.failover_attempts = instruments.histogram(
            "failover_attempts", "Keys tried in a turn.", buckets=(1, 2, 3, 4, 5, 10, 25)
        )
        self.requests = instruments.counter("requests", "Answered requests.", "route", "credential", "status")
        self.requests_admitted = instruments.counter(
            "requests_admitted", "Requests that were let in, and so have a record."
        )
        self.requests_inflight = instruments.gauge("requests_inflight", "Requests being served.", "livesum", "route")
        self.request_duration = instruments.histogram(
            "request_duration_seconds", "From a request's head to the last byte.", "route", "mode"
        )
        self.time_to_first_event = instruments.histogram(
            "time_to_first_event_seconds", "From a request's head to the first event relayed."
        )
        self.streams_ended = instruments.counter("streams_ended", "Streams by how they ended.", "outcome")
        self.rejections = instruments.counter("rejections", "Requests refused without an upstream call.", "reason")
        self.limit_refusals = instruments.counter(
            "limit_refusals", "Requests refused by a limit of the client's, or of its group.", "limit", "kind", "name"
        )
        self.usage = UsageCounters(instruments)
        self.tool_calls = instruments.counter(
            "tool_calls", "Calls of injected tools by how they ended.", "server", "tool", "outcome"
        )
        self.tool_call_duration = instruments.histogram(
            "tool_call_duration_seconds", "From a call to its result.", "server"
        )
        self.key_ratelimit_limit = instruments.gauge(
            "key_ratelimit_limit",
            "The upstream's limit, as its last answer gave it.",
            "mostrecent",
            *("key", "scope", "limit"),
        )
        self.key_ratelimit_remaining = instruments.gauge(
            "key_ratelimit_remaining",
            "What is left of it, as the last answer gave it.",
            "mostrecent",
            *("key", "scope", "limit"),
        )
        self.scope_asked_at = instruments.gauge(
            ASKED.removeprefix("gateway_"), "When a key was last looked for, for a scope.", "max", "scope"
        )
        self._noted_asked: dict[str, float] = {}  # by scope; single steps of a dict are atomic
        self.recorder_dropped = instruments.counter(
            "recorder_dropped", "Records of interceptions that were lost.", "reason"
        )
        self.recorder_written = instruments.counter("recorder_written", "Records that lie on disk or in the database.")
        self.recorder_queue_length = instruments.gauge(
            "recorder_queue_length", "Records that wait to be stored in the database.", "livesum"
        )
        self.recorder_up = instruments.gauge(
            "recorder_up", "Whether the database takes every worker's records.", "livemin"
        )
        self.recorder_up.set(1)  # until it is known to be otherwise
        self.mcp_server_up = instruments.gauge(
            "mcp_server_up", "Whether every worker is in touch with an MCP server.", "livemin", "server"
        )
        self.mcp_listing_failures = instruments.counter(
            "mcp_listing_failures", "Failures to list an MCP server's tools, retries included.", "server"
        )
        self._rate_limits = {
            f"anthropic-ratelimit-{limit.replace('_', '-')}-{kind}": (gauge, limit)
            for limit in RATE_LIMITS
            for kind, gauge in (("limit", self.key_ratelimit_limit), ("remaining", self.key_ratelimit_remaining))
        }
        self._noted_limits: dict[tuple[str, str, str], str] = {}  # by key, scope and header; atomic likewise
        self.admission_limit = instruments.gauge(
            "admission_limit", "Interceptions all workers serve at once.", "livesum"
        )
        self.build_info = instruments.gauge("build_info", "Always 1; the version is the label.", "livemax", "version")
        for counter, shown in (
            (self.pool_exhaustions, [why.value for why in Exhaustion]),
            (self.streams_ended, [ending.value for ending in STREAM_ENDINGS]),
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
            begin_at_zero(counter, *shown)

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
        self.recent.refused(route, status)

    def count_limit_refusal(self, limit: str, kind: str, name: str) -> None:
        """Count a request that a limit of a group or a token has refused."""
        self.limit_refusals.labels(limit, kind, self._holders.fold(name)).inc()

    def count_exhaustion(self, why: Exhaustion) -> None:
        """Count a turn that found no usable key, now."""
        self.pool_exhaustions.labels(why.value).inc()
        self.pool_exhausted_at.labels(why.value).set_to_current_time()
        self.recent.exhausted(why)

    def count_tool_call(self, server: str, tool: str, outcome: ToolOutcome, seconds: float | None) -> None:
        """Count one call of an injected tool, and how long it took if it was made."""
        self.tool_calls.labels(server, self._tools.fold(safe_text(tool)), outcome.value).inc()
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

    def stores(self, is_up: bool) -> None:
        """The database takes this worker's records, or does not."""
        self.recorder_up.set(float(is_up))
        self._database_outage.note(is_up)

    def of_all_workers(self) -> CollectorRegistry:
        """What all workers have counted, and the present moment."""
        self.settle()
        if self._counts is None:
            return self.registry
        everybodys = CollectorRegistry()
        everybodys.register(AllWorkers(self._counts, self.mcp_servers, self._moment))
        return everybodys

    def render(self) -> bytes:
        """The text exposition format, https://prometheus.io/docs/instrumenting/exposition_formats/."""
        return generate_latest(self.of_all_workers())

"""What is counted: names, labels, bounds, the state of the moment, and what several workers make of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.config.limit_rules import Limited, Limits, LimitUse
from gateway.keys.places import Place
from gateway.keys.pool import Pool
from gateway.keys.verdict import Concern
from gateway.protocol.outcomes import STREAM_ENDINGS, Exhaustion, ToolOutcome
from gateway.runtime.counts_folder import CountsFolder
from gateway.server import master
from gateway.telemetry.instruments import BoundedLabels
from gateway.telemetry.metrics import Metrics
from tests.record_samples import record_of, usage_of
from tests.unit.fakes import FakeClock, cool, keys_of, pool_of, race, retire


def samples_of(page: str) -> dict[tuple[str, frozenset], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def samples(metrics: Metrics) -> dict[tuple[str, frozenset], float]:
    return samples_of(metrics.render().decode())


def value_of(found: dict[tuple[str, frozenset], float], name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return value_of(samples(metrics), name, **labels)


# The design's list.
DESIGNED = {
    "gateway_key_state": {"key", "state"},
    "gateway_key_cooldown_seconds": {"key", "scope"},
    "gateway_key_attempts": {"key", "outcome"},
    "gateway_key_failovers": {"key", "reason"},
    "gateway_key_transitions": {"key", "state"},
    "gateway_key_looks": {"key", "outcome"},
    "gateway_key_ratelimit_remaining": {"key", "scope", "limit"},
    "gateway_key_ratelimit_limit": {"key", "scope", "limit"},
    "gateway_scope_usable_keys": {"scope"},
    "gateway_scope_last_asked_timestamp_seconds": {"scope"},
    "gateway_pool_exhaustions": {"outcome"},
    "gateway_pool_last_exhaustion_timestamp_seconds": {"outcome"},
    "gateway_failover_attempts": set(),
    "gateway_requests": {"route", "credential", "status"},
    "gateway_requests_inflight": {"route"},
    "gateway_request_duration_seconds": {"route", "mode"},
    "gateway_time_to_first_event_seconds": set(),
    "gateway_streams_ended": {"outcome"},
    "gateway_rejections": {"reason"},
    "gateway_limit_refusals": {"limit", "kind", "name"},
    "gateway_limit_used_ratio": {"limit", "kind", "name"},
    "gateway_tokens": {"model", "type"},
    "gateway_cost_dollars": {"model"},
    "gateway_token_usage": {"token", "group", "type"},
    "gateway_token_cost_dollars": {"token", "group"},
    "gateway_unpriced_tokens": {"model"},
    "gateway_admission_limit": set(),
    "gateway_tool_calls": {"server", "tool", "outcome"},
    "gateway_tool_call_duration_seconds": {"server"},
    "gateway_recorder_queue_length": set(),
    "gateway_recorder_up": set(),
    "gateway_recorder_dropped": {"reason"},
    "gateway_recorder_written": set(),
    "gateway_requests_admitted": set(),
    "gateway_mcp_server_up": {"server"},
    "gateway_mcp_listing_failures": {"server"},
    "gateway_config_reload_success": set(),
    "gateway_store_up": set(),
    "gateway_build_info": {"version"},
}


def always() -> bool:
    return True


def no_keys(_: str | None) -> list:
    return []


def watch(metrics: Metrics, statuses=no_keys, reload_ok=always, store_up=always, limit_uses=tuple) -> None:
    metrics.watch(statuses, reload_ok, store_up, limit_uses)


def uses_of_ann() -> list[LimitUse]:
    return [LimitUse(Limited("token", "ann", Limits(concurrent=4)), "concurrent", 3, 4, None)]


def exercised(metrics: Metrics) -> Metrics:
    """Metrics that have a sample in every family."""
    pool = pool_of(1)
    watch(metrics, statuses=pool.statuses, limit_uses=uses_of_ann)
    metrics.key_attempts.labels("k0", "ok").inc()
    metrics.key_failovers.labels("k0", "rate_limited").inc()
    metrics.key_transitions.labels("k0", "temporary").inc()
    metrics.key_looks.labels("k0", "accepted").inc()
    metrics.note_asked("messages/opus-4")
    metrics.count_exhaustion(Exhaustion.RATE_LIMITED)
    metrics.failover_attempts.observe(2)
    metrics.requests.labels("messages", "pooled", 200).inc()
    metrics.requests_inflight.labels("messages").inc()
    metrics.request_duration.labels("messages", "streamed").observe(1)
    metrics.time_to_first_event.observe(1)
    metrics.streams_ended.labels("completed").inc()
    metrics.rejections.labels("not_found_error").inc()
    metrics.count_limit_refusal("concurrent", "token", "ann")
    metrics.usage.count(record_of(1, usage=(usage_of(price="default"),)))
    metrics.count_tool_call("time", "now", ToolOutcome.OK, 0.5)
    metrics.note_rate_limits("k0", "models", {"anthropic-ratelimit-requests-limit": "9"})
    metrics.note_rate_limits("k0", "models", {"anthropic-ratelimit-requests-remaining": "8"})
    metrics.waiting(3)
    metrics.requests_admitted.inc()
    metrics.written(2)
    metrics.dropped("queue_full", 1)
    metrics.mcp_servers = {"time"}
    metrics.mcp_server_up.labels("time").set(1)
    metrics.mcp_listing_failures.labels("time").inc()
    metrics.admission_limit.set(5)
    metrics.build_info.labels("1").set(1)
    return metrics


def families(page: bytes) -> dict[str, set[str]]:
    """The names of the families on a page, and the labels of each."""
    return {
        family.name: set().union(*(sample.labels for sample in family.samples)) - {"le"}
        for family in text_string_to_metric_families(page.decode())
    }


def test_names_and_labels_are_the_design_s():
    """Given every metric in use, then the families, their labels and no others are rendered."""
    assert families(exercised(Metrics()).render()) == DESIGNED


def test_attempts_of_a_turn_fall_into_the_design_s_buckets():
    """Given the histogram of attempts, then its buckets are 1 2 3 4 5 10 25 and infinity."""
    found = samples(exercised(Metrics()))
    named = {dict(labels)["le"] for name, labels in found if name == "gateway_failover_attempts_bucket"}
    assert {float(edge) for edge in named} == {1, 2, 3, 4, 5, 10, 25, float("inf")}


def test_no_created_series_are_rendered():
    """Given counters and histograms, then their `_created` series, which nobody reads, are left out."""
    assert b"_created" not in exercised(Metrics()).render()


def test_key_states_are_those_of_the_scrape():
    """Given a cooling and a retired key, when scraped, then one state of each is 1; time alone brings a key back."""
    clock, metrics = FakeClock(), Metrics()
    pool = pool_of(3, clock)
    watch(metrics, statuses=pool.statuses)
    cool(pool, 1, 5)
    retire(pool, 2)

    def states() -> dict[str, list[str]]:
        names = ("valid", "temporary", "permanent")
        return {
            key.name: [state for state in names if value(metrics, "gateway_key_state", key=key.name, state=state) == 1]
            for key in keys_of(3)
        }

    assert states() == {"k0": ["valid"], "k1": ["temporary"], "k2": ["permanent"]}
    assert value(metrics, "gateway_key_state", key="k0", state="temporary") == 0
    assert value(metrics, "gateway_key_cooldown_seconds", key="k1", scope="all") == 5
    assert value(metrics, "gateway_key_cooldown_seconds", key="k2", scope="all") == 0
    clock.advance(5)
    assert states()["k1"] == ["valid"]
    assert value(metrics, "gateway_key_cooldown_seconds", key="k1", scope="all") == 0


def limit(pool: Pool, number: int, scope: str, seconds: float) -> None:
    pool.cool(pool.statuses(scope)[number], seconds, "rate_limited", 429, Concern.SCOPE)


def test_cooldowns_are_told_for_each_scope():
    """Given a key that is limited for one class, and two of a workspace, then cooldowns have scopes, the sibling's
    too."""
    metrics, pool = Metrics(), pool_of(3)
    watch(metrics, statuses=pool.statuses)
    for key in pool.keys:
        pool.learn(key, Place("org-a", "ws-1"))
    limit(pool, 0, "messages/opus-4", 5)
    limit(pool, 1, "messages/opus-4", 9)

    def cooldown(key: str, scope: str) -> float | None:
        return value(metrics, "gateway_key_cooldown_seconds", key=key, scope=scope)

    assert [cooldown(key, "messages/opus-4") for key in ("k0", "k1", "k2")] == [5, 9, 5]
    assert [cooldown(key, "all") for key in ("k0", "k1", "k2")] == [0, 0, 0]
    assert value(metrics, "gateway_key_state", key="k2", state="temporary") == 1


def test_usable_keys_are_counted_for_scopes_asked_for_lately():
    """Given scopes asked for now and long ago, then the usable keys of the former are told, doubtful ones included."""
    metrics, pool = Metrics(), pool_of(3)
    watch(metrics, statuses=pool.statuses)
    limit(pool, 0, "messages/opus-4", 5)
    retire(pool, 2)
    for scope in ("messages/opus-4", "messages/sonnet-4", "models"):
        metrics.note_asked(scope)
    metrics.settle()
    metrics.scope_asked_at.labels("models").set(time.time() - 601)
    assert value(metrics, "gateway_scope_usable_keys", scope="messages/opus-4") == 1
    assert value(metrics, "gateway_scope_usable_keys", scope="messages/sonnet-4") == 2
    assert value(metrics, "gateway_scope_usable_keys", scope="models") is None


def test_scopes_are_bounded():
    """Given more scopes than a label may have values, then the later ones are one, and it has no usable keys."""
    metrics = Metrics()
    watch(metrics, statuses=pool_of(1).statuses)
    for number in range(60):
        metrics.note_asked(f"messages/model-{number}")
    page = metrics.render().decode()
    assert page.count("gateway_scope_last_asked_timestamp_seconds{") == 51
    assert page.count("gateway_scope_usable_keys{") == 50


@pytest.mark.parametrize("is_ok", [True, False])
def test_reload_success_is_that_of_the_scrape(is_ok):
    """Given the last reload's result, then it is what is rendered."""
    metrics = Metrics()
    watch(metrics, reload_ok=lambda: is_ok)
    assert value(metrics, "gateway_config_reload_success") == is_ok


def test_store_s_reach_is_that_of_the_scrape():
    """Given a shared store that comes and goes, then what is rendered is whether it is in reach now."""
    metrics, reach = Metrics(), [True]
    watch(metrics, store_up=lambda: reach[-1])
    assert value(metrics, "gateway_store_up") == 1
    reach.append(False)
    assert value(metrics, "gateway_store_up") == 0


def test_a_refusal_is_counted_as_a_request_and_as_a_rejection():
    """Given requests refused before they were admitted, then both counters have them, without a credential."""
    metrics = Metrics()
    metrics.count_refusal("messages", 401, "authentication_error")
    metrics.count_refusal("models", 401, "authentication_error")
    labels = {"credential": "none", "status": "401"}
    assert value(metrics, "gateway_requests_total", route="messages", **labels) == 1
    assert value(metrics, "gateway_rejections_total", reason="authentication_error") == 2


@pytest.mark.parametrize(
    ("name", "text", "gauge", "limit", "expected"),
    [
        ("anthropic-ratelimit-requests-limit", "50", "limit", "requests", 50),
        ("anthropic-ratelimit-requests-remaining", "0", "remaining", "requests", 0),
        ("anthropic-ratelimit-tokens-remaining", "123456789", "remaining", "tokens", 123456789),
        ("anthropic-ratelimit-input-tokens-limit", "7", "limit", "input_tokens", 7),
        ("anthropic-ratelimit-output-tokens-remaining", "8", "remaining", "output_tokens", 8),
        ("anthropic-ratelimit-requests-limit", "many", "limit", "requests", None),
        ("anthropic-ratelimit-requests-limit", "-1", "limit", "requests", None),
        ("anthropic-ratelimit-requests-limit", "", "limit", "requests", None),
        ("anthropic-ratelimit-requests-limit", "9" * 400, "limit", "requests", None),
        ("anthropic-ratelimit-requests-limit", "1" + "0" * 12, "limit", "requests", 10**12),
        ("anthropic-ratelimit-requests-limit", "1" + "0" * 13, "limit", "requests", None),
        ("anthropic-ratelimit-requests-limit", "NaN", "limit", "requests", None),
        ("anthropic-ratelimit-requests-limit", "1e3", "limit", "requests", None),
        ("anthropic-ratelimit-requests-limit", "²", "limit", "requests", None),
        ("anthropic-ratelimit-requests-reset", "2027-01-15T08:00:00Z", "limit", "requests", None),
        ("anthropic-ratelimit-attacker-limit", "5", "limit", "attacker", None),
        ("x-anthropic-ratelimit-requests-limit", "5", "limit", "requests", None),
    ],
)
def test_limits_are_noted_from_headers(name, text, gauge, limit, expected):
    """Given a header of an answer, then the key's gauge has its number, if it is one and its name is known."""
    metrics = Metrics()
    metrics.note_rate_limits("k0", "models", {name: text})
    assert value(metrics, f"gateway_key_ratelimit_{gauge}", key="k0", scope="models", limit=limit) == expected
    if expected is None:
        assert not [found for found, _ in samples(metrics) if found.startswith("gateway_key_ratelimit")]


def test_limits_are_read_when_they_are_asked_for():
    """Given what is used of limits, then each scrape shows the share of now, and refusals are counted by limit."""
    metrics, used = Metrics(), [1]
    pool = Limited("group", "research", Limits(concurrent=4))
    watch(metrics, limit_uses=lambda: [LimitUse(pool, "concurrent", used[-1], 4, None)])
    labels = frozenset({"limit": "concurrent", "kind": "group", "name": "research"}.items())
    assert samples(metrics)["gateway_limit_used_ratio", labels] == 0.25
    used.append(5)
    assert samples(metrics)["gateway_limit_used_ratio", labels] == 1.25
    for _ in range(2):
        metrics.count_limit_refusal("concurrent", "group", "research")
    assert samples(metrics)["gateway_limit_refusals_total", labels] == 2


def test_tokens_add_up_over_answers():
    """Given the usage of several answers, then it is summed by model and type, unnamed models as `unknown`."""
    metrics = Metrics()
    metrics.usage.count(record_of(1, usage=(usage_of(model="m", input_tokens=2, output_tokens=3),)))
    unnamed = usage_of(model=None, input_tokens=0, output_tokens=7)
    metrics.usage.count(record_of(2, usage=(usage_of(model="m", input_tokens=5, output_tokens=0), unnamed)))
    assert value(metrics, "gateway_tokens_total", model="m", type="input") == 7
    assert value(metrics, "gateway_tokens_total", model="m", type="output") == 3
    assert value(metrics, "gateway_tokens_total", model="unknown", type="output") == 7


def test_tokens_add_up_by_who_asked():
    """Given answers to a token and to a client's own credential, then usage is summed by token, group and type."""
    metrics = Metrics()
    used = usage_of(input_tokens=2, output_tokens=3, cache_read_tokens=5, cache_write_tokens=7)
    metrics.usage.count(record_of(1, usage=(used, used)))
    metrics.usage.count(record_of(2, credential="byok", token=None, token_group=None, usage=(used,)))

    def counted(token, group):
        types = ("input", "output", "cache_read", "cache_write")
        return [value(metrics, "gateway_token_usage_total", token=token, group=group, type=kind) for kind in types]

    assert counted("alice", "research") == [4, 6, 10, 14]
    assert counted("-", "-") == [2, 3, 5, 7]


def test_what_alerts_wait_for_is_shown_before_it_happens():
    """Given metrics that have counted nothing, then exhaustions, streams' ends, overload and lost records stand at 0:
    from nothing to 1 would be no increase."""
    fresh = Metrics()
    assert value(fresh, "gateway_pool_exhaustions_total", outcome="rate_limited") == 0
    assert value(fresh, "gateway_pool_exhaustions_total", outcome="auth_failed") == 0
    assert value(fresh, "gateway_rejections_total", reason="overloaded_error") == 0
    assert value(fresh, "gateway_recorder_dropped_total", reason="queue_full") == 0
    ends = {dict(labels)["outcome"] for name, labels in samples(fresh) if name == "gateway_streams_ended_total"}
    assert ends == {ending.value for ending in STREAM_ENDINGS}


def test_costs_add_up_by_model_and_by_who_asked():
    """Given records of several inferences, then dollars are summed by model, and by token and group; and tokens that
    were charged at the default are counted by model.
    """
    metrics = Metrics()
    unpriced = usage_of(model="claude-b", price="default", cost_picodollars=2 * 10**12)
    metrics.usage.count(record_of(1, usage=(usage_of(cost_picodollars=5 * 10**11), unpriced)))
    metrics.usage.count(record_of(2, token=None, token_group=None, usage=(usage_of(cost_picodollars=25 * 10**10),)))
    assert value(metrics, "gateway_cost_dollars_total", model="claude-a-1") == 0.75
    assert value(metrics, "gateway_cost_dollars_total", model="claude-b") == 2
    assert value(metrics, "gateway_token_cost_dollars_total", token="alice", group="research") == 2.5
    assert value(metrics, "gateway_token_cost_dollars_total", token="-", group="-") == 0.25
    assert value(metrics, "gateway_unpriced_tokens_total", model="claude-b") == 10 + 3 + 9 + 20
    assert value(metrics, "gateway_unpriced_tokens_total", model="claude-a-1") is None


def test_what_the_pool_does_not_pay_costs_nothing():
    """Given a record without a cost, as a client's own credential and an error leave, then no dollars are counted."""
    metrics = Metrics()
    metrics.usage.count(record_of(1, credential="byok", usage=(usage_of(cost_picodollars=None, price=None),)))
    metrics.usage.count(record_of(2, usage=()))
    assert not {name for name, _ in samples(metrics) if "dollars" in name or "unpriced" in name}


def test_tokens_past_the_limit_count_as_other():
    """Given more tokens than are kept apart, then what the cooldown uses and costs folds into `other`."""
    metrics = Metrics()
    for number in range(1010):
        metrics.usage.count(record_of(1, token=f"t{number}", usage=(usage_of(cost_picodollars=10**12),)))
    assert value(metrics, "gateway_token_cost_dollars_total", token="other", group="research") == 10
    askers = {dict(labels)["token"] for name, labels in samples(metrics) if name == "gateway_token_usage_total"}
    assert len(askers) == 1001
    assert "other" in askers


def test_models_past_the_limit_are_other():
    """Given more models than are kept apart, as a hostile client may name, then the cooldown folds into `other`."""
    metrics = Metrics()
    for number in range(150):
        metrics.usage.count(record_of(number, usage=(usage_of(model=f"m{number}", input_tokens=1),)))
    models = {dict(labels)["model"] for name, labels in samples(metrics) if name == "gateway_tokens_total"}
    assert len(models) == 101
    assert value(metrics, "gateway_tokens_total", model="other", type="input") == 50


def test_labels_are_bounded_under_a_race():
    """Given 64 threads that bring a new value each, then no more than the limit are kept, and those stay."""
    labels = BoundedLabels(limit=10)
    folded = race(64, lambda number: labels.fold(f"v{number}"))
    kept = {name for name in folded if name != "other"}
    assert len(kept) == 10
    assert {labels.fold(name) for name in kept} == kept
    assert labels.fold("late") == "other"


def test_odd_label_values_render():
    """Given a label with quotes, line breaks and characters past ASCII, then the page is still well-formed."""
    metrics = Metrics()
    metrics.rejections.labels('a"b\\c\nd\u2028é').inc()
    assert value(metrics, "gateway_rejections_total", reason='a"b\\c\nd\u2028é') == 1


def test_two_gateways_in_one_process_do_not_meet():
    """Given two sets of metrics, then each has a registry of its own."""
    one, other = Metrics(), Metrics()
    one.admission_limit.set(5)
    assert value(other, "gateway_admission_limit") == 0


# What a worker process runs here: it evaluates what it is told, a line each, and answers in a line each.
OBEY = """
import sys
import time
from pathlib import Path
from prometheus_client import generate_latest
from gateway.protocol.outcomes import Exhaustion
from gateway.telemetry.metrics import Metrics
from gateway.runtime.shared_counts import SharedCounts
from tests.unit.telemetry.test_metrics import exercised, watch
from tests.unit.fakes import cool, pool_of
folder = Path(sys.argv[1])
metrics = Metrics(SharedCounts(folder, int(sys.argv[2])))
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


class WorkerProcess:
    """A process with its own Metrics, which it shares as gunicorn's workers do."""

    def __init__(self, folder: Path, row: int) -> None:
        root = Path(__file__).parents[3]
        self.row = row
        self._process = subprocess.Popen(
            [sys.executable, "-c", OBEY, str(folder), str(row)],
            env=os.environ | {"PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, *lines: str) -> object:
        """Evaluate these; what the last one gave."""
        for line in lines:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            assert answer, "the process has ended"
        return eval(answer)

    def page(self) -> dict[tuple[str, frozenset], float]:
        return samples_of(self.do("metrics.render()").decode())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=30)


@pytest.fixture
def worker(tmp_path) -> Iterator[Callable[[], WorkerProcess]]:
    """Starts processes that share their counts, and ends them after the test."""
    started: list[WorkerProcess] = []
    folder = CountsFolder(tmp_path / "counts", workers=2)

    def start() -> WorkerProcess:
        started.append(WorkerProcess(folder.path, len(started)))
        return started[-1]

    start.folder = folder
    yield start
    for process in started:
        process.kill()
    folder.end()


def test_any_worker_answers_for_all(worker):
    """Given two workers that have counted, then counters, histograms and what runs now are summed, limits are the
    last seen, the version stands once; and both give the same page."""
    one, other = worker(), worker()
    for process, requests, remaining in ((one, 2, "9"), (other, 3, "8")):
        process.do(
            f"metrics.requests.labels('messages', 'pooled', 200).inc({requests})",
            f"metrics.failover_attempts.observe({requests})",
            f"metrics.requests_inflight.labels('messages').inc({requests})",
            "metrics.admission_limit.set(240)",
            "metrics.build_info.labels('1').set(1)",
            f"metrics.note_rate_limits('k0', 'models', {{'anthropic-ratelimit-requests-remaining': {remaining!r}}})",
            "metrics.settle()",
        )
    page = one.page()
    assert page == other.page()
    assert value_of(page, "gateway_requests_total", route="messages", credential="pooled", status="200") == 5
    assert value_of(page, "gateway_failover_attempts_count") == 2
    assert value_of(page, "gateway_failover_attempts_sum") == 5
    assert value_of(page, "gateway_requests_inflight", route="messages") == 5
    assert value_of(page, "gateway_admission_limit") == 480
    assert value_of(page, "gateway_build_info", version="1") == 1
    assert value_of(page, "gateway_key_ratelimit_remaining", key="k0", scope="models", limit="requests") == 8


def test_what_belongs_to_the_moment_stands_once(worker):
    """Given two workers over a store, then key states, cooldowns, reload and reach are the answering one's own
    reading, once, and no label names a process."""
    one, other = worker(), worker()
    for process in (one, other):
        process.do("(pool := pool_of(1), cool(pool, 0, 5), watch(metrics, statuses=pool.statuses))[1]")
    page = other.page()
    assert page == one.page()
    assert value_of(page, "gateway_key_state", key="k0", state="temporary") == 1
    assert value_of(page, "gateway_key_state", key="k0", state="valid") == 0
    assert value_of(page, "gateway_key_cooldown_seconds", key="k0", scope="all") == 5
    assert value_of(page, "gateway_store_up") == value_of(page, "gateway_config_reload_success") == 1
    assert not [labels for _, labels in page if "pid" in dict(labels)]


def test_usable_keys_are_told_for_scopes_that_any_worker_was_asked_for(worker):
    """Given a worker that was asked for a scope, when another one answers Prometheus, then the scope is told."""
    one, other = worker(), worker()
    for process in (one, other):
        process.do("watch(metrics, statuses=pool_of(2).statuses)")
    one.do("metrics.note_asked('messages/opus-4')", "metrics.settle()")
    assert value_of(other.page(), "gateway_scope_usable_keys", scope="messages/opus-4") == 2


def test_a_dead_worker_s_counts_are_kept_and_what_it_was_doing_is_not(worker):
    """Given a worker that is killed while it serves, when the master has noted its end, then its counts stay and its
    requests in flight and its places are gone."""
    dead, alive = worker(), worker()
    for process in (dead, alive):
        process.do(
            "metrics.requests.labels('messages', 'pooled', 200).inc(2)",
            "metrics.failover_attempts.observe(1)",
            "metrics.requests_inflight.labels('messages').inc(2)",
            "metrics.admission_limit.set(240)",
            "metrics.note_rate_limits('k0', 'models', {'anthropic-ratelimit-requests-limit': '50'})",
            "metrics.settle()",
        )
    dead.kill()
    worker.folder.forget_moment(dead.row)
    page = alive.page()
    assert value_of(page, "gateway_requests_total", route="messages", credential="pooled", status="200") == 4
    assert value_of(page, "gateway_failover_attempts_count") == 2
    assert value_of(page, "gateway_requests_inflight", route="messages") == 2
    assert value_of(page, "gateway_admission_limit") == 240
    assert value_of(page, "gateway_key_ratelimit_limit", key="k0", scope="models", limit="requests") == 50


def test_master_goes_on_whatever_has_become_of_the_counts(tmp_path, monkeypatch, caplog):
    """Given a file in the place of the folder of counts, when a worker has ended, then the master is told so."""
    folder = CountsFolder(tmp_path / "counts", 1)
    folder.path.rename(tmp_path / "moved")
    folder.path.touch()
    monkeypatch.setattr(master, "_counts_folder", folder)
    master.child_exit(None, SimpleNamespace(age=1, row=0))
    folder.end()
    assert "stays in /metrics" in caplog.text


def test_mcp_server_is_up_if_it_is_for_every_worker_and_gone_when_it_is_taken_out(worker):
    """Given two workers of which one cannot reach a server, then it is down; once it is no longer configured, a file
    that remembers it says nothing."""
    one, other = worker(), worker()
    for process, files, clocks in ((one, 1, 1), (other, 0, 1)):
        process.do(
            "setattr(metrics, 'mcp_servers', {'files', 'time'})",
            f"metrics.mcp_server_up.labels('files').set({files})",
            f"metrics.mcp_server_up.labels('time').set({clocks})",
        )
    page = one.page()
    assert value_of(page, "gateway_mcp_server_up", server="files") == 0
    assert value_of(page, "gateway_mcp_server_up", server="time") == 1
    one.do("setattr(metrics, 'mcp_servers', {'time'})")
    page = one.page()
    assert value_of(page, "gateway_mcp_server_up", server="files") is None
    assert value_of(page, "gateway_mcp_server_up", server="time") == 1


def test_the_last_exhaustion_is_the_last_of_any_worker_dead_ones_included(worker):
    """Given workers that found no key one after the other, the later of which is dead, then the later time stands."""
    alive, dead = worker(), worker()
    for process in (alive, dead):
        process.do("metrics.count_exhaustion(Exhaustion.AUTH_FAILED)")
    name = "gateway_pool_last_exhaustion_timestamp_seconds"

    def own(process: WorkerProcess) -> float | None:
        page = process.do("generate_latest(metrics.registry)").decode()
        return value_of(samples_of(page), name, outcome="auth_failed")

    earlier, later = own(alive), own(dead)
    assert earlier < later
    dead.kill()
    worker.folder.forget_moment(dead.row)
    page = alive.page()
    assert value_of(page, name, outcome="auth_failed") == later
    assert value_of(page, name, outcome="rate_limited") is None
    assert value_of(page, "gateway_pool_exhaustions_total", outcome="auth_failed") == 2


def test_all_metrics_have_their_names_across_workers_too(worker):
    """Given every metric in use in a worker, then its page has the families and labels that a process alone gives."""
    assert families(worker().do("exercised(metrics).render()")) == DESIGNED

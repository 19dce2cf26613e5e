"""What is promised of the gateway's speed, as ratios in one run, and whether a run keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.report import Race

Figure = Callable[[dict[str, Any]], float]
_US = "gateway"


@dataclass(frozen=True)
class Promise:
    """The gateway's figure over another's, or alone; at least `at_least`, or at most `at_most`.

    `ours` and `theirs` are a contender each, `scenario` where both were measured; without `theirs` the figure itself
    counts.
    """

    what: str
    scenario: str
    figure: Figure
    theirs: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    ours: str = _US


def _rate(line: dict[str, Any]) -> float:
    return float(line["requests"] / line["seconds"])


def _events(line: dict[str, Any]) -> float:
    return float(line["events"] / line["seconds"])


def _cpu(line: dict[str, Any]) -> float:
    return float(line["cpu_seconds"] / line["events"])


def _of(group: str, name: str) -> Figure:
    return lambda line: float(line[group][name])


PROMISES = (
    Promise("whole answers, 32 clients, requests/s", "whole-32", _rate, "litellm", at_least=20),
    Promise("whole answers, 32 clients, requests/s", "whole-32", _rate, "portkey", at_least=2),
    Promise("whole answers, 32 clients, p99", "whole-32", _of("latency", "p99_ms"), "litellm", at_most=1),
    Promise("whole answers, 32 clients, p99", "whole-32", _of("latency", "p99_ms"), "portkey", at_most=1),
    Promise("whole answer, 1 client, p50", "whole-1", _of("latency", "p50_ms"), "litellm", at_most=1 / 20),
    Promise("whole answer, 1 client, p50", "whole-1", _of("latency", "p50_ms"), "portkey", at_most=1 / 2),
    Promise("bursts of 200 events, 8 clients, events/s", "burst-200", _events, "litellm", at_least=25),
    Promise("bursts of 200 events, 8 clients, events/s", "burst-200", _events, "portkey", at_least=6),
    Promise("bursts of 2000 events, 8 clients, events/s", "burst-2000", _events, "litellm", at_least=20),
    Promise("bursts of 2000 events, 8 clients, events/s", "burst-2000", _events, "portkey", at_least=6),
    Promise("time to first event, p50", "first", _of("first_event", "p50_ms"), "litellm", at_most=1 / 20),
    Promise("time to first event, p50", "first", _of("first_event", "p50_ms"), "nginx", at_most=8),
    Promise("500 streams, CPU an event", "paced-500", _cpu, "litellm", at_most=1 / 10),
    Promise("500 streams, CPU an event", "paced-500", _cpu, "portkey", at_most=1 / 2),
    Promise("500 streams, CPU an event", "paced-500", _cpu, "nginx", at_most=3.5),
    Promise("500 streams, events lost", "paced-500", lambda line: float(line["lost"]), at_most=0),
    Promise("500 streams, delay p50", "paced-500", _of("delay", "p50_ms"), "nginx", at_most=2),
    Promise("500 streams, delay p99, ms", "paced-500", _of("delay", "p99_ms"), at_most=10),
    Promise("1000 streams, events lost", "paced-1000", lambda line: float(line["lost"]), at_most=0),
    Promise("1000 streams, memory in all, MB", "paced-1000", lambda line: line["pss_bytes"] / 1e6, at_most=200),
    Promise("`/healthz` while 500 streams run, p99, ms", "paced-500", _of("health", "p99_ms"), at_most=50),
    Promise("first key limited, requests/s", "failover", _rate, _US, at_least=0.9, ours="gateway-failover"),
)


def promised(race: Race) -> Iterator[str]:
    """A table with a line for each promise."""
    yield "| what | beside | promised | measured | |"
    yield "|---|---|---|---|---|"
    for promise in PROMISES:
        ours = race.median(promise.scenario, promise.ours, promise.figure)
        theirs = race.median(promise.scenario, promise.theirs, promise.figure) if promise.theirs else 1.0
        limit = promise.at_least if promise.at_least is not None else promise.at_most
        assert limit is not None
        unit = " ×" if promise.theirs else ""
        wanted = f"{'at least' if promise.at_least is not None else 'at most'} {limit:.3g}{unit}"
        line = f"| {promise.what} | {promise.theirs or 'itself'} | {wanted} |"
        if ours is None or not theirs:
            yield f"{line} – | not measured |"
            continue
        ratio = ours / theirs
        is_kept = ratio >= limit if promise.at_least is not None else ratio <= limit
        yield f"{line} {ratio:.3g}{unit} | {'met' if is_kept else '**missed**'} |"

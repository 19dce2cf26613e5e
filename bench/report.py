"""The race's tables and plot: medians over its rounds, and the ratios that are promised, met or missed.

Run it as `python -m bench.report [FILE...]`; without files it takes the newest of .bench/results. It writes the section
between the marks of bench/RESULTS.md and bench/race.svg.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.plot import plotted
from bench.promises import promised
from bench.race import RESULTS
from bench.scenarios import EVERYBODY, SCENARIOS
from tests.harness import ROOT

BEGIN, END = "<!-- race: written by bench.report -->", "<!-- race: end -->"
PAGE = ROOT / "bench" / "RESULTS.md"

Figures = dict[str, Any]


class Race:
    """The figures of one or several runs, by scenario and contender."""

    def __init__(self, lines: Iterable[Figures]) -> None:
        self.about: Figures = {}
        self._rounds: dict[tuple[str, str], list[Figures]] = defaultdict(list)
        self.failures: list[str] = []
        for line in lines:
            if "scenario" not in line:
                versions = self.about.get("versions", {}) | line["versions"]
                self.about = self.about | line | {"versions": versions}
            elif "failure" in line:
                self.failures.append(f"{line['scenario']}, {line['contender']}: {line['failure'].strip()[-200:]}")
            else:
                self._rounds[line["scenario"], line["contender"]].append(line)

    def rounds(self, scenario: str, contender: str) -> int:
        """How often it was measured."""
        return len(self._rounds[scenario, contender])

    def median(self, scenario: str, contender: str, figure: Callable[[Figures], float]) -> float | None:
        """The median of a figure over the rounds; None if it was not measured."""
        found = self._all(scenario, contender, figure)
        return statistics.median(found) if found else None

    def largest(self, scenario: str, contender: str, figure: Callable[[Figures], float]) -> float | None:
        """The largest of a figure over the rounds: for what comes once and stays, as a thread's memory does."""
        return max(self._all(scenario, contender, figure), default=None)

    def _all(self, scenario: str, contender: str, figure: Callable[[Figures], float]) -> list[float]:
        found = []
        for line in self._rounds[scenario, contender]:
            try:
                found.append(figure(line))
            except (KeyError, ZeroDivisionError):
                continue
        return found


def rate(line: Figures) -> float:
    """Requests a second."""
    return float(line["requests"] / line["seconds"])


def event_rate(line: Figures) -> float:
    """Events a second."""
    return float(line["events"] / line["seconds"])


def cpu_us(line: Figures) -> float:
    """The contender's CPU in microseconds: for each event of streams that last, else for each request."""
    return float(1e6 * line["cpu_seconds"] / line["events" if "lost" in line else "requests"])


def stream_kib(line: Figures) -> float:
    """Memory that came with the streams, for each in KiB."""
    return float((line["pss_bytes"] - line["pss_before_bytes"]) / line["begun"] / 1024)


def mib(line: Figures) -> float:
    """All memory, in MiB."""
    return float(line["pss_bytes"] / 2**20)


_CLOSED = {
    "requests/s": rate,
    "events/s": event_rate,
    "p50 ms": lambda line: line["latency"]["p50_ms"],
    "p99 ms": lambda line: line["latency"]["p99_ms"],
    "first event p50 ms": lambda line: line["first_event"]["p50_ms"],
    "CPU a request µs": cpu_us,
    "errors": lambda line: line["errors"],
}
_PACED = {
    "events/s": event_rate,
    "CPU an event µs": cpu_us,
    "delay p50 ms": lambda line: line["delay"]["p50_ms"],
    "delay p99 ms": lambda line: line["delay"]["p99_ms"],
    "lost": lambda line: line["lost"],
    "failed": lambda line: line["failed"],
    "KiB a stream": stream_kib,
    "MiB in all": mib,
    "health p99 ms": lambda line: line["health"]["p99_ms"],
}


def shown(value: float | None) -> str:
    """A figure with three digits that count; nothing if there is none."""
    if value is None:
        return "–"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def table(race: Race, name: str) -> Iterable[str]:
    """One scenario's lines."""
    scenario = SCENARIOS[name]
    present = [contender for contender in scenario.contenders if race.rounds(name, contender)]
    if not present:
        return
    figures = _PACED if scenario.is_paced else _CLOSED
    if not scenario.is_paced and not scenario.load["streamed"]:
        figures = {title: figure for title, figure in figures.items() if "event" not in title}
    rows = {
        who: [(race.largest if figure is stream_kib else race.median)(name, who, figure) for figure in figures.values()]
        for who in present
    }
    told = [at for at in range(len(figures)) if any(row[at] is not None for row in rows.values())]
    yield f"\n**{scenario.meaning}** (`{name}`, {race.rounds(name, present[-1])} rounds)\n"
    titles = list(figures)
    yield "| | " + " | ".join(titles[at] for at in told) + " |"
    yield "|---" * (len(told) + 1) + "|"
    for who, row in rows.items():
        yield f"| {who} | " + " | ".join(shown(row[at]) for at in told) + " |"


def section(race: Race) -> str:
    """Everything that goes between the marks."""
    lines = [f"{race.about['machine']}. Medians over the rounds; `–` is what does not apply or was not measured.", ""]
    lines += ["| contender | what it is |", "|---|---|"]
    lines += [f"| {who} | {what} |" for who, what in race.about["versions"].items()]
    lines += ["", "### What was promised, in this run", "", *promised(race), ""]
    lines += ["![CPU and throughput, each contender beside the gateway](race.svg)", "", "### All figures"]
    for name in SCENARIOS:
        lines += table(race, name)
    if race.failures:
        lines += ["", "What could not be measured:", "", *(f"- {failure}" for failure in race.failures)]
    return "\n".join(lines)


def main() -> None:
    """Write the section and the plot."""
    paths = [Path(name) for name in sys.argv[1:]] or sorted(RESULTS.glob("*.jsonl"))[-1:]
    race = Race(json.loads(line) for path in paths for line in path.read_text().splitlines())
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{section(race)}\n{END}{after}")
    (ROOT / "bench" / "race.svg").write_text(plotted(race, EVERYBODY))
    print(section(race))


if __name__ == "__main__":
    main()

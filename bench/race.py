"""The race: every scenario, every contender, in interleaved rounds, side by side on one machine.

Run it with `make bench`; SCENARIOS and CONTENDERS (comma-separated) choose, ROUNDS says how often (5). BEFORE=COMMIT
adds the contenders `before` and `before-failover`, that commit's gateway, to every scenario that has this one's. Each
figure is a line of JSON in .bench/results; `bench.report` makes the tables of them.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from bench.against import checkout
from bench.contenders import (
    FOLDER,
    Before,
    BeforeLimited,
    Contender,
    LiteLlm,
    Nginx,
    Ours,
    OursLimited,
    OursWide,
    Portkey,
    Upstream,
)
from bench.meter import wait_until_quiet
from bench.scenarios import SCENARIOS, WARMING, Scenario
from tests.harness import ROOT

RESULTS = FOLDER / "results"
_LONGEST_SECONDS = 600
_EARLIER = {Before.name: Ours.name, BeforeLimited.name: OursLimited.name}  # whose scenarios they take part in


def chosen(variable: str, known: list[str]) -> list[str]:
    """The names in an environment variable, or all. Raises SystemExit for one that is not known."""
    names = [name for name in os.environ.get(variable, "").replace(",", " ").split() if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"{variable}: {', '.join(unknown)}? There are: {', '.join(known)}")
    return names or known


@contextmanager
def contenders(upstream: Upstream, names: set[str]) -> Iterator[dict[str, Contender]]:
    """Those that take part, by name. They are started when they are first needed, and stopped in the end."""
    with ExitStack() as stack:
        built: dict[str, Contender] = {upstream.name: upstream}
        for maker in (Nginx, LiteLlm, Portkey, Ours, OursWide, OursLimited):
            if maker.name in names:
                built[maker.name] = maker(upstream.port)
                stack.callback(built[maker.name].stop)
        if names & _EARLIER.keys():
            root = stack.enter_context(checkout(os.environ["BEFORE"]))
            for earlier in (Before, BeforeLimited):
                if earlier.name in names:
                    built[earlier.name] = earlier(upstream.port, root)
                    stack.callback(built[earlier.name].stop)
        yield built


def entitled_to(scenario: Scenario) -> list[str]:
    """The contenders of a scenario, in the order in which they take their turns."""
    if "BEFORE" not in os.environ:
        return list(scenario.contenders)
    earlier = [name for name, ours in _EARLIER.items() if ours in scenario.contenders]
    return [*scenario.contenders, *earlier]


def measured(scenario: Scenario, contender: Contender) -> dict[str, Any]:
    """One round of one contender: the load generator's figures."""
    spec: dict[str, Any] = {
        "port": contender.port,
        "request": contender.request,
        "pids": contender.roots,
        "health": contender.health if scenario.load.get("probes") and contender.name != "straight" else None,
    }
    loads = [scenario.load] if scenario.beside is None else [scenario.load, scenario.beside]
    begun = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.load", json.dumps({**spec, **load})],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for load in loads
    ]
    figures: list[dict[str, Any]] = []
    try:
        for process in begun:
            output, errors = process.communicate(timeout=_LONGEST_SECONDS)
            figures.append(json.loads(output) if process.returncode == 0 else {"failure": errors[-2000:]})
    finally:
        for process in begun:
            process.kill()  # nothing, if it has ended
            process.wait()
    if scenario.beside is None:
        return figures[0]
    if "failure" in figures[1]:
        return figures[1]
    return {**figures[0], "beside": figures[1]}


def machine() -> str:
    """What this runs on."""
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return f"{len(os.sched_getaffinity(0))} processors ({model.partition(': ')[2]}), Linux {platform.release()}"


def main() -> None:
    """Measure, and write every figure down as soon as it is there."""
    names = chosen("SCENARIOS", list(SCENARIOS))
    rounds = int(os.environ.get("ROUNDS", "5"))
    entitled = {name for scenario in names for name in entitled_to(SCENARIOS[scenario])}
    present = set(chosen("CONTENDERS", sorted(entitled)))
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}.jsonl"
    upstream = Upstream()
    upstream.ready(0)
    try:
        with contenders(upstream, present) as built, path.open("w") as out:
            versions = {name: contender.version() for name, contender in built.items() if name in present}
            _write(out, {"machine": machine(), "rounds": rounds, "versions": versions})
            for name in names:
                scenario = SCENARIOS[name]
                running = [built[name] for name in entitled_to(scenario) if name in present]
                for line in interleaved(scenario, running, upstream, rounds):
                    _write(out, line)
    finally:
        upstream.stop()
    print(path.relative_to(ROOT))


def interleaved(
    scenario: Scenario, running: list[Contender], upstream: Upstream, rounds: int
) -> Iterator[dict[str, Any]]:
    """The figures of one scenario, round by round, each contender once in each."""
    for contender in running:
        contender.ready(scenario.streams)
    # For those that compile what runs often, and to fill every pool; what is loaded with the first requests is no
    # stream's memory.
    warming = WARMING if scenario.is_paced else scenario
    upstream.answer(warming.answer)
    for contender in running:
        measured(warming, contender)
    upstream.answer(scenario.answer)
    for number in range(rounds):
        for contender in running:
            wait_until_quiet([*contender.roots, *upstream.roots])
            figures = measured(scenario, contender)
            yield {"scenario": scenario.name, "contender": contender.name, "round": number, **figures}
    for contender in running:
        contender.rest()


def _write(out: TextIO, line: dict[str, Any]) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()
    if "scenario" in line:
        rate = line.get("requests", line.get("events", 0)) / line.get("seconds", 1)
        print(
            f"{line['scenario']:12} {line['contender']:17} {rate:10.0f} a second  {line.get('failure', '')}", flush=True
        )


if __name__ == "__main__":
    main()

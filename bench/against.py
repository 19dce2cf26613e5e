"""What a change costs: CPU per request of this checkout beside an earlier one, pair by pair.

Run it with `make bench-against REV=<commit>`; it prints a table for bench/RESULTS.md. Both gateways are real gunicorn
with one worker, each run from its own checkout by the same interpreter, before the same simulator; wrk is the client.
What is compared is the worker's CPU time, which other load disturbs least; each round has both, in turn.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.workers import REQUEST, simulator
from tests.harness import ROOT, GatewayProcess

ROUNDS = 15
SECONDS = 2
CLIENTS = 8
BEHAVIOURS = {"whole answers": ("ok", False), "streams of 200 events": ("ok:events=200", True)}


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """An earlier state of the project, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkout"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", path, revision], cwd=ROOT, check=True)
        try:
            yield path
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", path], cwd=ROOT, check=True)


def cpu_seconds(pid: int) -> float:
    """The time that all threads of a process have run so far; its threads live as long as it does."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def cost_us(root: Path, upstream: str, is_streamed: bool) -> float:
    """The worker's CPU time a request, in microseconds, once it is warm."""
    gateway = GatewayProcess(upstream, ["sk-a"], root=root, threads="32", reserved_threads="8")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "request.lua"
        script.write_text(REQUEST % ("true" if is_streamed else "false"))
        try:
            load(gateway.url, script, 1)
            (worker,) = gateway.worker_pids
            before = cpu_seconds(worker)
            requests = load(gateway.url, script, SECONDS)
            return (cpu_seconds(worker) - before) / requests * 1e6
        finally:
            gateway.stop()


def load(url: str, script: Path, seconds: int) -> int:
    """Ask for so long; the number of answers."""
    command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds}s", "-s", str(script), f"{url}/v1/messages"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in output, output
    match = re.search(r"(\d+) requests in", output)
    assert match is not None, output
    return int(match[1])


def main() -> None:
    """Measure pair by pair and print medians."""
    revision = sys.argv[1]
    with checkout(revision) as earlier:
        print(f"CPU a request, {CLIENTS} clients, medians of {ROUNDS} pairs; quartiles of the ratio in brackets.\n")
        print(f"| scenario | {revision}, µs | here, µs | ratio |")
        print("|---|---|---|---|")
        for name, (behaviour, is_streamed) in BEHAVIOURS.items():
            pairs = []
            with tempfile.TemporaryDirectory() as folder:
                upstream, url = simulator(behaviour, Path(folder) / "simulator.log")
                try:
                    for number in range(ROUNDS):
                        order = (earlier, ROOT) if number % 2 else (ROOT, earlier)
                        costs = {root: cost_us(root, url, is_streamed) for root in order}
                        pairs.append((costs[earlier], costs[ROOT]))
                finally:
                    upstream.terminate()
                    upstream.wait(10)
            low, middle, high = statistics.quantiles([here / before for before, here in pairs], n=4)
            before, here = (statistics.median(costs) for costs in zip(*pairs, strict=True))
            print(f"| {name} | {before:.0f} | {here:.0f} | {middle:.3f} ({low:.3f} to {high:.3f}) |")


if __name__ == "__main__":
    main()

"""How many workers serve a machine best: whole answers and bursts, with one worker, and with one a processor and more.

Run it with `make bench-workers`; it prints a table for bench/RESULTS.md. Real gunicorn, the project's simulator in a
process of its own, wrk as the client; all of them share the machine, so what counts is the order, not the height.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.harness import ROOT, GatewayProcess, wait_until

ROUNDS = 3
SECONDS = 4
CLIENTS = 32
BEHAVIOURS = {"whole answers": ("ok", False), "bursts of 200 events": ("ok:events=200", True)}
REQUEST = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = '{"model":"claude-bench","max_tokens":8,"stream":%s,"messages":[{"role":"user","content":"hi"}]}'
"""


def simulator(behaviour: str, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A simulator in a process of its own, and its URL."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "simulate", "--bind", "127.0.0.1:0", "--key", f"sk-a={behaviour}"],
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    assert wait_until(lambda: "http://" in log.read_text(), 20), log.read_text()
    match = re.search(r"http://[0-9.:]+", log.read_text())
    assert match is not None
    return process, match[0]


def rate(url: str, is_streamed: bool, folder: Path) -> float:
    """Requests a second."""
    script = folder / "request.lua"
    script.write_text(REQUEST % ("true" if is_streamed else "false"))
    command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{SECONDS}s", "-s", str(script), f"{url}/v1/messages"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in output, output
    match = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    assert match is not None, output
    return float(match[1])


def main() -> None:
    """Measure in interleaved rounds and print medians."""
    processors = len(os.sched_getaffinity(0))
    counts = sorted({1, processors, 2 * processors})
    print(f"{processors} processors, {CLIENTS} clients, requests/s, medians of {ROUNDS} interleaved rounds.\n")
    print("| scenario | " + " | ".join(f"{count} workers" for count in counts) + " |")
    print("|---" * (len(counts) + 1) + "|")
    for name, (behaviour, is_streamed) in BEHAVIOURS.items():
        rates: dict[int, list[float]] = {count: [] for count in counts}
        with tempfile.TemporaryDirectory() as folder:
            upstream, url = simulator(behaviour, Path(folder) / "simulator.log")
            try:
                for _ in range(ROUNDS):
                    for count in counts:
                        gateway = GatewayProcess(url, ["sk-a"], workers=str(count), threads="64")
                        try:
                            rates[count].append(rate(gateway.url, is_streamed, Path(folder)))
                        finally:
                            gateway.stop()
            finally:
                upstream.terminate()
                upstream.wait(10)
        print(f"| {name} | " + " | ".join(f"{statistics.median(rates[count]):.0f}" for count in counts) + " |")


if __name__ == "__main__":
    main()

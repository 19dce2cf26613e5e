"""How many workers serve a machine best, and whether each should keep to a processor: whole answers and bursts.

With one worker, with one a processor and more; then two workers that keep to theirs, as is the default, and two that go
where the system puts them, both also beside a busy loop on the first processor.

Run it with `make bench-workers`; it prints a table for bench/RESULTS.md. Real gunicorn, the project's simulator in a
process of its own, wrk as the client; all of them share the machine, so what counts is the order, not the height.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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


def spread(workers: list[int]) -> None:
    """Let the threads of these processes go where the system puts them, as it would have without the gateway."""
    everywhere = os.sched_getaffinity(0)
    for worker in workers:
        for thread in Path(f"/proc/{worker}/task").iterdir():
            os.sched_setaffinity(int(thread.name), everywhere)
            os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


@contextlib.contextmanager
def busy(processor: int) -> Iterator[None]:
    """Somebody else has much to do on a processor."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    os.sched_setaffinity(loop.pid, {processor})
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def compare_placing() -> None:
    """Two workers, in interleaved rounds; prints medians."""
    ways = [(is_spread, is_busy) for is_busy in (False, True) for is_spread in (False, True)]
    rates: dict[tuple[bool, bool], list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        upstream, url = simulator("ok", Path(folder) / "simulator.log")
        try:
            for _ in range(ROUNDS):
                for way in ways:
                    gateway = GatewayProcess(url, ["sk-a"], workers="2", threads="64")
                    with busy(0) if way[1] else contextlib.nullcontext():
                        try:
                            if way[0]:
                                spread(gateway.worker_pids)
                            rates[way].append(rate(gateway.url, False, Path(folder)))
                        finally:
                            gateway.stop()
        finally:
            upstream.terminate()
            upstream.wait(10)
    print("\nTwo workers, whole answers.\n")
    print("| beside | each keeps to a processor | the system places them |\n|---|---|---|")
    for is_busy, name in ((False, "nothing"), (True, "a busy loop on the first processor")):
        kept, placed = (statistics.median(rates[is_spread, is_busy]) for is_spread in (False, True))
        print(f"| {name} | {kept:.0f} | {placed:.0f} |")


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
    compare_placing()


if __name__ == "__main__":
    main()

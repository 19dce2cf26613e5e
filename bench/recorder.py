"""What recording costs: processor time and latency of a request, with the recorder on and off, in paired rounds.

Run it with `make bench-recorder`; it prints tables for bench/RESULTS.md. Real gunicorn, one worker each, side by side;
the project's simulator in a process of its own. Rounds alternate between the gateways, so that what the machine does
beside falls on all alike; a round's processor time is that of all the worker's threads, the recorder's included.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gateway.access.authentication import Caller
from gateway.access.client_info import client_of
from gateway.access.credential import Key, Secret
from gateway.keys.verdict import Verdict
from gateway.pricing.prices import known_prices
from gateway.protocol.messages import Tally
from gateway.protocol.outcomes import Ending, Outcome
from gateway.records.interception_record import encode_record
from gateway.records.record_builder import RecordBuilder
from tests.harness import ROOT, GatewayProcess, wait_until
from tests.stores.postgres_server import PostgresServer

ROUNDS = 15
REQUESTS = 400
WARM_UP = 200
# A round ends when its records are stored, so that their cost falls into it.
SETTLE_SECONDS = 1.0
BEHAVIOURS = {"whole": ("ok", False), "streamed, 27 events": ("ok:events=20", True)}
HEADERS = {
    "content-type": "application/json",
    "user-agent": "claude-cli/2.1.0 (external, cli)",
    "x-claude-code-session-id": "57a121ec-f78c-48c3-a745-e3036a3ecc33",
}


@contextmanager
def simulator(behaviour: str, log: Path) -> Iterator[str]:
    """A simulator in a process of its own; its URL."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "simulate", "--bind", "127.0.0.1:0", "--key", f"sk-a={behaviour}"],
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        assert wait_until(lambda: "http://" in log.read_text(), 20), log.read_text()
        match = re.search(r"http://[0-9.:]+", log.read_text())
        assert match is not None
        yield match[0]
    finally:
        process.terminate()
        process.wait(10)


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have spent on processors so far."""
    total_nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total_nanoseconds += int((task / "schedstat").read_text().split()[0])
    return total_nanoseconds / 1e9


def ask(connection: http.client.HTTPConnection, body: bytes) -> None:
    """One request, answered to its end; once more if the kept connection was closed, as servers may at any time."""
    try:
        connection.request("POST", "/v1/messages", body, HEADERS)
        response = connection.getresponse()
    except http.client.RemoteDisconnected:
        connection.request("POST", "/v1/messages", body, HEADERS)
        response = connection.getresponse()
    response.read()
    assert response.status == 200


def round_of(gateway: GatewayProcess, body: bytes, requests: int) -> tuple[float, list[float]]:
    """Processor time for a request, and every request's latency, in seconds."""
    [worker] = gateway.worker_pids
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    before = cpu_seconds(worker)
    latencies = []
    for _ in range(requests):
        begun_at = time.perf_counter()
        ask(connection, body)
        latencies.append(time.perf_counter() - begun_at)
    time.sleep(SETTLE_SECONDS)
    spent = cpu_seconds(worker) - before
    connection.close()
    return spent / requests, latencies


def compare(name: str, behaviour: str, is_streamed: bool, postgres: PostgresServer) -> None:
    """Print a table's rows for one behaviour of the upstream."""
    body = json.dumps({"model": "claude-bench", "stream": is_streamed, "messages": [{"role": "user"}]}).encode()
    cpu: dict[str, list[float]] = {}
    latencies: dict[str, list[float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(simulator(behaviour, folder / "simulator.log"))
        urls = {"off": "none", "SQLite": f"sqlite:///{folder / 'records.db'}", "PostgreSQL": postgres.new_database()}
        gateways = {}
        for label, url in urls.items():
            gateways[label] = GatewayProcess(upstream, ["sk-a"], record_url=url)
            stack.callback(gateways[label].stop)
            round_of(gateways[label], body, WARM_UP)
        for number in range(ROUNDS):
            order = list(gateways) if number % 2 else list(reversed(gateways))
            for label in order:
                spent, each = round_of(gateways[label], body, REQUESTS)
                cpu.setdefault(label, []).append(spent)
                latencies.setdefault(label, []).extend(each)
    for label in urls:
        more = [on - off for on, off in zip(cpu[label], cpu["off"], strict=True)]
        quartiles = statistics.quantiles(more, n=4) if label != "off" else [0.0, 0.0, 0.0]
        centiles = statistics.quantiles(latencies[label], n=100)
        print(
            f"| {name} | {label} | {1e6 * statistics.median(cpu[label]):.0f} | {1e6 * quartiles[1]:+.0f} "
            f"({1e6 * quartiles[0]:+.0f} to {1e6 * quartiles[2]:+.0f}) | "
            f"{100 * quartiles[1] / statistics.median(cpu['off']):+.1f} % | {1e3 * centiles[49]:.2f} | "
            f"{1e3 * centiles[98]:.2f} |"
        )


def builder_microseconds() -> tuple[float, float]:
    """What is paid in any case, for the facts of a request, and what encoding its record costs."""
    caller, key, verdict = Caller("alice", is_operator=False), Key("a", Secret("sk-a")), Verdict(Outcome.OK, 0.0, 200)
    tally = Tally(has_stopped=True)
    tally.usage.take({"input_tokens": 10, "output_tokens": 20}, is_at_end=True)

    def facts() -> RecordBuilder:
        client = client_of(HEADERS)
        builder = RecordBuilder("req_gw_1", "messages", caller, client, time.monotonic, time.time, known_prices())
        builder.asked("claude-bench", True, None)
        builder.attempt_began(key)
        builder.answered(200, "req_up_1")
        builder.attempt_ended(verdict)
        builder.turn_obtained(tally)
        builder.head_sent("req_up_1")
        builder.first_event()
        builder.stream_ended(Ending.COMPLETED)
        return builder

    times = 20_000
    record = facts().finished(200)
    begun_at = time.process_time()
    for _ in range(times):
        facts().finished(200)
    middle_at = time.process_time()
    for _ in range(times):
        encode_record(record)
    return 1e6 * (middle_at - begun_at) / times, 1e6 * (time.process_time() - middle_at) / times


def main() -> None:
    """Measure and print."""
    print(f"{ROUNDS} rounds of {REQUESTS} requests each, {len(os.sched_getaffinity(0))} processors.\n")
    print("| answers | recorder | CPU µs a request | more than off, µs (quartiles) | in % | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|---|")
    postgres = PostgresServer()
    try:
        for name, (behaviour, is_streamed) in BEHAVIOURS.items():
            compare(name, behaviour, is_streamed, postgres)
    finally:
        postgres.stop()
    facts, encoding = builder_microseconds()
    print(f"\nPaid with the recorder off, too: {facts:.0f} µs for a request's facts.")
    print(f"Encoding a record: {encoding:.1f} µs.")


if __name__ == "__main__":
    main()

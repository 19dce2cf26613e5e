"""The design's deadlines, measured: how soon a hang-up frees the upstream, and how soon health answers under load.

Run it with `make bench-deadlines`; it prints the rows of bench/RESULTS.md. Real gunicorn, the project's simulator.
"""

from __future__ import annotations

import http.client
import json
import platform
import socket
import statistics
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from gateway.simulator import Simulator
from tests.harness import GatewayProcess, wait_until

BODY = json.dumps({"model": "claude-bench", "max_tokens": 8, "stream": True, "messages": []}).encode()
HANG_UPS = 100
PROBES = 500
THREADS, RESERVED = 136, 8
STREAMS = THREADS - RESERVED


def post(port: int) -> socket.socket:
    """A streamed request, sent; nothing read."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    head = f"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(BODY)}\r\n\r\n"
    connection.sendall(head.encode() + BODY)
    return connection


def row(name: str, seconds: list[float], limit: str) -> None:
    """One line of the table, in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    figures = (statistics.median(ordered), p99, ordered[-1])
    print(f"| {name} | {len(ordered)} | " + " | ".join(f"{1000 * figure:.1f}" for figure in figures) + f" | {limit} |")


def hang_ups(behaviour: str, reads_first: bool) -> list[float]:
    """From a client's close to the upstream's noticing that its connection was closed."""
    delays = []
    with Simulator(keys={"sk-a": behaviour}) as simulator:
        gateway = GatewayProcess(simulator.url, keys=["sk-a"])
        try:
            for _ in range(HANG_UPS):
                seen = len(simulator.requests)
                client = post(gateway.port)
                assert simulator.wait_until(lambda seen=seen: len(simulator.requests) > seen, 10)
                if reads_first:
                    client.recv(65536)
                closed_at = time.monotonic()
                client.close()
                assert simulator.wait_until(lambda: simulator.open_connections == 0, 10)
                delays.append(time.monotonic() - closed_at)
        finally:
            gateway.stop()
    return delays


def probe(port: int, path: str, method: str = "GET") -> Callable[[], float]:
    """A measurement of one kind, on a connection of its own each time, as a load balancer probes."""

    def measure() -> float:
        began_at = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path, BODY if method == "POST" else None)
        response = connection.getresponse()
        response.read()
        took = time.monotonic() - began_at
        expected = 529 if method == "POST" else 200
        assert response.status == expected, response.status
        connection.close()
        return took

    return measure


def resident_kib(pid: int) -> int:
    """A process's resident memory in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def under_load() -> None:
    """Every admitted thread streams ten events a second; health, metrics and refusals meanwhile."""
    with Simulator(keys={"sk-a": "ok:events=900,delay=0.1"}) as simulator:
        gateway = GatewayProcess(
            simulator.url, keys=["sk-a"], threads=str(THREADS), reserved_threads=str(RESERVED), drain_seconds="1"
        )
        try:
            (worker,) = gateway.worker_pids
            before_kib = resident_kib(worker)
            clients = [post(gateway.port) for _ in range(STREAMS)]
            stop = threading.Event()

            def read(client: socket.socket) -> None:
                while not stop.is_set() and client.recv(65536):
                    pass

            readers = [threading.Thread(target=read, args=(client,), daemon=True) for client in clients]
            for reader in readers:
                reader.start()
            assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == STREAMS, 30)
            each_kib = (resident_kib(worker) - before_kib) / STREAMS
            measures = {
                f"`/healthz` while {STREAMS} streams run": (probe(gateway.port, "/healthz"), "100"),
                f"`/metrics` while {STREAMS} streams run": (probe(gateway.port, "/metrics"), "100"),
                "529 while every slot is taken": (probe(gateway.port, "/v1/messages", "POST"), "at once"),
            }
            for name, (measure, limit) in measures.items():
                row(name, [measure() for _ in range(PROBES)], limit)
            stop.set()
            print(f"\nResident memory of a worker for each of {STREAMS} running streams: {each_kib:.0f} KiB.")
        finally:
            gateway.stop()


def main() -> None:
    """Measure everything once."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("gunicorn", "flask", "requests", "httptools"))
    print(f"Python {platform.python_version()}, {packages}; {platform.system()} {platform.machine()}.\n")
    print("| what | times | p50 ms | p99 ms | max ms | deadline ms |")
    print("|---|---|---|---|---|---|")
    row("hang-up on a silent upstream, before the head", hang_ups("silent", reads_first=False), "2000")
    row("hang-up in mid-stream, upstream silent", hang_ups("stall:after=3", reads_first=True), "2000")
    under_load()


if __name__ == "__main__":
    main()

"""What it costs to bring a mark to a Redis server while others mark, and what a lease of a key on trial costs.

`python -m bench.marks REV` prints the tables of bench/RESULTS.md ("What the shortcuts buy"): several processes mark one
key, or each its own, on a server of their own; this checkout and an earlier commit take turns. `python -m bench.marks
lease` asks for leases, and counts the probes at a key's recovery with one store a process, with the desk and without.
`python -m bench.marks lock` counts what is lost of marks in a file, and what they take, without the folder's lock.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.against import checkout
from gateway.keys.file_store import FileStore
from gateway.keys.key_record import Cause, Record
from gateway.keys.pool import LEASE_SECONDS
from gateway.keys.redis.exchange import Exchanges
from gateway.keys.redis.store import RedisStore
from gateway.keys.redis.wire import SERVER_ERRORS, Server, ServerClock
from gateway.keys.replica import Told
from gateway.runtime.folder_lock import FolderLock
from gateway.runtime.machine_clock import machine_time
from tests.harness import ROOT, wait_until
from tests.stores.redis_server import RedisServer

SECONDS = 2.0
ROUNDS = 3
MARKS = 1000
# How many processes, whether they mark one key, and how often: all of them at once after so long, or without a pause.
SCENES = ((1, True, 0.25), (4, True, 0.25), (16, True, 0.25), (4, True, 0.0), (4, False, 0.0))
FINGERPRINT = "11" * 32

processes = multiprocessing.get_context("fork")


def mark(url: str, name: str, pause_seconds: float, start: Any, out: Any) -> None:
    """Mark a key for a while; how long each mark took."""
    exchanges = Exchanges(Server(url, "gateway:"), ServerClock(), time.time)
    exchanges.connect()
    exchanges.look()
    took, counted = [], 0
    start.wait()
    ends_at = time.monotonic() + SECONDS
    while time.monotonic() < ends_at:
        now = time.time()
        record = Record(cooling_until_at=now + 60, reason="rate_limited", status=429, marked_at=now)
        told = Told(replace(record, limited_count=counted + 1), True, counted, 0, "")
        began_at = time.perf_counter()
        try:
            answer = exchanges.exchange({name: told}).records[name]
        except SERVER_ERRORS:  # a busy machine: no answer in time
            exchanges.close()
            exchanges.connect()
            exchanges.look()
            continue
        took.append(time.perf_counter() - began_at)
        assert answer is not None
        counted = answer.limited_count
        if pause_seconds:
            time.sleep(pause_seconds - time.time() % pause_seconds)
    out.put(took)


def scene(server: RedisServer, count: int, is_one: bool, pause_seconds: float) -> dict[str, Any]:
    """Processes that mark at the same time: all their times in ms, the server's commands and CPU."""
    with server.client() as client:
        client.flushall()
    start, out = processes.Event(), processes.Queue()
    names = [f"{0 if is_one else number:064x}" for number in range(count)]
    running = [processes.Process(target=mark, args=(server.url, name, pause_seconds, start, out)) for name in names]
    for process in running:
        process.start()
    time.sleep(0.5)  # all are connected
    before = usage(server)
    start.set()
    took = [seconds * 1e3 for _ in running for seconds in out.get()]
    for process in running:
        process.join()
    cpu_seconds, scripts = (after - was for after, was in zip(usage(server), before, strict=True))
    return {"took": took, "trips": scripts / len(took), "cpu": cpu_seconds / len(took) * 1e6}


def usage(server: RedisServer) -> tuple[float, float]:
    """The server's CPU time in seconds, and how many scripts it has run."""
    with server.client() as client:
        cpu, commands = client.info("cpu"), client.info("commandstats")
    scripts = sum(commands.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))
    return cpu["used_cpu_user"] + cpu["used_cpu_sys"], scripts


def measured(root: Path) -> list[dict[str, Any]]:
    """All scenes once, by the gateway of another checkout."""
    environ = os.environ | {"PYTHONPATH": f"{root}:{ROOT}"}
    program = [sys.executable, ROOT / "bench/marks.py", "scenes"]
    done = subprocess.run(program, cwd=root, env=environ, check=True, capture_output=True, text=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def compare(revision: str) -> None:
    """Both in turn, and a table."""
    with checkout(revision) as earlier:
        rounds = [
            {root: measured(root) for root in ((earlier, ROOT) if number % 2 else (ROOT, earlier))}
            for number in range(ROUNDS)
        ]
        print(
            "| processes | keys | at once every ms | who | marks | p50 ms | p99 ms | round trips | server's CPU, µs |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for place, (count, is_one, pause_seconds) in enumerate(SCENES):
            for who, root in ((revision, earlier), ("here", ROOT)):
                found = [measures[root][place] for measures in rounds]
                took = sorted(ms for each in found for ms in each["took"])
                p50, p99 = statistics.median(took), took[int(0.99 * len(took))]
                trips, cpu = (statistics.median(each[what] for each in found) for what in ("trips", "cpu"))
                print(
                    f"| {count} | {'one' if is_one else 'its own'} | {pause_seconds * 1e3:.0f} | {who} | {len(took)} | "
                    f"{p50:.2f} | {p99:.1f} | {trips:.2f} | {cpu:.0f} |"
                )


def probe(url: str, has_desk: bool, start: Any, out: Any) -> None:
    """One process at a key's recovery: whether it may probe, and how long the question took."""
    store = RedisStore(url, start_timeout_seconds=5.0)
    store.read([FINGERPRINT])
    assert wait_until(lambda: store.read([FINGERPRINT])[0].is_unconfirmed, 5.0)
    start.wait()
    if not has_desk:
        store._is_up = False  # then it asks nobody
    now = machine_time()
    began_at = time.perf_counter()
    is_granted = store.lease(FINGERPRINT, now + LEASE_SECONDS, now)
    out.put((is_granted, time.perf_counter() - began_at))
    store.close()


def recovery(count: int, has_desk: bool) -> tuple[int, list[float]]:
    """How many of so many processes probe at one recovery; the milliseconds of each question."""
    server = RedisServer()
    try:
        first = RedisStore(server.url, start_timeout_seconds=5.0)
        first.cool(FINGERPRINT, machine_time() + 0.05, 0, Cause("rate_limited", 429, machine_time()))
        assert first.flush(5.0)
        start, out = processes.Event(), processes.Queue()
        running = [processes.Process(target=probe, args=(server.url, has_desk, start, out)) for _ in range(count)]
        for process in running:
            process.start()
        time.sleep(1.5)
        start.set()
        answers = [out.get() for _ in running]
        for process in running:
            process.join()
        first.close()
        return sum(granted for granted, _ in answers), [seconds * 1e3 for _, seconds in answers]
    finally:
        server.stop()


def leases() -> None:
    """What the desk buys, and what it takes."""
    print("| processes | probes with the desk | without | a question: p50 ms | max ms |")
    print("|---|---|---|---|---|")
    for count in (2, 4, 8):
        rows = [(recovery(count, True), recovery(count, False)[0]) for _ in range(ROUNDS)]
        took = sorted(ms for (_, each), _ in rows for ms in each)
        probes, without = (
            [str(number) for number in column]
            for column in zip(*((with_desk[0], none) for with_desk, none in rows), strict=True)
        )
        print(
            f"| {count} | {', '.join(probes)} | {', '.join(without)} | {statistics.median(took):.2f} | {took[-1]:.2f} |"
        )


class NoLock(FolderLock):
    """Lets everybody in at once."""

    def acquire(self, patience_seconds: float | None = None) -> int:
        return self._opened()

    def release(self, descriptor: int) -> None:
        os.close(descriptor)


def mark_file(folder: Path, has_lock: bool, start: Any, out: Any) -> None:
    """Ask for the lease of a key on trial; then mark another one MARKS times; the CPU time of a mark."""
    store = FileStore(folder, 30.0)
    if not has_lock:
        store._lock = NoLock(folder, 30.0)
    start.wait()
    now = machine_time()
    is_granted = store.lease(FINGERPRINT, now + LEASE_SECONDS, now)
    began_at = time.process_time()
    for number in range(MARKS):
        store.cool("22" * 32, now + number, 0, Cause("rate_limited", 429, now))
    out.put((is_granted, (time.process_time() - began_at) / MARKS * 1e6))
    store.close()


def lock() -> None:
    """What the folder's lock buys: four processes that mark at the same time, with it and without."""
    print(f"| lock | marks kept of {4 * MARKS} | leases of one key | CPU a mark, µs |")
    print("|---|---|---|---|")
    for has_lock in (True, False) * ROUNDS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            store = FileStore(folder, 30.0)
            store.start_anew(machine_time())
            store.cool(FINGERPRINT, machine_time() - 1.0, 0, Cause("rate_limited", 429, machine_time()))
            start, out = processes.Event(), processes.Queue()
            running = [processes.Process(target=mark_file, args=(folder, has_lock, start, out)) for _ in range(4)]
            for process in running:
                process.start()
            time.sleep(0.5)
            start.set()
            answers = [out.get() for _ in running]
            for process in running:
                process.join()
            kept = FileStore(folder, 30.0).read(["22" * 32])[0].limited_count
            took = statistics.median(took for _, took in answers)
            granted = sum(granted for granted, _ in answers)
            print(f"| {'yes' if has_lock else 'no'} | {kept} | {granted} | {took:.0f} |", flush=True)


def main() -> None:
    """As the first argument says."""
    if sys.argv[1] == "lease":
        leases()
    elif sys.argv[1] == "lock":
        lock()
    elif sys.argv[1] == "scenes":
        server = RedisServer()
        try:
            json.dump([scene(server, *each) for each in SCENES], sys.stdout)
        finally:
            server.stop()
    else:
        compare(sys.argv[1])


if __name__ == "__main__":
    main()

"""What a walk pays for the shared state of the keys: reading them all, choosing one, marking one; with each store.

Run it with `python -m bench.walk`; it prints the table of bench/RESULTS.md. No network but the store's own: the
upstream of these walks answers at once. Figures are microseconds: the median over rounds of a round's mean.
"""

from __future__ import annotations

import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.walk_beside import SILENT, Silent
from gateway.access.credential import Key, Secret
from gateway.keys.failover import Course, walk
from gateway.keys.file_store import FileStore
from gateway.keys.pool import Pool
from gateway.keys.store import MemoryStore, Store
from gateway.keys.verdict import Concern, Verdict
from gateway.protocol.outcomes import Outcome

ROUNDS = 15
ROUND_SECONDS = 0.1
KEY_COUNTS = (1, 3, 20)
WRITERS = 4
PATIENCE_SECONDS = 60.0  # a request's own would be over now and then among writers without a pause
COURSE = Course("messages/opus-4")
OK = Verdict(Outcome.OK, http_status=200)

processes = multiprocessing.get_context("forkserver")


def keys_of(count: int) -> list[Key]:
    return [Key(f"key-{number}", Secret(f"sk-ant-bench-{number}")) for number in range(count)]


def accepted(key: Key) -> Generator[None, None, tuple[Silent, Verdict]]:
    """An upstream that answers at once."""
    yield from ()
    return SILENT, OK


def walked(pool: Pool) -> None:
    for _ in walk(pool, accepted, SILENT, COURSE):
        pass


def microseconds(call: Callable[[], Any]) -> float:
    """The median over rounds of what one call takes."""
    means = []
    for _ in range(ROUNDS):
        count, began_at = 0, time.perf_counter()
        while (took := time.perf_counter() - began_at) < ROUND_SECONDS:
            for _ in range(20):
                call()
            count += 20
        means.append(1e6 * took / count)
    return statistics.median(means)


def rows(name: str, store: Store) -> None:
    """The lines of one store; its keys have all been marked before, as in a gateway that has run for a while."""
    for count in KEY_COUNTS:
        pool = Pool(keys_of(count), store)
        last = pool.keys[-1]
        for status in pool.statuses(COURSE.scope):
            pool.cool(status, 0.001, "rate_limited", 429, Concern.SCOPE)
            time.sleep(0.002)
            pool.confirm(status)
        reading, walking = (
            microseconds(partial(pool.recent, COURSE.scope)),
            microseconds(lambda pool=pool: walked(pool)),
        )
        status = next(status for status in pool.statuses(COURSE.scope) if status.key == last)
        marking = microseconds(
            lambda pool=pool, status=status: pool.cool(status, 60.0, "rate_limited", 429, Concern.SCOPE)
        )
        pool.enable(last)
        print(f"| {name} | {count} | {reading:.1f} | {walking:.1f} | {marking:.1f} |", flush=True)


def mark_on(folder: Path, number: int, stop: Any) -> None:
    """Mark a key of one's own without a pause."""
    store = FileStore(folder, PATIENCE_SECONDS)
    pool = Pool([Key(f"writer-{number}", Secret(f"sk-ant-writer-{number}"))], store)
    (status,) = pool.statuses(COURSE.scope)
    while not stop.is_set():
        for _ in range(100):
            pool.cool(status, 60.0, "rate_limited", 429, Concern.SCOPE)
    store.close()


@contextmanager
def writers(folder: Path) -> Iterator[None]:
    stop = processes.Event()
    running = [processes.Process(target=mark_on, args=(folder, number, stop)) for number in range(WRITERS)]
    for process in running:
        process.start()
    try:
        yield
    finally:
        stop.set()
        for process in running:
            process.join()


def redis_rows() -> None:
    """With a server of its own on this machine; a line that says why not, if it cannot be had."""
    try:
        from gateway.keys.redis.store import RedisStore
        from tests.stores.redis_server import RedisServer

        server = RedisServer()
    except (ImportError, AssertionError) as error:
        print(f"\nRedis was not measured: {error}.")
        return
    try:
        store = RedisStore(server.url)
        rows("Redis, local", store)
        store.close()
    finally:
        server.stop()


def release_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def main() -> None:
    """Measure every store once."""
    packages = ", ".join(f"{name} {release_of(name)}" for name in ("msgspec", "redis"))
    print(f"Python {platform.python_version()}, {packages}; {platform.system()} {platform.machine()}.\n")
    print("| store | keys | read the keys, µs | a walk, µs | a mark, µs |")
    print("|---|---|---|---|---|")
    rows("memory", MemoryStore())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = FileStore(folder, PATIENCE_SECONDS)
        rows("file", store)
        with writers(folder):
            rows(f"file, {WRITERS} processes marking without a pause", store)
        store.close()
    redis_rows()


if __name__ == "__main__":
    main()

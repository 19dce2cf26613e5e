"""What a walk over 20 keys costs beside an earlier commit's: scopes, organisations and pins against plain keys.

Run it with `python -m bench.walk_beside <commit>`; it prints the table of bench/RESULTS.md. One process a side, each
with its own checkout and the same interpreter; they walk in turn, round by round, and CPU time alone is counted. The
upstream of these walks answers at once. Keys stand in ten organisations of two, a workspace a key; the earlier side
knows nothing of that. A pinned session is answered by the second key; what it costs is compared with a walk whose first
key answers.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

ROUNDS = 31
ROUND_SECONDS = 0.05
KEYS = 20
COOLDOWN_SECONDS = 3600.0
STORES = ("memory", "file")
ALL_WELL, HALF_COOLS, PINNED = "first key answers", "half the pool cools down", "pinned session"
# Each with the scene of the earlier side that it is compared with.
SCENES = {ALL_WELL: ALL_WELL, HALF_COOLS: HALF_COOLS, PINNED: ALL_WELL}
SCOPE = "messages/opus-4"
BODY = b'{"model": "claude-opus-4-8", "messages": [{"role": "user", "content": "%s"}]}' % (b"hello " * 300)
SIDE = "--side"


class Silent:
    """An observer and an answer that do nothing."""

    is_relayable = True

    def ignore(self, *_: object, **__: object) -> None:
        """Whatever is told or asked."""

    passed_over = attempted = transitioned = failed_over = walked = exhausted = discard = forbid_retries = ignore


SILENT = Silent()


def scene(store_name: str, name: str, folder: Path) -> Callable[[], None]:
    """One walk of a scene, by whichever commit's gateway is imported."""
    from gateway.access.credential import Key, Secret
    from gateway.keys import verdict
    from gateway.keys.failover import walk
    from gateway.keys.file_store import FileStore
    from gateway.keys.pool import Pool
    from gateway.keys.store import MemoryStore

    words: Any = verdict  # which has Outcome in every commit, imported or its own
    ok = words.Verdict(words.Outcome.OK, http_status=200)
    store: Any = MemoryStore() if store_name == "memory" else FileStore(folder / name.replace(" ", "-"))
    pool: Any = Pool([Key(f"key-{n}", Secret(f"sk-ant-bench-{n}")) for n in range(KEYS)], store)
    knows_places = hasattr(pool, "learn")

    def answer(key: Key) -> Generator[None, None, tuple[Any, Any]]:
        yield from ()
        return SILENT, ok

    if not knows_places:
        cool(pool, (), (), name)
        return lambda: finish(walk(pool, answer, SILENT))

    from gateway.keys.affinity import Affinity, PinSeconds
    from gateway.keys.failover import Course
    from gateway.keys.places import Place
    from gateway.keys.verdict import Concern

    for number, key in enumerate(pool.keys):
        pool.learn(key, Place(f"organisation-{number // 2}", f"wrkspc_{number}"))
    affinity, seconds = Affinity(store), PinSeconds(300.0, 3600.0)
    cool(pool, (SCOPE,), (Concern.SCOPE,), name)

    def pins() -> Any:
        return affinity.of(pool, "somebody", "session-1", BODY, seconds)

    if name == PINNED:
        pins().answered(pool.statuses(SCOPE)[1], is_displaced=True)
    return lambda: finish(walk(pool, answer, SILENT, Course(SCOPE, session=pins())))


def cool(pool: Any, scope: tuple[str, ...], concern: tuple[Any, ...], name: str) -> None:
    """Marks as in a gateway that has run for a while; half of the pool cools down, if that is the scene."""
    statuses = pool.statuses(*scope)
    for status in statuses:
        pool.cool(status, 0.001, "rate_limited", 429, *concern)
    time.sleep(0.01)
    for status in pool.statuses(*scope):
        pool.confirm(status)
    for status in statuses[::2] if name == HALF_COOLS else ():
        pool.cool(status, COOLDOWN_SECONDS, "rate_limited", 429, *concern)


def finish(walking: Generator[None, None, Any]) -> None:
    """To the end of a walk."""
    for _ in walking:
        pass


def microseconds(call: Callable[[], None]) -> float:
    """The CPU time of one call in one round."""
    count, began_at = 0, time.thread_time()
    while (took := time.thread_time() - began_at) < ROUND_SECONDS:
        for _ in range(20):
            call()
        count += 20
    return 1e6 * took / count


def serve() -> None:
    """Be one side: for each line `store/scene` on stdin, a round and its figure."""
    with tempfile.TemporaryDirectory() as folder:
        scenes: dict[str, Callable[[], None]] = {}
        for line in sys.stdin:
            store, _, name = line.strip().partition("/")
            if line not in scenes:
                path = Path(folder) / store
                path.mkdir(exist_ok=True)
                scenes[line] = scene(store, name, path)
                microseconds(scenes[line])
            print(microseconds(scenes[line]), flush=True)


class Side:
    """A process with one commit's gateway."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), SIDE],
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self, store: str, name: str) -> float:
        """One round of a scene, in microseconds a walk."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(f"{store}/{name}", file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()


def main(revision: str) -> None:
    """Measure both sides, in turn."""
    from bench.against import checkout
    from tests.harness import ROOT

    with checkout(revision) as earlier:
        sides = [Side(earlier), Side(ROOT)]
        try:
            print(f"Python {platform.python_version()}; {ROUNDS} rounds; {KEYS} keys; earlier: {revision}.\n")
            print("| store | scene | earlier, µs | now, µs | ratio (median of pairs) |")
            print("|---|---|---|---|---|")
            for store in STORES:
                for name, before in SCENES.items():
                    pairs = [(sides[0].round(store, before), sides[1].round(store, name)) for _ in range(ROUNDS)]
                    was, now = (statistics.median(column) for column in zip(*pairs, strict=True))
                    ratio = statistics.median(now / was for was, now in pairs)
                    print(f"| {store} | {name} | {was:.1f} | {now:.1f} | {ratio:.2f} |", flush=True)
        finally:
            for side in sides:
                side.stop()


if __name__ == "__main__":
    serve() if SIDE in sys.argv else main(sys.argv[1])

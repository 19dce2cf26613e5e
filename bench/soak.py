"""Ten minutes of everything, and whether the gateway's memory, threads and descriptors stay as they were.

Run it with `make bench-soak`; SECONDS says how long (600). Slices of whole answers, bursts and streams, with clients
that hang up in the middle; between two slices, when nothing runs, what the gateway holds is written down.
"""

from __future__ import annotations

import os
import statistics
import time

from bench.contenders import Ours, Upstream
from bench.meter import Holdings, holdings, tree, wait_until_quiet
from bench.race import measured
from bench.scenarios import SCENARIOS

_MIX = ("whole-32", "burst-200", "paced-100", "body", "idle-1000")
_STREAMS = 100  # of those that would be silent: they end with a hang-up
_WARM_SECONDS = 60.0


def main() -> None:
    """Soak, and print a line for each look and a summary of those after the first minute."""
    seconds = float(os.environ.get("SECONDS", "600"))
    upstream = Upstream()
    upstream.ready(0)
    gateway = Ours(upstream.port)
    looks: list[tuple[float, Holdings]] = []
    requests = errors = 0
    try:
        gateway.ready(0)
        began_at = time.monotonic()
        while time.monotonic() < began_at + seconds:
            for name in _MIX:
                scenario = SCENARIOS[name]
                upstream.answer(scenario.answer)
                scenario.load["streams"] = _STREAMS
                figures = measured(scenario, gateway)
                requests += figures.get("requests", 0) + figures.get("begun", 0)
                errors += figures.get("errors", 0) + figures.get("failed", 0)
            wait_until_quiet(gateway.roots)
            looks.append((time.monotonic() - began_at, holdings(tree(gateway.roots))))
            at, held = looks[-1]
            mib = held.pss_bytes / 2**20
            print(f"{at:6.0f} s {mib:7.2f} MiB {held.threads:4} threads {held.descriptors:4} descriptors", flush=True)
    finally:
        gateway.stop()
        upstream.stop()
    _summary(looks, requests, errors)


def _summary(looks: list[tuple[float, Holdings]], requests: int, errors: int) -> None:
    warm = [(at, held) for at, held in looks if at >= _WARM_SECONDS] or looks
    minutes = [at / 60 for at, _ in warm]
    mib = [held.pss_bytes / 2**20 for _, held in warm]
    slope = statistics.linear_regression(minutes, mib).slope if len(warm) > 1 else float("nan")
    first, last = warm[0][1], warm[-1][1]
    print(
        f"{requests} requests, {errors} errors; after the first minute: memory {slope:+.3f} MiB a minute, "
        f"threads {first.threads} to {last.threads}, descriptors {first.descriptors} to {last.descriptors}"
    )


if __name__ == "__main__":
    main()

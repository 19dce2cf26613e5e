"""What prices and limits cost a request: the worker's CPU time, beside an earlier commit's, in interleaved rounds.

Run it with `make bench-limits REV=<commit before them>`; it prints a table for bench/RESULTS.md. Three real gateways in
turn, each with one worker and a token file, before the same simulator: the earlier commit's; this one's without
limits; this one's with a token and a group that have all five limits each, none of which is reached.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
from pathlib import Path

from bench.against import BEHAVIOURS, CLIENTS, SECONDS, checkout, cpu_seconds, load
from bench.workers import simulator
from tests.harness import ROOT, GatewayProcess

ROUNDS = 21
TOKEN = "gwt_bench"
REQUEST = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["x-api-key"] = "%s"
wrk.body = '{"model":"claude-opus-5","max_tokens":8,"stream":%s,"messages":[{"role":"user","content":"hi"}]}'
"""
ALL_FIVE = """
requests_per_minute = 900000000
tokens_per_minute = 900000000
concurrent = 900
dollars_per_day = 9000000
dollars_per_month = 9000000
"""
LIMITS = f"[limits.tokens.bench]\n{ALL_FIVE}\n[limits.groups.team]\n{ALL_FIVE}\n"


def cost_us(root: Path, upstream: str, folder: Path, is_streamed: bool, with_limits: bool) -> float:
    """The worker's CPU time a request, in microseconds, once it is warm."""
    tokens, config, script = folder / "tokens", folder / "config.toml", folder / "request.lua"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens.write_text(f"bench sha256:{digest}{' group=team' if with_limits else ''}\n")
    config.write_text(LIMITS if with_limits else "")
    script.write_text(REQUEST % (TOKEN, "true" if is_streamed else "false"))
    files = {"client_tokens_file": str(tokens), "config": str(config)}
    gateway = GatewayProcess(upstream, ["sk-a"], root=root, threads="32", **files)
    try:
        load(gateway.url, script, 1)
        (worker,) = gateway.worker_pids
        before = cpu_seconds(worker)
        requests = load(gateway.url, script, SECONDS)
        return (cpu_seconds(worker) - before) / requests * 1e6
    finally:
        gateway.stop()


def measured(earlier: Path, url: str, is_streamed: bool) -> list[tuple[float, float, float]]:
    """A row a round: the earlier commit, here without limits, here with them."""
    variants = [(earlier, False), (ROOT, False), (ROOT, True)]
    rows = []
    for number in range(ROUNDS):
        costs: dict[tuple[Path, bool], float] = {}
        for variant in variants[number % 3 :] + variants[: number % 3]:
            with tempfile.TemporaryDirectory() as folder:
                costs[variant] = cost_us(variant[0], url, Path(folder), is_streamed, variant[1])
        rows.append((costs[variants[0]], costs[variants[1]], costs[variants[2]]))
    return rows


def quartiles(ratios: list[float]) -> str:
    """The median, and the quartiles around it."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Measure round by round and print medians."""
    revision = sys.argv[1]
    with checkout(revision) as earlier:
        print(f"CPU a request, {CLIENTS} clients, medians of {ROUNDS} rounds; quartiles of the ratio in brackets.\n")
        print(f"| scenario | {revision}, µs | here, µs | ratio | here with limits, µs | ratio |")
        print("|---|---|---|---|---|---|")
        for name, (behaviour, is_streamed) in BEHAVIOURS.items():
            with tempfile.TemporaryDirectory() as folder:
                upstream, url = simulator(behaviour, Path(folder) / "simulator.log")
                try:
                    rows = measured(earlier, url, is_streamed)
                finally:
                    upstream.terminate()
                    upstream.wait(10)
            before, without, limited = (statistics.median(column) for column in zip(*rows, strict=True))
            print(
                f"| {name} | {before:.0f} | {without:.0f} | {quartiles([row[1] / row[0] for row in rows])} "
                f"| {limited:.0f} | {quartiles([row[2] / row[0] for row in rows])} |"
            )


if __name__ == "__main__":
    main()

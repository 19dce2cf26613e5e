"""What prices and limits cost a request: the worker's CPU time, beside an earlier commit's, in turns of a second.

Run it with `make bench-limits REV=<commit before them>`; it prints a table for bench/RESULTS.md. Four real gateways in
turn, each with one worker and a token file, before the same simulator: the earlier commit's; this one's with neither
prices nor limits (bench/without_prices.py), which has all else that came since; this one's without limits; this one's
with a token and a group that have all five limits each, none of which is reached. What noise hides there, a count of
instructions shows: those of a whole message in this commit's application alone, without sockets.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import instructions
from bench.against import BEHAVIOURS, CLIENTS, checkout, cpu_seconds, load
from bench.callgrind import of_one
from bench.workers import simulator
from gateway.config.loader import load_settings
from gateway.limits.counters import MachineCounters
from gateway.limits.shared_limiter import SharedLimiter
from gateway.runtime.shared_counts import SharedCounts
from gateway.web.service import Gateway
from tests.harness import ROOT, GatewayProcess

LAUNCHES = 4
TURNS = 8
SECONDS = 1
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


# Messages of the two runs whose difference is counted: what a start costs falls out.
COUNTED = (50, 150)


@dataclass(frozen=True)
class Variant:
    """A gateway that takes its turns."""

    name: str
    root: Path = ROOT
    with_limits: bool = False
    arguments: tuple[str, ...] = ()


WITHOUT_PRICES = ("-c", str(ROOT / "bench" / "without_prices.py"))


def files_in(folder: Path, with_limits: bool) -> dict[str, str]:
    """The settings that name a file of tokens, and one of limits or of none."""
    tokens, config = folder / f"tokens-{with_limits}", folder / f"config-{with_limits}.toml"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens.write_text(f"bench sha256:{digest}{' group=team' if with_limits else ''}\n")
    config.write_text(LIMITS if with_limits else "")
    return {"client_tokens_file": str(tokens), "config": str(config)}


def started(variant: Variant, upstream: str, folder: Path) -> GatewayProcess:
    """A gateway with a token, and with limits or none."""
    files = files_in(folder, variant.with_limits)
    settings = {"threads": "32", "reserved_threads": "8", **files}
    return GatewayProcess(upstream, ["sk-a"], variant.arguments, root=variant.root, **settings)


def cost_us(gateway: GatewayProcess, script: Path) -> float:
    """The worker's CPU time a request, in microseconds."""
    (worker,) = gateway.worker_pids
    before = cpu_seconds(worker)
    requests = load(gateway.url, script, SECONDS)
    return (cpu_seconds(worker) - before) / requests * 1e6


def launch(variants: Sequence[Variant], upstream: str, script: Path, number: int) -> list[list[float]]:
    """Start all gateways, warm them, and let them take turns: a row a turn, a column a variant."""
    with tempfile.TemporaryDirectory() as folder:
        gateways = [started(variant, upstream, Path(folder)) for variant in variants]
        try:
            for gateway in gateways:
                load(gateway.url, script, SECONDS)
            rows = []
            for turn in range(number, number + TURNS):
                order = [(turn + step) % len(gateways) for step in range(len(gateways))]
                costs = {place: cost_us(gateways[place], script) for place in (order if turn % 2 else reversed(order))}
                rows.append([costs[place] for place in range(len(gateways))])
            return rows
        finally:
            for gateway in gateways:
                gateway.stop()


def ratio(rows: Sequence[Sequence[float]], place: int, base: int) -> str:
    """How a variant compares with another, turn by turn: the median, and its 95 % confidence interval."""
    ratios = sorted(row[place] / row[base] for row in rows)
    spread = 0.98 * math.sqrt(len(ratios))  # in ranks, by the sign test
    middle = (len(ratios) - 1) / 2
    low, high = ratios[max(0, math.floor(middle - spread))], ratios[min(len(ratios) - 1, math.ceil(middle + spread))]
    return f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"


def serve(number: int, with_limits: bool) -> None:
    """So many whole messages through the application in this process, counted as a worker counts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {f"GATEWAY_{setting.upper()}": path for setting, path in files_in(folder, with_limits).items()}
        environ = {"GATEWAY_API_KEYS": "sk-a", "GATEWAY_DATA_DIR": str(folder / "data"), **files}
        settings = load_settings(environ, lambda path: Path(path).read_bytes())
        gateway = Gateway(settings, counts=SharedCounts(folder / "counts", 0))
        # Its housekeeping is not started, and its clock stands: valgrind is slow, and what each second brings would
        # count for few messages.
        counters = MachineCounters(folder / "data", clock=lambda: 1.0)
        gateway.begin_limits(lambda: SharedLimiter(counters))
        instructions.serve(gateway, number, HTTP_X_API_KEY=TOKEN)


def instructions_of_one(with_limits: bool) -> float:
    """How many a message takes."""
    word = "limits" if with_limits else "none"
    return of_one(lambda number: [sys.executable, "-m", "bench.limits", word, str(number)], *COUNTED)


def main() -> None:
    """Measure launch by launch and print medians, and count instructions; or serve so many messages to be counted."""
    if len(sys.argv) > 2:
        serve(int(sys.argv[2]), with_limits=sys.argv[1] == "limits")
        return
    revision = sys.argv[1]
    with checkout(revision) as earlier, tempfile.TemporaryDirectory() as folder:
        variants = [
            Variant(revision, root=earlier),
            Variant("no prices", arguments=WITHOUT_PRICES),
            Variant("here"),
            Variant("with limits", with_limits=True),
        ]
        compared = [(place, base) for base in (1, 0) for place in (2, 3)]
        names = [variant.name for variant in variants]
        ratios = [f"{names[place]} / {names[base]}" for place, base in compared]
        print(f"CPU a request in µs, {CLIENTS} clients, medians of {LAUNCHES * TURNS} turns; ratios turn by turn.\n")
        print(f"| scenario | {' | '.join([*names, *ratios])} |")
        print(f"|---|{'---|' * len([*names, *ratios])}")
        for name, (behaviour, is_streamed) in BEHAVIOURS.items():
            script = Path(folder) / "request.lua"
            script.write_text(REQUEST % (TOKEN, "true" if is_streamed else "false"))
            upstream, url = simulator(behaviour, Path(folder) / "simulator.log")
            try:
                rows = [row for number in range(LAUNCHES) for row in launch(variants, url, script, number)]
            finally:
                upstream.terminate()
                upstream.wait(10)
            cells = [f"{statistics.median(column):.0f}" for column in zip(*rows, strict=True)]
            cells += [ratio(rows, place, base) for place, base in compared]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    without, with_limits = map(instructions_of_one, (False, True))
    print(f"\nInstructions a whole message: {without:,.0f}, with limits {with_limits:,.0f}.")


if __name__ == "__main__":
    main()

"""What tracing costs: CPU per request without it, with it off, and with it on.

Run it with `make bench-tracing`; it prints what bench/RESULTS.md reports. Three gateways, each real gunicorn with one
worker, take turns before the same simulator, with wrk as the client:

- `without`: a copy of this checkout out of which CUTS have taken every call of the tracer, down to its beginning;
- `off`: an untouched copy, with GATEWAY_TRACING=off;
- `on`: the same copy, exporting every request to a receiver in this process that takes all spans.

Compared is the worker's CPU time, the exporter's thread included. Each launch has all three gateways up, and they take
turns of a second, in changing order, so that a pair meets the same disturbance by whatever else the machine does; there
are several launches, so that no lucky layout of memory is measured. Recording is off in all three: it would only make
the share of tracing smaller. What CPU time cannot tell from noise, a count of instructions can (`instructions.py`).
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Mapping
from pathlib import Path

from bench.against import cpu_seconds, load
from bench.callgrind import of_one
from bench.workers import REQUEST, simulator
from gateway.keys.verdict import Verdict
from gateway.protocol.messages import Tally
from gateway.protocol.outcomes import Outcome
from gateway.telemetry.tracing import Tracing
from gateway.upstream import Call
from tests.e2e.otlp_receiver import OtlpReceiver
from tests.harness import ROOT, GatewayProcess

LAUNCHES = int(sys.argv[1]) if len(sys.argv) > 1 else 8
TURNS = 8
SECONDS = 1
# Requests of the two runs whose difference is counted: what a start costs falls out.
COUNTED = (100, 400)
BEHAVIOURS = {"whole answers": ("ok", False), "streams of 200 events": ("ok:events=200", True)}

Variant = tuple[Path, dict[str, str]]
Costs = dict[str, list[float]]

# File, what stands there, and what stands there in a gateway that was never told of traces.
CUTS = (
    ("web/routes.py", "    exchange.trace.asks(summary.model, summary.is_streaming)\n", ""),
    (
        "web/routes.py",
        "    trace = gateway.tracing.begin(request, headers, origin.address, settings.upstream_url)\n"
        "    if trace.trace_id is not None:\n"
        "        client = replace(client, trace_id=trace.trace_id)\n",
        "    trace = None\n",
    ),
    ("telemetry/observer.py", "        self.trace.turn_began(has_walk=scope is not None)\n", ""),
    (
        "telemetry/observer.py",
        "        return self.trace.attempt_began(call, key.name if key is not None else None)\n",
        "        return call\n",
    ),
    ("telemetry/observer.py", "        self.trace.attempt_failed(error)\n", ""),
    (
        "telemetry/observer.py",
        "        self.trace.attempt_ended(verdict, self.builder.upstream_id, tally, is_stream)\n",
        "",
    ),
    ("web/exchange.py", "        self.trace.ended(record)\n", ""),
)


def copied(folder: Path, cuts: tuple[tuple[str, str, str], ...]) -> Path:
    """A copy of the gateway with these cuts, each of which must be possible in one place."""
    shutil.copytree(ROOT / "gateway", folder / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "gunicorn.conf.py", folder)
    for name, before, after in cuts:
        file = folder / "gateway" / name
        text = file.read_text()
        assert text.count(before) == 1, f"{name} no longer has, once: {before}"
        file.write_text(text.replace(before, after))
    return folder


def cost_us(gateway: GatewayProcess, script: Path) -> float:
    """The worker's CPU time a request, in microseconds."""
    (worker,) = gateway.worker_pids
    before = cpu_seconds(worker)
    requests = load(gateway.url, script, SECONDS)
    return (cpu_seconds(worker) - before) / requests * 1e6


def launch(upstream: str, script: Path, variants: Mapping[str, Variant], costs: Costs, number: int) -> None:
    """Start all gateways, warm them, and let them take turns."""
    gateways = {
        name: GatewayProcess(upstream, ["sk-a"], root=root, threads="32", record_url="none", **settings)
        for name, (root, settings) in variants.items()
    }
    try:
        for gateway in gateways.values():
            load(gateway.url, script, SECONDS)
        names = list(gateways)
        for turn in range(number, number + TURNS):
            order = names[turn % 3 :] + names[: turn % 3]
            for name in order if turn % 2 else reversed(order):
                costs[name].append(cost_us(gateways[name], script))
    finally:
        for gateway in gateways.values():
            gateway.stop()


def compare(name: str, behaviour: str, is_streamed: bool, variants: Mapping[str, Variant]) -> None:
    """Measure one scenario and print its row."""
    costs: Costs = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "request.lua"
        script.write_text(REQUEST % ("true" if is_streamed else "false"))
        upstream, url = simulator(behaviour, Path(folder) / "simulator.log")
        try:
            for number in range(LAUNCHES):
                launch(url, script, variants, costs, number)
        finally:
            upstream.terminate()
            upstream.wait(10)
    medians = [f"{statistics.median(costs[variant]):.0f}" for variant in variants]
    print(f"| {name} | {' | '.join(medians)} | {ratio(costs, 'off')} | {ratio(costs, 'on')} |", flush=True)


def ratio(costs: Mapping[str, list[float]], variant: str) -> str:
    """How a variant compares with `without`, pair by pair: the median, and in brackets its 95 % confidence interval."""
    ratios = sorted(cost / base for cost, base in zip(costs[variant], costs["without"], strict=True))
    spread = 0.98 * math.sqrt(len(ratios))  # in ranks, by the sign test
    middle = (len(ratios) - 1) / 2
    low, high = ratios[max(0, math.floor(middle - spread))], ratios[min(len(ratios) - 1, math.ceil(middle + spread))]
    return f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"


def instructions(root: Path) -> float:
    """Instructions of one whole message in the application alone: nearly the same in every run."""

    def program_of(number: int) -> list[str]:
        return [sys.executable, "-m", "bench.instructions", str(number)]

    subprocess.run(program_of(1), cwd=root, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)  # it is compiled
    return of_one(program_of, *COUNTED, root)


def calls_us() -> float:
    """What a request pays for calls of a tracer that is off, alone, in microseconds."""
    call, verdict, tally = Call("POST", "/v1/messages", [], b"{}"), Verdict(Outcome.OK), Tally()
    tracing = Tracing()

    def request() -> None:
        trace = tracing.begin(None, {}, "127.0.0.1", "https://api.example.com")  # type: ignore[arg-type]
        if trace.trace_id is None:
            trace.asks("claude-bench", True)
        trace.turn_began(has_walk=True)
        trace.attempt_began(call, "k0")
        trace.attempt_ended(verdict, None, tally, True)
        trace.ended(None)  # type: ignore[arg-type]

    return min(timeit.repeat(request, number=100_000, repeat=20)) * 10


def main() -> None:
    """Print everything."""
    with tempfile.TemporaryDirectory() as folder, OtlpReceiver() as receiver:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
        bare, whole = Path(folder) / "without", Path(folder) / "with"
        bare.mkdir()
        whole.mkdir()
        copied(bare, CUTS)
        copied(whole, ())
        variants = {"without": (bare, {}), "off": (whole, {"tracing": "off"}), "on": (whole, {"tracing": "otlp"})}
        print(f"CPU a request in µs, medians of {LAUNCHES * TURNS} turns; ratios are medians of pairs.\n")
        print("| scenario | without | off | on | off / without | on / without |")
        print("|---|---|---|---|---|---|")
        for name, (behaviour, is_streamed) in BEHAVIOURS.items():
            compare(name, behaviour, is_streamed, variants)
        assert receiver.spans, "nothing was exported"
        counts = {name: instructions(root) for name, root in (("without", bare), ("off", whole))}
    ratio_counted = counts["off"] / counts["without"]
    print(f"\nInstructions of the application for one whole message: {counts['without']:.0f} without,")
    print(f"{counts['off']:.0f} off, ratio {ratio_counted:.4f}.")
    print(f"\nThe calls of a tracer that is off, by themselves: {calls_us():.2f} µs a request.")


if __name__ == "__main__":
    main()

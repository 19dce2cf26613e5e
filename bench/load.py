"""The load generator: one thread, one epoll. Run as `python -m bench.load SPEC`; prints one JSON document.

SPEC is JSON: `port`, `request` (its lines, without the body), `streamed`, `padding_bytes`, `pids` (the contender's
processes, whose use is read from /proc at the edges of the measured window), and either

    closed  `clients` ask again as soon as they are answered; measured for `seconds`, after `warm_seconds`
    paced   `streams` are opened within `ramp_seconds`; measured for `seconds` from then on; all are to have `events`
            stamped events (0: they stay silent); `health` is a path to probe meanwhile
"""

from __future__ import annotations

import gc
import json
import re
import select
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.link import Link
from bench.meter import cpu_seconds, holdings, tree
from bench.wording import request_body

_STAMP = re.compile(rb"@(\d+)@")
_PROBE_NS = 20_000_000
_GRACE_SECONDS = 5.0
_SETTLE_SECONDS = 0.5


def percentiles(nanoseconds: Sequence[int]) -> dict[str, float]:
    """Median, 99th percentile and maximum, in milliseconds; nothing of nothing."""
    if not nanoseconds:
        return {}
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    return {
        "p50_ms": ordered[round(last * 0.5)] / 1e6,
        "p99_ms": ordered[round(last * 0.99)] / 1e6,
        "max_ms": ordered[last] / 1e6,
    }


class _Window:
    """The measured time, and the CPU that the contender and this process took in it."""

    def __init__(self, pids: list[int], begins_at: float, seconds: float) -> None:
        self._roots = pids
        self.begins_at, self.ends_at = begins_at, begins_at + seconds
        self._cpu = self._own_cpu = 0.0
        self.is_open = False
        self.figures: dict[str, Any] = {}

    def look(self, now: float) -> None:
        """Open or close the window if it is time."""
        if not self.is_open and not self.figures and now >= self.begins_at:
            self.is_open = True
            self.begins_at = now
            self._pids = tree(self._roots)
            self._cpu, self._own_cpu = cpu_seconds(self._pids), time.process_time()
        elif self.is_open and now >= self.ends_at:
            self.is_open = False
            self.figures = {
                "seconds": now - self.begins_at,
                "cpu_seconds": cpu_seconds(self._pids) - self._cpu,
                "client_cpu_seconds": time.process_time() - self._own_cpu,
                **holdings(self._pids).as_json(),
            }


class Closed:
    """So many clients, each of which asks again as soon as it is answered."""

    def __init__(self, spec: dict[str, Any], request: bytes) -> None:
        self._port, self._clients, self._request = spec["port"], spec["clients"], request
        self._epoll = select.epoll()
        self._links: dict[int, Link] = {}
        self._window = _Window(spec["pids"], time.monotonic() + spec["warm_seconds"], spec["seconds"])
        self._took: list[int] = []
        self._first: list[int] = []
        self._events = self._errors = 0

    def run(self) -> dict[str, Any]:
        """Measure, and return the figures."""
        for _ in range(self._clients):
            self._connect()
        while not self._window.figures:
            for descriptor, _ in self._epoll.poll(0.01):
                self._heard(self._links[descriptor])
            self._window.look(time.monotonic())
        for link in self._links.values():
            link.close()
        return {
            **self._window.figures,
            "requests": len(self._took),
            "events": self._events,
            "errors": self._errors,
            "latency": percentiles(self._took),
            "first_event": percentiles(self._first),
        }

    def _connect(self) -> None:
        link = Link(self._port)
        self._links[link.socket.fileno()] = link
        self._epoll.register(link.socket, select.EPOLLIN)
        link.ask(self._request)

    def _heard(self, link: Link) -> None:
        before = link.events
        is_alive = link.read()
        if self._window.is_open:
            self._events += link.events - before
        if is_alive and not link.is_complete:
            return
        if self._window.is_open:
            self._note(link)
        if is_alive:
            link.ask(self._request)
        else:
            del self._links[link.socket.fileno()]
            link.close()
            self._connect()

    def _note(self, link: Link) -> None:
        if link.is_good:
            self._took.append(time.monotonic_ns() - link.sent_at)
            self._first.append(link.first_at - link.sent_at)
        else:
            self._errors += 1


class _Probes:
    """Health checks, each on a connection of its own, as a load balancer makes them."""

    def __init__(self, epoll: select.epoll, port: int, path: str) -> None:
        self._epoll, self._port = epoll, port
        self._request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode()
        self._links: dict[int, Link] = {}
        self._next_at = 0
        self._took: list[int] = []
        self._errors = 0

    def begin(self, now: int) -> None:
        """Probe if it is time."""
        if now >= self._next_at:
            self._next_at = now + _PROBE_NS
            link = Link(self._port)
            self._links[link.socket.fileno()] = link
            self._epoll.register(link.socket, select.EPOLLIN)
            link.ask(self._request)

    def heard(self, descriptor: int) -> bool:
        """Take in what a probe's connection has brought; False if that is no probe's."""
        link = self._links.get(descriptor)
        if link is None:
            return False
        if link.read() and not link.is_complete:
            return True
        if link.is_good:
            self._took.append(time.monotonic_ns() - link.sent_at)
        else:
            self._errors += 1
        del self._links[descriptor]
        link.close()
        return True

    def figures(self) -> dict[str, Any]:
        """How soon health was told."""
        return {"probes": len(self._took), "errors": self._errors, **percentiles(self._took)}


class Paced:
    """Many streams, opened one after the other, that bring an event now and then."""

    def __init__(self, spec: dict[str, Any], request: bytes) -> None:
        self._pids, self._port, self._request = spec["pids"], spec["port"], request
        self._streams, self._ramp_seconds, self._expected = spec["streams"], spec["ramp_seconds"], spec["events"]
        self._epoll = select.epoll()
        self._links: dict[int, Link] = {}
        self._probes = _Probes(self._epoll, self._port, spec["health"]) if spec.get("health") else None
        self._pss_before_bytes = holdings(tree(self._pids)).pss_bytes
        self._began_at = time.monotonic()
        measured_from = _SETTLE_SECONDS + spec["ramp_seconds"]
        self._window = _Window(self._pids, self._began_at + measured_from, spec["seconds"])
        lasting = max(measured_from + spec["seconds"], spec["ramp_seconds"] + self._expected / spec["events_a_second"])
        self._last_at = self._began_at + lasting + _GRACE_SECONDS
        self._delays: list[int] = []
        self._opened = self._begun = self._stamps = self._events = self._good = self._failed = 0

    def run(self) -> dict[str, Any]:
        """Measure, and return the figures."""
        while self._good + self._failed < self._streams and not self._is_over():
            self._open_due()
            if self._probes is not None and self._window.is_open:
                self._probes.begin(time.monotonic_ns())
            for descriptor, _ in self._epoll.poll(0.001 if self._opened < self._streams else 0.01):
                if self._probes is None or not self._probes.heard(descriptor):
                    self._heard(self._links[descriptor])
            self._window.look(time.monotonic())
        for link in self._links.values():
            link.close()
        return {
            **self._window.figures,
            "begun": self._begun,
            "completed": self._good,
            "failed": self._failed,
            "events": self._events,
            "lost": self._streams * self._expected - self._stamps,
            "delay": percentiles(self._delays),
            "pss_before_bytes": self._pss_before_bytes,
            "health": self._probes.figures() if self._probes is not None else {},
        }

    def _is_over(self) -> bool:
        return time.monotonic() >= self._last_at or bool(self._window.figures and not self._expected)

    def _open_due(self) -> None:
        due = (time.monotonic() - self._began_at) / self._ramp_seconds * self._streams
        while self._opened < min(due, self._streams):
            self._opened += 1
            link = Link(self._port)
            self._links[link.socket.fileno()] = link
            self._epoll.register(link.socket, select.EPOLLIN)
            link.ask(self._request)

    def _heard(self, link: Link) -> None:
        had_begun = link.events > 0
        is_alive = link.read()
        if link.fresh:
            self._begun += not had_begun
            arrived_at = time.monotonic_ns()
            stamps = _STAMP.findall(link.fresh)
            self._stamps += len(stamps)
            if self._window.is_open:
                self._events += len(stamps)
                self._delays.extend(arrived_at - int(stamp) for stamp in stamps)
        if not is_alive or link.is_complete:
            self._good += link.is_good
            self._failed += not link.is_good
            self._epoll.unregister(link.socket)
            del self._links[link.socket.fileno()]
            link.close()


def main() -> None:
    """Do what the first argument asks."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    body = request_body(spec["streamed"], spec.get("padding_bytes", 0))
    lines = ["POST /v1/messages HTTP/1.1", *spec["request"], f"content-length: {len(body)}"]
    request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    gc.disable()  # a pause here would look like the contender's
    measurement = Closed(spec, request) if spec["kind"] == "closed" else Paced(spec, request)
    json.dump(measurement.run(), sys.stdout)


if __name__ == "__main__":
    main()

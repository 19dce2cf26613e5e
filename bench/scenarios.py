"""What is measured: each scenario says what the upstream answers and what the load generator does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

EVERYBODY = ("straight", "nginx", "litellm", "portkey", "gateway", "gateway-all")


@dataclass(frozen=True)
class Scenario:
    """`answer` is the upstream's (see `upstream`), `load` the generator's SPEC (see `load`) but for the contender's.

    `beside` is another load, at the same time.
    """

    name: str
    meaning: str
    answer: str
    load: dict[str, Any]
    contenders: tuple[str, ...] = EVERYBODY
    beside: dict[str, Any] | None = None

    @property
    def streams(self) -> int:
        """How many streams run at once, where a stream lasts."""
        return int(self.load.get("streams", 0))

    @property
    def is_paced(self) -> bool:
        """Whether streams last, or clients ask again and again."""
        return bool(self.load["kind"] == "paced")


def _closed(clients: int, streamed: bool, padding_bytes: int = 0) -> dict[str, Any]:
    spec = {"kind": "closed", "clients": clients, "streamed": streamed, "padding_bytes": padding_bytes}
    return {**spec, "warm_seconds": 0.3, "seconds": 1.5}


def _whole(clients: int) -> Scenario:
    return Scenario(f"whole-{clients}", f"whole answers, {clients} clients", "whole", _closed(clients, False))


def _burst(events: int) -> Scenario:
    return Scenario(f"burst-{events}", f"bursts of {events} events, 8 clients", f"burst-{events}", _closed(8, True))


def _streams(streams: int, events: int, ramp_seconds: float) -> dict[str, Any]:
    return {"kind": "paced", "streamed": True, "streams": streams, "ramp_seconds": ramp_seconds, "events": events}


def _paced(streams: int, events: int, ramp_seconds: float) -> Scenario:
    seconds = events / 10 - ramp_seconds - 0.6  # all streams run in the measured window, and none has ended
    load = {**_streams(streams, events, ramp_seconds), "events_a_second": 10, "seconds": seconds, "probes": True}
    return Scenario(f"paced-{streams}", f"{streams} streams, each of 10 events a second", f"paced-{events}", load)


def _mixed(streams: int, clients: int) -> Scenario:
    paced = _paced(streams, 100, 1.0)
    closed = {**_closed(clients, False), "warm_seconds": 1.5, "seconds": 7.5}
    meaning = f"{paced.meaning}, beside whole answers to {clients} clients"
    return Scenario(
        f"mixed-{streams}-{clients}", meaning, paced.answer, paced.load, ("nginx", "portkey", "gateway"), closed
    )


def _slow(streams: int, seconds: int, ramp_seconds: int) -> Scenario:
    events = ramp_seconds + seconds + 3
    load = {**_streams(streams, events, ramp_seconds), "events_a_second": 1, "seconds": seconds, "probes": True}
    meaning = f"{streams} streams, each of an event a second, for {seconds} s"
    return Scenario(f"slow-{streams}", meaning, f"slow-{events}", load, ("nginx", "gateway"))


# Comes before streams that last, and is not measured.
WARMING = Scenario("warming", "streams of 20 events, 8 clients", "burst-20", _closed(8, True))

# In the order in which they matter, so that a run that is cut short has measured what matters most.
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        _whole(32),
        _whole(1),
        _burst(200),
        _burst(2000),
        Scenario("first", "streams of 20 events, 1 client", "burst-20", _closed(1, True)),
        _paced(500, 60, 2.0),
        _paced(1000, 70, 3.0),
        Scenario("failover", "whole answers, 32 clients", "whole", _closed(32, False), ("gateway", "gateway-failover")),
        Scenario("body", "whole answers to requests of 100 KB, 8 clients", "whole", _closed(8, False, 100_000)),
        Scenario(
            "idle-1000",
            "1000 streams that have begun and say nothing",
            "idle",
            {**_streams(1000, 0, 2.0), "events_a_second": 1, "seconds": 2.0},
        ),
        _mixed(300, 16),
        _slow(5000, 300, 20),
        _slow(10_000, 60, 40),
        _whole(8),
        _whole(128),
        _burst(20),
        _paced(100, 40, 1.0),
        _paced(300, 40, 1.0),
    )
}

"""Traffic of the last minutes and the last events, as all workers know them together."""

from __future__ import annotations

import msgspec
import pytest

from gateway.protocol.outcomes import Exhaustion
from gateway.records.interception_record import Attempt, InterceptionRecord
from gateway.telemetry.recent import MOST_EVENTS, NO_TOKEN, REFUSED, WINDOW_SECONDS, Event, Recent, RecentBoard, Traffic
from tests.record_samples import record_of
from tests.unit.fakes import NOW, FakeClock


class Workers:
    """Two workers with one board."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.board = RecentBoard(3)
        self.board.began_at = NOW - 1000
        self.one, self.two = (Recent(self.board, part, self.clock, self.clock) for part in (0, 1))


@pytest.fixture
def workers() -> Workers:
    return Workers()


def ended(
    outcome: str = "completed", status: int = 200, token: str | None = "ann", attempts: tuple[str, ...] = ("ok",)
) -> InterceptionRecord:
    tried = tuple(Attempt(0, "k0", each, 0, 0.0, 0.0, 0.1, None) for each in attempts)
    return msgspec.structs.replace(record_of(1), outcome=outcome, status=status, token=token, attempts=tried)


def test_traffic_is_of_all_workers(workers: Workers) -> None:
    """Given requests that ended in two workers, then either tells of both: how many, how many failed, of whom."""
    workers.one.ended(ended())
    workers.one.ended(ended("upstream_failed", 502, "bob", ("transport_error",)))
    workers.two.ended(ended("completed", 529, "bob", ("overloaded",)))
    workers.two.ended(ended("truncated", 200, None, ("server_error", "ok")))
    workers.two.refused("messages", 401)
    workers.two.refused("status", 401)
    workers.two.refused("messages", 529)
    traffic = workers.one.traffic()
    assert traffic == workers.two.traffic()
    assert traffic == Traffic(WINDOW_SECONDS, 6, 4, 1, 1, 1, (("bob", 2), (REFUSED, 1), (NO_TOKEN, 1)))
    assert (traffic.requests_per_minute, traffic.upstream_troubles) == (1.2, 3)
    assert round(traffic.failed_percent) == 67


@pytest.mark.parametrize(
    ("outcome", "status", "has_failed"),
    [
        ("completed", 200, False),
        ("client_disconnected", 499, False),
        ("rejected", 413, False),
        ("completed", 500, True),
        ("exhausted", 429, True),
        ("truncated", 200, True),
        ("upstream_error", 200, True),
        ("idle_timeout", 200, True),
        ("drained", 529, True),
        ("gateway_error", 402, True),
    ],
)
def test_what_is_the_clients_doing_has_not_failed(
    workers: Workers, outcome: str, status: int, has_failed: bool
) -> None:
    """Given a request that ended in some way, then it has failed only if that was no fault of the client's."""
    workers.one.ended(ended(outcome, status))
    assert workers.two.traffic().failed == has_failed


@pytest.mark.parametrize(
    ("status", "last", "credential", "has_failed"),
    [
        (400, "client_error", "pooled", False),
        (404, "client_error", "pooled", False),
        (403, "request", "pooled", False),
        (429, "not_entitled", "pooled", False),
        (401, "unauthorized", "byok", False),
        (400, "out_of_credit", "pooled", True),
        (200, "ok", "pooled", True),
        (200, "ok", "byok", True),
        (529, "overloaded", "pooled", True),
        (500, "server_error", "byok", True),
    ],
)
def test_error_of_the_upstream_that_is_about_the_request_is_no_failure(
    workers: Workers, status: int, last: str, credential: str, has_failed: bool
) -> None:
    """Given an error of the upstream's, then the request has failed unless it is for the client to mend."""
    record = ended("upstream_error", status, attempts=("rate_limited", last))
    workers.one.ended(msgspec.structs.replace(record, credential=credential))
    assert workers.two.traffic().failed == has_failed


def test_traffic_is_forgotten_after_five_minutes(workers: Workers) -> None:
    """Given requests all the time, then those of the last five minutes count, whole and in their place."""
    for _ in range(60):
        workers.one.ended(ended())
        workers.clock.advance(10)
    workers.clock.advance(-10)
    assert workers.two.traffic().requests == 30
    workers.clock.advance(WINDOW_SECONDS)
    assert workers.two.traffic().requests == 0
    assert workers.two.traffic().failed_percent == 0


def test_wall_clock_that_is_set_changes_no_traffic() -> None:
    """Given requests, when the wall clock is set back by a day, then they are forgotten after five minutes all the
    same."""
    clock, wall_clock = FakeClock(5000.0), FakeClock()
    recent = Recent(None, 0, wall_clock, clock)
    recent.ended(ended())
    wall_clock.advance(-86400)
    assert recent.traffic().requests == 1
    clock.advance(WINDOW_SECONDS)
    assert recent.traffic().requests == 0


def test_rate_just_after_the_start_is_of_the_time_since(workers: Workers) -> None:
    """Given a gateway that has run for half a minute, then its rate is that of this half a minute."""
    workers.board.began_at = NOW - 30
    for _ in range(30):
        workers.one.ended(ended())
    assert workers.one.traffic().requests_per_minute == 60


def test_many_tokens_are_counted_within_bounds(workers: Workers) -> None:
    """Given failures of more tokens, with longer names, than anybody reads, then what there is no room for is counted
    together."""
    for number in range(100):
        workers.one.ended(ended("exhausted", 429, f"{number:03}" + "x" * 500))
    affected = workers.one.traffic().affected
    assert (len(affected), sum(count for _, count in affected)) == (17, 100)
    assert affected[0] == ("others", 84)


def test_events_of_all_parts_are_told_latest_first(workers: Workers) -> None:
    """Given events of two workers and the master, then they are told in the order of time, with their age."""
    workers.one.happened("was refused (401) and is retired", "k0", ago_seconds=5.0)
    workers.two.happened("is back", "k1")
    Recent(workers.board, 2, workers.clock).happened("the configuration was reloaded")
    workers.clock.advance(1)
    workers.two.exhausted(Exhaustion.RATE_LIMITED)
    assert [(event.at - NOW, event.key, event.what) for event in workers.one.events()] == [
        (1, "", "no key left: all are cooling down or retired"),
        (0, "k1", "is back"),
        (0, "", "the configuration was reloaded"),
        (-5, "k0", "was refused (401) and is retired"),
    ]


def test_the_same_again_is_counted_instead_of_told_again(workers: Workers) -> None:
    """Given a hundred requests without a key in two workers within a minute, then they are one event; later ones
    another."""
    for _ in range(50):
        workers.one.exhausted(Exhaustion.RATE_LIMITED)
        workers.two.exhausted(Exhaustion.RATE_LIMITED)
        workers.clock.advance(0.5)
    (event,) = workers.one.events()
    assert event == Event(NOW + 24.5, "no key left: all are cooling down or retired", "", 100, NOW)
    workers.clock.advance(100)
    workers.one.exhausted(Exhaustion.RATE_LIMITED)
    assert [event.times for event in workers.one.events()] == [1, 100]


def test_the_same_over_a_long_time_is_one_event_whoever_it_happened_to(workers: Workers) -> None:
    """Given a worker without a key for two minutes, and another that was just before, then they are one event."""
    workers.one.exhausted(Exhaustion.RATE_LIMITED)
    for _ in range(12):
        workers.clock.advance(10)
        workers.two.exhausted(Exhaustion.RATE_LIMITED)
    (event,) = workers.one.events()
    assert (event.times, event.first_at, event.at) == (13, NOW, NOW + 120)


def test_twenty_events_are_kept(workers: Workers) -> None:
    """Given more events than are shown, also over-long ones, then the last twenty are."""
    for number in range(30):
        workers.one.happened(f"{number} " + "\\\n\U0001f600\u202e" * 1000, "k" * 63)
        workers.clock.advance(1)
    events = workers.two.events()
    assert len(events) == MOST_EVENTS
    assert events[0].what.startswith("29 ")


def test_uptime_is_the_boards(workers: Workers) -> None:
    """Given a worker that was started late, then the uptime is the gateway's."""
    assert workers.two.uptime_seconds == 1000

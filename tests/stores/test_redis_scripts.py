"""What comes to stand on the server, against the rules in gateway.keys.key_record, whoever else writes meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.keys.key_record import NEVER_SEEN, Record, joined
from gateway.keys.redis.exchange import Exchanges
from gateway.keys.redis.wire import SERVER_ERRORS, Server, ServerClock
from gateway.keys.replica import Told
from tests.stores.redis_server import RedisServer

moments = st.integers(0, 5).map(float)
records = st.builds(
    Record,
    generation=st.integers(0, 2),
    cooling_until_at=moments,
    confirmed_at=moments,
    is_retired=st.booleans(),
    is_disabled=st.booleans(),
    reason=st.sampled_from(["", "rate_limited", "unauthorized", "operator"]),
    status=st.sampled_from([0, 401, 403, 429]),
    marked_at=moments,
    limited_count=st.integers(0, 5),
    refused_count=st.integers(0, 5),
)


@pytest.fixture(scope="module")
def exchanges(server: RedisServer) -> Iterator[Exchanges]:
    made = Exchanges(Server(server.url, "gateway:"), ServerClock(), time.time)
    made.connect()
    yield made
    made.close()


def _forget(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


@given(told=st.lists(records, min_size=1, max_size=4))
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_the_server_merges_as_records_do(server: RedisServer, exchanges: Exchanges, told: list[Record]) -> None:
    """Given records told one after the other, then the server holds their join, whatever the order."""
    _forget(server)
    for record in told:
        # Counts that the server has had already: told as known there, so that they are a maximum and no sum.
        news = Told(record, True, record.limited_count, record.refused_count, "")
        answer = exchanges.exchange({"name": news}).records["name"]
    expected = reduce(joined, told)
    assert answer == replace(
        expected,
        limited_count=max(record.limited_count for record in told),
        refused_count=max(record.refused_count for record in told),
    )


def test_counts_told_as_increments_add_up(server: RedisServer, exchanges: Exchanges) -> None:
    """Given two processes that each counted on from what the server had said, then nothing is lost or twice."""
    _forget(server)
    exchanges.exchange({"name": Told(replace(NEVER_SEEN, limited_count=3), True, 0, 0, "")})
    exchanges.exchange({"name": Told(replace(NEVER_SEEN, limited_count=5, refused_count=1), True, 3, 0, "")})
    answer = exchanges.exchange({"name": Told(replace(NEVER_SEEN, limited_count=4), True, 3, 0, "")})
    record = answer.records["name"]
    assert record is not None
    assert (record.limited_count, record.refused_count) == (6, 1)


def test_what_another_wrote_meanwhile_is_merged_with(server: RedisServer, exchanges: Exchanges) -> None:
    """Given two processes that mark a key in turn, then each mark is merged with what the other wrote since."""
    _forget(server)
    other = Exchanges(Server(server.url, "gateway:"), ServerClock(), time.time)
    other.connect()
    try:
        for number in range(1, 4):
            for process in (exchanges, other):
                news = replace(NEVER_SEEN, limited_count=number, cooling_until_at=float(number))
                told = {"name": Told(news, True, number - 1, 0, "")}
                answer = process.exchange(told).records["name"]
        exchanges.exchange({"name": Told(replace(NEVER_SEEN, is_retired=True, refused_count=1), True, 0, 0, "")})
        answer = other.exchange({"name": Told(replace(NEVER_SEEN, cooling_until_at=9.0), True, 0, 0, "")}).records[
            "name"
        ]
    finally:
        other.close()
    assert answer == Record(is_retired=True, cooling_until_at=9.0, limited_count=6, refused_count=1)


class _Restless:
    """A server on which another process has always just written."""

    channel = "news"

    def __init__(self) -> None:
        self.asked = 0

    def connect(self) -> _Restless:
        return self

    def key(self, kind: str, name: str = "") -> str:
        return f"{kind}{name}"

    def script(self, *_: object) -> list[object]:
        self.asked += 1
        return [b"epoch", 0, [b"0", b"%d" % self.asked, *[b"0"] * 4, b"", *[b"0"] * 3]]


def test_a_record_that_never_stands_still_is_given_up() -> None:
    """Given a server that never takes what it is told, then that is an error after some tries, and no endless loop."""
    restless = _Restless()
    exchanges = Exchanges(restless, ServerClock(), time.time)  # type: ignore[arg-type]
    exchanges.connect()
    with pytest.raises(SERVER_ERRORS, match="others whenever"):
        exchanges.exchange({"name": Told(replace(NEVER_SEEN, is_retired=True), True, 0, 0, "")})
    assert restless.asked == 100


def test_a_name_that_is_only_asked_about_is_not_made(server: RedisServer, exchanges: Exchanges) -> None:
    """Given a key that the server does not know, then asking says so and stores nothing."""
    _forget(server)
    answer = exchanges.exchange({"name": Told(NEVER_SEEN, False, 0, 0, "")})
    assert answer.records == {"name": None}
    with server.client() as client:
        assert client.keys("*key*") == []


def test_an_exchange_that_comes_too_late_is_refused(server: RedisServer) -> None:
    """Given a command that lay a minute in a paused server's socket, then it changes nothing."""
    _forget(server)
    late = Exchanges(Server(server.url, "gateway:"), ServerClock(), lambda: time.time() - 60.0)
    late.connect()
    try:
        with pytest.raises(SERVER_ERRORS, match="time for this exchange is over"):
            late.exchange({"name": Told(replace(NEVER_SEEN, is_retired=True), True, 0, 0, "")})
    finally:
        late.close()
    with server.client() as client:
        assert client.keys("*") == []


@pytest.mark.parametrize("ahead_seconds", [0.0, 60.0, -60.0, 86400.0], ids=str)
def test_converting_times_back_and_forth_moves_nothing(ahead_seconds: float) -> None:
    """Given a point in time, then it is the same microsecond on the server after any number of conversions."""
    clock = ServerClock()
    at = 1_760_000_000.123456
    clock.observe(at - 0.003, at + ahead_seconds, at + 0.005)
    written = clock.to_server(at)
    for _ in range(1000):
        assert clock.to_server(clock.from_server(written)) == written
    assert clock.from_server(clock.to_server(0.0)) == 0.0


def test_the_estimate_of_the_servers_clock_stays_until_it_is_wrong() -> None:
    """Given readings that agree with the estimate within its tolerance, then it does not move; a real step moves it."""
    clock = ServerClock()
    clock.observe(100.0, 160.0, 100.2)
    written = clock.to_server(1000.0)
    for jitter_seconds in (0.0, 0.004, -0.004, 0.09):
        clock.observe(200.0, 260.0 + jitter_seconds, 200.2)
    assert clock.to_server(1000.0) == written
    clock.observe(300.0, 420.0, 300.2)
    assert clock.to_server(1000.0) == pytest.approx(1119.9e6, abs=1)

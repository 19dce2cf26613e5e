"""Outages of what a gateway can do without are events of the gateway: when they begin, and when they end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.clients import ask, message_body
from tests.harness import GatewayProcess, wait_until
from tests.stores.postgres_server import PostgresServer
from tests.stores.redis_server import RedisServer

WORKERS = 3
SOON_SECONDS = 40.0
Start = Callable[..., GatewayProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a gateway of several workers over the given stores."""
    started: list[GatewayProcess] = []
    with Simulator(keys={"sk-sim-good": "ok"}) as simulator:
        yield (
            lambda **settings: (
                started.append(
                    GatewayProcess(
                        simulator.url, ["sk-sim-good"], workers=str(WORKERS), data_dir=str(tmp_path), **settings
                    )
                )
                or started[-1]
            )
        )
        for gateway in started:
            gateway.stop()


def events(gateway: GatewayProcess, subject: str) -> list[tuple[str, int]]:
    """What the status page tells of it, the latest first, and how many times in a row."""
    data = json.loads(gateway.request("GET", "/status", headers={"Accept": "application/json"}).body)
    return [(event["what"], event["times"]) for event in data["events"] if event["what"].startswith(subject)]


def test_outages_of_redis_are_told_once_each(start: Start) -> None:
    """Given a Redis that is killed and started twice, which every worker sees, then each begin and each end is one
    event."""
    redis = RedisServer()
    try:
        gateway = start(state_url=redis.url)
        lost = ("Redis cannot be used: what happens to a key is not shared", 1)
        back = ("Redis can be used again: what happened to the keys meanwhile is shared", 1)
        for number in (1, 2):
            redis.kill()
            assert wait_until(
                lambda number=number: gateway.log.count("does not answer") == number * WORKERS, SOON_SECONDS
            )
            assert wait_until(lambda number=number: events(gateway, "Redis").count(lost) >= number, SOON_SECONDS)
            redis.start()
            assert wait_until(
                lambda number=number: gateway.log.count("answers again") == number * WORKERS, SOON_SECONDS
            )
            assert wait_until(lambda number=number: events(gateway, "Redis").count(back) >= number, SOON_SECONDS)
        assert events(gateway, "Redis") == [back, lost, back, lost]
    finally:
        redis.stop()


def test_outages_of_the_database_are_told_once_each(start: Start, postgres: PostgresServer) -> None:
    """Given a database that is killed, and records of every worker, then the begin and the end are one event each."""
    gateway = start(record_url=postgres.new_database())
    lost = ("the database of records cannot be used: records wait on disk", 1)
    back = ("the database of records can be used again: records that waited are stored", 1)

    def is_told(what: tuple[str, int], times: int) -> bool:
        """While requests come, so that every worker has records to store."""
        assert ask(gateway.url, message_body(False)).status == 200
        return events(gateway, "the database").count(what) >= times

    for number in (1, 2):
        postgres.kill()
        try:
            assert wait_until(
                lambda number=number: (
                    is_told(lost, number) and gateway.log.count("records wait in the spool") >= number * WORKERS
                ),
                SOON_SECONDS,
            )
        finally:  # other tests use it, too
            postgres.start()
        assert wait_until(lambda number=number: is_told(back, number), SOON_SECONDS)
        assert wait_until(lambda: gateway.metric("recorder_queue_length") == 0, SOON_SECONDS)
    assert events(gateway, "the database") == [back, lost, back, lost]

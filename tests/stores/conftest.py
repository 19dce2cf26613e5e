"""What the tests of stores share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.stores.redis_server import PROGRAMS, RedisServer


@pytest.fixture(scope="module", params=PROGRAMS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One server for a module; who kills it makes servers of their own."""
    started = RedisServer(request.param)
    yield started
    started.stop()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """A plain client of an empty server."""
    with server.client() as made:
        made.flushall()
        yield made

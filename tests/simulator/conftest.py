"""Fixtures of the simulator's tests."""

from collections.abc import Callable, Iterator

import pytest

from gateway.simulator import Simulator, World
from tests.simulator.wired import Client
from tests.simulator.worlds import Clock, two_organisations


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def is_tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def connect() -> Iterator[Callable[[Simulator], Client]]:
    """Connects clients that are closed at the end."""
    clients: list[Client] = []

    def open_one(simulator: Simulator) -> Client:
        clients.append(Client(simulator))
        return clients[-1]

    yield open_one
    for client in clients:
        client.close()


@pytest.fixture
def clock() -> Clock:
    """The clock of a test's world."""
    return Clock()


@pytest.fixture
def world(clock: Clock) -> World:
    """Two organisations with three workspaces."""
    return two_organisations(clock)

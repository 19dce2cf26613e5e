"""Fixtures that all tests share."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.full_disk import SmallDisk
from tests.harness import GatewayProcess
from tests.stores.postgres_server import PostgresServer

# How long an example takes to be made says how busy the machine is, and nothing of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Thousands of tests are made, and all of them stay: looking for garbage among them would take seconds."""
    gc.disable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several run at once: modules that compute and modules that wait are mixed, the same way every time."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: zlib.crc32(item.nodeid.partition("::")[0].encode()))


def pytest_collection_finish() -> None:
    """From here on there is garbage, but none of it is among what was loaded."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def gateway_process() -> Iterator[Callable[..., GatewayProcess]]:
    """Starts real gateways, `gateway_process(upstream_url, keys=[...], **settings)`, and stops them after the test."""
    started: list[GatewayProcess] = []

    def start(*arguments: object, **settings: object) -> GatewayProcess:
        process = GatewayProcess(*arguments, **settings)  # type: ignore[arg-type]
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for all; each test makes databases of its own."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of a test's own, which can be full."""
    with SmallDisk(tmp_path / "disk", size_bytes=4 << 20) as disk:
        yield disk

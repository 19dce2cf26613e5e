"""Fixtures of the tests that need a database server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stores.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all; each test makes databases of its own."""
    server = PostgresServer()
    yield server
    server.stop()

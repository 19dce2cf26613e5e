"""`gateway check` against real servers: good ones are good, and each refusal of theirs is a fault in words."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from gateway.access.credential import Key, Secret
from gateway.cli.check_places import troubles_of_places
from gateway.config.settings import Settings
from gateway.records.database import Database
from tests.stores.postgres_server import PASSWORD, PostgresServer
from tests.stores.redis_server import RedisServer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        keys=(Key("a", Secret("sk-a")),), bind="127.0.0.1:0", data_dir=str(tmp_path / "data"), record_url="none"
    )


def trouble_of(settings: Settings) -> str:
    """The words of the one fault."""
    (trouble,) = troubles_of_places(settings)
    assert trouble.is_fault
    assert PASSWORD not in trouble.words
    return trouble.words


def test_redis_that_serves_is_good(settings: Settings) -> None:
    """Given a server that answers, then nothing is said, and what was tried ends by itself."""
    server = RedisServer()
    try:
        assert troubles_of_places(replace(settings, state_url=server.url)) == []
        with closing(server.client()) as client:
            assert -1 not in [client.pttl(name) for name in client.scan_iter()]  # which is what lasts for ever
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("configured", "what"),
    [
        ({"requirepass": PASSWORD}, "Authentication required"),
        ({"replicaof": "127.0.0.1 9"}, "read only replica"),
        ({"maxmemory": "1", "maxmemory-policy": "noeviction"}, "OOM"),
    ],
    ids=["password", "replica", "full"],
)
def test_redis_that_refuses_is_a_fault(configured: dict[str, str], what: str, settings: Settings) -> None:
    """Given a server that wants a password, is a replica, or is full, then that is a fault: no mark would be shared."""
    options = [word for name, value in configured.items() for word in (f"--{name}", *value.split())]
    server = RedisServer(options=options)
    try:
        words = trouble_of(replace(settings, state_url=server.url))
    finally:
        server.stop()
    assert f"GATEWAY_STATE_URL: the state server 127.0.0.1:{server.port} cannot be used (" in words
    assert what.lower() in words.lower()


def test_postgresql_that_serves_is_good_and_left_as_it_is(settings: Settings, postgres: PostgresServer) -> None:
    """Given an empty database, then nothing is said and nothing made; one that a gateway has used is good, too."""
    url = postgres.new_database()
    settings = replace(settings, record_url=url)
    assert troubles_of_places(settings) == []
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    with closing(Database(url)) as database:
        database.prepare()
    assert troubles_of_places(settings) == []


def test_postgresql_that_refuses_is_a_fault(settings: Settings, postgres: PostgresServer) -> None:
    """Given a wrong password, no such database, a user who may not make tables, then each is a fault."""
    url = postgres.new_database()
    wrong = url.replace(PASSWORD, "wrong")
    assert "password authentication failed" in trouble_of(replace(settings, record_url=wrong))
    assert "does not exist" in trouble_of(replace(settings, record_url=postgres.url("nowhere")))
    with psycopg.connect(url) as connection:
        connection.execute(f"CREATE USER reader PASSWORD '{PASSWORD}'")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    words = trouble_of(replace(settings, record_url=url.replace("gateway:", "reader:")))
    assert words.startswith("GATEWAY_RECORD_URL: the database of records cannot be used: ")
    assert "its user reader may not make tables in the schema public" in words


def test_database_of_a_newer_gateway_is_a_fault(settings: Settings, tmp_path: Path) -> None:
    """Given a database whose schema is newer, then that is a fault, and it stays as it is."""
    path = tmp_path / "records.db"
    with closing(Database(f"sqlite:///{path}")) as database:
        database.prepare()
        with database.transaction() as connection:
            connection.exec_driver_sql("UPDATE gateway_schema SET version = 999")
    before = path.read_bytes()
    assert "a newer gateway has used it" in trouble_of(replace(settings, record_url=f"sqlite:///{path}"))
    assert path.read_bytes() == before

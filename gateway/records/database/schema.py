"""What is in the database, and how an older one becomes a newer one.

Owns: the tables, for queries; the numbered steps that make them, for databases. A step, once released, never changes:
a new version adds one and changes the tables here to match; a test holds the two to each other. Statements are
plain SQL that SQLite and PostgreSQL both take. Every row can be inserted twice and is there once: its primary key is
the interception's id and a number within it.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    inspect,
    select,
    text,
)

from gateway.records.forwarder import DatabaseUnavailable

metadata = MetaData()

schema_version = Table("gateway_schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

interceptions = Table(
    "interceptions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("route", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("day", Text, nullable=False),
    Column("duration_seconds", Double, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("credential", Text, nullable=False),
    Column("token", Text),
    Column("key", Text),
    Column("hint", Text),
    Column("client", Text),
    Column("client_version", Text),
    Column("session", Text),
    Column("trace_id", Text),
    Column("model", Text),
    Column("is_streamed", Boolean, nullable=False),
    Column("first_event_seconds", Double),
    Column("error", Text),
    Column("token_group", Text),
    Index("interceptions_started_at", "started_at"),
)


def _part(name: str, *columns: Column[object] | Index) -> Table:
    """A table of what an interception has several of."""
    return Table(
        name,
        metadata,
        Column("interception_id", Text, primary_key=True),
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("turn", Integer, nullable=False),
        *columns,
    )


passed_over = _part(
    "passed_over",
    Column("key", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("remaining_seconds", Double, nullable=False),
    Column("concern", Text, nullable=False),
)

attempts = _part(
    "attempts",
    Column("key", Text),
    Column("outcome", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("cooldown_seconds", Double, nullable=False),
    Column("after_seconds", Double, nullable=False),
    Column("duration_seconds", Double, nullable=False),
    Column("request_id", Text),
    Index("attempts_request_id", "request_id"),
)

usage = _part(
    "usage",
    Column("key", Text),
    Column("model", Text),
    Column("service_tier", Text),
    Column("certainty", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("guessed_output_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("cache_write_5m_tokens", BigInteger, nullable=False),
    Column("cache_write_1h_tokens", BigInteger, nullable=False),
    Column("server_tool_uses", BigInteger, nullable=False),
    Column("server_tools", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("inference_geo", Text),
    Column("speed", Text),
    Column("cost_picodollars", BigInteger),
    Column("price", Text),
    Column("is_cost_estimated", Boolean, nullable=False),
)

tool_calls = _part(
    "tool_calls",
    Column("name", Text, nullable=False),
    Column("is_injected", Boolean, nullable=False),
    Column("input_bytes", BigInteger, nullable=False),
    Column("result_bytes", BigInteger),
    Column("outcome", Text),
    Column("duration_seconds", Double),
)

# The tables of what an interception has several of, by the record's field.
PARTS = {"passed_over": passed_over, "attempts": attempts, "usage": usage, "tool_calls": tool_calls}

_STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE interceptions (
            id TEXT NOT NULL PRIMARY KEY, route TEXT NOT NULL, started_at DOUBLE PRECISION NOT NULL, day TEXT NOT NULL,
            duration_seconds DOUBLE PRECISION NOT NULL, outcome TEXT NOT NULL, status INTEGER NOT NULL,
            request_id TEXT NOT NULL, credential TEXT NOT NULL, token TEXT, key TEXT, hint TEXT, client TEXT,
            client_version TEXT, session TEXT, trace_id TEXT, model TEXT, is_streamed BOOLEAN NOT NULL,
            first_event_seconds DOUBLE PRECISION, error TEXT)""",
        "CREATE INDEX interceptions_started_at ON interceptions (started_at)",
        """CREATE TABLE passed_over (
            interception_id TEXT NOT NULL, number INTEGER NOT NULL, turn INTEGER NOT NULL, key TEXT NOT NULL,
            state TEXT NOT NULL, reason TEXT NOT NULL, status INTEGER NOT NULL,
            remaining_seconds DOUBLE PRECISION NOT NULL, PRIMARY KEY (interception_id, number))""",
        """CREATE TABLE attempts (
            interception_id TEXT NOT NULL, number INTEGER NOT NULL, turn INTEGER NOT NULL, key TEXT,
            outcome TEXT NOT NULL, status INTEGER NOT NULL, cooldown_seconds DOUBLE PRECISION NOT NULL,
            after_seconds DOUBLE PRECISION NOT NULL, duration_seconds DOUBLE PRECISION NOT NULL, request_id TEXT,
            PRIMARY KEY (interception_id, number))""",
        "CREATE INDEX attempts_request_id ON attempts (request_id)",
        """CREATE TABLE usage (
            interception_id TEXT NOT NULL, number INTEGER NOT NULL, turn INTEGER NOT NULL, key TEXT, model TEXT,
            service_tier TEXT, certainty TEXT NOT NULL, input_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL,
            guessed_output_tokens BIGINT NOT NULL, cache_read_tokens BIGINT NOT NULL,
            cache_write_tokens BIGINT NOT NULL, cache_write_5m_tokens BIGINT NOT NULL,
            cache_write_1h_tokens BIGINT NOT NULL, server_tool_uses BIGINT NOT NULL, server_tools TEXT NOT NULL,
            PRIMARY KEY (interception_id, number))""",
        """CREATE TABLE tool_calls (
            interception_id TEXT NOT NULL, number INTEGER NOT NULL, turn INTEGER NOT NULL, name TEXT NOT NULL,
            is_injected BOOLEAN NOT NULL, input_bytes BIGINT NOT NULL, result_bytes BIGINT, outcome TEXT,
            duration_seconds DOUBLE PRECISION, PRIMARY KEY (interception_id, number))""",
    ),
    ("ALTER TABLE passed_over ADD COLUMN concern TEXT NOT NULL DEFAULT ''",),
    (  # what was recorded before has no cost
        "ALTER TABLE interceptions ADD COLUMN token_group TEXT",
        "ALTER TABLE usage ADD COLUMN kind TEXT NOT NULL DEFAULT 'message'",
        "ALTER TABLE usage ADD COLUMN inference_geo TEXT",
        "ALTER TABLE usage ADD COLUMN speed TEXT",
        "ALTER TABLE usage ADD COLUMN cost_picodollars BIGINT",
        "ALTER TABLE usage ADD COLUMN price TEXT",
        "ALTER TABLE usage ADD COLUMN is_cost_estimated BOOLEAN NOT NULL DEFAULT FALSE",
    ),
)

SCHEMA_VERSION = len(_STEPS)


def version_of(connection: Connection) -> int:
    """The version of a database's schema; 0 when it has none. Raises DatabaseUnavailable if nobody can tell."""
    if not inspect(connection).has_table(schema_version.name):
        return 0
    rows = connection.scalars(select(schema_version.c.version).limit(2)).all()
    if len(rows) != 1 or rows[0] < 1:
        raise DatabaseUnavailable(
            f"the database's table {schema_version.name} must hold one row, the schema's version, and "
            f"{'does not' if rows else 'is empty'}: put back what its gateway had there (this one has {SCHEMA_VERSION})"
        )
    version: int = rows[0]
    return version


def migrate(connection: Connection) -> None:
    """Bring a database that is not newer than this program up to date; within a transaction that excludes others."""
    version = version_of(connection)
    if version == 0:
        connection.execute(text("CREATE TABLE gateway_schema (version INTEGER NOT NULL PRIMARY KEY)"))
        connection.execute(schema_version.insert().values(version=0))
    for step in _STEPS[version:]:
        for statement in step:
            connection.execute(text(statement))
    connection.execute(schema_version.update().values(version=max(version, SCHEMA_VERSION)))

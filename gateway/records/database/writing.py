"""Storing records, and forgetting them when their time is over.

Owns: inserting each record exactly once, however often it is tried. One thread.

PostgreSQL's driver takes many rows with one statement. SQLite's gives the interpreter up and asks it back for each row,
and in a busy worker that costs more than all the rest; so there one statement holds many rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, delete, select

from gateway.records.database.opening import Database, RecordRefused
from gateway.records.database.schema import PARTS, interceptions
from gateway.records.interception_record import InterceptionRecord
from gateway.runtime.background import make_way

log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0
# A value that the database, or its driver, will never take.
_UNFIT = (RecordRefused, ValueError, OverflowError)
# Every SQLite takes so many values in one statement (https://www.sqlite.org/limits.html).
_MOST_VALUES = 999
_ROWS = 100  # at a time, where the driver takes them one by one


class DatabaseWriter:
    """The recorder's Writer over a database. Records older than `retention_days` are forgotten.

    A row that is there already is left as it is, so a batch whose commit nobody can be sure of is simply sent again.
    """

    def __init__(self, database: Database, retention_days: int, wall_clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._retention_seconds = retention_days * _DAY_SECONDS
        self._wall_clock = wall_clock
        self._insert = _insert_by_many if database.is_sqlite else _insert_by_driver

    def prepare(self) -> None:
        """Connect, and bring the schema up to date. Raises DatabaseUnavailable."""
        self._database.prepare()

    def write(self, records: Sequence[InterceptionRecord]) -> int:
        """Store records in one transaction; how many of them are refused for good. Raises DatabaseUnavailable."""
        try:
            self._store(records)
        except _UNFIT as error:
            if len(records) == 1:
                log.warning("the record of %s cannot be stored: %s", records[0].id, type(error).__name__)
                return 1
            return sum(self.write([record]) for record in records)
        return 0

    def forget(self, limit: int) -> int:
        """Delete at most so many of the oldest records that are past their time; how many there were."""
        oldest = self._wall_clock() - self._retention_seconds
        expired = select(interceptions.c.id).where(interceptions.c.started_at < oldest)
        with self._database.transaction() as connection:
            ids = list(connection.scalars(expired.order_by(interceptions.c.started_at).limit(limit)))
            if ids:
                for table in PARTS.values():
                    connection.execute(delete(table).where(table.c.interception_id.in_(ids)))
                connection.execute(delete(interceptions).where(interceptions.c.id.in_(ids)))
        return len(ids)

    def close(self) -> None:
        """Let go of the connection."""
        self._database.close()

    def _store(self, records: Sequence[InterceptionRecord]) -> None:
        rows: dict[Table, list[dict[str, Any]]] = {interceptions: [], **{table: [] for table in PARTS.values()}}
        for record in records:
            row = msgspec.to_builtins(record)
            for field, table in PARTS.items():
                for number, part in enumerate(row.pop(field)):
                    rows[table].append(part | {"interception_id": record.id, "number": number})
            rows[interceptions].append(row)
            make_way()
        with self._database.transaction() as connection:
            for table, kept in rows.items():
                if kept:
                    self._insert(connection, table, kept)


def _insert_by_driver(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    for start in range(0, len(rows), _ROWS):
        connection.exec_driver_sql(_insert_one(table), list(rows[start : start + _ROWS]))
        make_way()


def _insert_by_many(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    values_of = itemgetter(*table.columns.keys())
    most = _MOST_VALUES // len(table.columns)
    for start in range(0, len(rows), most):
        some = rows[start : start + most]
        connection.exec_driver_sql(_insert_many(table, len(some)), tuple(chain.from_iterable(map(values_of, some))))
        make_way()


@cache
def _insert_one(table: Table) -> str:
    """The statement in the words of PostgreSQL's driver: it is the same for every record, and making it takes long."""
    from sqlalchemy.dialects import postgresql  # most gateways write to SQLite, and need not load it

    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # it has no annotations
    return str(postgresql.insert(table).on_conflict_do_nothing().compile(dialect=dialect))


@cache
def _insert_many(table: Table, number: int) -> str:
    """The statement that inserts so many rows, in SQLite's words."""
    names = table.columns.keys()
    rows = ", ".join([f"({', '.join('?' * len(names))})"] * number)
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {rows} ON CONFLICT DO NOTHING"

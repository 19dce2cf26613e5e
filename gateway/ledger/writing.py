"""Storing records, and forgetting them when their time is over.

Owns: inserting each record exactly once, however often it is tried. Edge layer; one thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.interception_record import InterceptionRecord
from gateway.ledger.database import Database, RecordRefused
from gateway.ledger.schema import PARTS, interceptions

log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0
# A value that the database, or its driver, will never take.
_UNFIT = (RecordRefused, ValueError, OverflowError)


class DatabaseLedger:
    """The recorder's Ledger over a database. Records older than `retention_days` are forgotten.

    A row that is there already is left as it is, so a batch whose commit nobody can be sure of is simply sent again.
    """

    def __init__(self, database: Database, retention_days: int, wall_clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._retention_seconds = retention_days * _DAY_SECONDS
        self._wall_clock = wall_clock
        self._insert = _insert_into(interceptions, database.is_sqlite)
        self._insert_parts = {field: _insert_into(table, database.is_sqlite) for field, table in PARTS.items()}

    def prepare(self) -> None:
        """Connect, and bring the schema up to date. Raises LedgerUnavailable."""
        self._database.prepare()

    def write(self, records: Sequence[InterceptionRecord]) -> int:
        """Store records in one transaction; how many of them are refused for good. Raises LedgerUnavailable."""
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
        rows: list[dict[str, Any]] = []
        parts: dict[str, list[dict[str, Any]]] = {field: [] for field in PARTS}
        for record in records:
            row = msgspec.to_builtins(record)
            for field, kept in parts.items():
                for number, part in enumerate(row.pop(field)):
                    kept.append(part | {"interception_id": record.id, "number": number})
            rows.append(row)
        with self._database.transaction() as connection:
            connection.exec_driver_sql(self._insert, rows)
            for field, kept in parts.items():
                if kept:
                    connection.exec_driver_sql(self._insert_parts[field], kept)


def _insert_into(table: Table, is_sqlite: bool) -> str:
    """The statement in the driver's words: it is the same for every record, and this is what recording costs most."""
    if is_sqlite:
        return str(sqlite.insert(table).on_conflict_do_nothing().compile(dialect=sqlite.dialect(paramstyle="named")))
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # it has no annotations
    return str(postgresql.insert(table).on_conflict_do_nothing().compile(dialect=dialect))

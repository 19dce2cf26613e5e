"""Asking the database: usage, summed up in many ways, and the record of one interception.

Owns: the queries. Edge layer; one thread, a command's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, FromClause, RowMapping, case, func, literal, or_, select

from gateway.interception_record import InterceptionRecord
from gateway.ledger.database import Database
from gateway.ledger.schema import PARTS, attempts, interceptions, usage
from gateway.request_ids import ending_of_given
from gateway.usage_report import MEASURES, SUMS, UsageRow

# Of the model and the key, what answered counts, else what was asked for.
_DIMENSIONS: dict[str, ColumnElement[Any]] = {
    "day": interceptions.c.day,
    "model": func.coalesce(usage.c.model, interceptions.c.model),
    "token": interceptions.c.token,
    "key": case(
        (interceptions.c.credential == "byok", literal("(client's own)")),
        else_=func.coalesce(usage.c.key, interceptions.c.key),
    ),
    "client": interceptions.c.client,
    "session": interceptions.c.session,
}

_SUMS = {
    "input": usage.c.input_tokens,
    "cache_read": usage.c.cache_read_tokens,
    "cache_write": usage.c.cache_write_tokens,
    "cache_write_5m": usage.c.cache_write_5m_tokens,
    "cache_write_1h": usage.c.cache_write_1h_tokens,
    "output": usage.c.output_tokens,
    "guessed_output": usage.c.guessed_output_tokens - usage.c.output_tokens,
    "server_tools": usage.c.server_tool_uses,
}


class Reader:
    """Reads a database that `Database.prepare_to_read` has found in order. Methods raise LedgerUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def close(self) -> None:
        """Let go of the connection."""
        self._database.close()

    def usage(self, by: Sequence[str], since: float | None, until: float | None) -> tuple[list[UsageRow], UsageRow]:
        """Usage of messages that began in a time (epoch seconds), by dimensions, sorted; and in all."""
        with self._database.transaction() as connection:
            groups = _summed(connection, [_DIMENSIONS[name] for name in by], since, until) if by else []
            [total] = _summed(connection, [], since, until)
        return sorted(groups, key=lambda row: [value or "" for value in row.group]), total

    def find(self, request_id: str) -> list[InterceptionRecord]:
        """The interceptions of this id: the gateway's own, or an upstream's for any attempt; if there is none, those
        that a proxy called so. The oldest first.
        """
        id = interceptions.c.id
        of_attempt = select(attempts.c.interception_id).where(attempts.c.request_id == request_id)
        with self._database.transaction() as connection:
            for matches in (
                or_(id == request_id, id.in_(of_attempt)),
                id.endswith(ending_of_given(request_id), autoescape=True),  # has to look at every row
            ):
                asked = select(interceptions).where(matches).order_by(interceptions.c.started_at)
                if rows := connection.execute(asked).mappings().all():
                    return [_record(connection, _plain(row)) for row in rows]
        return []


def _summed(
    connection: Connection, groups: list[ColumnElement[Any]], since: float | None, until: float | None
) -> list[UsageRow]:
    """One row for each group; an interception counts once in each that it belongs to."""
    ids = interceptions.c.id
    joined: FromClause = interceptions.outerjoin(usage, usage.c.interception_id == ids)
    query = select(
        *groups,
        func.count(ids.distinct()),
        func.count(case((interceptions.c.outcome != "completed", ids)).distinct()),
        func.count(case((usage.c.certainty != "exact", ids)).distinct()),
        *(func.coalesce(func.sum(column), 0) for column in map(_SUMS.__getitem__, SUMS)),
    ).select_from(joined)
    query = query.where(interceptions.c.route == "messages")
    if since is not None:
        query = query.where(interceptions.c.started_at >= since)
    if until is not None:
        query = query.where(interceptions.c.started_at < until)
    number = len(groups)
    return [
        UsageRow(tuple(row[:number]), dict(zip(MEASURES, map(int, row[number:]), strict=True)))
        for row in connection.execute(query.group_by(*groups) if groups else query)
    ]


def _record(connection: Connection, row: dict[str, Any]) -> InterceptionRecord:
    for field, table in PARTS.items():
        own = table.c.interception_id == row["id"]
        found = connection.execute(select(table).where(own).order_by(table.c.number)).mappings()
        row[field] = [_plain(part) for part in found]
    return msgspec.convert(row, InterceptionRecord)


def _plain(row: RowMapping) -> dict[str, Any]:
    """A row by plain names: SQLAlchemy's own may be a kind of str."""
    return {str(name): value for name, value in row.items()}

"""Asking the database: usage, summed up in many ways, and the record of one interception.

Owns: the queries. One thread, a command's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, case, func, literal, not_, or_, select

from gateway.protocol.outcomes import Ending
from gateway.protocol.token_kinds import CACHE_WRITE_5M, COUNTED, LIFETIMES, OUTPUT, PRICED, field_of
from gateway.records.database.opening import Database
from gateway.records.database.schema import PARTS, attempts, interceptions, usage
from gateway.records.interception_record import InterceptionRecord
from gateway.records.reconciliation import WEB_SEARCHES, Spent
from gateway.records.usage_report import COST, COUNTS, GUESSED_OUTPUT, SERVER_TOOLS, SUMS, UsageRow
from gateway.runtime.request_ids import ending_of_given

_OF_INTERCEPTION = usage.c.interception_id == interceptions.c.id
_BYOK = interceptions.c.credential == "byok"
_MODEL = func.coalesce(usage.c.model, interceptions.c.model)

# Of the model and the key, what answered counts, else what was asked for.
_DIMENSIONS: dict[str, ColumnElement[Any]] = {
    "day": interceptions.c.day,
    "model": _MODEL,
    "token": interceptions.c.token,
    "group": interceptions.c.token_group,
    "key": case(
        (_BYOK, literal("(client's own)")),
        else_=func.coalesce(usage.c.key, interceptions.c.key),
    ),
    "client": interceptions.c.client,
    "session": interceptions.c.session,
}

_SUMS = {
    **{kind: usage.c[field_of(kind)] for kind in (*COUNTED, *LIFETIMES)},
    GUESSED_OUTPUT: usage.c.guessed_output_tokens - usage.c.output_tokens,
    SERVER_TOOLS: usage.c.server_tool_uses,
}

# A sum of picodollars may need more than 64 bits; sums of these two, millions and the rest of them, do not.
_MILLION = 1_000_000
_COST = (
    func.coalesce(func.sum(usage.c.cost_picodollars // _MILLION), 0),
    func.coalesce(func.sum(usage.c.cost_picodollars % _MILLION), 0),
)
# An answer of the pool's keys that says what it used, but was recorded before that had a price.
_IS_UNCOSTED = and_(usage.c.certainty.is_not(None), usage.c.cost_picodollars.is_(None), not_(_BYOK))
_WRITE_5M = case(  # tokens of which no lifetime was said were written for five minutes
    (
        usage.c.cache_write_tokens > usage.c.cache_write_5m_tokens + usage.c.cache_write_1h_tokens,
        usage.c.cache_write_tokens - usage.c.cache_write_1h_tokens,
    ),
    else_=usage.c.cache_write_5m_tokens,
)


class Reader:
    """Reads a database that `Database.prepare_to_read` has found in order. Methods raise DatabaseUnavailable."""

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

    def spent(self, since: float, until: float) -> list[Spent]:
        """What the pool's keys have used in messages that began in a time, by day and model, as it is billed."""
        sums: dict[str, ColumnElement[Any]] = {kind: usage.c[field_of(kind)] for kind in PRICED}
        sums |= {CACHE_WRITE_5M: _WRITE_5M, OUTPUT: usage.c.guessed_output_tokens}
        groups = (interceptions.c.day, _MODEL, usage.c.server_tools)
        number = func.count()
        uncosted = func.count(case((_IS_UNCOSTED, 1)))
        query = select(*groups, number, uncosted, *_COST, *map(func.sum, sums.values()))
        query = _of_messages(query.join_from(interceptions, usage, _OF_INTERCEPTION), since, until)
        with self._database.transaction() as connection:
            return [
                Spent(
                    day,
                    model,
                    dict(zip(sums, map(int, counts), strict=True)) | {WEB_SEARCHES: answers * _web_searches(tools)},
                    _picodollars(millions, rest),
                    no_cost,
                )
                for day, model, tools, answers, no_cost, millions, rest, *counts in connection.execute(
                    query.where(not_(_BYOK)).group_by(*groups)
                )
            ]

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
    query = select(
        *groups,
        func.count(ids.distinct()),
        func.count(case((interceptions.c.outcome != Ending.COMPLETED.value, ids)).distinct()),
        func.count(case((usage.c.certainty != "exact", ids)).distinct()),
        func.count(case((or_(usage.c.is_cost_estimated, _IS_UNCOSTED), ids)).distinct()),
        *_COST,
        *(func.coalesce(func.sum(column), 0) for column in map(_SUMS.__getitem__, SUMS)),
    )
    query = _of_messages(query.outerjoin_from(interceptions, usage, _OF_INTERCEPTION), since, until)
    number = len(groups)
    return [
        UsageRow(tuple(row[:number]), _measures(row[number:]))
        for row in connection.execute(query.group_by(*groups) if groups else query)
    ]


def _measures(values: Sequence[Any]) -> dict[str, int]:
    counts, (millions, rest), sums = (values[: len(COUNTS)], values[len(COUNTS) :][:2], values[len(COUNTS) + 2 :])
    measures = dict(zip((*COUNTS, *SUMS), map(int, (*counts, *sums)), strict=True))
    return measures | {COST: _picodollars(millions, rest)}


def _of_messages(query: Select[Any], since: float | None, until: float | None) -> Select[Any]:
    query = query.where(interceptions.c.route == "messages")
    if since is not None:
        query = query.where(interceptions.c.started_at >= since)
    return query if until is None else query.where(interceptions.c.started_at < until)


def _picodollars(millions: Any, rest: Any) -> int:
    return int(millions) * _MILLION + int(rest)


def _web_searches(tools: str) -> int:
    count: int = json.loads(tools).get("web_search_requests", 0)
    return count


def _record(connection: Connection, row: dict[str, Any]) -> InterceptionRecord:
    for field, table in PARTS.items():
        own = table.c.interception_id == row["id"]
        found = connection.execute(select(table).where(own).order_by(table.c.number)).mappings()
        row[field] = [_plain(part) for part in found]
    return msgspec.convert(row, InterceptionRecord)


def _plain(row: RowMapping) -> dict[str, Any]:
    """A row by plain names: SQLAlchemy's own may be a kind of str."""
    return {str(name): value for name, value in row.items()}

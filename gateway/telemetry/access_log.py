"""One line for every request to the API, answered or refused: who, what, how it went, and the ids to find more.

Owns: the line's fields; docs/observability.md has their table. Any thread. The line goes to the logger
`gateway.access`, whose form is the log's (`log_format`): names, counts and states, no path, no query, nothing of a body
but the model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from operator import attrgetter

from gateway.access.client_info import Client
from gateway.pricing.money import microdollars
from gateway.protocol.errors import GatewayError, LimitReached
from gateway.protocol.outcomes import Ending
from gateway.protocol.token_kinds import FIELDS
from gateway.records.interception_record import InterceptionRecord, TurnUsage

log = logging.getLogger("gateway.access")

_counts_of = attrgetter(*FIELDS)


def ended(record: InterceptionRecord, address: str) -> None:
    """An admitted request of the client at this address has ended."""
    if log.isEnabledFor(logging.INFO):
        _write(fields_of(record, address))


def refused(request_id: str, route: str, error: GatewayError, address: str, client: Client) -> None:
    """A request was refused before it was admitted. The error's message may quote its path, and is not written."""
    if log.isEnabledFor(logging.INFO):
        fields = {"request_id": request_id, "route": route, "status": error.status, "outcome": Ending.REJECTED.value}
        fields |= {"error": error.kind, "token": error.token_name}
        if isinstance(error, LimitReached):
            fields |= {"limit": error.limit, "limit_of": f"{error.holder_kind}/{error.holder}"}
        _write({**fields, **_asker(address, client.program, client.version)})


def _write(fields: Mapping[str, object]) -> None:
    known = {name: value for name, value in fields.items() if value not in (None, "")}
    log.info("request", extra={"fields": known})


def _asker(address: str, program: str | None, version: str | None) -> dict[str, object]:
    """Who asked: of the client's own words only what `client_info` has found to be a name."""
    return {"client": address, "user_agent": f"{program}/{version}" if version else program}


def fields_of(record: InterceptionRecord, address: str) -> dict[str, object]:
    """What an admitted request's line says; None where there is nothing to say."""
    attempts = record.attempts
    return {
        "request_id": record.id,
        "upstream_request_id": attempts[-1].request_id if attempts else None,
        "trace_id": record.trace_id,
        "session": record.session,
        "route": record.route,
        "mode": "streamed" if record.is_streamed else "whole",
        "model": record.model,
        "status": record.status,
        "outcome": record.outcome,
        "error": record.error,
        "token": record.token,
        "group": record.token_group,
        "credential": record.credential,
        "key": record.key,
        "attempts": len(attempts),
        "turns": attempts[-1].turn + 1 if attempts else 0,
        "first_event_seconds": _rounded(record.first_event_seconds),
        "duration_seconds": _rounded(record.duration_seconds),
        **_tokens(record.usage),
        "cost": _dollars(record.cost_picodollars),
        "cost_estimated": record.is_cost_estimated or None,
        **_asker(address, record.client, record.client_version),
    }


def _tokens(usage: Sequence[TurnUsage]) -> dict[str, object]:
    """The counts of all inferences; none if no answer has said any."""
    if not usage:
        return {}
    return dict(zip(FIELDS, map(sum, zip(*map(_counts_of, usage), strict=True)), strict=True))


def _dollars(picodollars: int | None) -> float | None:
    return microdollars(picodollars) / 10**6 if picodollars is not None else None


def _rounded(seconds: float | None) -> float | None:
    return round(seconds, 6) if seconds is not None else None

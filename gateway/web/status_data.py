"""The status page as data, for `Accept: application/json`.

Owns: the names of the fields, which docs/observability.md lists; a test compares the two. Pure. It says what the page
says, in the same words; points in time are ISO 8601 in UTC, durations in seconds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gateway.web.status import KeyRow, Status


def moment(at: float) -> str:
    """A point in time (epoch seconds) in ISO 8601, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def as_data(status: Status) -> dict[str, Any]:
    """Everything on the page, as JSON has it."""
    gateway, traffic, records = status.gateway, status.traffic, status.records
    return {
        "at": moment(status.at),
        "gateway": {
            "name": gateway.name,
            "address": gateway.address,
            "version": gateway.version,
            "started_at": moment(status.at - gateway.uptime_seconds),
            "uptime_seconds": round(gateway.uptime_seconds),
        },
        "state": status.tone.value,
        "headline": status.headline,
        "keys": [_key(row, status.at) for row in status.keys],
        "traffic": {
            "seconds": round(traffic.seconds),
            "requests": traffic.requests,
            "failed": traffic.failed,
            "upstream_5xx": traffic.upstream_5xx,
            "upstream_529": traffic.upstream_529,
            "upstream_no_answer": traffic.upstream_silent,
            "affected": dict(traffic.affected),
        },
        "running": {"requests": status.inflight, "places": status.inflight_limit},
        "no_key_left": [
            {"why": each.why, "times": each.count, "last_at": moment(each.last_at)}
            for each in status.no_key
            if each.count
        ],
        "streams": {words: count for words, count in status.streams if count},
        "limits": [
            {
                "of": str(use.limited),
                "limit": use.limit,
                "used": use.used,
                "most": use.most,
                "percent": use.percent,
                "resets_in_seconds": use.resets_in_seconds,
            }
            for use, _ in status.limits
        ],
        "events": [
            {"at": moment(event.at), "key": event.key, "what": event.what, "times": event.times}
            for event in status.events
        ],
        "mcp_servers": {name: "up" if is_up else "down" for name, is_up in status.mcp_servers},
        "records": {
            "kept": records.is_kept,
            "database": "up" if records.is_database_up else "down",
            "waiting": records.waiting,
            "lost": records.lost,
        },
        "key_store": {"kind": status.store, "state": "up" if status.is_store_up else "down"},
        "last_reload": "applied" if status.is_reload_ok else "refused",
    }


def _key(row: KeyRow, at: float) -> dict[str, Any]:
    view, status = row.view, row.status
    return {
        "key": status.key.name,
        "hint": status.key.hint,
        "place": row.place,
        "state": view.word,
        "cause": view.cause,
        "next": view.advice,
        "since": moment(at - status.marked_ago_seconds) if status.is_marked else None,
        "remaining_seconds": round(status.remaining_seconds, 1),
        "scopes": {scope.scope: round(scope.remaining_seconds, 1) for scope in view.scopes if scope.remaining_seconds},
        "organisation": status.place.organisation,
        "workspace": status.place.workspace,
        "answered": row.answered,
        "failovers": dict(row.failovers),
        "limits": [
            {"limit": limit.name, "scope": limit.scope, "remaining": limit.remaining, "most": limit.limit}
            for limit in row.limits
        ],
    }

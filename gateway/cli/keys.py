"""`gateway keys`: what state each key is in and why; and the operator's hand on it.

Owns: a table in words. It works on the shared state itself, so what it does is effective at once in every
worker, within milliseconds on every machine, whether the gateway runs or not.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from datetime import datetime
from typing import Any

from gateway.access.credential import Key
from gateway.cli.output import complain, say
from gateway.config.settings import Settings, SettingsError
from gateway.keys.file_store import FileStore
from gateway.keys.overview import KeyView, ScopeView, overview, short
from gateway.keys.pool import BY_OPERATOR, Pool
from gateway.keys.standing import Doubt
from gateway.keys.store import Store
from gateway.runtime.machine_clock import machine_time
from gateway.web import configured

_COLUMNS = ("key", "hint", "state", "until", "organisation", "workspace")
_DAY_SECONDS = 86_400


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--json", action="store_true", help="print the keys as JSON")
    also = argparse.ArgumentParser(add_help=False)  # the same behind the action
    also.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the keys as JSON")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", parents=[also], help="print every key's state (the default)")
    enable = actions.add_parser("enable", parents=[also], help="make a key valid again, whatever its state")
    enable.add_argument("name")
    disable = actions.add_parser(
        "disable", parents=[also], help="take a key out of use until it is enabled again, even over restarts"
    )
    disable.add_argument("name")
    cool = actions.add_parser("cool", parents=[also], help="let a key cool down for some seconds")
    cool.add_argument("name")
    cool.add_argument("seconds", type=float)


def run(arguments: argparse.Namespace) -> int:
    """Show or change the keys' states; 1, with a line on standard error, if that cannot be done."""
    try:
        settings = configured.read_settings()
        store = _store(settings)
        pool = Pool(settings.keys, store)
        if arguments.action in ("enable", "disable", "cool"):
            _change(pool, arguments)
            _share(store)
    except SettingsError as error:
        return complain(*error.complaints)
    except _Refused as error:
        return complain(str(error))
    except OSError as error:
        return complain(f"the keys' state cannot be reached: {error}")
    views = overview(pool.statuses)
    say(*(json.dumps([_described(view) for view in views], indent=2).split("\n") if arguments.json else _table(views)))
    return 0


class _Refused(Exception):
    """What was asked cannot be done; the message says why."""


def _store(settings: Settings) -> Store:
    try:
        unused = configured.unused_state(settings)
        if unused is not None:
            raise _Refused(f"the keys' states are unknown: {unused}")
        store = configured.open_store(settings)
    except ValueError as error:
        raise _Refused(f"GATEWAY_STATE_URL: {error}") from error
    if isinstance(store, FileStore):
        if store.trouble is not None:
            raise store.trouble
    elif not store.is_up:
        raise _Refused("the state server cannot be reached; is GATEWAY_STATE_URL right?")
    return store


def _change(pool: Pool, arguments: argparse.Namespace) -> None:
    key = _named(pool, arguments.name)
    if arguments.action == "enable":
        pool.enable(key)
    elif arguments.action == "disable":
        pool.disable(key)
    elif not 0 < arguments.seconds < 1e9:
        raise _Refused("SECONDS must be a positive number")
    else:
        status = next(status for status in pool.statuses() if status.key == key)
        record = status.standing.whole.record
        if record.is_permanent:
            raise _Refused(f"{key.name} gets no requests at all until it is enabled: nothing was changed")
        if record.cooling_until_at > machine_time() + arguments.seconds:
            raise _Refused(f"{key.name} already cools down for longer than that: nothing was changed")
        pool.cool(status, arguments.seconds, BY_OPERATOR, 0)


def _share(store: Store) -> None:
    if not store.flush():
        raise _Refused("the state server can no longer be reached: the change may not have been stored")


def _named(pool: Pool, name: str) -> Key:
    for key in pool.keys:
        if key.name == name:
            return key
    raise _Refused(f"there is no key called {name}; there are {', '.join(key.name for key in pool.keys) or 'none'}")


def _described(view: KeyView) -> dict[str, Any]:
    status = view.status
    return {
        "key": status.key.name,
        "hint": status.key.hint,
        "state": view.word,
        "why": status.why,
        "cause": view.cause,
        "next": view.advice,
        "since": _moment(time.time() - status.marked_ago_seconds) if status.is_marked else "",
        "until": _moment(time.time() + status.remaining_seconds) if status.remaining_seconds else "",
        "remaining_seconds": round(status.remaining_seconds, 3),
        "limited": status.record.limited_count,
        "refused": status.record.refused_count,
        "organisation": status.place.organisation,
        "workspace": status.place.workspace,
        "scopes": [_described_scope(scope) for scope in view.scopes],
    }


def _described_scope(scope: ScopeView) -> dict[str, Any]:
    return {
        "scope": scope.scope,
        "state": scope.word,
        "remaining_seconds": round(scope.remaining_seconds, 3),
        "because_of": "workspace"
        if scope.siblings
        else scope.doubt.name.lower()
        if scope.doubt is not Doubt.NONE
        else "",
    }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")


def _table(views: list[KeyView]) -> list[str]:
    """A row for each key, and lines under it for what there is to say."""
    rows = [list(_COLUMNS), *(_row(view) for view in views)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(_COLUMNS))]
    head, *told = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    lines = [head]
    for line, view in zip(told, views, strict=True):
        lines += [line, *(f"    {remark}" for remark in _remarks(view))]
    return lines


def _row(view: KeyView) -> list[str]:
    status = view.status
    until = _shortly(status.remaining_seconds) if status.remaining_seconds else "-"
    place = status.place
    return [status.key.name, status.key.hint, view.word, until, short(place.organisation), short(place.workspace)]


def _remarks(view: KeyView) -> list[str]:
    status = view.status
    remarks = []
    if view.cause:
        since = f", since {_moment(time.time() - status.marked_ago_seconds)}" if status.is_marked else ""
        remarks.append(f"why:   {view.cause}{since}")
    remarks += [f"scope: {scope.scope} {_scope_words(scope)}" for scope in view.scopes]
    if view.advice:
        remarks.append(f"next:  {view.advice}")
    return remarks


def _scope_words(scope: ScopeView) -> str:
    return f"until {_shortly(scope.remaining_seconds)}" if scope.remaining_seconds else scope.word


def _shortly(seconds: float) -> str:
    """The time in so many seconds, and how long that is."""
    at = datetime.fromtimestamp(time.time() + seconds)
    clock = at.strftime("%H:%M:%S") if seconds < _DAY_SECONDS else at.strftime("%Y-%m-%d %H:%M")
    return f"{clock} (in {math.ceil(seconds)} s)"

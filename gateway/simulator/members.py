"""Who lives in a world: organisations, their workspaces, keys; and how a file or a control request says so. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.simulator.buckets import Limit
from gateway.simulator.grammar import ScriptError
from gateway.simulator.scopes import is_scope


@dataclass(frozen=True, slots=True)
class Organisation:
    """What an organisation has: `limits` by scope, `credit` in messages (None: endless), what it lacks."""

    id: str
    limits: Mapping[str, Limit] = field(default_factory=dict)
    credit: int | None = None
    spend_limited: bool = False
    disabled: bool = False
    lacks_models: frozenset[str] = frozenset()
    lacks_betas: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace of an organisation; its limits hold beside the organisation's."""

    id: str
    organisation: str
    limits: Mapping[str, Limit] = field(default_factory=dict)
    spend_limited: bool = False
    unusable: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a workspace; `id` is its secret."""

    id: str = field(repr=False)
    workspace: str
    revoked: bool = False


Member = Organisation | Workspace | Key


def read_member(kind: type[Member], identity: str, table: object, where: str) -> Member:
    """The member that a table of a file describes.

    Raises: ScriptError.
    """
    settings = read_settings(kind, table, where)
    owner = {Workspace: "organisation", Key: "workspace"}.get(kind)
    if owner and owner not in settings:
        raise ScriptError(f"{where} wants its {owner}")
    return kind(identity, **settings)


def read_settings(kind: type[Member], table: object, where: str) -> dict[str, Any]:
    """Some settings of a member of that kind.

    Raises: ScriptError.
    """
    if not isinstance(table, dict):
        raise ScriptError(f"{where} wants a table of settings")
    known = [each.name for each in dataclasses.fields(kind) if each.name != "id"]
    if unknown := sorted(set(table) - set(known)):
        raise ScriptError(f"{where} has unknown {unknown[0]!r}; known are {', '.join(known)}")
    try:
        return {name: _READERS[name](value) for name, value in table.items()}
    except ValueError as error:
        raise ScriptError(f"{where}: {error}") from error


def show_member(member: Member) -> dict[str, object]:
    """Its settings but its id, as a file would say them."""
    settings = {each.name: getattr(member, each.name) for each in dataclasses.fields(member) if each.name != "id"}
    return {name: _plain(value) for name, value in settings.items()}


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {scope: f"{limit.requests}/{limit.seconds:g}" for scope, limit in value.items()}
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")  # noqa: TRY004  # a bad value of a file
    return value


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a name")  # noqa: TRY004  # a bad value of a file
    return value


def _names(value: object) -> frozenset[str]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list of names")  # noqa: TRY004  # a bad value of a file
    return frozenset(map(_name, value))


def _credit(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f"credit {value!r} is not a number of requests, 0 or more")


def _limits(value: object) -> Mapping[str, Limit]:
    if not isinstance(value, dict):
        raise ValueError(f"limits {value!r} is not a table of scopes")  # noqa: TRY004  # a bad value of a file
    for scope in value:
        if not is_scope(scope):
            raise ValueError(
                f"{scope!r} is no scope; they are messages/CLASS, messages/CLASS+fast, count_tokens, models"
            )
    return {scope: _limit(text) for scope, text in value.items()}


def _limit(text: object) -> Limit:
    requests, _, seconds = str(text).partition("/")
    if not (requests.isdecimal() and seconds.isdecimal() and int(requests) and int(seconds)):
        raise ValueError(f"limit {text!r} is not REQUESTS/SECONDS, such as 50/60")
    return Limit(int(requests), float(seconds))


_READERS: dict[str, Callable[[object], object]] = {
    "organisation": _name,
    "workspace": _name,
    "limits": _limits,
    "credit": _credit,
    "spend_limited": _flag,
    "disabled": _flag,
    "unusable": _flag,
    "revoked": _flag,
    "lacks_models": _names,
    "lacks_betas": _names,
}

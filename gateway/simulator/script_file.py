"""The script file in TOML: keys with names and scripts, an order, a script for unknown keys, the world of the keys."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.simulator.grammar import ScriptError, ScriptText
from gateway.simulator.members import Key, Member, Organisation, Workspace, read_member
from gateway.simulator.playbook import parse_script
from gateway.simulator.world import World

_WORLD_SETTINGS = ("workspace", "revoked")  # of a key


@dataclass(frozen=True, slots=True)
class KeyScript:
    """One key: "" for its name is `key-N`."""

    secret: str
    script: ScriptText
    name: str = ""


@dataclass(frozen=True, slots=True)
class ScriptFile:
    """What a file says; None where it says nothing."""

    keys: tuple[KeyScript, ...] = ()
    order: ScriptText | None = None
    any_key: bool | ScriptText = False
    world: World | None = None


def read_script_file(path: Path) -> ScriptFile:
    """Reads and checks a script file.

    Raises: ScriptError, one line that names the file.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return _script_file(document)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ScriptError(f"{path}: {reason}") from error


def _script_file(document: dict[str, Any]) -> ScriptFile:
    _refuse_unknown(document, {"keys", "order", "any_key", "organisations", "workspaces", "caches_all"}, "the file")
    tables = document.get("keys", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ScriptError("keys wants [[keys]] tables")
    keys = tuple(_key(table, position) for position, table in enumerate(tables, start=1))
    for what, values in (
        ("secret", [key.secret for key in keys]),
        ("name", [key.name for key in keys if key.name]),
    ):
        if len(set(values)) != len(values):
            raise ScriptError(f"two keys have the same {what}")
    any_key = document.get("any_key", False)
    if not isinstance(any_key, bool):
        any_key = _script(any_key, "any_key")
    order = _script(document["order"], "order") if "order" in document else None
    return ScriptFile(keys, order, any_key, _world(document))


def _world(document: dict[str, Any]) -> World:
    """The world of the keys that name a workspace; the keys have been checked."""
    caches_all = document.get("caches_all", False)
    if not isinstance(caches_all, bool):
        raise ScriptError("caches_all wants true or false")
    members: list[Member] = []
    for plural, kind in (("organisations", Organisation), ("workspaces", Workspace)):
        tables = document.get(plural, {})
        if not isinstance(tables, dict):
            raise ScriptError(f"{plural} wants [{plural}.ID] tables")
        members += [read_member(kind, name, table, f"{plural}.{name}") for name, table in tables.items()]
    for position, table in enumerate(document.get("keys", []), start=1):
        settings = {name: value for name, value in table.items() if name in _WORLD_SETTINGS}
        if settings:
            members.append(read_member(Key, table["secret"], settings, f"key {position}"))
    return World(members, caches_all=caches_all)


def _key(table: dict[str, Any], position: int) -> KeyScript:
    where = f"key {position}"
    _refuse_unknown(table, {"secret", "name", "script", *_WORLD_SETTINGS}, where)
    secret, name = table.get("secret"), table.get("name", "")
    if not isinstance(secret, str) or not secret:
        raise ScriptError(f"{where} wants a secret")
    if not isinstance(name, str):
        raise ScriptError(f"{where}: name wants a text")
    return KeyScript(secret, _script(table.get("script", "ok"), where), name)


def _script(value: object, where: str) -> ScriptText:
    """Checks a script here, where its place in the file is known."""
    if isinstance(value, str):
        script: ScriptText = value
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        script = value
    else:
        raise ScriptError(f"{where} wants a script: a text or a list of texts")
    try:
        parse_script(script)
    except ScriptError as error:
        raise ScriptError(f"{where}: {error}") from error
    return script


def _refuse_unknown(table: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(table) - known):
        raise ScriptError(f"{where} has unknown {unknown[0]!r}; known are {', '.join(sorted(known))}")

"""The pool as the operator writes it: one entry a key.

Owns: the form `[NAME=]SECRET [workspace=ID]`, and what is said of entries that have another. Pure. A workspace is
named to the upstream with every request of the key (https://docs.claude.com/en/api/workspaces).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from gateway.access.authentication import ANTHROPIC_PREFIX
from gateway.access.credential import Key, Secret

_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SECRET = re.compile(r"[\x21-\x7e]+")
_WORKSPACE = re.compile(r"(.*\S)\s+workspace\s*=\s*(\S*)")
_WORKSPACE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def keys_from(entries: Iterable[tuple[str, str]]) -> tuple[tuple[Key, ...], list[str]]:
    """The keys, in order, and a line for each entry that is none. An entry is where it stands, and its text."""
    keys: list[Key] = []
    complaints: list[str] = []
    for position, (label, entry) in enumerate(entries, start=1):
        name, secret, workspace = _parts(entry, position)
        complaint = _complaint(name, secret, workspace, keys)
        if complaint is None:
            keys.append(Key(name, Secret(secret), workspace))
        else:
            complaints.append(f"{label}: {complaint}")
    return tuple(keys), complaints


def _parts(entry: str, position: int) -> tuple[str, str, str]:
    """Name, secret and workspace; `?` for a workspace that is said to be there and is not."""
    given = _WORKSPACE.fullmatch(entry)
    text, workspace = (given[1], given[2] or "?") if given is not None else (entry, "")
    name, separator, secret = text.partition("=")
    return (name.strip(), secret.strip(), workspace) if separator else (f"key-{position}", text.strip(), workspace)


def _complaint(name: str, secret: str, workspace: str, others: Iterable[Key]) -> str | None:
    twin = next((other for other in others if other.secret == Secret(secret)), None)
    if name.startswith(ANTHROPIC_PREFIX):
        return "the secret is where the name should be; write name=secret"
    if not _KEY_NAME.fullmatch(name):
        return "a key's name may have letters, digits, `.`, `_` and `-`, at most 63"
    if not _SECRET.fullmatch(secret):
        return f"the secret of {name} is empty, or has spaces or characters that are not allowed"
    if workspace and not _WORKSPACE_ID.fullmatch(workspace):
        return f"the workspace of {name} is not valid: `workspace=wrkspc_...` was expected"
    if twin is not None:
        return f"{name} has the same secret as {twin.name}"
    if any(other.name == name for other in others):
        return f"the name {name} is used twice"
    return None

"""Secrets, and what pays for a request: one of the pool's keys or the client's own credential.

Owns: the only class that holds a secret in clear, its masked form and its fingerprint. Pure; immutable; any
thread. `reveal()` is called where a secret is written to the wire it is for, and nowhere else (a test looks).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import Enum

WORKSPACE_HEADER = "anthropic-workspace-id"

_HINT_TAIL = 4
_SHORTEST_HINTED = 20


class Secret:
    """A credential in clear that shows only its hint: in `str`, `repr`, formats and tracebacks alike."""

    __slots__ = ("_clear",)

    def __init__(self, clear: str) -> None:
        self._clear = clear

    def reveal(self) -> str:
        """The secret in clear. For the wire alone: to the upstream, its proxy, an MCP server."""
        return self._clear

    @property
    def hint(self) -> str:
        """The masked form that may be shown: a known prefix and the last four characters of a long secret."""
        if len(self._clear) < _SHORTEST_HINTED:
            return "****"
        prefix = "sk-ant-" if self._clear.startswith("sk-ant-") else ""
        return f"{prefix}...{self._clear[-_HINT_TAIL:]}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the secret in hex: equal secrets, equal fingerprints, and no way back for random secrets."""
        return hashlib.sha256(self._clear.encode("utf-8", "surrogateescape")).hexdigest()

    def matches_digest(self, digest: str) -> bool:
        """Whether the secret has this SHA-256 hex digest; takes the same time whatever the answer."""
        return hmac.compare_digest(self.fingerprint, digest)

    def has_prefix(self, prefix: str) -> bool:
        """Whether the secret begins with a publicly known form such as `sk-ant-`."""
        return self._clear.startswith(prefix)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.fingerprint, other.fingerprint)

    def __hash__(self) -> int:
        return hash(self._clear)

    def __repr__(self) -> str:
        return f"<Secret {self.hint}>"

    __str__ = __repr__

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret cannot be pickled: that would show it in clear text")


@dataclass(frozen=True, slots=True)
class Key:
    """One upstream API key of the pool: the name it is known by, and its secret. Position is its place in the pool.

    `workspace` is the one that the operator gave it, to be named to the upstream; empty if none.
    """

    name: str
    secret: Secret
    workspace: str = ""

    @property
    def hint(self) -> str:
        """The masked form that may be shown."""
        return self.secret.hint


class CredentialKind(Enum):
    """What pays for an interception."""

    POOLED = "pooled"
    BYOK = "byok"


@dataclass(frozen=True, slots=True)
class AuthHeader:
    """The header that carries a credential upstream, `x-api-key` or `authorization`, and what it carries.

    `scheme` is what stands before the secret in the value, such as `Bearer ` with its space, or nothing.
    """

    name: str
    scheme: str
    secret: Secret


def key_headers(key: Key) -> tuple[AuthHeader, ...]:
    """How a key of the pool goes upstream."""
    header = AuthHeader("x-api-key", "", key.secret)
    return (header, AuthHeader(WORKSPACE_HEADER, "", Secret(key.workspace))) if key.workspace else (header,)

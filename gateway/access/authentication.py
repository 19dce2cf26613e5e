"""Who may use the gateway, and what pays for their request.

Owns: client tokens, the rules for a client's own credential, and the narrow door of a gateway without tokens.
Pure: headers in, a Caller or an error out; any thread.

Clients differ in where they put a token (older SDKs send `api_key` as `x-api-key`, the newest as Bearer), so a
header says nothing here, only the value does. The one exception is `X-Gateway-Token`: whoever uses it says
that the other headers hold a credential of their own.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from urllib.parse import urlsplit

from gateway.access.credential import AuthHeader, CredentialKind, Secret
from gateway.protocol.errors import PermissionDenied, Unauthenticated
from gateway.protocol.headers import TOKEN_HEADER, of_a_proxy

ANTHROPIC_PREFIX = "sk-ant-"
TOKEN_PREFIX = "gwt_"
_TOKEN_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._@-]+)\s+sha256:(?P<digest>[0-9a-f]{64})(?P<more>(\s+(operator|group=[A-Za-z0-9._@-]+))*)"
)
_GROUP = "group="
_OWN_SITE = ("same-origin", "none")  # what a browser calls its own page's requests, and an address that was typed in


class ByokMode(Enum):
    """Whether clients may bring their own credential: yes, no, or nothing else."""

    ALLOWED = "true"
    FORBIDDEN = "false"
    ONLY = "only"


@dataclass(frozen=True, slots=True)
class ClientToken:
    """One line of the token file: the name that is recorded, the digest, whether it opens operators' pages, and the
    group whose limits it shares.
    """

    name: str
    digest: str
    is_operator: bool
    group: str | None = None

    @property
    def line(self) -> str:
        """The token file's line for it."""
        role = " operator" if self.is_operator else ""
        return f"{self.name} sha256:{self.digest}{role}{f' {_GROUP}{self.group}' if self.group is not None else ''}"


class TokenFileError(ValueError):
    """The token file has a line that cannot be read; the message names the line."""


def parse_tokens(text: str) -> tuple[ClientToken, ...]:
    """Read `name sha256:<hex> [operator] [group=NAME]` lines; blank lines and `#` comments are skipped.

    What follows the digest may stand in any order, once each. Raises TokenFileError for anything else and for a name
    that stands twice.
    """
    tokens: dict[str, ClientToken] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.partition("#")[0].strip()
        if not stripped:
            continue
        token = _token_in(stripped)
        if token is None:
            raise TokenFileError(f"line {number}: expected `name sha256:<64 hex digits> [operator] [group=NAME]`")
        if token.name in tokens:
            raise TokenFileError(f"line {number}: the name {token.name} is used twice")
        tokens[token.name] = token
    return tuple(tokens.values())


def _token_in(line: str) -> ClientToken | None:
    match = _TOKEN_LINE.fullmatch(line)
    if match is None:
        return None
    more = match["more"].split()
    groups = [word.removeprefix(_GROUP) for word in more if word.startswith(_GROUP)]
    roles = len(more) - len(groups)
    if len(groups) > 1 or roles > 1:
        return None
    return ClientToken(match["name"], match["digest"], roles == 1, groups[0] if groups else None)


@dataclass(frozen=True, slots=True)
class Caller:
    """An admitted client: its token's name (None on an open gateway), and what pays.

    `own` holds the client's credentials, each under the header it came in; it is empty when the pool pays.
    `token_group` is the group of that token.
    """

    token_name: str | None
    is_operator: bool
    own: tuple[AuthHeader, ...] = ()
    token_group: str | None = None

    @property
    def credential(self) -> CredentialKind:
        """What pays for the interception."""
        return CredentialKind.BYOK if self.own else CredentialKind.POOLED


def authenticate(headers: Mapping[str, str], tokens: Iterable[ClientToken] | None, byok: ByokMode) -> Caller:
    """Decide who is calling and what pays; `headers` has lower-case names, `tokens` is None on an open gateway.

    Raises Unauthenticated and PermissionDenied. Every token is compared, in constant time each.
    """
    offered = _offered(headers)
    if tokens is None:
        own = tuple(header for header in offered if header.secret.has_prefix(ANTHROPIC_PREFIX))
        return _with_credential(None, own, byok)
    known = tuple(tokens)
    given = headers.get(TOKEN_HEADER)
    if given is not None:
        token = _find(Secret(given.strip()), known)
        own = tuple(header for header in offered if not _is_ours(header.secret, known))
    else:
        found = [match for header in offered if (match := _find(header.secret, known)) is not None]
        token, own = (found[0] if found else None), ()
    if token is None:
        raise Unauthenticated(_refusal(given is not None or bool(offered)))
    return _with_credential(token, own, byok)


def authenticate_operator(headers: Mapping[str, str], tokens: Iterable[ClientToken] | None) -> None:
    """Let an operator in; anybody on an open gateway, where `tokens` is None.

    A browser can only send a name and a password (HTTP Basic, RFC 7617): there the token is the password, and the
    name says nothing. Raises Unauthenticated and PermissionDenied. Every token is compared, in constant time each.
    """
    if tokens is None:
        return
    known = tuple(tokens)
    given = headers.get(TOKEN_HEADER)
    if given is not None:
        secrets = [Secret(given.strip())]
    else:
        secrets = [*(header.secret for header in _offered(headers)), *_passwords(headers)]
    found = [match for secret in secrets if (match := _find(secret, known)) is not None]
    if not found:
        raise Unauthenticated("an operator's token is required; a browser sends it as the password, under any name")
    if not any(token.is_operator for token in found):
        raise PermissionDenied("this token is not an operator's")


def _refusal(was_offered: bool) -> str:
    if was_offered:
        return "the gateway token is not known here, or was revoked"
    return "a gateway token is required, in X-Gateway-Token, x-api-key or Authorization: Bearer"


def _with_credential(token: ClientToken | None, own: tuple[AuthHeader, ...], byok: ByokMode) -> Caller:
    if own and byok is ByokMode.FORBIDDEN:
        raise PermissionDenied("this gateway does not take clients' own credentials; send none")
    if not own and byok is ByokMode.ONLY:
        raise Unauthenticated(
            "this gateway has no keys of its own; send your own credential in x-api-key or Authorization"
        )
    if token is None:
        return Caller(None, is_operator=False, own=own)
    return Caller(token.name, token.is_operator, own, token.group)


def _offered(headers: Mapping[str, str]) -> list[AuthHeader]:
    offered = []
    api_key = headers.get("x-api-key", "").strip()
    if api_key:
        offered.append(AuthHeader("x-api-key", "", Secret(api_key)))
    scheme, _, value = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        offered.append(AuthHeader("authorization", "Bearer ", Secret(value.strip())))
    return offered


def _passwords(headers: Mapping[str, str]) -> list[Secret]:
    scheme, _, value = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "basic":
        return []
    try:
        clear = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return []
    return [Secret(clear.partition(":")[2])]


def _is_ours(secret: Secret, tokens: tuple[ClientToken, ...]) -> bool:
    """Whether a secret is a gateway token: a known one, or by its form one that was revoked."""
    return secret.has_prefix(TOKEN_PREFIX) or _find(secret, tokens) is not None


def _find(secret: Secret, tokens: tuple[ClientToken, ...]) -> ClientToken | None:
    found = None
    for token in tokens:
        if secret.matches_digest(token.digest):
            found = token
    return found


def refuse_unless_local(headers: Mapping[str, str], allowed_origins: Container[str] = ()) -> None:
    """The door of a gateway without tokens: only a program on this machine that speaks to it directly, and the pages
    of the allowed origins.

    Raises PermissionDenied, saying why: a proxy on this machine or a page in a local browser (DNS rebinding
    included) would otherwise open the pool to the world. Not every request of a page has an Origin, but nearly every
    browser says where the page is from (https://www.w3.org/TR/fetch-metadata/).
    """
    proxys = of_a_proxy(headers)
    if proxys is not None:
        raise PermissionDenied(
            f"a gateway without a token file does not serve proxied requests ({proxys} is set); "
            "set GATEWAY_CLIENT_TOKENS_FILE"
        )
    if not is_loopback_host(_host_of(f"//{headers.get('host', '')}")):
        raise PermissionDenied(
            "a gateway without a token file answers only to a loopback Host; set GATEWAY_CLIENT_TOKENS_FILE"
        )
    origin = headers.get("origin")
    if origin is None:
        is_foreign = headers.get("sec-fetch-site", "none") not in _OWN_SITE
    else:
        is_foreign = origin not in allowed_origins and not is_loopback_host(_host_of(origin))
    if is_foreign:
        raise PermissionDenied(
            "a gateway without a token file does not serve web pages of another origin; "
            "set GATEWAY_CLIENT_TOKENS_FILE, or name the origin in GATEWAY_CORS_ORIGINS"
        )


@lru_cache(maxsize=16)  # the same name comes with nearly every request
def is_loopback_host(host: str) -> bool:
    """Whether a host name or address, without port, stands for this machine alone."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=16)
def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""

"""The MCP servers of a configuration: where they are, which of their tools are offered, what they are shown.

Owns: reading `[[mcp_servers]]` of the TOML file. Pure. Header values are Secrets, and a URL may hold one in its query:
neither is ever quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gateway.access.credential import Secret
from gateway.config import values
from gateway.config.values import BadValue

DEFAULT_TIMEOUT_SECONDS = 60.0
LONGEST_NAME = 32
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}")
_MEMBERS = ("name", "url", "allow", "deny", "headers", "timeout_seconds")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
# What the protocol says itself, https://modelcontextprotocol.io/specification/2025-11-25/basic/transports.
_OWN_HEADERS = {
    *("accept", "accept-encoding", "connection", "content-length", "content-type", "host", "last-event-id"),
    *("mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name", "te", "trailer", "transfer-encoding"),
    *("upgrade", "user-agent"),
}


@dataclass(frozen=True, slots=True)
class McpServer:
    """One server. Two of them are equal if nothing about them has changed."""

    name: str
    url: str = field(repr=False)
    allow: tuple[re.Pattern[str], ...] = ()
    deny: tuple[re.Pattern[str], ...] = ()
    headers: tuple[tuple[str, Secret], ...] = field(default=(), repr=False)
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS

    def offers(self, tool: str) -> bool:
        """Whether a tool, by the name its server gives it, is offered: allowed, and not denied."""
        if any(pattern.search(tool) for pattern in self.deny):
            return False
        return not self.allow or any(pattern.search(tool) for pattern in self.allow)

    @property
    def address(self) -> str:
        """The URL as it may be shown: without its query."""
        return self.url.partition("?")[0]


def with_environment(raw: object, environ: Mapping[str, str]) -> object:
    """The raw setting, with each `${NAME}` in a header's value replaced from the environment; unknown ones stay."""
    if not isinstance(raw, list):
        return raw
    return [_with_environment(table, environ) if isinstance(table, dict) else table for table in raw]


def _with_environment(table: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, object]:
    headers = table.get("headers")
    if not isinstance(headers, dict):
        return dict(table)
    replaced = {
        name: _VARIABLE.sub(lambda match: environ.get(match[1], match[0]), value) if isinstance(value, str) else value
        for name, value in headers.items()
    }
    return {**table, "headers": replaced}


def mcp_servers(raw: object) -> tuple[McpServer, ...]:
    """The servers of a TOML file. Raises BadValue with a line for each fault."""
    if not isinstance(raw, list) or not all(isinstance(table, dict) for table in raw):
        raise BadValue("servers belong in the TOML file, each under a line [[mcp_servers]]")
    servers: list[McpServer] = []
    complaints: list[str] = []
    for position, table in enumerate(raw, start=1):
        try:
            server = _server(table)
        except BadValue as error:
            name = table.get("name")
            label = name if isinstance(name, str) and _NAME.fullmatch(name) else f"server {position}"
            complaints += [f"{label}: {line}" for line in error.lines]
        else:
            complaints += _clashes(server, servers)
            servers.append(server)
    if complaints:
        raise BadValue(*complaints)
    return tuple(servers)


def _clashes(server: McpServer, others: list[McpServer]) -> Iterator[str]:
    """Servers whose tools could come to have the same name: `a` with a tool `b_c`, and `a_b` with a tool `c`."""
    for other in others:
        if server.name == other.name:
            yield f"{server.name}: the name is used twice"
        elif server.name.startswith(f"{other.name}_") or other.name.startswith(f"{server.name}_"):
            yield f"{server.name}: tools of {other.name} could have the same names; rename one of the servers"


def _server(table: Mapping[str, object]) -> McpServer:
    complaints = [f"{member}: this member does not exist" for member in table if member not in _MEMBERS]
    read: dict[str, object] = {}
    parsers = (_name, _url, _patterns, _patterns, _headers, values.seconds)
    for member, parse in zip(_MEMBERS, parsers, strict=True):
        if member in table or member in ("name", "url"):
            try:
                read[member] = parse(table.get(member))
            except BadValue as error:
                complaints += [f"{member}: {line}" for line in error.lines]
    if complaints:
        raise BadValue(*complaints)
    return McpServer(**read)  # type: ignore[arg-type]  # each parser gives its member's type


def _name(raw: object) -> str:
    if not isinstance(raw, str) or not _NAME.fullmatch(raw):
        raise BadValue(f"letters, digits, `_` and `-` were expected, at most {LONGEST_NAME}")
    return raw


def _url(raw: object) -> str:
    fault = BadValue("a URL such as https://tools.internal/mcp was expected, without user or fragment")
    if not isinstance(raw, str) or any(not "\x20" < character < "\x7f" for character in raw):
        raise fault
    try:
        parts = urlsplit(raw)
        is_usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise fault from None
    if not is_usable or parts.scheme not in ("http", "https") or "@" in parts.netloc or "#" in raw:
        raise fault
    return raw


def _patterns(raw: object) -> tuple[re.Pattern[str], ...]:
    texts = raw if isinstance(raw, list) else [raw]
    patterns = []
    for text in texts:
        if not isinstance(text, str):
            raise BadValue("a regular expression or a list of them was expected")
        try:
            patterns.append(re.compile(text))
        except (re.error, RecursionError, OverflowError) as error:
            raise BadValue(f"{text!r} is not a regular expression: {error}") from error
    return tuple(patterns)


def _headers(raw: object) -> tuple[tuple[str, Secret], ...]:
    if not isinstance(raw, dict):
        raise BadValue('a table was expected, such as { Authorization = "Bearer ${TOOLS_TOKEN}" }')
    complaints = []
    for name, value in raw.items():
        if not _HEADER_NAME.fullmatch(name):
            complaints.append(f"{name!r} is not the name of a header")
        elif name.lower() in _OWN_HEADERS:
            complaints.append(f"{name} is set by the gateway itself")
        elif isinstance(value, str) and (missing := _VARIABLE.search(value)):
            complaints.append(f"{name}: the environment variable {missing[1]} is not set")
        elif not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            complaints.append(f"{name}: the value is empty, or has characters that are not allowed")
    if complaints:
        raise BadValue(*complaints)
    return tuple((name, Secret(value)) for name, value in raw.items())

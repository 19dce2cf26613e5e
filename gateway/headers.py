"""Which headers pass through the gateway, in either direction.

Owns: the lists of what stops here, and why. Pure; any thread. Names are lower case throughout: that is how they
go out, and header names have no case (RFC 9110 section 5.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Headers = list[tuple[str, str]]

# RFC 9110 section 7.6.1, and RFC 2616 section 13.5.1 for those that older programs still send.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

TOKEN_HEADER = "x-gateway-token"
REQUEST_ID_HEADER = "x-gateway-request-id"

# Credentials are chosen, not passed on; length and coding are the gateway's own on its side of the exchange;
# `expect` was answered here; the rest was put there by proxies in front and tells of the inside of a network.
_NOT_UPSTREAM = HOP_BY_HOP | {
    "host",
    "content-length",
    "accept-encoding",
    "authorization",
    "x-api-key",
    TOKEN_HEADER,
    REQUEST_ID_HEADER,
    "expect",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
}

# The server in front writes its own date and name, once; a cookie would tie all clients to one.
_NOT_TO_CLIENT = HOP_BY_HOP | {"content-length", "content-encoding", "set-cookie", "date", "server"}

SSE_HEADERS: Headers = [("cache-control", "no-cache"), ("x-accel-buffering", "no")]


def from_environ(environ: Mapping[str, object]) -> Headers:
    """The client's headers out of a WSGI environ (PEP 3333), as lower-case names and latin-1 values."""
    headers: Headers = []
    for name, value in environ.items():
        if name.startswith("HTTP_") and isinstance(value, str):
            headers.append((name[5:].replace("_", "-").lower(), value))
    content_type = environ.get("CONTENT_TYPE")
    if isinstance(content_type, str) and content_type:
        headers.append(("content-type", content_type))
    return headers


def for_upstream(headers: Headers) -> Headers:
    """The client's headers that go upstream; the gateway adds host, length, coding and credential itself."""
    return _without(headers, _NOT_UPSTREAM)


def for_client(headers: Headers) -> Headers:
    """The upstream's headers that go to the client; the body's length and coding are set anew."""
    return _without(headers, _NOT_TO_CLIENT)


def for_client_stream(headers: Headers) -> Headers:
    """The same for an SSE answer, with what keeps proxies from buffering it."""
    own = {name for name, _ in SSE_HEADERS}
    return [item for item in for_client(headers) if item[0] not in own] + SSE_HEADERS


def _without(headers: Headers, dropped: Iterable[str]) -> Headers:
    named = {token.strip().lower() for name, value in headers if name == "connection" for token in value.split(",")}
    stop = named.union(dropped) if named else dropped
    return [(name, value) for name, value in headers if name not in stop]

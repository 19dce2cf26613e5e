"""The door that every request comes through, whatever its path.

Owns: what is refused, or answered, before a view is called; the client's headers, read once. The request's
thread.
"""

from __future__ import annotations

from typing import Any

from flask import Request, Response

from gateway.access.authentication import refuse_unless_local
from gateway.access.cors import is_for_pages, preflight_headers
from gateway.config.settings import Settings
from gateway.protocol.errors import GatewayError, InvalidRequest, MethodNotAllowed, NotFound
from gateway.protocol.headers import Headers, from_environ
from gateway.web.paths import advice, written_path
from gateway.web.responses import RelayResponse

HEAD_PATHS = ("/", "/healthz", "/readyz")

_READ_HEADERS = "gateway.headers"  # in the environ


def pass_door(request: Request, settings: Settings) -> Response | None:
    """Let a request in: an open gateway serves this machine alone, a path has one spelling, HEAD is for few.

    A preflight is answered here: it comes without a token, and the browser wants no less than a success.
    """
    environ, path = request.environ, request.path
    method = environ["REQUEST_METHOD"]
    if settings.is_open:
        refuse_unless_local(dict(client_headers(environ)), settings.cors_origins)
    if method == "OPTIONS" and settings.cors_origins and is_for_pages(path):
        allowed = preflight_headers(settings.cors_origins, dict(client_headers(environ)))
        if allowed is not None:
            return RelayResponse(b"", 204, allowed)
    written = written_path(environ["RAW_URI"])
    if written != path and not _names_model(request, written):
        raise nowhere(written)
    if method == "HEAD" and request.url_rule is not None and path not in HEAD_PATHS:
        methods = (request.url_rule.methods or set()) - {"HEAD"}
        raise MethodNotAllowed(f"{path} does not take HEAD", allow=", ".join(sorted(methods)))
    return None


def nowhere(path: str) -> GatewayError:
    """What to say to a client that asks for a path that is not served."""
    known = advice(path)
    if known is not None:
        return InvalidRequest(f"there is no {path} here; {known}")
    return NotFound(f"there is no {path} here")


def client_headers(environ: dict[str, Any]) -> Headers:
    """The client's headers, read once for each request."""
    headers: Headers | None = environ.get(_READ_HEADERS)
    if headers is None:
        headers = environ[_READ_HEADERS] = from_environ(environ)
    return headers


def _names_model(request: Request, written: str) -> bool:
    """Whether a path may differ from what it means: a model's id may be percent-encoded."""
    return request.endpoint == "routes.model" and written.startswith("/v1/models/")

"""The status page: who may see it, and the headers it goes out with.

Owns: its routes, which need no admission and ask nothing of the upstream, so that they answer while every place is
taken. A view runs in its request's thread. The page only shows; `gateway keys` acts.

The page is whole without its script. The script asks for `/status/live`, the part that changes, every two seconds and
exchanges what differs: no thread is held, and what is shown is worded in one place. All assets are the gateway's own
and nothing stands inline, so that the Content-Security-Policy can forbid everything else.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from flask import Blueprint, Response, current_app, render_template, request

from gateway.access.authentication import authenticate_operator
from gateway.config.limit_rules import limit_words, shown
from gateway.keys.overview import short
from gateway.protocol.errors import GatewayError, Unauthenticated
from gateway.protocol.headers import from_environ
from gateway.web.responses import error_response
from gateway.web.service import Gateway
from gateway.web.status import status_of

status_pages = Blueprint("status_pages", __name__)

_ASSETS = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


@status_pages.get("/status", endpoint="page")
def page() -> Response:
    """The whole page."""
    return _html("status.html")


@status_pages.get("/status/live", endpoint="live")
def live() -> Response:
    """The part of the page that changes."""
    return _html("status_live.html")


@status_pages.get("/status/page.css", endpoint="style")
@status_pages.get("/status/page.js", endpoint="script")
@status_pages.get("/status/icon.svg", endpoint="icon")
def asset() -> Response:
    """What the page is made of: the same for everybody, so it wants no token."""
    name = request.path.rpartition("/")[2]
    with status_pages.open_resource(f"static/{name}") as file:
        return Response(file.read(), content_type=_ASSETS[name])


@status_pages.after_request
def protect(response: Response) -> Response:
    """Nothing but the gateway's own style and script may act on the page, and nobody may frame or keep it."""
    response.headers.update(_SECURITY_HEADERS)
    return response


@status_pages.errorhandler(GatewayError)
def refuse(error: GatewayError) -> Response:
    """A refusal: a page where a browser asks for one, else in the protocol's shape.

    Only the page itself asks for a password; its script must not make the browser ask.
    """
    _gateway().metrics.count_refusal("status", error.status, error.kind)
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        response = Response(render_template("status_refused.html", error=error), error.status)
    else:
        limit_bytes = _gateway().configuration.settings.max_body_bytes
        response = error_response(error, request.environ, limit_bytes)
    if isinstance(error, Unauthenticated) and request.path == "/status":
        response.headers["www-authenticate"] = 'Basic realm="Messages Gateway status", charset="UTF-8"'
    return response


status_pages.add_app_template_filter(short)
status_pages.add_app_template_filter(limit_words)
status_pages.add_app_template_global(shown)


@status_pages.app_template_filter()
def duration(seconds: float) -> str:
    """`9 s`, `4 min 05 s`, `2 h 30 min`, `3 d 4 h`; rounded up, so that 0 means over. The script words it alike."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


@status_pages.app_template_filter()
def moment(at: float) -> str:
    """A point in time (epoch seconds) in ISO 8601, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@status_pages.app_template_filter()
def grouped(number: int) -> str:
    """A number with thin spaces between its thousands."""
    return f"{number:,}".replace(",", "\u2009")


def _html(template: str) -> Response:
    gateway = _gateway()
    authenticate_operator(dict(from_environ(request.environ)), gateway.configuration.tokens())
    return Response(render_template(template, status=status_of(gateway)), content_type="text/html; charset=utf-8")


def _gateway() -> Gateway:
    gateway: Gateway = current_app.extensions["gateway"]
    return gateway

"""The status page: who may see it, in which form, and the headers it goes out with.

Owns: its routes, which need no admission and ask nothing of the upstream, so that they answer while every slot is
taken. A view runs in one of the worker's threads. The page only shows; `gateway keys` acts.

The page is whole without its script. The script asks for `/status/live`, the part that changes, every two seconds and
exchanges what differs: no thread is held, and what is shown is worded in one place. Each answer names its gateway, so
that behind a proxy the script shows one and the same of several. All assets are the gateway's own and nothing stands
inline, so that the Content-Security-Policy can forbid everything else.
"""

from __future__ import annotations

from flask import Blueprint, Response, current_app, render_template, request

from gateway.access.authentication import authenticate_operator
from gateway.config.limit_rules import limit_words, shown
from gateway.keys.overview import short
from gateway.protocol.errors import GatewayError, Unauthenticated
from gateway.protocol.headers import from_environ
from gateway.web.responses import error_response, json_response
from gateway.web.service import Gateway
from gateway.web.status import Status, status_of
from gateway.web.status_data import as_data, moment
from gateway.web.status_words import ago, countdown, span

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
    """The whole page, or the same as data."""
    response = json_response(200, as_data(_status())) if _prefers_json() else _html("status.html")
    response.vary.add("Accept")
    return response


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


for _filter in (short, limit_words, ago, countdown, moment, span):
    status_pages.add_app_template_filter(_filter)
status_pages.add_app_template_global(shown)


@status_pages.app_template_filter()
def clock(at: float) -> str:
    """The time of day (epoch seconds), UTC."""
    return moment(at)[11:19]


@status_pages.app_template_filter()
def rate(a_minute: float) -> str:
    """A rate: small ones with a decimal."""
    return grouped(round(a_minute)) if a_minute >= 10 or not a_minute else f"{a_minute:.1f}"


@status_pages.app_template_filter()
def share(percent: float) -> str:
    """A share in percent: small ones with a decimal, and never 0 for more than nothing."""
    if not percent or percent >= 10:
        return f"{percent:.0f} %"
    return f"{max(percent, 0.1):.1f} %"


@status_pages.app_template_filter()
def grouped(number: int) -> str:
    """A number with thin spaces between its thousands."""
    return f"{number:,}".replace(",", "\u2009")


def _prefers_json() -> bool:
    return request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"


def _html(template: str) -> Response:
    return Response(render_template(template, status=_status()), content_type="text/html; charset=utf-8")


def _status() -> Status:
    """The present status, for an operator alone. Raises Unauthenticated, PermissionDenied."""
    gateway = _gateway()
    authenticate_operator(dict(from_environ(request.environ)), gateway.configuration.tokens())
    return status_of(gateway, _address())


def _address() -> str:
    """Where the request came in: an address of this gateway's, whatever name the client has for it."""
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        return f"{request.environ['SERVER_NAME']}:{request.environ['SERVER_PORT']}"
    address = connection.getsockname()
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address)


def _gateway() -> Gateway:
    gateway: Gateway = current_app.extensions["gateway"]
    return gateway

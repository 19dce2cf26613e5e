"""The WSGI application.

Owns: building it, and what becomes of an exception that a view lets out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed
from werkzeug.wsgi import ClosingIterator

from gateway.access.client_address import origin_of
from gateway.access.client_info import client_of
from gateway.access.cors import answer_headers, is_for_pages
from gateway.protocol.errors import GatewayError, InvalidRequest, LimitReached, MethodNotAllowed
from gateway.runtime.pause import waited
from gateway.runtime.request_ids import new_request_id
from gateway.telemetry import access_log
from gateway.telemetry.tracing import open_tracing
from gateway.web import configured, launch
from gateway.web.application import Application
from gateway.web.door import HEAD_PATHS, client_headers, nowhere
from gateway.web.paths import written_path
from gateway.web.responses import error_response
from gateway.web.routes import routes
from gateway.web.service import Gateway
from gateway.web.status_pages import status_pages

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)


def create_app(gateway: Gateway | None = None) -> Flask:
    """The application over a gateway; without one, over that of this process's configuration.

    Raises SettingsError if the configuration is unusable.
    """
    # sseclient-py quotes every event it decodes in its debug lines: answers do not belong in a log at any level.
    logging.getLogger("sseclient").setLevel(logging.INFO)
    if gateway is None:
        launch.refuse_preload()
        settings = launch.settings()
        gateway = Gateway(
            settings,
            configured.open_store(settings),
            reload_ok=launch.reload_board.is_ok,
            admission=launch.admission(settings),
            counts=launch.counts(),
            recent=launch.recent(),
        )
        gateway.begin_looks()
        gateway.begin_key_news()
        gateway.recorder = launch.open_recorder(settings, gateway.metrics)
        gateway.begin_limits(partial(launch.open_limiter, settings))
        gateway.tracing = open_tracing(settings)
        gateway.begin_tools()
    app = Application("gateway.web")
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    app.extensions["gateway"] = gateway
    app.register_blueprint(routes)
    app.register_blueprint(status_pages)
    app.fix_routes(routes.name)
    app.register_error_handler(GatewayError, _refused)
    app.register_error_handler(HTTPException, _unroutable)
    app.register_error_handler(Exception, _failed)
    pausing = app.extensions["pausing"] = _ForPages(app.wsgi_app, gateway)  # for a server that parks
    app.wsgi_app = _WithoutPauses(pausing)  # type: ignore[method-assign]  # Flask's way of wrapping it
    gateway.lifecycle.serve()
    return app


class _ForPages:
    """The application, with what the browsers of other origins' pages want to hear in the head of every answer."""

    def __init__(self, application: WSGIApplication, gateway: Gateway) -> None:
        self._application = application
        self._gateway = gateway

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        origins = self._gateway.configuration.settings.cors_origins
        if not origins or not is_for_pages(environ["PATH_INFO"]):
            return self._application(environ, start_response)
        more = answer_headers(origins, environ.get("HTTP_ORIGIN"))

        def start(status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None, /) -> Any:
            return start_response(status, [*headers, *more], exc_info)

        return self._application(environ, start)


class _WithoutPauses:
    """The application for servers that know no Pauses: their thread waits (a server would send the head for one)."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = self._application(environ, start_response)
        return ClosingIterator(waited(body), getattr(body, "close", None))


def _refused(error: GatewayError) -> Response:
    gateway: Gateway = current_app.extensions["gateway"]
    route = (request.endpoint or "unknown").rpartition(".")[2]
    gateway.metrics.count_refusal(route, error.status, error.kind)
    if isinstance(error, LimitReached):
        gateway.metrics.count_limit_refusal(error.limit, error.holder_kind, error.holder)
    headers = dict(client_headers(request.environ))
    trusted = gateway.configuration.settings.trusted_proxies
    origin = origin_of(request.environ.get("REMOTE_ADDR", ""), headers, trusted)
    error.request_id = new_request_id(origin.request_id)
    access_log.refused(error.request_id, route, error, origin.address, client_of(headers))
    return error_response(error, request.environ, gateway.configuration.settings.max_body_bytes)


def _unroutable(error: HTTPException) -> Response:
    if isinstance(error, WerkzeugMethodNotAllowed):
        methods = set(error.valid_methods or ())
        if request.path not in HEAD_PATHS:
            methods.discard("HEAD")
        allow = ", ".join(sorted(methods))
        return _refused(MethodNotAllowed(f"{request.path} takes {allow}, not {request.method}", allow=allow))
    if error.code == 404:
        return _refused(nowhere(written_path(request.environ["RAW_URI"])))
    return _refused(InvalidRequest(error.description or error.name))


def _failed(error: Exception) -> Response:
    failure = GatewayError("the gateway failed to serve this request; its log says why")
    response = _refused(failure)
    log.error("%s: %s %s failed inside the gateway", failure.request_id, request.method, request.path, exc_info=error)
    return response

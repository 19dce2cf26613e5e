"""Flask, without what this application does not use.

Owns: what happens around a view, on the way of every request. Web layer; any thread. Flask opens a session, looks for
functions to call after a response and at the end of a request, and searches all routes with a matcher that is bound to
the request's host anew each time: together a third of what it costs. Here there are no sessions; functions are looked
for where some are registered; and the fixed routes are found by their method and path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from flask import Flask, Request, Response
from flask.globals import request_ctx
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.routing import MapAdapter, Rule


class _NoSessions(SessionInterface):
    """Nothing is kept from one request to the next."""

    def open_session(self, app: Flask, request: Request) -> SessionMixin | None:
        return cast(SessionMixin, self)  # whatever it is, nobody looks at it

    def is_null_session(self, obj: object) -> bool:
        return True


class _Found:
    """A route that has been found: all that Flask asks of a matcher."""

    def __init__(self, rule: Rule) -> None:
        self._found: tuple[Rule, dict[str, Any]] = (rule, {})

    def match(self, return_rule: bool) -> tuple[Rule, dict[str, Any]]:
        return self._found


class Application(Flask):
    """A Flask application; `fix_routes` is called when all its routes are there."""

    session_interface = _NoSessions()

    def __init__(self, name: str) -> None:
        super().__init__(name, static_folder=None)
        self._fixed: dict[tuple[str, str], _Found] = {}

    def fix_routes(self, blueprint: str) -> None:
        """Find this blueprint's routes by method and path alone, where they have no variables.

        No URLs can be made of them, and no function be called after their responses.
        """
        if self.after_request_funcs.keys() & {None, blueprint}:
            raise ValueError(f"a function is to be called after each response of {blueprint}")
        for rule in self.url_map.iter_rules():
            if not rule.arguments and rule.endpoint.startswith(f"{blueprint}."):
                for method in rule.methods or ():
                    self._fixed[method, rule.rule] = _Found(rule)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """The request's matcher."""
        if request is not None:
            environ = request.environ
            found = self._fixed.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            if found is not None:
                return cast(MapAdapter, found)
        return super().create_url_adapter(request)

    def process_response(self, response: Response) -> Response:
        """Call what is to be called after a response."""
        return response if isinstance(request_ctx.url_adapter, _Found) else super().process_response(response)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """A function that can be called: nothing here is asynchronous."""
        return func

    def do_teardown_request(self, exc: BaseException | None = None) -> None:
        """Call what is to be called at the end of a request."""
        if self.teardown_request_funcs:
            super().do_teardown_request(exc)

    def do_teardown_appcontext(self, exc: BaseException | None = None) -> None:
        """Call what is to be called at the end of a request's context."""
        if self.teardown_appcontext_funcs:
            super().do_teardown_appcontext(exc)

"""Flask, without what this application does not use.

Owns: what happens around a view, on the way of every request. Any thread. Flask opens a session, looks for
functions to call before a view, after it and at the end of a request, sends signals, and searches all routes with a
matcher that is bound to the request's host anew each time: together half of what it costs. Here there are no sessions;
a fixed route is found by its method and path, and has nothing around it but what comes before every view, the contexts
of the request and of the application, with what is to be called at their ends, and the error handlers. All other routes
are served by Flask's own way.

What it buys: Flask takes 133,000 instructions for a request instead of 333,000, and 16 us instead of 37
(bench/RESULTS.md, "What the shortcuts buy").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin
from flask.typing import ResponseReturnValue
from werkzeug.routing import MapAdapter, Rule

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class _NoSessions(SessionInterface):
    """Nothing is kept from one request to the next."""

    def open_session(self, app: Flask, request: Request) -> SessionMixin | None:
        return cast(SessionMixin, self)  # whatever it is, nobody looks at it

    def is_null_session(self, obj: object) -> bool:
        return True


class _Found:
    """A route that has been found: all that Flask asks of a matcher."""

    def __init__(self, rule: Rule) -> None:
        self.endpoint = rule.endpoint
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

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request. For a fixed route what comes first, its view and the error handlers are all there is."""
        found = self._found(environ)
        if found is None:
            return super().wsgi_app(environ, start_response)
        context = self.request_context(environ)
        failure = None
        context.push()
        try:
            return self._answer(found)(environ, start_response)
        except BaseException as error:
            failure = error
            raise
        finally:
            context.pop(failure)  # and with it the application's, which is this request's own

    def _found(self, environ: WSGIEnvironment) -> _Found | None:
        return self._fixed.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))

    def _answer(self, found: _Found) -> Response:
        answer: Any
        try:
            answer = self.preprocess_request()
            if answer is None:
                answer = self.view_functions[found.endpoint]()
        except Exception as error:  # noqa: BLE001  # as Flask does
            answer = self.handle_user_exception(error)
        return self.make_response(answer)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """The request's matcher."""
        found = self._found(request.environ) if request is not None else None
        return cast(MapAdapter, found) if found is not None else super().create_url_adapter(request)

    def preprocess_request(self) -> ResponseReturnValue | None:
        """Call what is to be called before a request."""
        if self.url_value_preprocessors or self.before_request_funcs.keys() != {None}:
            return super().preprocess_request()
        for function in self.before_request_funcs[None]:
            answer = function()
            if answer is not None:
                return cast(ResponseReturnValue, answer)
        return None

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

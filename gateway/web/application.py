"""Flask, with its own hooks set for what this application does not use.

Owns: how a route is found, and that there are no sessions. Any thread. Flask searches all routes with a matcher that
is bound to the request's host anew each time; here a route without variables is found by its method and path, and all
others by Flask's matcher. All else is Flask's own.

What it buys: plain Flask takes 8 % more instructions for a request. Finding routes so saves 4 of these, more than all
else that was left out once together; what remains to be saved is under 5 % (bench/RESULTS.md, "What the shortcuts
buy"). It leans on what Flask asks of its matcher, so Flask's version is bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Request
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.routing import MapAdapter, Rule

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


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

        While such a request is served no URLs can be made.
        """
        for rule in self.url_map.iter_rules():
            if not rule.arguments and rule.endpoint.startswith(f"{blueprint}."):
                for method in rule.methods or ():
                    self._fixed[method, rule.rule] = _Found(rule)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """The request's matcher."""
        found = self._found(request.environ) if request is not None else None
        return cast(MapAdapter, found) if found is not None else super().create_url_adapter(request)

    def _found(self, environ: WSGIEnvironment) -> _Found | None:
        return self._fixed.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))

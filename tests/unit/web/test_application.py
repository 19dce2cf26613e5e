"""Flask as it is used here: fixed routes are found without a search, and all else works as ever."""

from __future__ import annotations

import pytest
from flask import Blueprint, Response, g, request, session

from gateway.web.application import Application


@pytest.fixture
def application() -> Application:
    application = Application("test")
    api = Blueprint("api", __name__)
    pages = Blueprint("pages", __name__)

    @api.get("/things")
    def things() -> str:
        return f"{request.endpoint} {request.args.get('a', '')}"

    @api.get("/things/<name>")
    def thing(name: str) -> str:
        return name

    @pages.get("/page")
    def page() -> str:
        return "page"

    @pages.after_request
    def mark(response: Response) -> Response:
        response.headers["x-mark"] = "yes"
        return response

    application.register_blueprint(api)
    application.register_blueprint(pages)
    application.fix_routes("api")
    return application


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        pytest.param("GET", "/things?a=1", 200, "api.things 1", id="fixed-with-query"),
        pytest.param("GET", "/things/7", 200, "7", id="with-a-variable"),
        pytest.param("POST", "/things", 405, None, id="wrong-method"),
        pytest.param("GET", "/things/", 404, None, id="one-slash-more"),
        pytest.param("GET", "/nothing", 404, None, id="unknown"),
    ],
)
def test_routes_are_found(application, method, path, status, text):
    """Given fixed routes and others, then each request comes where it belongs."""
    answer = application.test_client().open(path, method=method)
    assert answer.status_code == status
    if text is not None:
        assert answer.text == text


def test_functions_after_a_response_are_called_where_they_are_registered(application):
    """Given such a function of one blueprint, then it sees that one's responses and no others."""
    client = application.test_client()
    assert client.get("/page").headers["x-mark"] == "yes"
    assert "x-mark" not in client.get("/things").headers


def test_a_function_after_fixed_routes_is_refused(application):
    """Given a function to be called after every response, then routes cannot be fixed: it would not be called."""
    application.after_request_funcs[None].append(lambda response: response)
    with pytest.raises(ValueError, match="after each response of api"):
        application.fix_routes("api")


def test_functions_at_a_request_s_end_are_called(application):
    """Given functions for the end of a request and of its context, then both are called, as by the real server (see
    tests/e2e/test_contexts.py)."""
    called = []
    application.teardown_request_funcs.setdefault(None, []).append(lambda error: called.append("request"))
    application.teardown_appcontext_funcs.append(lambda error: called.append("context"))
    for _ in range(2):
        assert application.test_client().get("/things").status_code == 200
    assert called == ["request", "context"] * 2


def test_what_a_request_keeps_is_not_there_for_the_next(application):
    """Given a thread that serves one request after the other, then each finds `flask.g` empty."""
    found = []

    def keep() -> None:
        found.append(g.get("kept"))
        g.kept = "of the last request"

    application.before_request_funcs.setdefault(None, []).append(keep)
    for path in ("/things", "/things/7", "/things", "/nothing"):
        application.test_client().get(path)
    assert found == [None] * 4


def test_functions_at_the_end_are_told_what_went_wrong(application):
    """Given a view that fails with nobody to handle it, then what is called at the end learns of it."""
    told = []
    application.config["PROPAGATE_EXCEPTIONS"] = True
    application.teardown_request_funcs.setdefault(None, []).append(told.append)
    application.view_functions["api.things"] = lambda: 1 // 0
    with pytest.raises(ZeroDivisionError):
        application.test_client().get("/things")
    assert [type(error) for error in told] == [ZeroDivisionError]


def test_there_is_no_session(application):
    """Given a view that looks for a session, then there is nothing to be kept."""
    with application.test_request_context("/things"):
        assert not hasattr(session, "items")

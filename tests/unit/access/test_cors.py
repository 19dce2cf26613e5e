"""What browsers of other origins' pages are told: by the rules alone, and in the head of every answer."""

from __future__ import annotations

import pytest
from werkzeug.test import Client

from gateway.access.authentication import ClientToken
from gateway.access.cors import answer_headers, is_for_pages, preflight_headers, unread_answer_headers
from gateway.access.credential import Key, Secret
from gateway.config.settings import Settings
from gateway.web.app import create_app
from gateway.web.service import Gateway

APP, OTHER = "https://app.example", "https://other.example"
PREFLIGHT = {"origin": APP, "access-control-request-method": "POST"}


@pytest.mark.parametrize(
    ("origins", "origin", "allowed", "varies"),
    [
        pytest.param((APP, OTHER), APP, APP, True, id="allowed"),
        pytest.param((APP,), OTHER, None, True, id="another"),
        pytest.param((APP,), f"{APP}.evil", None, True, id="begins-like-it"),
        pytest.param((APP,), f"{APP}, {APP}", None, True, id="twice"),
        pytest.param((APP,), "null", None, True, id="null"),
        pytest.param((APP,), None, None, True, id="no-page"),
        pytest.param(("*",), OTHER, "*", False, id="any"),
        pytest.param(("*",), None, "*", False, id="any-no-page"),
    ],
)
def test_answer_tells_a_page_of_an_allowed_origin_that_it_may_read(origins, origin, allowed, varies):
    """Given the origins and a request's own, then the answer allows it or not, and caches keep such answers apart."""
    headers = dict(answer_headers(origins, origin))
    assert headers.get("access-control-allow-origin") == allowed
    assert ("request-id" in headers.get("access-control-expose-headers", "")) == (allowed is not None)
    assert (headers.get("vary") == "Origin") == varies
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize(("origins", "allowed"), [((), None), ((APP,), APP), (("*",), "*"), ((APP, OTHER), None)])
def test_refusal_of_a_head_that_was_not_read_allows_what_is_certain(origins, allowed):
    """Given a request whose origin is not known, then its refusal can be read where there is but one answer."""
    assert dict(unread_answer_headers(origins)).get("access-control-allow-origin") == allowed


def test_preflight_allows_what_is_asked_for():
    """Given a preflight of an allowed origin, then methods, headers and the private network are allowed."""
    wanted = "x-api-key, anthropic-version,content-type"
    asked = {"access-control-request-headers": wanted, "access-control-request-private-network": "true"}
    answer = dict(preflight_headers((APP,), PREFLIGHT | asked) or ())
    assert "POST" in answer["access-control-allow-methods"]
    assert answer["access-control-allow-headers"] == wanted
    assert answer["access-control-allow-private-network"] == "true"
    assert int(answer["access-control-max-age"]) > 0


@pytest.mark.parametrize("headers", ["a b", "a,", "a;b", "\x00", ",".join(["a"] * 3) + "é"])
def test_preflight_echoes_no_rubbish(headers):
    """Given names that are none, then none are allowed."""
    answer = dict(preflight_headers((APP,), PREFLIGHT | {"access-control-request-headers": headers}) or ())
    assert "access-control-allow-headers" not in answer


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"origin": APP}, id="a-plain-options"),
        pytest.param({"access-control-request-method": "POST"}, id="no-origin"),
        pytest.param(PREFLIGHT | {"origin": OTHER}, id="another-origin"),
    ],
)
def test_what_is_no_preflight_of_an_allowed_origin_is_none(headers):
    """Given an OPTIONS request that no allowed page's browser sends, then it is answered as any other."""
    assert preflight_headers((APP,), headers) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/v1/messages", True), ("/", True), ("/nowhere", True), ("/metrics", False), ("/status/live", False)],
)
def test_operators_paths_are_not_for_pages(path, expected):
    """Given a path, then other origins' pages may have its answers, but for those of the operators."""
    assert is_for_pages(path) is expected


def client(*origins: str, has_tokens: bool = True) -> Client:
    tokens = (ClientToken("ann", "0" * 64, is_operator=False),) if has_tokens else None
    settings = Settings(keys=(Key("a", Secret("sk-a")),), cors_origins=origins, tokens=tokens, client_tokens_file="/no")
    return create_app(gateway=Gateway(settings)).test_client()


ANSWERS = [
    pytest.param("GET", "/", 200, id="answer"),
    pytest.param("POST", "/v1/messages", 401, id="no-token"),
    pytest.param("POST", "/v1/v1/messages", 400, id="wrong-base-url"),
    pytest.param("GET", "/nowhere", 404, id="not-found"),
    pytest.param("DELETE", "/v1/messages", 405, id="wrong-method"),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_answers_and_errors_say_who_may_read_them(method, path, status):
    """Given an allowed origin, when its page asks, then every answer and error is one that it may read."""
    answer = client(APP).open(path, method=method, headers={"Origin": APP})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
@pytest.mark.parametrize("origins", [(), (OTHER,)])
def test_other_pages_are_told_nothing(method, path, status, origins):
    """Given an origin that is not allowed, as by default, then no answer says that its page may read it."""
    answer = client(*origins).open(path, method=method, headers={"Origin": APP})
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_preflight_is_answered_without_a_token():
    """Given a gateway with tokens, when an allowed origin's browser asks first, then it is told yes."""
    answer = client(APP).options("/v1/messages", headers=PREFLIGHT)
    assert (answer.status_code, answer.data) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert "content-type" not in answer.headers


@pytest.mark.parametrize(
    ("origins", "path", "headers"),
    [
        pytest.param((), "/v1/messages", PREFLIGHT, id="by-default"),
        pytest.param((OTHER,), "/v1/messages", PREFLIGHT, id="another-origin"),
        pytest.param((APP,), "/v1/messages", {"origin": APP}, id="no-preflight"),
        pytest.param((APP,), "/metrics", PREFLIGHT, id="metrics"),
        pytest.param((APP,), "/status", PREFLIGHT, id="status"),
    ],
)
def test_other_options_are_405(origins, path, headers):
    """Given OPTIONS that is no preflight of an allowed origin, or for an operators' page, then 405 as ever."""
    assert client(*origins).options(path, headers=headers).status_code == 405


def test_open_gateway_s_door_lets_the_allowed_pages_in():
    """Given an open gateway, then allowed pages pass, with their preflights; others and foreign Hosts do not."""
    open_client = client(APP, has_tokens=False)
    local = {"Host": "localhost"}
    assert open_client.options("/v1/messages", headers=PREFLIGHT | local).status_code == 204
    page = {"Origin": APP, "Sec-Fetch-Site": "cross-site"}
    assert open_client.get("/", headers=page | local).status_code == 200
    assert open_client.get("/", headers=page | {"Host": "evil.example"}).status_code == 403
    assert open_client.get("/", headers=page | local | {"Origin": OTHER}).status_code == 403
    assert open_client.options("/v1/messages", headers=PREFLIGHT | local | {"Origin": OTHER}).status_code == 403

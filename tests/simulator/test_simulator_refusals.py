"""Errors as planned: statuses, bodies, headers. No sockets."""

import pytest

from gateway.simulator.steps import Close, Pause, Stall
from tests.simulator.wired import plan_of, request_of

NOW = 1_800_000_000  # when the requests of these tests arrive: Fri, 15 Jan 2027 08:00:00 GMT


@pytest.mark.parametrize(
    ("script", "status", "kind", "should_retry"),
    [
        ("rate_limited", 429, "rate_limit_error", "true"),
        ("unauthorized", 401, "authentication_error", "false"),
        ("forbidden", 403, "permission_error", "false"),
        ("bad_request", 400, "invalid_request_error", "false"),
        ("not_found", 404, "not_found_error", "false"),
        ("method_not_allowed", 405, "invalid_request_error", "false"),
        ("too_large", 413, "request_too_large", "false"),
        ("server_error", 500, "api_error", "true"),
        ("unavailable", 503, "api_error", "true"),
        ("overloaded", 529, "overloaded_error", "true"),
        ("status:code=418,type=teapot_error", 418, "teapot_error", "false"),
        ("redirect", 307, "api_error", "false"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/claude-x"),
    ],
)
def test_error_has_the_shape_of_the_api(script, status, kind, should_retry, method, path):
    answer, others = plan_of(script, request_of(method=method, path=path))
    document = answer.json()
    assert (answer.status, document["type"], document["error"]["type"]) == (status, "error", kind)
    assert document["error"]["message"]
    assert document["request_id"] == answer.header("request-id") == "req_sim_00000007"
    assert answer.header("x-should-retry") == should_retry
    assert answer.is_complete
    assert others == []


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ("", {}),
        (":retry-after=5", {"retry-after": "5"}),
        (":retry-after=2.5", {"retry-after": "2.5"}),
        (":retry-after=-1", {"retry-after": "-1"}),
        (":retry-after=100000000", {"retry-after": "100000000"}),
        (":retry-after-ms=2500", {"retry-after-ms": "2500"}),
        (":retry-after-date=90", {"retry-after": "Fri, 15 Jan 2027 08:01:30 GMT"}),
        (":unified-reset=90", {"anthropic-ratelimit-unified-reset": str(NOW + 90)}),
        (":raw=soon", {"retry-after": "soon"}),
        (":raw=", {"retry-after": ""}),
        (":retry-after=5,retry-after-ms=10", {"retry-after": "5", "retry-after-ms": "10"}),
    ],
)
def test_rate_limited_sends_the_header_asked_for(options, headers):
    answer, _ = plan_of("rate_limited" + options)
    names = ("retry-after", "retry-after-ms", "anthropic-ratelimit-unified-reset")
    assert {name: value for name, value in answer.headers if name in names} == headers
    assert answer.header("anthropic-ratelimit-requests-remaining") == "0"


@pytest.mark.parametrize("script", ["too_large:html", "html", "html_502"])
def test_middle_box_answers_in_html(script):
    answer, _ = plan_of(script)
    assert answer.header("content-type").startswith("text/html")
    assert answer.body.startswith(b"<html>")
    assert answer.header("request-id") == ""


def test_redirect_names_its_place():
    assert plan_of("redirect")[0].header("location") == "/v1/messages?redirected=true"
    assert plan_of("redirect:location=http://x/")[0].header("location") == "http://x/"


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_error_body_can_be_framed_in_every_way(framing):
    answer, others = plan_of(f"server_error:framing={framing},message=mine")
    assert answer.json()["error"]["message"] == "mine"
    assert others == ([Close()] if framing == "close" else [])


def test_error_body_can_be_large():
    assert len(plan_of("rate_limited:bytes=1000000")[0].body) > 1_000_000


def test_error_body_can_hang():
    answer, others = plan_of("rate_limited:hang,delay=3")
    assert others == [Pause(3.0), Stall()]
    assert 0 < len(answer.raw_body) < int(answer.header("content-length"))

"""The gateway's own errors in Anthropic's shape, before a stream and in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import errors
from gateway.protocol.errors import GatewayError, error_body, error_event, upstream_error_event
from gateway.protocol.sse import decode_event, notable_events, split_events

TABLE = {
    "GatewayError": (500, "api_error"),
    "InvalidRequest": (400, "invalid_request_error"),
    "Unauthenticated": (401, "authentication_error"),
    "PermissionDenied": (403, "permission_error"),
    "NotFound": (404, "not_found_error"),
    "MethodNotAllowed": (405, "invalid_request_error"),
    "RequestTimedOut": (408, "timeout_error"),
    "RequestTooLarge": (413, "request_too_large"),
    "UnsupportedCoding": (415, "invalid_request_error"),
    "RateLimited": (429, "rate_limit_error"),
    "LimitReached": (429, "rate_limit_error"),
    "SpendLimitReached": (429, "billing_error"),
    "Overloaded": (529, "overloaded_error"),
    "Stopping": (529, "overloaded_error"),
    "AuthenticationExhausted": (502, "api_error"),
    "OutOfMoney": (402, "billing_error"),
    "RequestForbidden": (403, "permission_error"),
    "TurnLimitReached": (502, "api_error"),
    "UpstreamError": (502, "api_error"),
    "UpstreamTimedOut": (504, "timeout_error"),
    "UpstreamSilent": (504, "timeout_error"),
}

REJECTIONS = (
    *("InvalidRequest", "Unauthenticated", "PermissionDenied", "NotFound", "MethodNotAllowed", "RequestTimedOut"),
    *("RequestTooLarge", "UnsupportedCoding", "LimitReached", "SpendLimitReached", "Overloaded"),
)


def test_every_error_has_the_design_s_status_and_type():
    """Given the errors that the gateway makes, then status and Anthropic type are the table's, and none is missing."""
    found = {
        name: (thing.status, thing.kind)
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, GatewayError)
    }
    assert found == TABLE


def made(kind: type[GatewayError]) -> GatewayError:
    limit = {"limit": "concurrent", "holder_kind": "token", "holder": "ann"}
    more = {
        errors.MethodNotAllowed: {"allow": "GET"},
        errors.UnsupportedCoding: {"accepted": "gzip"},
        errors.LimitReached: limit,
        errors.SpendLimitReached: limit,
    }
    return kind("m", **more.get(kind, {}))


@pytest.mark.parametrize("name", TABLE)
def test_no_retry_is_asked_for_where_none_can_help(name):
    """Given an error for what the request itself is, for a pool without a key or money, or for a budget that is spent,
    then clients are told not to retry; given one that may pass, they are not."""
    error = made(getattr(errors, name))
    is_final = error.status in (400, 401, 402, 403, 404, 405, 413, 415) or name in (
        "AuthenticationExhausted",
        "SpendLimitReached",
    )
    assert (error.headers.get("x-should-retry") == "false") == is_final
    assert error.may_pass != is_final


@pytest.mark.parametrize("name", TABLE)
def test_what_the_gateway_refuses_by_itself_is_a_rejection(name):
    """Given an error of a request for which no upstream call was made, then it is a rejection; no other error is."""
    assert made(getattr(errors, name)).is_rejection == (name in REJECTIONS)


def test_client_gone_is_no_answer():
    """Given a client that is gone, then its exception is not one that would be rendered."""
    assert not issubclass(errors.ClientGone, GatewayError)


@given(st.text(), st.text())
def test_any_message_is_one_json_document_and_one_event(kind, message):
    """Given any kind and message, line breaks and lone surrogates included, then one document, one event."""
    document = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    assert json.loads(error_body(kind, message, "req_1")) == document
    rendered = error_event(kind, message, "req_1")
    assert list(split_events(rendered)) == [rendered]
    event = decode_event(rendered)
    assert event is not None
    assert (event.name, json.loads(event.data)) == ("error", document)
    assert list(notable_events(rendered)) == [(0, len(rendered))]


def test_upstream_s_error_document_is_kept_as_an_event():
    """Given an upstream's error document, with fields that nobody knows, then the event carries all of it."""
    document = {"type": "error", "error": {"type": "api_error", "message": "é\nb", "x": [1]}, "request_id": "req_up"}
    event = decode_event(upstream_error_event(500, json.dumps(document, indent=2).encode(), "req_gw"))
    assert event is not None
    assert (event.name, json.loads(event.data)) == ("error", document)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"type":"error"}', b'{"error":{}}', b"\xff", b"[" * 100_000],
    ids=lambda body: repr(body[:16]),
)
def test_upstream_s_other_error_is_told_in_words(body):
    """Given an error that is no error document, as from a middle box, then the event says its status."""
    event = decode_event(upstream_error_event(503, body, "req_gw"))
    assert event is not None
    document = json.loads(event.data)
    assert document["error"] == {"type": "api_error", "message": "the upstream answered with status 503"}
    assert document["request_id"] == "req_gw"


def test_error_keeps_what_the_response_needs():
    """Given an error with a Retry-After and one with Allow, then they are kept, and a message is its text."""
    limited = errors.RateLimited("slow down", retry_after_seconds=3)
    assert (limited.message, str(limited), limited.retry_after_seconds) == ("slow down", "slow down", 3)
    assert limited.headers == {"retry-after": "3"}
    assert errors.MethodNotAllowed("no", allow="GET, HEAD").headers["allow"] == "GET, HEAD"
    assert errors.UnsupportedCoding("no", accepted="gzip").headers["accept-encoding"] == "gzip"
    assert errors.NotFound("no").retry_after_seconds is None
    assert str(errors.NotFound("a\nb")) == r"a\nb"
    reached = made(errors.LimitReached)
    assert (reached.limit, reached.holder_kind, reached.holder) == ("concurrent", "token", "ann")

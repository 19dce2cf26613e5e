"""The table of causes: every error code of the API, every wording, and what only looks like one."""

from __future__ import annotations

import json

import pytest
from anthropic import _error_classes

from gateway.keys.classification import CAUSES, LARGEST_JUDGED_BYTES, Cooldowns, judge, status_of_kind
from gateway.protocol.outcomes import Outcome
from tests.unit.fakes import NOW

RESTS = Cooldowns(default_seconds=60.0, longest_for_money_seconds=3600.0)
KINDS = {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error"}
KINDS |= {404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 529: "overloaded_error"}
# Every code that the SDK knows, with its status.
CODES = sorted((status, code) for status, code in _error_classes.ERROR_CLASSES if code is not None)

SPEAKS_OF_MORE = {
    "claude_code_key_creator_not_member": Outcome.UNAUTHORIZED,
    "organization_on_hold": Outcome.UNAUTHORIZED,
    "enforced_spend_limit_reached": Outcome.SPEND_LIMITED,
    "contract_spend_limit_reached": Outcome.SPEND_LIMITED,
    "ramp_limit_exceeded": Outcome.RATE_LIMITED,
    "organization_not_enrolled_in_beta": Outcome.NOT_ENTITLED,
    "storage_quota_exceeded": Outcome.NOT_ENTITLED,
    "cmek_key_disabled": Outcome.WORKSPACE_UNUSABLE,
    "cmek_key_network_blocked": Outcome.WORKSPACE_UNUSABLE,
    "compaction_unavailable": Outcome.OVERLOADED,
}


def refusal(status: int, message: str = "no", code: str | None = None, kind: str | None = None) -> bytes:
    error: dict[str, object] = {"type": kind or KINDS.get(status, "api_error"), "message": message}
    if code is not None:
        error["details"] = {"error_code": code}
    return json.dumps({"type": "error", "error": error}).encode()


def outcome(status: int, body: bytes = b"", **headers: str) -> Outcome:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return judge(status, named, body, NOW, RESTS).outcome


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, Outcome.OK) for status in (200, 204, 301)),
        *((status, Outcome.CLIENT_ERROR) for status in (400, 404, 413, 428, 499)),
        (401, Outcome.UNAUTHORIZED),
        (402, Outcome.OUT_OF_CREDIT),
        (403, Outcome.FORBIDDEN),
        (429, Outcome.RATE_LIMITED),
        *((status, Outcome.SERVER_ERROR) for status in (500, 503, 599)),
        (529, Outcome.OVERLOADED),
    ],
)
@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b'{"error": 7}', b'{"error": {"details": []}}'])
def test_without_a_cause_the_status_decides(status, expected, body):
    """Given an answer that says nothing in particular, then its status alone is looked at."""
    assert outcome(status, body) is expected


@pytest.mark.parametrize(("status", "code"), CODES, ids=[f"{status}-{code}" for status, code in CODES])
def test_every_code_of_the_api_has_its_outcome(status, code):
    """Given any code that the official SDK knows, then it speaks of what the API's documentation says, and no more."""
    expected = SPEAKS_OF_MORE.get(code)
    if expected is None:
        expected = Outcome.SERVER_ERROR if status >= 500 else Outcome.CLIENT_ERROR
    if code not in SPEAKS_OF_MORE and status in (402, 403):
        expected = Outcome.REQUEST
    assert outcome(status, refusal(status, code=code)) is expected


def test_every_code_of_the_table_is_one_that_the_api_has():
    """Given the table, then each of its codes is the SDK's or stands in the API's documentation."""
    known = {code for _, code in CODES}
    assert {code for cause in CAUSES for code in cause.codes} <= known


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "Your credit balance is too low to access the Anthropic API.", Outcome.OUT_OF_CREDIT),
        (
            400,
            "You have reached your specified API usage limits. You will regain access on 2027",
            Outcome.SPEND_LIMITED,
        ),
        (400, "You have reached your specified workspace API usage limits.", Outcome.SPEND_LIMITED),
        (400, "This organization has been disabled.", Outcome.UNAUTHORIZED),
        (403, "This organization has been disabled.", Outcome.UNAUTHORIZED),
        (401, "CORS requests are not allowed for this Organization because", Outcome.REQUEST),
        (400, "The block is bound to a different conversation", Outcome.CLIENT_ERROR),
    ],
)
def test_a_wording_is_known_where_there_is_no_code(status, message, expected):
    """Given a message that begins with known words, then it has that cause; not with a code, nor further in."""
    plain = Outcome.CLIENT_ERROR if status == 400 else outcome(status)
    assert outcome(status, refusal(status, message)) is expected
    assert outcome(status, refusal(status, f"messages.0: '{message}' is no text")) is plain
    assert outcome(status, refusal(status, message, code="something_new")) in (plain, Outcome.REQUEST)
    assert outcome(404, refusal(404, message)) is Outcome.CLIENT_ERROR
    if status == 400:
        assert outcome(status, refusal(status, message, kind="api_error")) is Outcome.CLIENT_ERROR
        padded = refusal(status, message + "x" * LARGEST_JUDGED_BYTES)
        assert outcome(status, padded) is Outcome.CLIENT_ERROR


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<!DOCTYPE html><html><title>Blocked</title>", {"content_type": "text/html; charset=utf-8"}),
        (b"\n <html>", {}),
        (b"", {"content_type": "TEXT/HTML"}),
    ],
    ids=["page", "page-without-type", "type-alone"],
)
def test_a_page_judges_no_key(status, body, headers):
    """Given a page of some edge instead of the API's error, then it speaks of our address and not of the key."""
    assert outcome(status, body, **headers) is Outcome.REQUEST


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x_should_retry": "false"}, Outcome.NOT_ENTITLED),
        ({"x_should_retry": "False "}, Outcome.NOT_ENTITLED),
        ({"x_should_retry": "true"}, Outcome.RATE_LIMITED),
        ({"x_should_retry": "false", "retry_after": "5"}, Outcome.RATE_LIMITED),
        ({"x_should_retry": "false", "anthropic_ratelimit_unified_reset": "1800000041"}, Outcome.RATE_LIMITED),
    ],
)
def test_a_429_that_no_waiting_mends_is_no_limit(headers, expected):
    """Given a 429 with `x-should-retry: false` and no time to wait, then the key is not entitled, and not limited."""
    assert outcome(429, refusal(429), **headers) is expected


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (refusal(400, "Your credit balance is too low to access the Anthropic API."), 3600),
        (refusal(429, code="enforced_spend_limit_reached"), 3600),
        # 2027-01-15 08:00 UTC is now.
        (refusal(400, "You have reached your specified API usage limits. You will regain access on "
                           "2027-01-15 at 08:10 UTC."), 600),
        (refusal(400, "You have reached your specified API usage limits. You will regain access on "
                 "2027-02-01 at 00:00 UTC."), 3600),
        (refusal(400, "You have reached your specified API usage limits. You will regain access on "
                 "2026-12-01 at 00:00 UTC."), 3600),
        (refusal(400, "You have reached your specified API usage limits. You will regain access on "
                 "2027-99-99 at 00:00 UTC."), 3600),
        (refusal(400, code="cmek_key_disabled"), 300),
        (refusal(429, code="ramp_limit_exceeded"), 60),
    ],
)  # fmt: skip
def test_a_cooldown_is_as_long_as_its_cause_says(body, seconds):
    """Given a refusal that cools a key down, then until the date in its message, but at most an hour for money."""
    status = 429 if b"rate_limit_error" in body else 400
    verdict = judge(status, {}, body, NOW, RESTS)
    assert verdict.cools
    assert verdict.cooldown_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    "kind",
    ["invalid_request_error", "authentication_error", "billing_error", "permission_error", "not_found_error",
     "request_too_large", "rate_limit_error", "api_error", "timeout_error", "overloaded_error"],
)  # fmt: skip
def test_an_error_in_a_stream_has_the_status_of_its_kind(kind):
    """Given the type of an error event, then the status is the one with which the API answers such an error."""
    documented = KINDS | {500: "api_error", 504: "timeout_error"}
    assert documented[status_of_kind(kind)] == kind
    assert status_of_kind("something_new") == 500


@pytest.mark.parametrize("status", [200, 400, 401, 403, 500])
def test_what_cools_no_key_has_no_rest(status):
    """Given an answer that lets no key rest, then the verdict has no seconds."""
    assert judge(status, {}, b"", NOW, RESTS).cooldown_seconds == 0

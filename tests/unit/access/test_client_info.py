"""Who calls, by the request's own words: known forms are understood, anything else is nobody's to keep."""

from __future__ import annotations

import json

import pytest

from gateway.access.client_info import Client, client_of, session_of
from gateway.protocol.messages import read_request

SESSION = "57a121ec-f78c-48c3-a745-e3036a3ecc33"
TRACE = "0af7651916cd43dd8448eb211c80319c"

PROGRAMS = [
    ({"user-agent": "claude-cli/2.1.88 (external, cli)", "x-app": "cli"}, ("claude-code", "2.1.88")),
    ({"user-agent": "claude-cli/1.0.0-beta.1 (external, sdk-py)"}, ("claude-code", "1.0.0-beta.1")),
    ({"user-agent": "Anthropic/Python 0.79.0", "x-stainless-lang": "python"}, ("anthropic-python", "0.79.0")),
    ({"user-agent": "AsyncAnthropic/Python 0.34.1"}, ("anthropic-python", "0.34.1")),
    ({"user-agent": "Anthropic/JS 0.60.0"}, ("anthropic-js", "0.60.0")),
    ({"user-agent": "curl/8.5.0"}, ("curl", "8.5.0")),
    ({"user-agent": "python-requests/2.32.3"}, ("python-requests", "2.32.3")),
    ({"user-agent": "Mozilla/5.0 (X11; Linux)"}, ("Mozilla", "5.0")),
    ({"x-stainless-lang": "js", "x-stainless-package-version": "0.60.0"}, ("anthropic-js", "0.60.0")),
    ({"x-stainless-lang": "go", "x-stainless-package-version": "what?"}, ("anthropic-go", None)),
    ({"x-app": "cli"}, ("cli", None)),
    ({"user-agent": "no version here"}, (None, None)),
    ({"user-agent": "sk-ant-api03-planted"}, (None, None)),
    ({"user-agent": "name/1" + "x" * 60}, (None, None)),
    ({"user-agent": "\u00fc/1.0"}, (None, None)),
    ({}, (None, None)),
]


@pytest.mark.parametrize(("headers", "expected"), PROGRAMS, ids=[str(row[0]) for row in PROGRAMS])
def test_a_program_is_known_by_its_headers(headers: dict[str, str], expected: tuple[str | None, str | None]) -> None:
    """Given a client's headers; then its name and version, or nothing."""
    client = client_of(headers)
    assert (client.program, client.version) == expected


@pytest.mark.parametrize("name", ["x-claude-code-session-id", "session-id", "x-session-id", "x-opencode-session"])
def test_a_session_is_taken_from_the_headers_that_clients_use(name: str) -> None:
    """Given one of the known headers; then its value, if it has the form of an id."""
    assert client_of({name: SESSION}).session == SESSION
    for odd in ("", "x", "two words", "a" * 101, "<script>", "\u00fc" * 10):
        assert client_of({name: odd}).session is None


def test_claude_code_s_own_header_goes_first() -> None:
    """Given several session headers; then the most specific one."""
    assert client_of({"session-id": "other", "x-claude-code-session-id": SESSION}).session == SESSION


@pytest.mark.parametrize(
    ("user_id", "session"),
    [
        (f"user_0123abcd_account__session_{SESSION}", SESSION),
        (f"user_0123abcd_account_9f_session_{SESSION}", SESSION),
        (json.dumps({"device_id": "d", "account_uuid": "", "session_id": SESSION}), SESSION),
        ("someone@example.org", None),
        ("user_x_session_", None),
        ('{"session_id": 7}', None),
        ('{"session_id": "not an id"}', None),
        ("{broken", None),
        ("{" * 1900, None),
        ("x" * 3000 + f"_session_{SESSION}", None),
        (None, None),
    ],
)
def test_a_session_is_taken_from_the_body_s_user_id(user_id: str | None, session: str | None) -> None:
    """Given `metadata.user_id` in a form of Claude Code's; then the session in it, and nothing else of it."""
    assert session_of(user_id) == session


@pytest.mark.parametrize(
    ("metadata", "user_id"),
    [
        ({"user_id": "u"}, "u"),
        ({"user_id": 7}, None),
        ({}, None),
        ([], None),
        ("x", None),
        (None, None),
        ({"user_id": "u", "bulk": "x" * 5000}, None),
    ],
)
def test_the_user_id_is_read_from_the_body_if_it_is_there(metadata: object, user_id: str | None) -> None:
    """Given whatever a body has for `metadata`; then its user id, and never an error."""
    assert read_request(json.dumps({"model": "m", "metadata": metadata}).encode()).user_id == user_id


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"cc-{TRACE}-b7ad6b7169203331-01-what-the-future-will-be-like", TRACE),
        (f"ff-{TRACE}-b7ad6b7169203331-01", None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", None),
        (TRACE, None),
        ("", None),
    ],
)
def test_a_trace_is_known_by_its_traceparent(traceparent: str, trace_id: str | None) -> None:
    """Given a W3C traceparent; then its trace id, if it is a valid one."""
    assert client_of({"traceparent": traceparent}) == Client(trace_id=trace_id)

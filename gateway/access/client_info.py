"""Who is calling, as far as the request's own words tell: the program, its version, its session, its trace.

Owns: the guesses. Pure; any thread. What a client says of itself is taken only in the narrow forms that known
clients use, so that nothing else it may have written there is kept.

Claude Code names itself `claude-cli/2.1.0 (external, cli)` and its session in `X-Claude-Code-Session-Id`, older ones
in the body's `metadata.user_id` (https://code.claude.com/docs/en/llm-gateway-protocol); the SDKs name themselves
`Anthropic/Python 0.79.0` and say the same in `x-stainless-*`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

_PRODUCT = re.compile(r"([A-Za-z][A-Za-z0-9_.-]{0,39})/(v?[0-9][A-Za-z0-9_.+-]{0,31})(?![^ ;,(])")
_SDK = re.compile(r"(?:Async)?(Anthropic[A-Za-z]{0,20})/([A-Za-z]{1,20}) ([0-9][A-Za-z0-9_.+-]{0,31})(?![^ ;,(])")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_VERSION = re.compile(r"v?[0-9][A-Za-z0-9_.+-]{0,31}")
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{3,99}")
_LEGACY_USER_ID = re.compile(r".{0,200}_session_([A-Za-z0-9-]{4,64})")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_LONGEST_USER_ID = 2000

_SESSION_HEADERS = ("x-claude-code-session-id", "session-id", "x-session-id", "x-opencode-session")
_PROGRAMS = {"claude-cli": "claude-code"}


@dataclass(frozen=True, slots=True)
class Client:
    """What a request's headers tell of who sent it; None where they tell nothing."""

    program: str | None = None
    version: str | None = None
    session: str | None = None
    trace_id: str | None = None


def client_of(headers: Mapping[str, str]) -> Client:
    """Guess from the headers; they have lower-case names."""
    program, version = _program_of(headers)
    return Client(program, version, _session_in_headers(headers), _trace_id(headers.get("traceparent", "")))


def session_of(user_id: str | None) -> str | None:
    """The session in a body's `metadata.user_id`, where Claude Code puts it; the rest of it is not kept.

    Two forms are known: `user_<hash>_account_<id>_session_<id>`, and a JSON object with a `session_id`.
    """
    if user_id is None or len(user_id) > _LONGEST_USER_ID:
        return None
    if user_id.startswith("{"):
        try:
            document = json.loads(user_id)
        except (ValueError, RecursionError):
            return None
        found = document.get("session_id") if isinstance(document, dict) else None
        return found if isinstance(found, str) and _SESSION.fullmatch(found) else None
    match = _LEGACY_USER_ID.fullmatch(user_id)
    return match[1] if match else None


def _program_of(headers: Mapping[str, str]) -> tuple[str | None, str | None]:
    agent = headers.get("user-agent", "")
    if sdk := _SDK.match(agent):
        return f"{sdk[1]}-{sdk[2]}".lower(), sdk[3]
    if product := _PRODUCT.match(agent):
        return _PROGRAMS.get(product[1], product[1]), product[2]
    language = headers.get("x-stainless-lang", "")
    if _WORD.fullmatch(language):
        version = headers.get("x-stainless-package-version", "")
        return f"anthropic-{language.lower()}", version if _VERSION.fullmatch(version) else None
    application = headers.get("x-app", "")
    return (application, None) if _WORD.fullmatch(application) else (None, None)


def _session_in_headers(headers: Mapping[str, str]) -> str | None:
    for name in _SESSION_HEADERS:
        value = headers.get(name)
        if value is not None and _SESSION.fullmatch(value):
            return value
    return None


def _trace_id(traceparent: str) -> str | None:
    """The trace id of a W3C traceparent, https://www.w3.org/TR/trace-context/#traceparent-header."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match else None

"""Why an upstream refused: the one table of causes, and what an answer is by it.

Owns: the table. Pure: an answer's parts and the clock's time go in, a Verdict comes out. A status alone does not say
whether a key, its organisation or the request is at fault, so each row also looks at the error's code, and at the
beginning of its message where the API has no code (https://docs.claude.com/en/api/errors; the codes are those of
the Python SDK's `_error_classes`, read in version 2.12). An unknown code counts as none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gateway.keys.verdict import (
    COOLING,
    LONGEST_COOLDOWN_SECONDS,
    MONEY,
    Concern,
    Verdict,
    cooldown_seconds,
    has_cooldown,
)
from gateway.protocol.outcomes import Outcome

# Other errors echo the client's own words further in, and in larger bodies.
LARGEST_JUDGED_BYTES = 64 * 1024
_WORKSPACE_COOLDOWN_SECONDS = 300.0
_REGAINS_ACCESS = re.compile(r"regain access on (\d{4})-(\d{2})-(\d{2}) at (\d{2}):(\d{2}) UTC")


@dataclass(frozen=True, slots=True)
class Cause:
    """One row: an answer of one of these statuses with one of these codes, or a message that begins so.

    `concern` is whom it speaks of, where the outcome does not say.
    """

    outcome: Outcome
    statuses: frozenset[int]
    codes: frozenset[str] = frozenset()
    wording: str = ""
    kinds: frozenset[str] = frozenset()  # the error's type must be one of these, if there are any
    concern: Concern | None = None


def _coded(outcome: Outcome, status: int, *codes: str, concern: Concern | None = None) -> Cause:
    return Cause(outcome, frozenset({status}), frozenset(codes), concern=concern)


def _worded(outcome: Outcome, statuses: set[int], wording: str, *kinds: str, concern: Concern | None = None) -> Cause:
    return Cause(outcome, frozenset(statuses), wording=wording, kinds=frozenset(kinds), concern=concern)


_INVALID = "invalid_request_error"

# The first row that fits counts; an answer that fits none is judged by its status.
CAUSES: tuple[Cause, ...] = (
    _coded(Outcome.RATE_LIMITED, 429, "ramp_limit_exceeded"),
    _coded(Outcome.SPEND_LIMITED, 429, "enforced_spend_limit_reached", "contract_spend_limit_reached"),
    _coded(Outcome.NOT_ENTITLED, 400, "organization_not_enrolled_in_beta", "storage_quota_exceeded"),
    _coded(Outcome.NOT_ENTITLED, 429, "organization_not_enrolled_in_beta", "storage_quota_exceeded"),
    _coded(Outcome.WORKSPACE_UNUSABLE, 400, "cmek_key_disabled", "cmek_key_network_blocked"),
    _coded(Outcome.UNAUTHORIZED, 400, "claude_code_key_creator_not_member"),
    _coded(Outcome.UNAUTHORIZED, 400, "organization_on_hold", concern=Concern.ORGANISATION),
    _worded(Outcome.OUT_OF_CREDIT, {400}, "Your credit balance is too low", _INVALID),
    _worded(Outcome.SPEND_LIMITED, {400}, "You have reached your specified API usage limits", _INVALID),
    _worded(
        Outcome.SPEND_LIMITED,
        {400},
        "You have reached your specified workspace API usage limits",
        _INVALID,
        concern=Concern.WORKSPACE,
    ),
    _worded(Outcome.UNAUTHORIZED, {400}, "This organization has been disabled", _INVALID, concern=Concern.ORGANISATION),
    _worded(Outcome.UNAUTHORIZED, {403}, "This organization has been disabled", concern=Concern.ORGANISATION),
    _worded(Outcome.REQUEST, {401}, "CORS requests are not allowed for this Organization"),
)

_BY_STATUS = {
    401: Outcome.UNAUTHORIZED,
    402: Outcome.OUT_OF_CREDIT,
    403: Outcome.FORBIDDEN,
    429: Outcome.RATE_LIMITED,
    529: Outcome.OVERLOADED,
}
# With any code that no row names, these speak of the request.
_OF_THE_REQUEST_WITH_A_CODE = frozenset({402, 403})
# What stands at the edge answers so, about our address and not about the key.
_OF_THE_REQUEST_AS_A_PAGE = frozenset({401, 402, 403})

_STATUS_OF_KIND = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an error document says. Empty where it says nothing, or is none."""

    kind: str = ""
    code: str = ""
    message: str = field(default="", repr=False)

    @classmethod
    def read(cls, body: bytes) -> Refusal:
        """By an answer's body; larger ones than 64 KB are not looked into."""
        if len(body) > LARGEST_JUDGED_BYTES:
            return cls()
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return cls()
        error = _member(document, "error")
        code = _member(_member(error, "details"), "error_code")
        return cls(_text(_member(error, "type")), _text(code), _text(_member(error, "message")))


@dataclass(frozen=True, slots=True)
class Cooldowns:
    """How long keys cool down where the upstream does not say, in seconds: after a rate limit; for money, at most."""

    default_seconds: float
    longest_for_money_seconds: float


def judge(status: int, headers: Mapping[str, str], body: bytes, now: float, cooldowns: Cooldowns) -> Verdict:
    """What an answer says of its key. `headers` have lower-case names; `now` is epoch seconds."""
    if status < 400:
        return Verdict(Outcome.OK, http_status=status)
    refusal = Refusal.read(body)
    cause = next((cause for cause in CAUSES if status in cause.statuses and _fits(cause, refusal)), None)
    if cause is not None:
        outcome = cause.outcome
    else:
        outcome = _by_status(status, headers, refusal, is_page=_is_page(headers, body))
    cooldown_seconds = _cooldown_seconds_of(outcome, headers, refusal, now, cooldowns)
    return Verdict(outcome, cooldown_seconds, status, cause.concern if cause is not None else None)


def status_of_kind(kind: str) -> int:
    """The HTTP status with which the API answers an error of this type; 500 for an unknown one."""
    return _STATUS_OF_KIND.get(kind, 500)


def _by_status(status: int, headers: Mapping[str, str], refusal: Refusal, *, is_page: bool) -> Outcome:
    """What an answer is that no row knows."""
    if refusal.code and status in _OF_THE_REQUEST_WITH_A_CODE:
        return Outcome.REQUEST
    if is_page and status in _OF_THE_REQUEST_AS_A_PAGE:
        return Outcome.REQUEST
    if status == 429 and headers.get("x-should-retry", "").strip().lower() == "false" and not has_cooldown(headers):
        return Outcome.NOT_ENTITLED
    named = _BY_STATUS.get(status)
    if named is not None:
        return named
    return Outcome.SERVER_ERROR if status >= 500 else Outcome.CLIENT_ERROR


def _fits(cause: Cause, refusal: Refusal) -> bool:
    if cause.codes:
        return refusal.code in cause.codes
    if refusal.code or not refusal.message.startswith(cause.wording):
        return False
    return not cause.kinds or refusal.kind in cause.kinds


def _cooldown_seconds_of(
    outcome: Outcome, headers: Mapping[str, str], refusal: Refusal, now: float, cooldowns: Cooldowns
) -> float:
    if outcome not in COOLING:
        return 0.0
    if outcome is Outcome.WORKSPACE_UNUSABLE:
        return _WORKSPACE_COOLDOWN_SECONDS
    if outcome not in MONEY:
        return cooldown_seconds(headers, now, cooldowns.default_seconds)
    regained_at = _regained_at(refusal.message)
    longest = min(cooldowns.longest_for_money_seconds, LONGEST_COOLDOWN_SECONDS)
    if regained_at is None or regained_at <= now:
        return longest
    return min(regained_at - now, longest)


def _regained_at(message: str) -> float | None:
    """When access comes back, in epoch seconds, as a refusal for money says it."""
    found = _REGAINS_ACCESS.search(message)
    if found is None:
        return None
    try:
        year, month, day, hour, minute = map(int, found.groups())
        return datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _is_page(headers: Mapping[str, str], body: bytes) -> bool:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type in ("text/html", "application/xhtml+xml") or body.lstrip()[:1] == b"<"


def _member(document: Any, name: str) -> Any:
    return document.get(name) if isinstance(document, dict) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""

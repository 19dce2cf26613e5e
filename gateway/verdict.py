"""What an upstream's answer says about the key that was used, and for how long.

Owns: the classification of a status and the reading of cooldown headers. Pure: the clock's time is an argument.
Only 429, 401 and 403 say anything about a key; everything else is the upstream's own affair and is relayed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum

LONGEST_COOLDOWN_SECONDS = 24 * 3600.0


class Outcome(Enum):
    """How one attempt ended; the values are the metric's `outcome` label."""

    OK = "ok"
    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    CLIENT_ERROR = "client_error"
    TRANSPORT_ERROR = "transport_error"

    @property
    def cools(self) -> bool:
        """Whether the key rests for a while and the next one is tried."""
        return self is Outcome.RATE_LIMITED

    @property
    def retires(self) -> bool:
        """Whether the key is refused for good and the next one is tried."""
        return self in (Outcome.UNAUTHORIZED, Outcome.FORBIDDEN)

    @property
    def vouches(self) -> bool:
        """Whether the upstream accepted the key: what went wrong on its own side says nothing of it."""
        return self in (Outcome.OK, Outcome.CLIENT_ERROR)

    @property
    def fails_over(self) -> bool:
        """Whether the next key is tried."""
        return self.cools or self.retires


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt says about its key. `cooldown_seconds` matters when the outcome cools.

    `http_status` is the upstream's, 0 when there was none.
    """

    outcome: Outcome
    cooldown_seconds: float = 0.0
    http_status: int = 0


_BY_STATUS = {
    401: Outcome.UNAUTHORIZED,
    403: Outcome.FORBIDDEN,
    429: Outcome.RATE_LIMITED,
    529: Outcome.OVERLOADED,
}


_BY_ERROR_KIND = {
    "rate_limit_error": Outcome.RATE_LIMITED,
    "overloaded_error": Outcome.OVERLOADED,
    "api_error": Outcome.SERVER_ERROR,
    "timeout_error": Outcome.SERVER_ERROR,
}


def outcome_of(status: int) -> Outcome:
    """Classify an HTTP status."""
    named = _BY_STATUS.get(status)
    if named is not None:
        return named
    if status >= 500:
        return Outcome.SERVER_ERROR
    return Outcome.CLIENT_ERROR if status >= 400 else Outcome.OK


def outcome_of_error(kind: str) -> Outcome:
    """Classify an `error` event by its Anthropic type, when it is all that a stream has to say.

    Of these, only a rate limit speaks of the key: the upstream has accepted it with its status.
    """
    return _BY_ERROR_KIND.get(kind, Outcome.CLIENT_ERROR)


def cooldown_seconds(headers: Mapping[str, str], now: float, default_seconds: float) -> float:
    """How long a rate-limited key rests, in seconds, at most 24 hours.

    `headers` has lower-case names. The first one that can be read and lies ahead wins: `retry-after-ms`, `retry-after`
    (seconds or an HTTP-date, RFC 9110 section 10.2.3), `anthropic-ratelimit-unified-reset` (epoch seconds); else the
    default. Points in time are the upstream's: what its own clock showed stands in `date`, and this machine's may be
    wrong by years. `now` is what this one shows (epoch seconds), for an answer without a date.
    """
    told_at = _moment(headers.get("date"))
    now = now if told_at is None else told_at
    candidates = (
        _scaled(headers.get("retry-after-ms"), 0.001),
        _retry_after(headers.get("retry-after"), now),
        _until(headers.get("anthropic-ratelimit-unified-reset"), now),
    )
    for seconds in candidates:
        if seconds is not None and seconds > 0:
            return min(seconds, LONGEST_COOLDOWN_SECONDS)
    return min(default_seconds, LONGEST_COOLDOWN_SECONDS)


def _number(text: str | None) -> float | None:
    if text is None or not text.strip().isascii() or "_" in text:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _scaled(text: str | None, factor: float) -> float | None:
    value = _number(text)
    return None if value is None else value * factor


def _until(text: str | None, now: float) -> float | None:
    value = _number(text)
    return None if value is None else value - now


def _retry_after(text: str | None, now: float) -> float | None:
    seconds = _number(text)
    if seconds is not None:
        return seconds
    at = _moment(text)
    return None if at is None else at - now


def _moment(text: str | None) -> float | None:
    """An HTTP-date in epoch seconds."""
    if text is None:
        return None
    try:
        at = parsedate_to_datetime(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None

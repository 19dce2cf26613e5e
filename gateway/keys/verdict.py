"""What an attempt's outcome means for its key and for the walk, and the length of a cooldown.

Owns: that meaning, and the reading of cooldown headers. Pure: the clock's time is an argument. Which answer has which
outcome is told by `classification`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum

from gateway.protocol.outcomes import Outcome

LONGEST_COOLDOWN_SECONDS = 24 * 3600.0


class Next(Enum):
    """Which other keys may answer a request that one key did not."""

    NONE = "none"  # the answer is relayed
    OTHER_ORGANISATIONS = "other organisations"
    ANY = "any"


class Concern(Enum):
    """Whom a refusal speaks of."""

    KEY = "key"
    SCOPE = "scope"  # the key, for requests of this kind alone
    WORKSPACE = "workspace"
    ORGANISATION = "organisation"


MONEY = frozenset({Outcome.SPEND_LIMITED, Outcome.OUT_OF_CREDIT})
COOLING = frozenset({*MONEY, Outcome.RATE_LIMITED, Outcome.WORKSPACE_UNUSABLE})
_RETIRING = frozenset({Outcome.UNAUTHORIZED, Outcome.FORBIDDEN})
_KEPT = frozenset({*MONEY, Outcome.NOT_ENTITLED, Outcome.FORBIDDEN})
_NEXT = {
    **dict.fromkeys(COOLING | _RETIRING, Next.ANY),
    Outcome.NOT_ENTITLED: Next.OTHER_ORGANISATIONS,
}
_CONCERNS = {
    Outcome.RATE_LIMITED: Concern.SCOPE,
    Outcome.SPEND_LIMITED: Concern.ORGANISATION,
    Outcome.OUT_OF_CREDIT: Concern.ORGANISATION,
    Outcome.WORKSPACE_UNUSABLE: Concern.WORKSPACE,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt says about its key. `cooldown_seconds` matters when the outcome cools.

    `http_status` is the upstream's, 0 when there was none. `told_concern` is whom the refusal speaks of,
    if the answer says so.
    """

    outcome: Outcome
    cooldown_seconds: float = 0.0
    http_status: int = 0
    told_concern: Concern | None = None

    @property
    def concern(self) -> Concern:
        """Whom the refusal speaks of."""
        return self.told_concern or _CONCERNS.get(self.outcome, Concern.KEY)

    @property
    def is_about_money(self) -> bool:
        """Whether the key is refused because nobody pays for it now."""
        return self.outcome in MONEY

    @property
    def is_kept(self) -> bool:
        """Whether the refusal becomes the client's answer if no other key gives a better one."""
        return self.outcome in _KEPT

    @property
    def cools(self) -> bool:
        """Whether the key cools down for a while."""
        return self.outcome in COOLING

    @property
    def retires(self) -> bool:
        """Whether the key is refused for good."""
        return self.outcome in _RETIRING

    @property
    def vouches(self) -> bool:
        """Whether the upstream accepted the key: what went wrong on its own side says nothing of it."""
        return self.outcome in (Outcome.OK, Outcome.CLIENT_ERROR)

    @property
    def next(self) -> Next:
        """Which keys are tried next."""
        return _NEXT.get(self.outcome, Next.NONE)


_LONGEST_NUMBER = 40  # reading a number takes the square of its length


def cooldown_seconds(headers: Mapping[str, str], now: float, default_seconds: float) -> float:
    """How long a rate-limited key cools down, in seconds, at most 24 hours.

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


def has_cooldown(headers: Mapping[str, str]) -> bool:
    """Whether any header says how long to wait, be it readable or not."""
    return any(name in headers for name in ("retry-after-ms", "retry-after", "anthropic-ratelimit-unified-reset"))


def _number(text: str | None) -> float | None:
    if text is None or len(text) > _LONGEST_NUMBER or not text.strip().isascii() or "_" in text:
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

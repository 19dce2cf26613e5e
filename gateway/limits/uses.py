"""How near everybody is to their limits: what the commands, the status page and the metrics show.

Owns: setting what was used against what is allowed. Values only; any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.config.limit_rules import LimitUse
from gateway.limits.limiter import Used

_WINDOW_SECONDS = 60.0  # requests and tokens are those of so long


def limit_uses(used: Iterable[Used]) -> list[LimitUse]:
    """One entry a limit, the nearest to its end first."""
    uses = [use for each in used for use in _uses_of(each)]
    return sorted(uses, key=lambda use: (-use.ratio, use.limited.subject))


def _uses_of(used: Used) -> Iterator[LimitUse]:
    amounts = {
        "requests_per_minute": (used.requests, _WINDOW_SECONDS),
        "tokens_per_minute": (used.tokens, _WINDOW_SECONDS),
        "concurrent": (used.running, None),
        "dollars_per_day": (used.picodollars_today, used.day_resets_in_seconds),
        "dollars_per_month": (used.picodollars_this_month, used.month_resets_in_seconds),
    }
    for limit, most in used.limited.limits.each():
        amount, resets_in_seconds = amounts[limit]
        yield LimitUse(used.limited, limit, amount, most, resets_in_seconds)

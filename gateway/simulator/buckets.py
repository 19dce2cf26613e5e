"""Limits of so many requests per so many seconds, as token buckets that drain and fill up.

A bucket starts full, each request takes one, and what was taken comes back evenly over the window. Pure: the caller
says what time it is, and guards a bucket that threads share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_TOLERANCE = 1e-6  # waiting exactly as long as was said must be enough, whatever the rounding


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in so many seconds."""

    requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Level:
    """How full a bucket is: whole requests that still fit, and seconds until all is back."""

    limit: int
    remaining: int
    full_in_seconds: float


class Bucket:
    """One limit and how much of it is left. Times are seconds by any one clock."""

    def __init__(self, limit: Limit, now: float) -> None:
        self.limit = limit
        self._left = float(limit.requests)
        self._seen_at = now

    def wait_seconds(self, now: float) -> float:
        """How long until one request fits; 0 when it fits now."""
        missing = 1 - self._left_at(now)
        return missing * self._seconds_each if missing > _TOLERANCE else 0.0

    def take(self, now: float) -> None:
        """Takes one request out; the caller has seen that it fits."""
        self._left = max(0.0, self._left_at(now) - 1)
        self._seen_at = now

    def level(self, now: float) -> Level:
        """What the limit's headers say."""
        left = self._left_at(now)
        missing = self.limit.requests - left
        return Level(self.limit.requests, math.floor(left + _TOLERANCE), missing * self._seconds_each)

    @property
    def _seconds_each(self) -> float:
        return self.limit.seconds / self.limit.requests

    def _left_at(self, now: float) -> float:
        back = (now - self._seen_at) / self._seconds_each
        return min(float(self.limit.requests), self._left + back)

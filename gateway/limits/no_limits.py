"""No limits: for a gateway that has none, and for tests.

Owns: doing nothing. Any thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.config.limit_rules import Limited
from gateway.limits.limiter import Used


class NoLimits:
    """Lets everybody in, and is what they are admitted with."""

    may_wait = False

    def enter(self, limited: Sequence[Limited], *, costs: bool, is_own: bool) -> NoLimits:
        """Always."""
        return self

    def settle(self, tokens: int, picodollars: int) -> None:
        """Nobody counts."""

    def used(self, everybody: Sequence[Limited]) -> list[Used]:
        """Nothing is known."""
        return []

    def close(self) -> None:
        """There is nothing to tell."""


NO_LIMITS = NoLimits()

"""Whether a request may go upstream by its limits, and what it has used of them in the end.

Owns: the order of the checks, and the words of a refusal. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.config.limit_rules import Limited


@dataclass(frozen=True, slots=True)
class Used:
    """What somebody has used of their limits, on all machines, as far as is known here.

    `requests` and `tokens` are those of the last minute; `resets_in_seconds` is the time until the day and the month
    end (UTC).
    """

    limited: Limited
    requests: int
    tokens: int
    running: int
    picodollars_today: int
    picodollars_this_month: int
    day_resets_in_seconds: float
    month_resets_in_seconds: float


class Admitted(Protocol):
    """A request that was let in by its limits."""

    def settle(self, tokens: int, picodollars: int) -> None:
        """It has ended, and has used so many tokens (input, cache writes, output) and so much money. Again: nothing."""


class Limiter(Protocol):
    """What `web` knows of it."""

    @property
    def may_wait(self) -> bool:
        """Whether `enter` may wait for another machine's word."""

    def enter(self, limited: Sequence[Limited], *, costs: bool, is_own: bool) -> Admitted:
        """Let a request in if all its limits hold, and count it. `costs`: it is of a route that costs money; `is_own`:
        the client's own credential pays, so neither money nor tokens matter.

        Raises LimitReached and SpendLimitReached, which name the limit and whose it is (`limit="concurrent",
        holder_kind=limited.kind, holder=limited.name`), and Overloaded if the shared store is out of reach and that
        matters.
        """

    def used(self, everybody: Sequence[Limited]) -> list[Used]:
        """What each of these has used."""

    def close(self) -> None:
        """The worker ends: what others have to know is told them, within a bound."""

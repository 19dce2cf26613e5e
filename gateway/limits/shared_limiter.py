"""Whether a request may go upstream by its limits, and what it has used of them in the end.

Owns: the order of the checks. Edge layer; thread-safe.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from gateway.background import BackgroundThread
from gateway.limit_rules import Limited
from gateway.limits.counters import Entry, MachineCounters
from gateway.limits.limiter import Used
from gateway.limits.refusals import Refusal, error_of

log = logging.getLogger(__name__)

_TIDY_SECONDS = 1.0
_CLOSING_SECONDS = 1.0


class SharedLimiter:
    """The Limiter of a gateway that has limits. Made after the fork, one a process; `start` begins its housekeeping."""

    def __init__(self, counters: MachineCounters) -> None:
        self._counters = counters
        self._thread = BackgroundThread("limits", self._step)

    def start(self) -> None:
        """Begin the work beside the requests. Raises RuntimeError if the system grants no thread."""
        self._thread.start()

    def enter(self, limited: Sequence[Limited], *, costs: bool, is_own: bool) -> Admission:
        """See Limiter."""
        is_paid = costs and not is_own
        entered = self._counters.enter(limited, is_paid=is_paid)
        if isinstance(entered, Refusal):
            raise error_of(entered)
        return Admission(self, entered, is_paid)

    def settle(self, entry: Entry, tokens: int, picodollars: int) -> None:
        """For Admission."""
        for crossing in self._counters.settle(entry.limited, tokens, picodollars):
            log.warning("%s", crossing)

    def used(self, everybody: Sequence[Limited]) -> list[Used]:
        """See Limiter."""
        return self._counters.used(everybody)

    def close(self) -> None:
        """See Limiter."""
        self._thread.stop()
        self._thread.join(_CLOSING_SECONDS)
        self._counters.close()

    def _step(self) -> float:
        self._counters.tidy()
        return _TIDY_SECONDS


class Admission:
    """A request that was let in by its limits."""

    __slots__ = ("_entry", "_is_paid", "_is_settled", "_limiter", "_lock")

    def __init__(self, limiter: SharedLimiter, entry: Entry, is_paid: bool) -> None:
        self._limiter = limiter
        self._entry = entry
        self._is_paid = is_paid
        self._lock = threading.Lock()  # guards the next
        self._is_settled = False

    def settle(self, tokens: int, picodollars: int) -> None:
        """See Admitted."""
        with self._lock:
            if self._is_settled:
                return
            self._is_settled = True
        if not self._is_paid:
            tokens = picodollars = 0
        try:
            self._limiter.settle(self._entry, tokens, picodollars)
        except Exception:  # the answer is out, and its end must not fail
            log.exception("a request that has ended could not be counted for its limits")

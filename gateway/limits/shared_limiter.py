"""Whether a request may go upstream by its limits, and what it has used of them in the end.

Owns: the order of the checks. Thread-safe.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from gateway.config.limit_rules import Limited, Limits
from gateway.limits.counters import Entry, MachineCounters
from gateway.limits.limiter import Used
from gateway.limits.refusals import Refusal, error_of
from gateway.limits.statements import Unanswered
from gateway.protocol.errors import Overloaded
from gateway.runtime.background import BackgroundThread

if TYPE_CHECKING:
    from gateway.limits.link import Link  # most gateways have no Redis, and need not load its client

log = logging.getLogger(__name__)

_TIDY_SECONDS = 0.5
_CLOSING_SECONDS = 1.0


class SharedLimiter:
    """The Limiter of a gateway that has limits. Made after the fork, one a process.

    `fails_closed`: while the shared store is out of reach, who has limits is refused.
    """

    def __init__(self, counters: MachineCounters, link: Link | None = None, *, fails_closed: bool = False) -> None:
        self._counters = counters
        self._link = link
        self._fails_closed = fails_closed
        self._thread = BackgroundThread("limits", self._step)

    def start(self) -> None:
        """Begin the work beside the requests. Raises RuntimeError if the system grants no thread."""
        self._thread.start()
        if self._link is not None:
            self._link.start()
        else:
            self._counters.hear({}, 0.0)  # no store's clock

    @property
    def may_wait(self) -> bool:
        """See Limiter."""
        return self._link is not None

    def enter(self, limited: Sequence[Limited], *, costs: bool, is_own: bool) -> Admission:
        """See Limiter."""
        is_paid = costs and not is_own
        if self._link is not None:
            if self._link.is_up:
                with suppress(Unanswered):
                    return Admission(self, self._asked(self._link, limited, is_paid), is_paid)
            if self._fails_closed and any(_matters(one.limits, is_paid) for one in limited):
                raise Overloaded("the store through which limits are shared is out of reach", retry_after_seconds=1)
        entered = self._counters.enter(limited, is_paid=is_paid)
        if isinstance(entered, Refusal):
            raise error_of(entered)
        return Admission(self, entered, is_paid)

    def settle(self, entry: Entry, tokens: int, picodollars: int) -> None:
        """For Admission."""
        for crossing in self._counters.settle(entry.limited, tokens, picodollars):
            log.warning("%s", crossing)
        if self._link is not None and _must_ask(entry.limited):
            self._link.changed(entry.limited)

    def _asked(self, link: Link, limited: Sequence[Limited], is_paid: bool) -> Entry:
        """Count a request, if its limits hold over all machines. Raises LimitReached, and Unanswered."""
        entry = self._entered(limited, is_paid)
        if entry.is_guess:
            self._counters.undo(entry)
            link.hear(self._counters.report([one.subject for one in limited]))
            entry = self._entered(limited, is_paid)
        if not _must_ask(limited):
            return entry
        try:
            over = link.ask(entry)
        except BaseException:
            self._counters.undo(entry)
            link.changed(limited)  # the store may have counted it
            raise
        if over is None:
            return entry
        self._counters.undo(entry)
        link.changed(limited)
        place, limit = over
        raise error_of(self._counters.check(limited, is_paid=is_paid) or Refusal(limited[place], limit))

    def _entered(self, limited: Sequence[Limited], is_paid: bool) -> Entry:
        entered = self._counters.enter(limited, is_paid=is_paid, asks=True)
        if isinstance(entered, Refusal):
            raise error_of(entered)
        return entered

    def used(self, everybody: Sequence[Limited]) -> list[Used]:
        """See Limiter."""
        if self._link is not None and self._link.is_up:
            with suppress(Unanswered):
                self._link.hear_all(everybody)
        return self._counters.used(everybody)

    def close(self) -> None:
        """See Limiter."""
        if self._link is not None:
            self._link.close()
        self._thread.stop()
        self._thread.join(_CLOSING_SECONDS)
        self._counters.close()

    def _step(self) -> float:
        self._counters.tidy()
        return _TIDY_SECONDS


def _must_ask(limited: Sequence[Limited]) -> bool:
    """Whether there is a limit that must hold over all machines at every moment."""
    return any(one.limits.concurrent is not None or one.limits.requests_per_minute is not None for one in limited)


def _matters(limits: Limits, is_paid: bool) -> bool:
    return not limits.is_empty if is_paid else (limits.concurrent, limits.requests_per_minute) != (None, None)


class Admission(msgspec.Struct):
    """A request that was let in by its limits. It belongs to whoever has the request, one thread at a time."""

    limiter: SharedLimiter
    entry: Entry
    is_paid: bool
    is_settled: bool = False

    def settle(self, tokens: int, picodollars: int) -> None:
        """See Admitted."""
        if self.is_settled:
            return
        self.is_settled = True
        if not self.is_paid:
            tokens = picodollars = 0
        try:
            self.limiter.settle(self.entry, tokens, picodollars)
        except Exception:  # the answer is out, and its end must not fail
            log.exception("a request that has ended could not be counted for its limits")

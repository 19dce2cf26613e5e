"""The bill: what the API would charge for every answer that the simulator has given.

Every connection's thread adds to it, control routes and tests read it; one lock guards all of it. The sums are exact
and of all answers; single answers are kept as long as the journal keeps requests.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from gateway.simulator.charge import Charge
from gateway.simulator.prices import Charged, charged
from gateway.simulator.seen import SeenRequest


@dataclass(frozen=True, slots=True)
class Line:
    """One answer: `key` is the secret that asked, `day` the UTC day of its end, `parts` what it is made of."""

    request_id: str
    key: str = field(repr=False)
    model: str
    day: str
    is_complete: bool
    parts: tuple[Charged, ...]

    @property
    def picodollars(self) -> int:
        """What it costs, as far as there are prices."""
        return sum(part.picodollars or 0 for part in self.parts)

    @property
    def is_priced(self) -> bool:
        """Whether there is a price for all of it."""
        return all(part.picodollars is not None for part in self.parts)


@dataclass(frozen=True, slots=True)
class Account:
    """What is summed up for itself: a key, the model that is charged for (an advisor's, say), a UTC day."""

    key: str = field(repr=False)
    model: str
    day: str


@dataclass(slots=True)
class Sum:
    """Picodollars of an account: of answers that came to their end, and of others; and what has no price."""

    picodollars: int = 0
    incomplete_picodollars: int = 0
    unpriced: int = 0

    def add(self, part: Charged, is_complete: bool) -> None:
        """One more part of an answer."""
        if part.picodollars is None:
            self.unpriced += 1
        elif is_complete:
            self.picodollars += part.picodollars
        else:
            self.incomplete_picodollars += part.picodollars


class Bill:
    """Lines of the newest `limit` answers, sums of all. `wall_clock` gives epoch seconds."""

    def __init__(self, limit: int, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        # Guards everything below.
        self._lock = threading.Lock()
        self._running: dict[str, tuple[SeenRequest, Charge]] = {}
        self._lines: deque[Line] = deque(maxlen=limit)
        self._sums: dict[Account, Sum] = {}

    def charge(self, request: SeenRequest, charge: Charge) -> None:
        """An answer is charged for that far; a later charge replaces an earlier one."""
        with self._lock:
            self._running[request.request_id] = request, charge

    def end(self, request: SeenRequest) -> None:
        """Nothing more will come of the answer to this request, if there was one."""
        with self._lock:
            running = self._running.pop(request.request_id, None)
            if running is not None:
                line = self._line(*running)
                self._lines.append(line)
                _add(self._sums, line)

    def lines(self) -> list[Line]:
        """The newest answers by their end; those that go on come last, charged as far as they have come."""
        with self._lock:
            return [*self._lines, *(self._line(*running) for running in self._running.values())]

    def sums(self) -> dict[Account, Sum]:
        """The sum of each account, of all answers so far."""
        with self._lock:
            sums = {account: replace(total) for account, total in self._sums.items()}
            for running in self._running.values():
                _add(sums, self._line(*running))
            return sums

    def _line(self, request: SeenRequest, charge: Charge) -> Line:
        day = datetime.fromtimestamp(self._wall_clock(), UTC).date().isoformat()
        parts = tuple(charged(charge, day))
        return Line(request.request_id, request.key, charge.message.model, day, charge.is_complete, parts)


def _add(sums: dict[Account, Sum], line: Line) -> None:
    for part in line.parts:
        sums.setdefault(Account(line.key, part.model, line.day), Sum()).add(part, line.is_complete)

"""Keys looked at beside the requests: whether the upstream accepts them, and where they belong.

Owns: one thread a worker, when which key is looked at, and what follows from it (DESIGN 6.4). A look asks
the upstream for its list of models, which costs nothing. Keys are looked at that were forbidden something, at once;
that were retired, after some minutes and then less and less often, and every few seconds while no key is usable; and
whose workspace nobody knows. Never those that the operator disabled.

What a key was forbidden is looked into by whichever worker met it. The rest is done by one worker of a machine: the one
that holds a file's lock; when it ends, another takes over. When a key was last looked at stands in the store, so that
no other process does so at the same time, and one that is started again goes on where the last one was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gateway.access.credential import Key
from gateway.keys.look import Finding, Found, look_at
from gateway.keys.pool import Pool
from gateway.keys.standing import KeyState, KeyStatus
from gateway.keys.verdict import Concern
from gateway.protocol.outcomes import Outcome
from gateway.runtime.background import BackgroundThread
from gateway.runtime.chair import Chair
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.machine_clock import machine_time
from gateway.upstream import Upstream

log = logging.getLogger("gateway.looks")

# How many first intervals lie between a key's retirement and its looks; later ones follow every hour.
_INTERVALS = (1.0, 3.0, 12.0)
_HOURLY_SECONDS = 3600.0
_NONE_USABLE_SECONDS = 15.0
_ROUND_SECONDS = 1.0
_PLACE_SECONDS = 86_400.0
_PAUSE_SECONDS = 0.5  # between looks at places
_FORBIDDEN_COOLDOWN_SECONDS = 3600.0
_MOST_SCOPES = 100  # of one key, that wait to be looked into

InForce = Callable[[], tuple[Pool, Upstream]]


class _Counter(Protocol):
    """A metric that is counted by its labels."""

    def labels(self, *values: str) -> Any: ...


class LookMetrics(Protocol):
    """What looks count."""

    @property
    def key_transitions(self) -> _Counter: ...

    @property
    def key_looks(self) -> _Counter: ...


@dataclass(slots=True)
class _Forbidden:
    """What a key was forbidden: by scope, whether another key did not forbid it; and the first such request."""

    request: str
    scopes: dict[str, bool] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """What a line about it begins with."""
        return f"{self.request}: " if self.request else ""


class Looks:
    """Looks at the keys of the pool in force.

    `in_force` gives the present pool and upstream; `first_seconds` is how soon a retired key is looked at (0: never);
    `lock_path` is a file in the data folder; `clock` measures the pauses between looks.
    """

    def __init__(
        self,
        in_force: InForce,
        lifecycle: Lifecycle,
        metrics: LookMetrics,
        first_seconds: float,
        lock_path: Path,
        clock: Callable[[], float] = machine_time,
    ) -> None:
        self._in_force = in_force
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._first_seconds = first_seconds
        self._clock = clock
        self._chair = Chair(lock_path)
        self._thread = BackgroundThread("looks", self.step, at_end=self._chair.leave)
        self._looks_at_places = False
        self._place_rounds_wanted = 0
        self._place_rounds_begun = 0  # the thread's, as are the next two
        self._placeless: list[Key] = []
        self._next_place_at = float("-inf")
        self._lock = threading.Lock()  # guards _forbidden
        self._forbidden: dict[Key, _Forbidden] = {}

    def start(self, *, looks_at_places: bool) -> None:
        """Begin; `looks_at_places`: also at keys whose workspace is not known."""
        self._looks_at_places = looks_at_places
        self._place_rounds_wanted += looks_at_places
        if looks_at_places or self._first_seconds:
            self._thread.start()

    def stop(self) -> None:
        """Begin no other look; one that is under way ends by itself."""
        self._thread.stop()

    def look_into(self, statuses: Sequence[KeyStatus], scope: str, *, was_answered: bool, request: str = "") -> None:
        """These keys were forbidden a request, which has this name in the log; `was_answered`: another key did not
        forbid it. Waits for nothing.

        Until it is known what that means, they are tried if no other key is left. Where retired keys are never looked
        at, these are not either, and stay retired.
        """
        if not self._first_seconds:
            return
        pool, _ = self._in_force()
        for key in (status.key for status in statuses if status.key in pool.keys):  # a reload may have taken it out
            pool.suspect(key)
            with self._lock:
                forbidden = self._forbidden.setdefault(key, _Forbidden(request))
                if scope in forbidden.scopes or len(forbidden.scopes) < _MOST_SCOPES:
                    forbidden.scopes[scope] = was_answered or forbidden.scopes.get(scope, False)
        self._thread.wake()

    def look_at_places(self) -> None:
        """There may be new keys."""
        self._place_rounds_wanted += self._looks_at_places
        self._thread.wake()

    def step(self) -> float | None:
        """Look at one key, if any is due. How long to wait then; None: until there is something new."""
        place_rounds = self._place_rounds_wanted  # read first: the pool is at least as new
        pool, upstream = self._in_force()
        if self._look_at_forbidden(pool, upstream):
            return 0.0
        has_rounds = self._first_seconds > 0
        is_place_round_due = place_rounds != self._place_rounds_begun
        if (has_rounds or is_place_round_due or self._placeless) and self._chair.is_taken():
            if has_rounds and self._look_at_retired(pool, upstream):
                return 0.0
            if is_place_round_due:
                self._placeless, self._place_rounds_begun = list(pool.keys), place_rounds
                is_place_round_due = False
            self._look_at_place(pool, upstream)
        if self._placeless:
            return _PAUSE_SECONDS
        return _ROUND_SECONDS if has_rounds or is_place_round_due else None

    # What keys were forbidden

    def _look_at_forbidden(self, pool: Pool, upstream: Upstream) -> bool:
        """Look at the first key that was forbidden something, if it is up to this process; whether it did."""
        keys = list(self._forbidden)
        statuses = {status.key: status for status in pool.statuses()} if keys else {}  # as new as the keys at least
        for key in keys:
            status = statuses.get(key)
            if status is None or not status.is_last_resort:  # gone, or known by now
                self._taken(key)
            elif pool.begin_look(key):
                finding = self._look(pool, upstream, key)
                self._settle(pool, status, finding, self._taken(key))
                return True
        return False

    def _taken(self, key: Key) -> _Forbidden:
        with self._lock:
            return self._forbidden.pop(key, _Forbidden(""))

    def _settle(self, pool: Pool, status: KeyStatus, finding: Finding, forbidden: _Forbidden) -> None:
        """What a look at a forbidden key means for it."""
        key = status.key
        if finding.found is Found.ACCEPTED:
            self._accept_forbidden(pool, status, forbidden)
        elif finding.found is Found.REFUSED:
            pool.end_suspicion(key)
            log.warning(
                "%skey %s (%s) was forbidden a request, and the upstream refuses it (%s): it stays retired",
                *(forbidden.prefix, key.name, key.hint, finding.why),
            )
        else:
            log.warning(
                "%skey %s (%s) was forbidden a request, and the upstream does not say whether it accepts it (%s): it "
                "stays retired for now",
                *(forbidden.prefix, key.name, key.hint, finding.why),
            )

    def _accept_forbidden(self, pool: Pool, status: KeyStatus, forbidden: _Forbidden) -> None:
        """The key is good: so it lacks a right that others have, or else the request was at fault."""
        key = status.key
        scopes = [scope for scope, was_answered in forbidden.scopes.items() if was_answered]
        if not scopes:
            if pool.forgive(status):
                log.info(
                    "%skey %s (%s) is valid again: the upstream accepts it, and no other key answered the request that "
                    "it was forbidden; for ten minutes such answers are not held against it",
                    *(forbidden.prefix, key.name, key.hint),
                )
            return
        for scope in scopes:  # before the key is valid again: so no request tries it in between
            (scoped,) = (other for other in pool.statuses(scope) if other.key == key)
            pool.cool(scoped, _FORBIDDEN_COOLDOWN_SECONDS, Outcome.FORBIDDEN.value, 403, Concern.SCOPE)
        if pool.revive(status):
            self._metrics.key_transitions.labels(key.name, KeyState.TEMPORARY.value).inc()
            log.info(
                "%skey %s (%s) is valid again, but cools down for %g s for %s: the upstream accepts it, and another "
                "key answered what it was forbidden",
                *(forbidden.prefix, key.name, key.hint, _FORBIDDEN_COOLDOWN_SECONDS, ", ".join(scopes)),
            )

    # Rounds

    def _look_at_retired(self, pool: Pool, upstream: Upstream) -> bool:
        """Look at the first retired key that is due, if it is up to this process; whether it did."""
        statuses = pool.statuses()
        is_none_usable = not any(_is_usable(status) for status in statuses)
        seconds = min(_NONE_USABLE_SECONDS, self._first_seconds)
        for status in statuses:
            key = status.key
            if status.state is not KeyState.PERMANENT or status.record.is_disabled:
                continue
            if self._is_due(pool, status, is_none_usable=is_none_usable) and pool.begin_look(key, seconds):
                finding = self._look(pool, upstream, key)
                if finding.found is Found.ACCEPTED and pool.revive(status):
                    log.info(
                        "key %s (%s) is valid again: the upstream accepts it (%s)", key.name, key.hint, finding.why
                    )
                return True
        return False

    def _is_due(self, pool: Pool, status: KeyStatus, *, is_none_usable: bool) -> bool:
        retired_ago = status.marked_ago_seconds
        looked_ago = pool.looked_ago_seconds(status.key)
        if is_none_usable and min(retired_ago, looked_ago) >= _NONE_USABLE_SECONDS:
            return True
        last = _INTERVALS[-1] * self._first_seconds
        if retired_ago >= last:
            due = last + (retired_ago - last) // _HOURLY_SECONDS * _HOURLY_SECONDS
        else:
            due = max(
                (n * self._first_seconds for n in _INTERVALS if n * self._first_seconds <= retired_ago), default=0
            )
        return due > 0 and looked_ago > retired_ago - due

    # Places

    def _look_at_place(self, pool: Pool, upstream: Upstream) -> None:
        """Look at the next key whose place is not known, if the last such look is long enough ago."""
        if self._clock() < self._next_place_at:
            return
        statuses = {status.key: status for status in pool.statuses()}
        while self._placeless:
            key = self._placeless.pop(0)
            status = statuses.get(key)
            if (
                status is None
                or status.state is KeyState.PERMANENT
                or pool.place_told_ago_seconds(key) < _PLACE_SECONDS
            ):
                continue
            if pool.begin_look(key):
                self._next_place_at = self._clock() + _PAUSE_SECONDS
                self._retire_if_refused(pool, status, self._look(pool, upstream, key))
                return

    def _retire_if_refused(self, pool: Pool, status: KeyStatus, finding: Finding) -> None:
        key, verdict = status.key, finding.verdict
        if not finding.marks or not pool.retire(status, verdict.outcome.value, verdict.http_status, verdict.concern):
            return
        self._metrics.key_transitions.labels(key.name, KeyState.PERMANENT.value).inc()
        log.warning("key %s (%s) is retired: the upstream refuses it (%s)", key.name, key.hint, finding.why)

    def _look(self, pool: Pool, upstream: Upstream, key: Key) -> Finding:
        finding = look_at(upstream, key, self._lifecycle)
        pool.learn(key, finding.place)
        self._metrics.key_looks.labels(key.name, finding.found.value).inc()
        log.debug("key %s (%s) was looked at: %s (%s)", key.name, key.hint, finding.found.value, finding.why)
        return finding

    def __repr__(self) -> str:
        return f"<Looks {self._chair!r} forbidden={len(self._forbidden)} placeless={len(self._placeless)}>"


def _is_usable(status: KeyStatus) -> bool:
    """Whether a key is valid for something."""
    return status.state is KeyState.VALID or (status.state is KeyState.TEMPORARY and status.concern is Concern.SCOPE)

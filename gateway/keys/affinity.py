"""Which workspace a conversation stays with, so that its prompt cache is paid for once.

Owns: the pins. Thread-safe. Prompt caches belong to a workspace
(https://docs.claude.com/en/docs/build-with-claude/prompt-caching). A session that another workspace's key answered,
because an earlier key was out, stays with that workspace for a while, although the earlier key has come back: moving it
back and forth would pay for its cache each time. A session whose first key answers has no pin, and needs none.

Files and containers belong to a workspace, too: who names one stays where it was answered.

A pin is a record in the store, under a keyed hash of the client and its session; so all workers know it, and it is lost
without harm.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.keys.key_record import NEVER_SEEN, Cause, Record
from gateway.keys.pool import Pool
from gateway.keys.standing import KeyStatus
from gateway.keys.store import Store
from gateway.runtime.machine_clock import machine_time

_LABEL = b"messages-gateway session"
_RENEW_SECONDS = 60.0
_BELONGINGS_SECONDS = 30 * 86_400.0
_MOST_BELONGINGS = 16
# What stands in a text has its quotes escaped, so these are members. Who thinks, or has an hour's cache, loses more.
_LASTING = re.compile(rb'"type"\s*:\s*"(?:redacted_)?thinking"|"ttl"\s*:\s*"1h"')
_BELONGING = re.compile(rb'"(?:file_id|container|id)"\s*:\s*"((?:file|container)_[A-Za-z0-9_-]{4,80})"')


@dataclass(frozen=True, slots=True)
class PinSeconds:
    """How long a session stays after its last answer: an ordinary one, and one that has more to lose. 0: not at all."""

    ordinary: float
    lasting: float


class Affinity:
    """The pins of one gateway's sessions."""

    def __init__(self, store: Store, clock: Callable[[], float] = machine_time) -> None:
        self._store = store
        self._clock = clock

    def of(self, pool: Pool, client: str | None, session: str | None, body: bytes, seconds: PinSeconds) -> Pins | None:
        """The pins that concern a request; None if none can: all keys share their caches."""
        if not seconds.ordinary or not pool.has_several_groups:
            return None
        return Pins(
            pool,
            self._store,
            self._clock,
            seconds,
            body,
            _named("session", [client, session]) if session is not None else None,
            [_named("belonging", [belonging]) for belonging in _belongings(body)],
        )


@dataclass(slots=True)
class Pins:
    """Where one request's session stays, and what it names. Belongs to whoever runs the request."""

    _pool: Pool = field(repr=False)
    _store: Store = field(repr=False)
    _clock: Callable[[], float] = field(repr=False)
    _seconds: PinSeconds
    _body: bytes = field(repr=False)
    _session: str | None
    _belongings: list[str]
    _records: dict[str, Record] = field(default_factory=dict, repr=False)  # as the walk has found them
    _group: str = ""  # whose key has answered

    @property
    def group(self) -> str | None:
        """The workspace to stay with: that of what the request names, else that of its session."""
        names = [*self._belongings, *([self._session] if self._session is not None else [])]
        if not names:
            return None
        now = self._clock()
        self._records = dict(zip(names, self._store.read(names), strict=True))
        return next((record.reason for record in self._records.values() if record.is_cooling(now)), None)

    def answered(self, status: KeyStatus, *, is_displaced: bool) -> None:
        """A key has answered: the session stays with its workspace, if it was displaced there or has stayed so far."""
        group = self._group = self._pool.place(status.key).group  # this very answer may have been the first to tell it
        if not group:
            return
        for name in self._belongings:
            self._pin(name, group, begins=True)
        if self._session is not None:
            self._pin(self._session, group, begins=is_displaced)

    def told_of(self, container_id: str) -> None:
        """Its answer tells of a container: who names that from now on stays with the workspace that answered."""
        name = _named("belonging", [container_id])
        if self._group and name not in self._belongings:
            (self._records[name],) = self._store.read([name])
            self._pin(name, self._group, begins=True)

    def _pin(self, name: str, group: str, *, begins: bool) -> None:
        now = self._clock()
        record = self._records.get(name, NEVER_SEEN)
        if record.is_cooling(now):
            if record.reason != group:
                return  # passed over for once: the pin stays
        elif not begins:
            return
        seconds = self._session_seconds() if name == self._session else _BELONGINGS_SECONDS
        # Renewed so often at most; it lasts so much longer, so that it never ends too soon after the last answer.
        renewal_seconds = min(_RENEW_SECONDS, seconds / 5)
        until_at = now + seconds + renewal_seconds
        if until_at - record.cooling_until_at >= renewal_seconds:
            self._store.cool(name, until_at, record.generation, Cause(group, 0, now))

    def _session_seconds(self) -> float:
        # Large bodies take a while, so they are searched if it matters.
        return self._seconds.lasting if _LASTING.search(self._body) else self._seconds.ordinary


def _belongings(body: bytes) -> list[str]:
    if b'"file_id"' not in body and b'"container_' not in body:
        return []
    found: Iterable[bytes] = dict.fromkeys(match[1] for match in _BELONGING.finditer(body))
    return [name.decode() for name in found][:_MOST_BELONGINGS]


def _named(kind: str, words: list[str | None]) -> str:
    digest = hmac.digest(_LABEL, repr(words).encode(), "sha256")
    return f"{kind}/{digest.hex()[:40]}"

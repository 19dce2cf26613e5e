"""What becomes of the keys: one line in the log for what no request of this worker's did, and an event for all of it.

Owns: noticing that the operator has changed a key, that another gateway has marked one, and that one is back;
and the words. One thread a worker. All workers look, once a second, and the one that holds a file's lock
tells. What this worker marks itself is told in the log by the observer, or by the looks, when it happens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gateway.access.credential import Key
from gateway.keys.key_record import NEVER_SEEN, Record
from gateway.keys.pool import BY_OPERATOR, Pool
from gateway.keys.standing import KeyStatus, Subject
from gateway.keys.verdict import Concern
from gateway.runtime.background import BackgroundThread
from gateway.runtime.chair import Chair
from gateway.runtime.machine_clock import machine_time

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_WITH = {Concern.WORKSPACE: " with its workspace", Concern.ORGANISATION: " with its organisation"}


class _Use(Enum):
    """What a record alone lets its subject be used for."""

    FREE = "free"
    COOLING = "cooling"
    RETIRED = "retired"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class _Marked:
    """A subject of a key's, and what the log calls it: the whole key, or a part of what it is used for."""

    key: Key
    subject: Subject
    part: str = ""


class KeyNews:
    """Tells what changes about the keys of the pool in force.

    `lock_path` is a file in the data folder; `clock` is the pool's. `others` is what the log calls whoever else marks
    keys; None: only workers of this gateway do, and each of them tells its own marks in the same log. `happened` hears
    of every change, whoever made it: in words, the key's name, and how long ago.
    """

    def __init__(
        self,
        in_force: Callable[[], Pool],
        lock_path: Path,
        others: str | None,
        clock: Callable[[], float] = machine_time,
        happened: Callable[[str, str, float], object] = lambda what, key, ago_seconds: None,
    ) -> None:
        self._happened = happened
        self._in_force = in_force
        self._others = others
        self._clock = clock
        self._chair = Chair(lock_path)
        self._thread = BackgroundThread("key-news", self.step, at_end=self._chair.leave)
        # As it was seen last: subjects by name, and which generation of each key.
        self._known: dict[str, tuple[_Marked, _Use]] = {}
        self._generations: dict[Key, int] = {}
        self._looked_at = clock()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Tell nothing more."""
        self._thread.stop()

    def step(self) -> float:
        """Compare with the last time. How long to wait then."""
        pool = self._in_force()
        now = self._clock()
        known: dict[str, tuple[_Marked, _Use]] = {}
        generations: dict[Key, int] = {}
        for status in pool.statuses():
            for marked in _marked(status):
                known.setdefault(marked.subject.name, (marked, _use(marked.subject.record, now)))
                if marked.subject.concern is Concern.KEY:
                    generations[status.key] = marked.subject.record.generation
        if self._chair.is_taken():
            self._compare(pool, known, generations, now)
        self._known, self._generations, self._looked_at = known, generations, now
        return _LOOK_SECONDS

    def _compare(
        self, pool: Pool, known: dict[str, tuple[_Marked, _Use]], generations: dict[Key, int], now: float
    ) -> None:
        """Tell what is otherwise than it was."""
        renewed = {key for key, number in generations.items() if self._generations.get(key) != number}
        for name, (marked, use) in known.items():
            before, was = self._known.get(name, (None, _Use.FREE))
            goes_with_its_key = bool(marked.part and renewed) and use is _Use.FREE
            if marked.key not in self._generations:  # a reload brought it: only what came after that is news
                if marked.subject.record.marked_at > self._looked_at:
                    self._note(marked, NEVER_SEEN, _Use.FREE, use, now)
            elif not goes_with_its_key:
                self._tell(pool, marked, before.subject.record if before is not None else NEVER_SEEN, was, use, now)
        for name, (marked, was) in self._known.items():  # a scope that was answered for is not listed any more
            if name not in known and was is _Use.COOLING and marked.key in generations.keys() - renewed:
                _tell_back(marked)
                self._happened(f"is back{marked.part}", marked.key.name, 0.0)

    def _tell(self, pool: Pool, marked: _Marked, before: Record, was: _Use, use: _Use, now: float) -> None:
        record = marked.subject.record
        who = (marked.key.name, marked.key.hint)
        is_new = record.marked_at != before.marked_at or record.generation != before.generation
        if not is_new and use is was:
            return
        self._note(marked, before, was, use, now)
        if is_new and pool.has_made(marked.subject):
            return
        if use is _Use.DISABLED:
            if was is not _Use.DISABLED:
                log.info("key %s (%s) is disabled by the operator: it gets no requests until it is enabled", *who)
        elif is_new and record.reason == BY_OPERATOR:
            self._tell_of_operator(marked, use, now)
        elif use is was or (is_new and self._others is None):
            return
        elif use is _Use.RETIRED:
            log.warning(
                "key %s (%s) is retired: %s, as %s found; it gets no requests until the upstream accepts it again or "
                "the operator enables it",
                *(*who, _reason(record), self._others),
            )
        elif use is _Use.COOLING:
            log.info(
                "key %s (%s) is cooling down for %.1f s%s: %s, as %s found; then one request tries it",
                *(*who, record.cooling_until_at - now, marked.part, _reason(record), self._others),
            )
        elif record.generation != before.generation:
            log.info("key %s (%s) is valid again%s, as %s found", *who, marked.part, self._others)
        else:
            _tell_back(marked)

    def _note(self, marked: _Marked, before: Record, was: _Use, use: _Use, now: float) -> None:
        """Say as an event what has changed; and in the log what no mark that is there now tells."""
        record = marked.subject.record
        is_marked = record.marked_at > before.marked_at
        ago_seconds = max(0.0, now - record.marked_at) if is_marked else 0.0
        what = _event_words(marked, before, was, use)
        if _is_refused_again(before, record, was, use):
            log.info(
                "key %s (%s) was enabled, or accepted by the upstream, and was refused again within a second",
                *(marked.key.name, marked.key.hint),
            )
        if what:
            self._happened(what, marked.key.name, ago_seconds)

    def _tell_of_operator(self, marked: _Marked, use: _Use, now: float) -> None:
        key, record = marked.key, marked.subject.record
        if use is _Use.COOLING:
            seconds = record.cooling_until_at - now
            log.info(
                "key %s (%s) is cooling down for %.1f s, by the operator's command; then one request tries it",
                *(key.name, key.hint, seconds),
            )
        elif use is _Use.FREE:
            log.info(
                "key %s (%s) is enabled by the operator: what was held against it is forgotten, and it is used again",
                *(key.name, key.hint),
            )

    def __repr__(self) -> str:
        return f"<KeyNews {self._chair!r} known={len(self._known)}>"


def _event_words(marked: _Marked, before: Record, was: _Use, use: _Use) -> str:
    """What has become of a subject, briefly; empty if it is nothing to speak of."""
    record = marked.subject.record
    is_marked = record.marked_at > before.marked_at
    is_by_operator = is_marked and record.reason == BY_OPERATOR
    seconds = record.cooling_until_at - record.marked_at
    if use is _Use.DISABLED:
        return "was disabled by the operator" if was is not _Use.DISABLED else ""
    if use is _Use.RETIRED:
        if _is_refused_again(before, record, was, use):
            return f"was valid for a moment, was refused ({record.status}) again and is retired"
        return f"was refused ({record.status}) and is retired" if was is not _Use.RETIRED else ""
    if is_by_operator:
        return f"was put aside by the operator for {seconds:.0f} s" if seconds > 0 else "was enabled by the operator"
    if use is _Use.COOLING or (is_marked and record.generation == before.generation):  # so shortly that it is over
        return f"is cooling down for {seconds:.0f} s{marked.part}: {_reason(record).replace('_', ' ')}"
    return f"is accepted again{marked.part}" if record.generation != before.generation else f"is back{marked.part}"


def _is_refused_again(before: Record, record: Record, was: _Use, use: _Use) -> bool:
    """Whether a retired key became valid and was refused between two looks."""
    return was is use is _Use.RETIRED and record.generation != before.generation


def _tell_back(marked: _Marked) -> None:
    log.info(
        "key %s (%s) is back%s: its cooldown is over; one request tries it first",
        *(marked.key.name, marked.key.hint, marked.part),
    )


def _marked(status: KeyStatus) -> Iterator[_Marked]:
    """All that a key can be marked for. What it shares with others is told of the first of them."""
    whole = status.standing.whole
    for subject in status.standing.others:
        yield _Marked(status.key, subject, _WITH.get(subject.concern, ""))
    for cooldown in status.scopes:
        subject = Subject(Concern.SCOPE, f"{whole.name}/{cooldown.scope}", cooldown.record)
        yield _Marked(status.key, subject, f" for {cooldown.scope}")
    yield _Marked(status.key, whole)


def _use(record: Record, now: float) -> _Use:
    if record.is_disabled:
        return _Use.DISABLED
    if record.is_retired:
        return _Use.RETIRED
    return _Use.COOLING if record.is_cooling(now) else _Use.FREE


def _reason(record: Record) -> str:
    return f"{record.reason}{f' ({record.status})' if record.status else ''}"

"""Taking the spool's records to the database.

Owns: the thread that does it, its patience with a database that is down, and the forgetting of old records. What lies
on disk and in the database is behind protocols. An outage is told when it begins and when it ends. A connection that
was lost is none yet: servers and what stands before them cut idle ones, and a new one is tried first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from gateway.records.interception_record import InterceptionRecord
from gateway.runtime.background import BackgroundThread, GrowingPause

log = logging.getLogger("gateway.shipper")

_BATCH = 500
# How often spools that others left behind are looked for, and old records forgotten.
_LOOK_AROUND_SECONDS = 5.0
_FORGET_SECONDS = 600.0
_FORGET_BATCH = 500
_FORGET_PAUSE_SECONDS = 0.05


class DatabaseUnavailable(Exception):
    """The database cannot take records now; the message says why, and holds no password."""


class ConnectionLost(DatabaseUnavailable):
    """The connection, or the file that it led to, is gone; one that is made now may do."""


class Writer(Protocol):
    """The database. Used by one thread. Raises DatabaseUnavailable; no call waits without a bound."""

    def prepare(self) -> None:
        """Connect, and bring the schema up to date; costs nothing when that is so."""
        ...

    def write(self, records: Sequence[InterceptionRecord]) -> int:
        """Store records, all in one transaction; those that are there already stay as they are.

        Returns how many of them the database refuses for good.
        """
        ...

    def forget(self, limit: int) -> int:
        """Delete at most so many of the records that are past their time; how many there were."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class Segment(Protocol):
    """A file of the spool, held by this process alone."""

    def read(self) -> Iterable[tuple[Sequence[InterceptionRecord], int]]:
        """Its records, some at a time, each time with the number of lines that cannot be read. Raises OSError."""
        ...


SegmentT = TypeVar("SegmentT", bound=Segment)


class Spool(Protocol[SegmentT]):
    """The spool of this worker, and what others left behind. Thread-safe."""

    def append(self, records: Sequence[InterceptionRecord]) -> int:
        """Write records; how many of them found room. Raises OSError."""
        ...

    def take(self) -> Sequence[SegmentT]:
        """The segments that this process holds, and those that nobody does; nothing more is appended to them."""
        ...

    def remove(self, segment: SegmentT) -> None:
        """A segment's records are in the database."""
        ...

    def give_up(self, segment: SegmentT, error: OSError) -> None:
        """A segment cannot be read: it is told, and not taken again."""
        ...

    def close(self) -> None:
        """Leave what there is to others."""
        ...


class Forwarder:
    """Takes the spool's records to the database, in a thread of its own."""

    def __init__(
        self,
        spool: Spool[Any],
        open_writer: Callable[[], Writer],
        dropped: Callable[[str, int], None],
        stored: Callable[[int], None],
        stores: Callable[[bool], None],
    ) -> None:
        self._spool = spool
        self._open_writer = open_writer
        self._dropped = dropped
        self._stored = stored
        self._stores = stores
        self._writer: Writer | None = None
        self._failing = ""
        self._pause = GrowingPause()
        self._forget_at = time.monotonic()
        self._thread = BackgroundThread("forwarder", self._step, at_end=self._end)

    def start(self) -> None:
        """Begin, with what earlier workers left behind."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to forward."""
        self._thread.wake()

    def stop(self, seconds: float) -> None:
        """Forward what there is once more, and end; what takes longer than this is left to others."""
        self._thread.stop()
        self._thread.join(seconds)

    def _step(self) -> float:
        if self._writer is None:
            self._writer = self._open_writer()  # here, for what it is made of takes long to load, and nobody waits
        if not self._tried(self._forward, self._writer):
            self._thread.wait(self._pause.next_seconds())
            return 0.0
        self._pause.reset()
        if time.monotonic() >= self._forget_at:
            self._tried(self._forget, self._writer)
            self._forget_at = time.monotonic() + _FORGET_SECONDS
        return _LOOK_AROUND_SECONDS

    def _end(self) -> None:
        if self._writer is not None:
            try:
                self._tried(self._forward, self._writer)
            finally:
                self._writer.close()

    def _forward(self, writer: Writer) -> None:
        """Take everything in the spool to the database. Raises DatabaseUnavailable."""
        writer.prepare()
        for segment in self._spool.take():
            try:
                pieces = segment.read()
            except OSError as error:
                self._spool.give_up(segment, error)
                continue
            number, damaged, refused = _stored_of(pieces, writer)
            self._spool.remove(segment)
            self._stored(number + damaged)
            if damaged:
                log.error("%d records are lost: their lines in the spool cannot be read", damaged)
                self._dropped("damaged", damaged)
            if refused:
                self._dropped("refused", refused)

    def _forget(self, writer: Writer) -> None:
        """Delete what is past its time, a little at a time: others write meanwhile."""
        while writer.forget(_FORGET_BATCH) == _FORGET_BATCH and not self._thread.wait(_FORGET_PAUSE_SECONDS):
            pass

    def _tried(self, work: Callable[[Writer], None], writer: Writer) -> bool:
        """Whether it went well; the log says when that changes."""
        try:
            try:
                work(writer)
            except ConnectionLost as error:
                log.debug("the connection to the record database was lost: %s; a new one is tried", error)
                work(writer)
        except DatabaseUnavailable as error:
            if str(error) != self._failing:
                log.error("the record database cannot be used: %s; records wait in the spool", error)
            self._failing = str(error)
            self._stores(False)
            return False
        if self._failing:
            log.info("records are stored again")
        self._failing = ""
        self._stores(True)
        return True


def _stored_of(pieces: Iterable[tuple[Sequence[InterceptionRecord], int]], writer: Writer) -> tuple[int, int, int]:
    """Store a segment: how many records it had, how many lines are damaged, how many records were refused."""
    number = damaged = refused = 0
    for records, unreadable in pieces:
        number += len(records)
        damaged += unreadable
        for start in range(0, len(records), _BATCH):
            refused += writer.write(records[start : start + _BATCH])
    return number, damaged, refused

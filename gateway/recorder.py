"""Taking records from requests without holding them up, and getting them into the database.

Owns: a worker's queue, the thread that empties it into a journal on disk, and the thread that takes the journal's
records to the database. State layer; what lies on disk and in the database is behind protocols. The way of a record:

    put (any request's thread; never waits)  ->  queue  ->  journal, several times a second  ->  database

Every record goes by the journal, whether the database is up or not. So there is one way and not two; a database
that hangs holds up nothing but its own thread; and whoever kills the process takes at most what has come in since the
journal was last written to. What is in the journal when a worker ends, any worker of a later start takes up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from gateway.interception_record import InterceptionRecord

log = logging.getLogger(__name__)

QUEUE_LIMIT = 20_000
_GATHER_SECONDS = 0.2
_BATCH = 500
# How often journals that others left behind are looked for, and old records forgotten.
_LOOK_AROUND_SECONDS = 5.0
_FORGET_SECONDS = 600.0
_FORGET_BATCH = 500
_LONGEST_PAUSE_SECONDS = 5.0


class LedgerUnavailable(Exception):
    """The database cannot take records now; the message says why, and holds no password."""


class Ledger(Protocol):
    """The database. Used by one thread. Raises LedgerUnavailable."""

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
    """A file of the journal, held by this process alone."""

    def read(self) -> tuple[list[InterceptionRecord], int]:
        """Its records, and the number of lines that cannot be read. Raises OSError."""
        ...


SegmentT = TypeVar("SegmentT", bound=Segment)


class Journal(Protocol[SegmentT]):
    """The journal of this worker, and what others left behind. Thread-safe. Methods raise OSError."""

    def append(self, records: Sequence[InterceptionRecord]) -> int:
        """Write records; how many of them found room."""
        ...

    def take(self) -> Sequence[SegmentT]:
        """The segments that this process holds, and those that nobody does; nothing more is appended to them."""
        ...

    def remove(self, segment: SegmentT) -> None:
        """A segment's records are in the database."""
        ...

    def close(self) -> None:
        """Leave what there is to others."""
        ...


class Meter(Protocol):
    """Whoever counts what becomes of records."""

    def dropped(self, reason: str, number: int) -> None:
        """So many records are lost."""

    def waiting(self, number: int) -> None:
        """So many records wait to be stored."""


class Sink(Protocol):
    """Where requests leave their records."""

    def put(self, record: InterceptionRecord) -> None:
        """Take a record; neither waits nor raises."""

    def close(self) -> None:
        """No request is left: store what there is, within a bound."""


class NoRecorder:
    """Records nothing."""

    def put(self, record: InterceptionRecord) -> None:
        """Forget it."""

    def close(self) -> None:
        """There is nothing to store."""


class Recorder:
    """A worker's recorder. `queue_limit` bounds what waits in memory, `stop_seconds` how long `close` may take."""

    def __init__(
        self,
        journal: Journal[Any],
        ledger: Ledger,
        meter: Meter,
        queue_limit: int = QUEUE_LIMIT,
        stop_seconds: float = 5.0,
    ) -> None:
        self._journal = journal
        self._meter = meter
        self._queue_limit = queue_limit
        self._stop_seconds = stop_seconds
        self._queue: deque[InterceptionRecord] = deque()  # appends and pops are atomic
        self._journaled = 0
        self._lock = threading.Lock()  # guards the way from the queue to the journal, which keeps its order
        self._has_some = threading.Event()
        self._is_stopping = threading.Event()
        self._shipper = Shipper(journal, ledger, meter.dropped, self._stored)
        self._writer = threading.Thread(target=self._write, name="recorder", daemon=True)

    def start(self) -> None:
        """Begin to write and to ship."""
        self._writer.start()
        self._shipper.start()

    def put(self, record: InterceptionRecord) -> None:
        """Take a record; past the queue's limit it is dropped and counted."""
        if len(self._queue) >= self._queue_limit:
            self._meter.dropped("queue_full", 1)
            return
        self._queue.append(record)
        if self._is_stopping.is_set():
            self._flush()  # a straggler, behind the writer's end
        elif not self._has_some.is_set():
            self._has_some.set()

    def close(self) -> None:
        """Write what is queued to the journal, and ship what there is if that goes quickly."""
        self._is_stopping.set()
        self._has_some.set()
        self._writer.join(self._stop_seconds)
        self._shipper.stop(self._stop_seconds)
        self._flush()
        self._journal.close()

    def _write(self) -> None:
        while not self._is_stopping.is_set():
            self._has_some.wait()
            self._is_stopping.wait(_GATHER_SECONDS)
            self._has_some.clear()
            if self._flush():
                self._shipper.wake()
            elif self._queue:
                self._has_some.set()  # the disk would not; again in a moment

    def _flush(self) -> bool:
        """Empty the queue into the journal; whether anything was written."""
        has_written = False
        with self._lock:
            while batch := [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]:
                try:
                    written = self._journal.append(batch)
                except OSError as error:
                    log.error("the journal cannot be written to: %s; records wait in memory", error.strerror)
                    self._queue.extendleft(reversed(batch))
                    break
                if written < len(batch):
                    self._meter.dropped("journal_full", len(batch) - written)
                has_written = has_written or written > 0
                self._journaled += written
            self._meter.waiting(len(self._queue) + self._journaled)
        return has_written

    def _stored(self, number: int) -> None:
        """So many records have left the journal."""
        with self._lock:
            self._journaled = max(0, self._journaled - number)
            self._meter.waiting(len(self._queue) + self._journaled)


class Shipper:
    """Takes the journal's records to the database, in a thread of its own."""

    def __init__(
        self, journal: Journal[Any], ledger: Ledger, dropped: Callable[[str, int], None], stored: Callable[[int], None]
    ) -> None:
        self._journal = journal
        self._ledger = ledger
        self._dropped = dropped
        self._stored = stored
        self._wake = threading.Event()
        self._is_stopping = threading.Event()
        self._failing = ""
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)

    def start(self) -> None:
        """Begin, with what earlier workers left behind."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """There is something to ship."""
        self._wake.set()

    def stop(self, seconds: float) -> None:
        """Ship what there is once more, and end; what takes longer than this is left to others."""
        self._is_stopping.set()
        self._wake.set()
        self._thread.join(seconds)

    def ship(self) -> None:
        """Take everything in the journal to the database. Raises LedgerUnavailable and OSError."""
        self._ledger.prepare()
        for segment in self._journal.take():
            records, damaged = segment.read()
            refused = 0
            for start in range(0, len(records), _BATCH):
                refused += self._ledger.write(records[start : start + _BATCH])
            self._journal.remove(segment)
            self._stored(len(records) + damaged)
            if damaged:
                self._dropped("damaged", damaged)
            if refused:
                self._dropped("refused", refused)

    def _run(self) -> None:
        pause_seconds = 0.0
        forget_at = time.monotonic()
        while not self._is_stopping.is_set():
            self._wake.wait(_LOOK_AROUND_SECONDS)
            self._is_stopping.wait(pause_seconds)
            self._wake.clear()
            if not self._tried(self.ship):
                pause_seconds = min(max(0.5, 2 * pause_seconds), _LONGEST_PAUSE_SECONDS)
                self._wake.set()
                continue
            pause_seconds = 0.0
            if time.monotonic() >= forget_at:
                self._tried(self._forget)
                forget_at = time.monotonic() + _FORGET_SECONDS
        self._ledger.close()

    def _forget(self) -> None:
        """Delete what is past its time, a little at a time: others write meanwhile."""
        while self._ledger.forget(_FORGET_BATCH) == _FORGET_BATCH and not self._is_stopping.wait(0.05):
            pass

    def _tried(self, work: Callable[[], None]) -> bool:
        """Whether it went well; the log says when that changes."""
        try:
            work()
        except LedgerUnavailable as error:
            failing = f"the record database cannot be used: {error}"
        except OSError as error:
            failing = f"the journal cannot be read: {error.strerror}"
        except Exception:
            log.exception("shipping records failed; it goes on")
            return False
        else:
            if self._failing:
                log.info("records are stored again")
            self._failing = ""
            return True
        if failing != self._failing:
            log.error("%s; records wait in the journal", failing)
        self._failing = failing
        return False

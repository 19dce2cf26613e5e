"""Taking records from requests without holding them up, and getting them into the database.

Owns: a worker's queue and the thread that empties it into a journal on disk; from there the Shipper goes on. State
layer; what lies on disk and in the database is behind protocols. The way of a record:

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
from collections.abc import Callable
from typing import Any, Protocol

from gateway.interception_record import InterceptionRecord
from gateway.shipper import Journal, Ledger, Shipper

log = logging.getLogger(__name__)

QUEUE_LIMIT = 20_000
_GATHER_SECONDS = 0.2
_BATCH = 500


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
    """A worker's recorder. `open_ledger` is called by the thread that then uses the database, once.

    `queue_limit` bounds what waits in memory, `stop_seconds` how long `close` waits in all.
    """

    def __init__(
        self,
        journal: Journal[Any],
        open_ledger: Callable[[], Ledger],
        meter: Meter,
        queue_limit: int = QUEUE_LIMIT,
        stop_seconds: float = 4.0,
    ) -> None:
        self._journal = journal
        self._meter = meter
        self._queue_limit = queue_limit
        self._stop_seconds = stop_seconds
        self._queue: deque[InterceptionRecord] = deque()  # appends and pops are atomic
        self._lock = threading.Lock()  # guards the way from the queue to the journal, and what follows
        self._journaled = 0
        self._is_failing = False
        self._has_some = threading.Event()
        self._is_stopping = threading.Event()
        self._shipper = Shipper(journal, open_ledger, meter.dropped, self._stored)
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
        ends_at = time.monotonic() + self._stop_seconds
        self._writer.join(self._stop_seconds)
        self._shipper.stop(max(0.0, ends_at - time.monotonic()))
        self._flush()
        if lost := len(self._queue):
            log.error("%d records are lost: the journal cannot be written to, and the worker ends", lost)
            self._meter.dropped("journal_full", lost)
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
                    if not self._is_failing:
                        log.error("the journal cannot be written to: %s; records wait in memory", error.strerror)
                    self._is_failing = True
                    self._queue.extendleft(reversed(batch))
                    break
                except Exception:
                    log.exception("%d records cannot be written down; it goes on", len(batch))
                    self._meter.dropped("refused", len(batch))
                    continue
                self._is_failing = False
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

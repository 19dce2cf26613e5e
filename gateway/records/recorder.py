"""Taking records from requests without holding them up, and getting them into the database.

Owns: a worker's queue and the thread that empties it into a spool on disk; from there the Forwarder goes on. What lies
on disk and in the database is behind protocols. The way of a record:

    put (any thread; never waits)  ->  queue  ->  spool, several times a second  ->  database

Every record goes by the spool, whether the database is up or not. So there is one way and not two; a database
that hangs holds up nothing but its own thread; and whoever kills the process takes at most what has come in since the
spool was last written to. What is in the spool when a worker ends, any worker of a later start takes up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from gateway.records.forwarder import Forwarder, Spool, Writer
from gateway.records.interception_record import InterceptionRecord
from gateway.runtime.background import BackgroundThread

log = logging.getLogger("gateway.recorder")

QUEUE_LIMIT = 20_000
_GATHER_SECONDS = 0.2
_BATCH = 500
# How long a request that ends behind the writer's end waits for another such to be written down.
_STRAGGLER_SECONDS = 0.1


class Meter(Protocol):
    """Whoever counts what becomes of records."""

    def dropped(self, reason: str, number: int) -> None:
        """So many records are lost."""

    def written(self, number: int) -> None:
        """So many records are in the spool: nothing that happens to this process can lose them."""

    def waiting(self, number: int) -> None:
        """So many records wait to be stored."""

    def stores(self, is_up: bool) -> None:
        """The database takes records, or does not."""


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
    """A worker's recorder. `open_writer` is called by the thread that then uses the database, once.

    `queue_limit` bounds what waits in memory, `stop_seconds` how long `close` waits in all.
    """

    def __init__(
        self,
        spool: Spool[Any],
        open_writer: Callable[[], Writer],
        meter: Meter,
        queue_limit: int = QUEUE_LIMIT,
        stop_seconds: float = 4.0,
    ) -> None:
        self._spool = spool
        self._meter = meter
        self._queue_limit = queue_limit
        self._stop_seconds = stop_seconds
        self._queue: deque[InterceptionRecord] = deque()  # appends and pops are atomic
        self._lock = threading.Lock()  # guards the way from the queue to the spool, and what follows
        self._spooled = 0
        self._is_failing = False
        self._losses = Losses(meter)
        self._is_called = False  # the writer has been told that the queue is not empty, and has not looked since
        self._is_stopping = False
        self._has_ended = False
        self._forwarder = Forwarder(spool, open_writer, meter.dropped, self._stored, meter.stores)
        self._writer = BackgroundThread("recorder", self._write)

    def start(self) -> None:
        """Begin to write and to forward."""
        self._writer.start()
        self._forwarder.start()

    def put(self, record: InterceptionRecord) -> None:
        """Take a record; past the queue's limit it is lost, which is counted and told."""
        if len(self._queue) >= self._queue_limit:
            self._losses.add("queue_full", 1, "the queue in memory is full")
            return
        self._queue.append(record)
        if self._is_stopping:
            self._flush(_STRAGGLER_SECONDS)  # behind the writer's end
            if self._has_ended:
                self._give_up()
        elif not self._is_called:
            self._is_called = True
            # Told before the request is over. The writer, which is woken after it, tells what is so then.
            self._meter.waiting(len(self._queue) + self._spooled)
            self._writer.wake()

    def close(self) -> None:
        """Write what is queued to the spool, and forward what there is if that goes quickly."""
        ends_at = time.monotonic() + self._stop_seconds
        self._is_stopping = True
        self._writer.stop()
        self._writer.join(self._stop_seconds)
        self._flush(max(0.0, ends_at - time.monotonic()))
        self._forwarder.stop(max(0.0, ends_at - time.monotonic()))
        self._flush(max(0.0, ends_at - time.monotonic()))
        self._has_ended = True
        self._give_up()
        self._spool.close()

    def _write(self) -> float | None:
        self._writer.wait(_GATHER_SECONDS)
        self._is_called = False
        if self._flush():
            self._forwarder.wake()
        return 0.0 if self._queue else None  # not empty: more came, or the disk would not; again in a moment

    def _flush(self, wait_seconds: float = -1) -> bool:
        """Empty the queue into the spool; whether anything was written. Others that do so are waited for so long."""
        if not self._lock.acquire(timeout=wait_seconds):
            return False
        has_written = False
        try:
            while batch := [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]:
                try:
                    written = self._spool.append(batch)
                except OSError as error:
                    self._queue.extendleft(reversed(batch))
                    self._fail(error)
                    break
                except Exception:
                    log.exception("%d records cannot be written and are lost; the others are written", len(batch))
                    self._meter.dropped("refused", len(batch))
                    continue
                has_written = has_written or written > 0
                self._spooled += written
                self._meter.written(written)
                self._went_well(len(batch) - written)
            self._meter.waiting(len(self._queue) + self._spooled)
        finally:
            self._lock.release()
        return has_written

    def _fail(self, error: OSError) -> None:
        if not self._is_failing:
            log.error(
                "the spool cannot be written to: %s; up to %d records wait in memory",
                error.strerror,
                self._queue_limit,
            )
        self._is_failing = True

    def _went_well(self, without_room: int) -> None:
        if self._is_failing:
            log.info("the spool can be written to again")
        self._is_failing = False
        if without_room:
            self._losses.add("journal_full", without_room, "the spool is full")
        else:
            self._losses.end()

    def _give_up(self) -> None:
        """The worker ends, and what is not in the spool by now is lost."""
        lost = 0
        with suppress(IndexError):
            while True:
                self._queue.popleft()
                lost += 1
        if lost:
            log.error("%d records are lost: the spool cannot be written to, and the worker ends", lost)
            self._meter.dropped("journal_full", lost)

    def _stored(self, number: int) -> None:
        """So many records have left the spool."""
        with self._lock:
            self._spooled = max(0, self._spooled - number)
            self._meter.waiting(len(self._queue) + self._spooled)


class Losses:
    """Records that found no room: each is counted, and the log tells when that begins and, in all, when it ends."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = threading.Lock()  # guards the number
        self._number = 0

    def add(self, reason: str, number: int, why: str) -> None:
        """So many are lost; any thread."""
        self._meter.dropped(reason, number)
        with self._lock:
            is_first = not self._number
            self._number += number
        if is_first:
            log.error("records are lost: %s; gateway_recorder_dropped_total counts them", why)

    def end(self) -> None:
        """There is room again."""
        with self._lock:
            number, self._number = self._number, 0
        if number:
            log.warning("there is room for records again; %d were lost", number)

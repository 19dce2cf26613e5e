"""Taking the journal's records to the database.

Owns: the thread that does it, its patience with a database that is down, and the forgetting of old records. State
layer; what lies on disk and in the database is behind protocols.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from gateway.interception_record import InterceptionRecord

log = logging.getLogger(__name__)

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


class Shipper:
    """Takes the journal's records to the database, in a thread of its own."""

    def __init__(
        self,
        journal: Journal[Any],
        open_ledger: Callable[[], Ledger],
        dropped: Callable[[str, int], None],
        stored: Callable[[int], None],
    ) -> None:
        self._journal = journal
        self._open_ledger = open_ledger
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

    def _ship(self, ledger: Ledger) -> None:
        """Take everything in the journal to the database. Raises LedgerUnavailable and OSError."""
        ledger.prepare()
        for segment in self._journal.take():
            records, damaged = segment.read()
            refused = 0
            for start in range(0, len(records), _BATCH):
                refused += ledger.write(records[start : start + _BATCH])
            self._journal.remove(segment)
            self._stored(len(records) + damaged)
            if damaged:
                self._dropped("damaged", damaged)
            if refused:
                self._dropped("refused", refused)

    def _run(self) -> None:
        ledger = self._open_ledger()  # here, for what it is made of takes long to load, and nobody waits for it
        try:
            self._serve(ledger)
        finally:
            ledger.close()

    def _serve(self, ledger: Ledger) -> None:
        pause_seconds = 0.0
        forget_at = time.monotonic()
        while not self._is_stopping.is_set():
            self._wake.wait(_LOOK_AROUND_SECONDS)
            self._is_stopping.wait(pause_seconds)
            self._wake.clear()
            if not self._tried(self._ship, ledger):
                pause_seconds = min(max(0.5, 2 * pause_seconds), _LONGEST_PAUSE_SECONDS)
                self._wake.set()
                continue
            pause_seconds = 0.0
            if time.monotonic() >= forget_at:
                self._tried(self._forget, ledger)
                forget_at = time.monotonic() + _FORGET_SECONDS

    def _forget(self, ledger: Ledger) -> None:
        """Delete what is past its time, a little at a time: others write meanwhile."""
        while ledger.forget(_FORGET_BATCH) == _FORGET_BATCH and not self._is_stopping.wait(0.05):
            pass

    def _tried(self, work: Callable[[Ledger], None], ledger: Ledger) -> bool:
        """Whether it went well; the log says when that changes."""
        try:
            work(ledger)
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

"""What one start of the gateway shares between its master and its workers.

Owns: the configuration this process was started with, the reload board. The master reads the
configuration before it forks, so that a worker that is replaced later starts from what is in force, not from
whatever half-edited files hold by then.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
from collections.abc import Collection
from functools import cache
from pathlib import Path

from gateway.config.settings import Settings, SettingsError
from gateway.limits.counters import MachineCounters
from gateway.limits.limiter import Limiter
from gateway.limits.shared_limiter import SharedLimiter
from gateway.records.forwarder import Writer
from gateway.records.interception_record import InterceptionRecord
from gateway.records.recorder import Meter, NoRecorder, Recorder, Sink
from gateway.records.spool import FileSpool
from gateway.runtime.data_folder import spool_folder
from gateway.runtime.shared_counts import SharedCounts
from gateway.runtime.whole_file import read_whole
from gateway.telemetry.recent import Recent, RecentBoard
from gateway.web.admission import MOST_WORKERS, Admission, Board
from gateway.web.configured import open_database, read_settings
from gateway.web.starts import StartBoard

log = logging.getLogger(__name__)

_settings: Settings | None = None
_counts_folder: Path | None = None  # the master finds one, if there is any
_row: int | None = None  # this process's among the workers; None in the master, and under another server
_has_master = False  # of the gateway's own; workers inherit it


class ReloadBoard:
    """What the master tells all workers of the last reload, and what they say of it.

    Anonymous shared memory, made before the fork: what the master has checked, what a worker could not follow, the
    rows of the workers that are to follow, and what each worker has in force. A failure names the contents that it is
    about, so that one which comes late says nothing against a newer reload. The count in `_untold` is one from a reload
    until it is told that all have followed: the worker that takes it tells so. `recent` hears of each reload.
    """

    def __init__(self, recent: Recent | None = None) -> None:
        self._recent = recent
        self._has_begun = False  # the master's own
        self._size = hashlib.sha256().digest_size
        self._nothing = b"\xff" * self._size
        self._memory = mmap.mmap(-1, 1 + 2 * self._size)
        self._awaited = mmap.mmap(-1, MOST_WORKERS)
        self._in_force = mmap.mmap(-1, MOST_WORKERS * self._size)
        self._untold = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._memory[0] = 1
        self.fail(self._nothing)

    @property
    def digest(self) -> bytes:
        """The contents that the master has checked last."""
        return self._memory[1 : 1 + self._size]

    def publish(self, digest: str | None, rows: Collection[int] = ()) -> None:
        """The master has checked a configuration: its digest, or None if it was unusable.

        The workers in these rows are to follow.
        """
        if digest is not None:
            self._take_untold()
            self._awaited[:] = bytes(row in rows for row in range(MOST_WORKERS))
            self._memory[1:] = bytes.fromhex(digest) + self._nothing
            if rows:
                os.eventfd_write(self._untold, 1)
        self._memory[0] = int(digest is not None)
        if self._recent is not None:
            self._recent.happened(_told(digest is not None, self._has_begun))
        self._has_begun = True

    def follow(self, row: int, digest: str) -> bool:
        """The worker has these contents in force. True for one worker, when all have what was published last."""
        start = row * self._size
        self._in_force[start : start + self._size] = bytes.fromhex(digest)
        return all(map(self._has_followed, range(MOST_WORKERS))) and self._take_untold()

    def _has_followed(self, row: int) -> bool:
        start = row * self._size
        return not self._awaited[row] or self._in_force[start : start + self._size] == self.digest

    def _take_untold(self) -> bool:
        try:
            return bool(os.eventfd_read(self._untold))
        except BlockingIOError:
            return False

    def fail(self, digest: bytes) -> None:
        """A worker could not put these contents in force."""
        self._memory[1 + self._size :] = digest

    def is_ok(self) -> bool:
        """Whether the last reload was applied; true before the first."""
        return bool(self._memory[0]) and self._memory[1 + self._size :] != self.digest

    def expects(self, digest: str) -> bool:
        """Whether these are the contents that the master has checked."""
        return self.digest == bytes.fromhex(digest)


def _told(is_good: bool, has_begun: bool) -> str:
    if not has_begun:
        return "the gateway was started"
    return "the configuration was reloaded" if is_good else "a reload was refused: nothing has changed"


class StopBoard:
    """Whether the master stops: for workers that were not yet there to be told by a signal.

    Anonymous shared memory, made before the fork; one writer, the master.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def publish(self) -> None:
        """The master stops, and tells its workers next."""
        self._memory[0] = 1

    def says_so(self) -> bool:
        """Whether the master stops."""
        return bool(self._memory[0])


recent_board = RecentBoard(MOST_WORKERS + 1)  # the last part is the master's
reload_board = ReloadBoard(Recent(recent_board, MOST_WORKERS))
stop_board = StopBoard()
slots_board = Board()
start_board = StartBoard()


def settings() -> Settings:
    """The configuration in force in this process, read on the first call. Raises SettingsError."""
    global _settings
    if _settings is None:
        _settings = read_settings(read_whole)
    return _settings


def open_recorder(settings: Settings, meter: Meter) -> Sink:
    """This worker's recorder, at work; after the fork."""
    if settings.record_url == "none":
        return _Noted(NoRecorder())
    recorder = Recorder(FileSpool(spool_folder(settings.data_dir)), lambda: _open_writer(settings), meter)
    recorder.start()
    return _Noted(recorder)


class _Noted:
    """A recorder, and before it what this worker knows of the last minutes."""

    def __init__(self, recorder: Sink) -> None:
        self._recorder = recorder
        self._recent = recent()

    def put(self, record: InterceptionRecord) -> None:
        """Take a record; neither waits nor raises."""
        self._recent.ended(record)
        self._recorder.put(record)

    def close(self) -> None:
        """No request is left: store what there is, within a bound."""
        self._recorder.close()


def _open_writer(settings: Settings) -> Writer:
    from gateway.records.database import DatabaseWriter  # as above

    return DatabaseWriter(open_database(settings), settings.record_retention_days)


def open_limiter(settings: Settings) -> Limiter:
    """What holds this worker's requests to their limits; after the fork."""
    counters, link = MachineCounters(Path(settings.data_dir)), None
    fails_closed = settings.limits_fail == "closed"
    if settings.state_url is not None:
        from gateway.limits.link import Link  # most gateways have no Redis, and need not load its client

        link = Link(settings.state_url, counters, fails_closed=fails_closed)
    limiter = SharedLimiter(counters, link, fails_closed=fails_closed)
    limiter.start()
    return limiter


def tell_doubts(settings: Settings) -> None:
    """Log a line for each setting that does not do what one might think."""
    for line in settings.doubts():
        log.warning("%s", line)


def admission(settings: Settings) -> Admission:
    """This worker's slots."""
    return Admission(settings.max_requests, slots_board, _row or 0)


def share_counts(folder: Path) -> None:
    """Workers that are forked from now on keep their counts there, for each other."""
    global _counts_folder
    _counts_folder = folder


def counts() -> SharedCounts | None:
    """This worker's counts; None if it keeps them to itself."""
    return SharedCounts(_counts_folder, _row or 0) if _counts_folder is not None else None


@cache
def recent() -> Recent:
    """What this worker knows of the last minutes, and tells the others of."""
    return Recent(recent_board, _row or 0)


def become_worker(row: int) -> None:
    """This process is the worker that has this row: no other one that lives has it."""
    global _row
    _row = row
    reloaded(settings())  # it may have the place of one that ended before it could follow


def reloaded(new: Settings) -> None:
    """This worker has these settings in force; the last of the workers to have them tells in the log."""
    if reload_board.follow(_row or 0, new.digest):
        log.info("configuration reloaded; keys: %s", ", ".join(key.name for key in new.keys) or "none")


def become_master() -> None:
    """This process is the master of workers of the gateway's own; without one, another server has the application."""
    global _has_master
    _has_master = True


def refuse_preload() -> None:
    """Raise SystemExit in a master: there `--preload` builds the application, before any check."""
    if _has_master and _row is None:
        raise SystemExit("gateway: --preload must not be set: threads and locks of the master's do not survive a fork")


def adopt(new: Settings) -> None:
    """What workers that are forked from now on start with."""
    global _settings
    _settings = new


def complain(error: SettingsError) -> None:
    """Log one line for each fault."""
    for line in error.complaints:
        log.error("configuration: %s", line)

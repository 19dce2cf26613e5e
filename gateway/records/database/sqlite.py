"""A SQLite database's file: opening it, and noticing that it is another one than it was.

Owns: what SQLite is told at each connection, and which file a connection leads to. One thread.

SQLite keeps a rollback journal here, not a write-ahead log: of that it maps a part (`-shm`) into the memory of every
process that uses the database, and a process that touches a mapped page for which the disk has no room is killed.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from gateway.records.forwarder import ConnectionLost, DatabaseUnavailable

# How long others that use the database are waited for, at each step.
BUSY_SECONDS = 10.0
_BUSY_LOOK_SECONDS = 0.01


class SqliteFile:
    """The file at a path. A writer takes its place in the queue of writers when its transaction begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_writer = True
        self._opened: os.stat_result | None = None  # the file that the connection leads to

    @staticmethod
    def arguments() -> dict[str, Any]:
        """What sqlite3 is to connect with."""
        return {"timeout": BUSY_SECONDS, "check_same_thread": False}

    def attend(self, engine: Engine) -> None:
        """Be told when this engine connects and begins."""
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "begin", self._begin)

    def make_private(self) -> None:
        """Make it, for its owner alone, if there is none. Raises DatabaseUnavailable."""
        # One that is there is not even opened: closing it would take back every lock that this process has on it.
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise DatabaseUnavailable(f"{self.path} cannot be written: {error.strerror}") from error

    def refuse_unwritable(self) -> None:
        """Raise DatabaseUnavailable if a writer could not use it, or not make it, and leave everything as it is."""
        folder = self.path.parent
        if not folder.is_dir():
            raise DatabaseUnavailable(f"there is no folder {folder}")
        for path in (folder, self.path):
            if path.exists() and not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
                raise DatabaseUnavailable(f"{path} may not be read and written")
        if self.path.is_dir():
            raise DatabaseUnavailable(f"{self.path} is a folder")

    def see(self) -> None:
        """Raise ConnectionLost if the connection leads to a file that has been removed or replaced since."""
        if self._opened is not None and not _is_same(self._opened, self._status()):
            self._opened = None
            raise ConnectionLost(f"{self.path} was removed or replaced while it was in use")

    def _refuse_other_than(self, before: os.stat_result | None) -> None:
        if before is None or not _is_same(before, self._status()):
            raise ConnectionLost(f"{self.path} was replaced while it was opened")

    def _status(self) -> os.stat_result | None:
        try:
            return os.stat(self.path)
        except OSError:
            return None

    def _connect(self, dialect: Any, record: object, arguments: Any, parameters: Any) -> sqlite3.Connection:
        self._opened = None
        before = self._status()
        connection: sqlite3.Connection = dialect.connect(*arguments, **parameters)
        try:
            self._refuse_other_than(before)
            connection.isolation_level = None  # transactions begin where we say, see _begin
            if self.is_writer:
                _leave_write_ahead_log(connection)
                connection.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            connection.close()
            raise
        self._opened = before
        return connection

    def _begin(self, connection: Connection) -> None:
        """Writers take their place in the queue at once: one that begins as a reader can fail when it writes."""
        connection.exec_driver_sql("BEGIN IMMEDIATE" if self.is_writer else "BEGIN")


def _is_same(one: os.stat_result, other: os.stat_result | None) -> bool:
    return other is not None and os.path.samestat(one, other)


def _leave_write_ahead_log(connection: sqlite3.Connection) -> None:
    """SQLite itself does not wait here, whatever the time-out, for others that use the database."""
    gives_up_at = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=TRUNCATE")
            return
        except sqlite3.OperationalError:
            if time.monotonic() >= gives_up_at:
                raise
            time.sleep(_BUSY_LOOK_SECONDS)

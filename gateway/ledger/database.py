"""Opening the database of records, by its URL.

Owns: what differs between SQLite and PostgreSQL (how a transaction begins, how the schema is locked, what is private),
and words for what goes wrong that hold no password. Edge layer; a Database is used by one thread.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from gateway.ledger.schema import SCHEMA_VERSION, migrate, version_of
from gateway.shipper import LedgerUnavailable

_BUSY_SECONDS = 5
_BUSY_LOOK_SECONDS = 0.01
_CONNECT_SECONDS = 5
_STATEMENT_SECONDS = 15
# The advisory lock under which a PostgreSQL schema is changed: any number that nobody else uses.
_SCHEMA_LOCK = 0x6D67_7265_636F_7264


class RecordRefused(LedgerUnavailable):
    """The database is well, but will not have a value that it was given."""


class Database:
    """One database. `url` may hold a password, which shows nowhere.

    Raises ValueError for a URL that cannot be understood or that needs a package that is not installed.
    """

    def __init__(self, url: str | URL) -> None:
        self._url = _parsed(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._is_writer = True
        try:
            self._engine = self._made()
        except (ImportError, NoSuchModuleError) as error:
            raise ValueError("PostgreSQL needs a package more: pip install 'messages-gateway[postgres]'") from error
        self._is_prepared = False

    @classmethod
    def in_folder(cls, folder: Path) -> Database:
        """The SQLite database of a data folder, whatever that is called."""
        return cls(URL.create("sqlite", database=str(folder.absolute() / "records.db")))

    def prepare(self) -> None:
        """Connect, and bring the schema up to date, once. Raises LedgerUnavailable.

        Any number of processes may do so at once: one of them changes the schema, the others wait.
        """
        if self._is_prepared:
            return
        if self.is_sqlite:
            self._make_private()
        with self.transaction() as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
            self._refuse_newer(connection)
            migrate(connection)
        self._is_prepared = True

    def prepare_to_read(self) -> None:
        """See that there is something to read. Raises LedgerUnavailable."""
        self._is_writer = False
        if self.is_sqlite and not self._file.exists():
            raise LedgerUnavailable(f"nothing has been recorded yet: there is no {self._file}")
        with self.transaction() as connection:
            self._refuse_newer(connection)
            version = version_of(connection)
        if version == 0:
            raise LedgerUnavailable("nothing has been recorded yet: the database holds no records")
        if version < SCHEMA_VERSION:
            raise LedgerUnavailable(
                f"the database has schema {version} and this program's is {SCHEMA_VERSION}: start the gateway once, "
                "to bring it up to date"
            )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction. Raises LedgerUnavailable, after which it has not happened, or nobody knows whether it has;
        and RecordRefused, after which it has not.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (DataError, IntegrityError) as error:
            raise RecordRefused(type(error).__name__) from None
        except SQLAlchemyError as error:
            self._is_prepared = False
            self._engine.dispose()
            raise LedgerUnavailable(self._words(error)) from None  # its text may quote what was to be stored

    def close(self) -> None:
        """Let go of the connection."""
        self._engine.dispose()

    def __repr__(self) -> str:
        shown = self._url.set(query={})  # which may hold a password, too
        return f"<Database {shown.render_as_string(hide_password=True)}>"

    @property
    def _file(self) -> Path:
        return Path(self._url.database or "")

    def _made(self) -> Engine:
        if self.is_sqlite:
            arguments: dict[str, Any] = {"timeout": _BUSY_SECONDS, "check_same_thread": False}
        else:
            arguments = {
                "connect_timeout": _CONNECT_SECONDS,
                "application_name": "messages-gateway",
                "tcp_user_timeout": 1000 * _STATEMENT_SECONDS,
                "options": f"-c statement_timeout={1000 * _STATEMENT_SECONDS}",
            }
            arguments = {name: value for name, value in arguments.items() if name not in self._url.query}
        engine = create_engine(
            self._url, connect_args=arguments, hide_parameters=True, poolclass=QueuePool, pool_size=1, max_overflow=0
        )
        if self.is_sqlite:
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", self._begin_sqlite)
        return engine

    def _begin_sqlite(self, connection: Connection) -> None:
        """Writers take their place in the queue at once: one that begins as a reader can fail when it writes."""
        connection.exec_driver_sql("BEGIN IMMEDIATE" if self._is_writer else "BEGIN")

    def _make_private(self) -> None:
        try:
            os.close(os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise LedgerUnavailable(f"{self._file} cannot be written: {error.strerror}") from error

    def _refuse_newer(self, connection: Connection) -> None:
        version = version_of(connection)
        if version > SCHEMA_VERSION:
            raise LedgerUnavailable(
                f"the database has schema {version}, and this program knows no schema after {SCHEMA_VERSION}; "
                "a newer gateway has used it"
            )

    def _words(self, error: SQLAlchemyError) -> str:
        """The first line of what the driver says, which quotes neither statement nor values."""
        told = str(error.orig) if isinstance(error, DBAPIError) else type(error).__name__
        line = next(iter(told.strip().splitlines()), type(error).__name__)
        return line.replace(self._url.password, "***") if self._url.password else line


def _parsed(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("it is not a URL of the form sqlite:///PATH or postgresql://USER@HOST/NAME") from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ValueError("only sqlite and postgresql databases are supported")
    if backend == "sqlite" and (not parsed.database or parsed.database == ":memory:"):
        raise ValueError("a database in memory would be lost: name a file, sqlite:///PATH")
    return parsed.set(drivername="sqlite" if backend == "sqlite" else "postgresql+psycopg")


def _prepare_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, see _begin_sqlite
    cursor = connection.cursor()
    _switch_to_wal(cursor)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    """SQLite itself does not wait here, whatever the time-out, when several processes begin a database at once."""
    gives_up_at = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() >= gives_up_at:
                raise
            time.sleep(_BUSY_LOOK_SECONDS)

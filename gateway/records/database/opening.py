"""Opening the database of records, by its URL.

Owns: the transaction, the lock under which the schema is changed, and words for what goes wrong that hold no password.
A Database is used by one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from gateway.records.database.schema import SCHEMA_VERSION, migrate, version_of
from gateway.records.database.sqlite import SqliteFile
from gateway.records.forwarder import ConnectionLost, DatabaseUnavailable

log = logging.getLogger(__name__)

# The advisory lock under which a PostgreSQL schema is changed: any number that nobody else uses.
_SCHEMA_LOCK = 0x6D67_7265_636F_7264


class RecordRefused(DatabaseUnavailable):
    """The database is well, but will not have a value that it was given."""


class Database:
    """One database. `url` may hold a password, which shows nowhere.

    Raises ValueError for a URL that cannot be understood or that needs a package that is not installed.
    """

    def __init__(self, url: str | URL) -> None:
        self._url = _parsed(url)
        self._file = SqliteFile(Path(self._url.database or "")) if self._url.get_backend_name() == "sqlite" else None
        try:
            self._engine = self._made()
        except (ImportError, NoSuchModuleError) as error:
            raise ValueError("PostgreSQL needs one more package: pip install 'messages-gateway[postgres]'") from error
        self._is_prepared = False

    @classmethod
    def in_folder(cls, folder: Path) -> Database:
        """The SQLite database of a data folder, whatever that is called."""
        return cls(URL.create("sqlite", database=str(folder.absolute() / "records.db")))

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite database."""
        return self._file is not None

    @property
    def place(self) -> str:
        """Where it is: a file, or a server's URL without its password."""
        return str(self._file.path) if self._file is not None else self._shown

    def prepare(self) -> None:
        """Connect, and bring the schema up to date, once. Raises DatabaseUnavailable.

        Any number of processes may do so at once: one of them changes the schema, the others wait.
        """
        if self._is_prepared:
            return
        if self._file is not None:
            self._file.make_private()
        with self.transaction() as connection:
            if self._known_version(connection) < SCHEMA_VERSION:
                if self._file is None:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
                self._known_version(connection)  # another may have changed it meanwhile
                migrate(connection)
        self._is_prepared = True

    def prepare_to_read(self) -> None:
        """See that there is something to read. Raises DatabaseUnavailable."""
        if self._file is not None:
            self._file.is_writer = False
            if not self._file.path.exists():
                raise DatabaseUnavailable(f"nothing has been recorded yet: there is no {self.place}")
        with self.transaction() as connection:
            self._known_version(connection)
            version = version_of(connection)
        if version == 0:
            raise DatabaseUnavailable(f"nothing has been recorded yet: {self.place} holds no records")
        if version < SCHEMA_VERSION:
            raise DatabaseUnavailable(
                f"the database has schema {version} and this program's is {SCHEMA_VERSION}: start the gateway once, "
                "to bring it up to date"
            )

    def try_out(self, data_folder: Path) -> None:
        """See that a gateway could use it, and change nothing. Raises DatabaseUnavailable.

        `data_folder` may be missing: a gateway makes it when it starts.
        """
        if self._file is not None:
            if self._file.path.parent == data_folder.absolute() and not data_folder.is_dir():
                return
            self._file.is_writer = False
            self._file.refuse_unwritable()
            if not self._file.path.exists():
                return
        with self.transaction() as connection:
            self._known_version(connection)
            if self._file is None and version_of(connection) < SCHEMA_VERSION:
                _refuse_without_rights(connection)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction. Raises DatabaseUnavailable, after which it has not happened, or nobody knows whether it has;
        and RecordRefused, after which it has not.
        """
        try:
            self._see_file()
            with self._engine.begin() as connection:
                yield connection
            self._see_file()  # or what was stored may be gone already
        except (DataError, IntegrityError) as error:
            raise RecordRefused(type(error).__name__) from None
        except (SQLAlchemyError, OSError) as error:
            self._forget_connection()
            kind = ConnectionLost if _is_cut(error) else DatabaseUnavailable
            raise kind(self._words(error)) from None  # its text may quote what was to be stored
        except DatabaseUnavailable:
            self._forget_connection()
            raise

    def close(self) -> None:
        """Let go of the connection."""
        self._engine.dispose()

    def __repr__(self) -> str:
        return f"<Database {self._shown}>"

    @property
    def _shown(self) -> str:
        """The URL without its query, which may hold a password, too."""
        return self._url.set(query={}).render_as_string(hide_password=True)

    def _made(self) -> Engine:
        arguments: dict[str, Any]
        attend: Callable[[Engine], None]
        if self._file is not None:
            arguments, attend = self._file.arguments(), self._file.attend
        else:
            from gateway.records.database import postgresql  # needs a package that most gateways do not have

            arguments, attend = postgresql.arguments(self._url.query), postgresql.attend
        engine = create_engine(
            self._url, connect_args=arguments, hide_parameters=True, poolclass=QueuePool, pool_size=1, max_overflow=0
        )
        attend(engine)
        return engine

    def _forget_connection(self) -> None:
        self._is_prepared = False
        self._engine.dispose()

    def _see_file(self) -> None:
        """Raise ConnectionLost if a database in a file is not there any more, or another one is."""
        if self._file is None:
            return
        try:
            self._file.see()
        except ConnectionLost as error:
            log.warning("%s: from now on another is used, without what the old one held", error)
            raise

    def _known_version(self, connection: Connection) -> int:
        """The schema's version. Raises DatabaseUnavailable if this program does not know it."""
        version = version_of(connection)
        if version > SCHEMA_VERSION:
            raise DatabaseUnavailable(
                f"the database has schema {version}, and this program knows no schema after {SCHEMA_VERSION}; "
                "a newer gateway has used it"
            )
        return version

    def _words(self, error: SQLAlchemyError | OSError) -> str:
        """The first line of what the driver says, which quotes neither statement nor values."""
        told = type(error).__name__
        if isinstance(error, DBAPIError):
            told = str(error.orig)
        elif isinstance(error, OSError):
            told = error.strerror or told
        line = next(iter(told.strip().splitlines()), type(error).__name__)
        return line.replace(self._url.password, "***") if self._url.password else line


def _refuse_without_rights(connection: Connection) -> None:
    """Raise DatabaseUnavailable if this user may not make tables where a gateway would make them."""
    user, schema, may_create = connection.execute(
        text("SELECT current_user, current_schema(), has_schema_privilege(current_schema(), 'CREATE')")
    ).one()
    if not may_create:
        raise DatabaseUnavailable(f"its user {user} may not make tables in the schema {schema or 'of the database'}")


def _is_cut(error: Exception) -> bool:
    """Whether a connection that had been made was closed from the other side."""
    return isinstance(error, DBAPIError) and error.connection_invalidated and not isinstance(error.orig, TimeoutError)


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

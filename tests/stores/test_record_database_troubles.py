"""A database of records that is silent, cut off, replaced or unfit: no step waits without a bound, and it is told."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.records.database import Database, DatabaseWriter, Reader
from gateway.records.database.opening import _SCHEMA_LOCK
from gateway.records.forwarder import ConnectionLost, DatabaseUnavailable
from gateway.records.recorder import Recorder
from gateway.records.spool import FileSpool
from tests.full_disk import SmallDisk
from tests.harness import wait_until
from tests.record_samples import NOW, record_of
from tests.stores.postgres_server import PASSWORD, PostgresServer
from tests.stores.silent_path import SilentPath
from tests.unit.records.test_recorder import FakeMeter

SOON_SECONDS = 60.0
STEP_SECONDS = 3.0

ENCODINGS = ("LATIN1", "EUC_JP", "WIN1252")


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough for a busy machine, short enough to be waited for."""
    monkeypatch.setattr("gateway.records.database.postgresql.STEP_SECONDS", STEP_SECONDS)
    monkeypatch.setattr("gateway.records.database.postgresql.CONNECT_SECONDS", STEP_SECONDS)
    monkeypatch.setattr("gateway.records.database.sqlite.BUSY_SECONDS", 0.5)


silence = pytest.mark.usefixtures("short_deadlines")


@pytest.fixture
def path(postgres: PostgresServer) -> Iterator[SilentPath]:
    with closing(SilentPath(postgres.port)) as path:
        yield path


class Recording:
    """A recorder on a real spool and a real database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.meter = FakeMeter()
        self._spool = FileSpool(folder)
        self.recorder = Recorder(self._spool, lambda: writer_of(url), self.meter)
        self.recorder.start()

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.recorder.put(record_of(number))

    def is_stored(self, number: int, url: str | None = None) -> bool:
        return wait_until(lambda: f"req_gw_{number}" in ids_in(url or self.url), SOON_SECONDS)

    def close(self) -> None:
        self.recorder.close()


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Callable[[str], Recording]]:
    """Starts a recorder on the database at a URL; it is stopped after the test."""
    begun: list[Recording] = []

    def begin(url: str) -> Recording:
        begun.append(Recording(url, tmp_path / "data" / "journal"))
        return begun[-1]

    yield begin
    for each in begun:
        each.close()


def writer_of(url: str) -> DatabaseWriter:
    return DatabaseWriter(Database(url), 30, lambda: NOW)


def ids_in(url: str) -> set[str]:
    """The ids of the interceptions in a database; none while it cannot be read."""
    try:
        if url.startswith("postgresql"):
            with psycopg.connect(url, connect_timeout=5) as connection:
                return {id for (id,) in connection.execute("SELECT id FROM interceptions")}
        with closing(sqlite3.connect(f"file:{url.removeprefix('sqlite:///')}?mode=ro", uri=True)) as database:
            return {id for (id,) in database.execute("SELECT id FROM interceptions")}
    except (psycopg.Error, sqlite3.Error):
        return set()


def read(url: str) -> list[Any]:
    """What `gateway explain` asks."""
    with closing(Database(url)) as database:
        database.prepare_to_read()
        return list(Reader(database).find("req_gw_1"))


def rid_of_waiting(work: Callable[[], object]) -> DatabaseUnavailable:
    """The work gives up by itself; what it says."""
    outcome: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  # it is looked at below
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(SOON_SECONDS)
    assert not thread.is_alive()
    [error] = outcome
    assert isinstance(error, DatabaseUnavailable), repr(error)
    return error


# Silence.


@silence
def test_a_stopped_server_ends_every_step_and_is_used_again(postgres: PostgresServer) -> None:
    """Given a PostgreSQL that is stopped in use; then writing, forgetting, connecting and reading give up, told so."""
    url = postgres.new_database()
    with closing(writer_of(url)) as writing, closing(writer_of(url)) as forgetting, closing(Database(url)) as reading:
        for writer in (writing, forgetting):
            writer.prepare()
            writer.write([record_of(1)])
        reading.prepare_to_read()
        Reader(reading).find("req_gw_1")
        postgres.pause()
        try:
            told = [
                rid_of_waiting(lambda: writing.write([record_of(2)])),
                rid_of_waiting(lambda: forgetting.forget(10)),
                rid_of_waiting(lambda: Reader(reading).find("req_gw_1")),
            ]
            assert [str(error) for error in told] == [
                f"the server has not answered for {STEP_SECONDS:g} s; the connection is given up"
            ] * 3
            assert not any(isinstance(error, ConnectionLost) for error in told)
            assert "could not be connected to" in str(rid_of_waiting(writing.prepare))
            assert "could not be connected to" in str(rid_of_waiting(lambda: read(url)))
            writing.close()
        finally:
            postgres.resume()
        assert wait_until(lambda: is_ready(writing), SOON_SECONDS)
        writing.write([record_of(2)])
    assert ids_in(url) == {"req_gw_1", "req_gw_2"}


def is_ready(writer: DatabaseWriter) -> bool:
    with suppress(DatabaseUnavailable):
        writer.prepare()
        return True
    return False


@silence
def test_a_commit_is_not_waited_for_without_end(postgres: PostgresServer, path: SilentPath) -> None:
    """Given a path that falls silent before the commit; then that gives up, and the batch can be sent again."""
    url = postgres.new_database()
    with closing(Database(path.through(url))) as database:
        database.prepare()

        def commit() -> None:
            with database.transaction() as connection:
                connection.exec_driver_sql("SELECT 1")
                path.fall_silent()

        assert "has not answered" in str(rid_of_waiting(commit))


@silence
@pytest.mark.parametrize("when", ["while the schema is made", "while records are stored"])
def test_a_writer_that_was_lost_with_its_path_holds_up_nobody(
    postgres: PostgresServer, path: SilentPath, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Given a path that falls silent within a transaction; then the server ends that, and others store the records."""
    monkeypatch.setattr("gateway.records.database.postgresql.STATEMENT_SECONDS", 2)
    url = postgres.new_database()
    with closing(writer_of(path.through(url))) as lost, closing(writer_of(url)) as other:
        if when == "while the schema is made":
            with monkeypatch.context() as patch:
                patch.setattr("gateway.records.database.opening.migrate", lambda _: path.fall_silent())
                assert "has not answered" in str(rid_of_waiting(lost.prepare))
        else:
            lost.prepare()
            real = lost._insert

            def insert(*arguments: Any) -> None:
                real(*arguments)
                path.fall_silent()

            monkeypatch.setattr(lost, "_insert", insert)
            assert "has not answered" in str(rid_of_waiting(lambda: lost.write([record_of(1)])))
        assert wait_until(lambda: is_ready(other), SOON_SECONDS)

        def is_stored() -> bool:
            with suppress(DatabaseUnavailable):
                other.write([record_of(1)])
                return True
            return False

        assert wait_until(is_stored, SOON_SECONDS)
    assert ids_in(url) == {"req_gw_1"}


def test_a_schema_that_is_current_is_used_without_the_lock_of_those_who_change_it(postgres: PostgresServer) -> None:
    """Given somebody who holds the lock of the schema; then a database that is up to date is ready all the same."""
    url = postgres.new_database()
    with closing(writer_of(url)) as first:
        first.prepare()
    with psycopg.connect(url) as holder, closing(writer_of(url)) as second:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", [_SCHEMA_LOCK])
        second.prepare()
        second.write([record_of(1)])
    assert ids_in(url) == {"req_gw_1"}


@silence
def test_a_server_that_answers_a_byte_at_a_time_is_silent(postgres: PostgresServer, path: SilentPath) -> None:
    """Given an answer of which something always comes and which never ends; then that gives up, too."""
    url = postgres.new_database()
    with closing(Database(url)) as database:
        database.prepare()

        def notices() -> None:
            with database.transaction() as connection:
                connection.exec_driver_sql(
                    "DO $$ BEGIN LOOP RAISE NOTICE 'x'; PERFORM pg_sleep(0.01); END LOOP; END $$"
                )

        assert "has not answered" in str(rid_of_waiting(notices))


@silence
def test_a_name_that_nobody_resolves_is_not_waited_for(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a resolver that does not answer; then connecting gives up."""
    is_over = threading.Event()
    real = psycopg._conninfo_attempts.socket.getaddrinfo

    def hanging(*arguments: object, **named: object) -> object:
        is_over.wait(SOON_SECONDS)
        return real(*arguments, **named)

    url = postgres.new_database().replace("127.0.0.1", "localhost")
    monkeypatch.setattr("socket.getaddrinfo", hanging)
    try:
        assert "could not be connected to within" in str(rid_of_waiting(lambda: read(url)))
    finally:
        is_over.set()


@silence
def test_recording_goes_on_over_a_new_connection_when_a_silent_path_is_well_again(
    postgres: PostgresServer, path: SilentPath, recording: Callable[[str], Recording], caplog: pytest.LogCaptureFixture
) -> None:
    """Given a path that takes all and forwards nothing; then that is told when it begins and ends; nothing is lost."""
    caplog.set_level(logging.INFO, "gateway.shipper")
    url = postgres.new_database()
    running = recording(path.through(url))
    running.put(1)
    assert running.is_stored(1, url)
    path.fall_silent()
    running.put(2)
    assert wait_until(lambda: "the server has not answered" in caplog.text, SOON_SECONDS)
    running.put(3)
    path.recover()
    assert running.is_stored(2, url)
    assert running.is_stored(3, url)
    assert wait_until(lambda: "records are stored again" in caplog.text, SOON_SECONDS)
    assert caplog.text.count("the server has not answered") == 1
    assert "Traceback" not in caplog.text
    assert PASSWORD not in caplog.text
    assert running.meter.lost == {}


@silence
def test_a_path_that_is_silent_from_the_start_is_told(
    postgres: PostgresServer, path: SilentPath, recording: Callable[[str], Recording], caplog: pytest.LogCaptureFixture
) -> None:
    """Given a path that is silent before anybody connects; then that is told, and recording begins when it is well."""
    url = postgres.new_database()
    path.fall_silent()
    running = recording(path.through(url))
    running.put(1)
    assert wait_until(lambda: "could not be connected to within" in caplog.text, SOON_SECONDS)
    path.recover()
    assert running.is_stored(1, url)


@silence
def test_a_sqlite_that_stays_locked_is_given_up(tmp_path: Path) -> None:
    """Given another process that holds the database; then every step ends, and says why."""
    url = f"sqlite:///{tmp_path / 'records.db'}"
    with closing(writer_of(url)) as writer, closing(sqlite3.connect(tmp_path / "records.db")) as other:
        writer.prepare()
        writer.write([record_of(1)])
        other.execute("BEGIN EXCLUSIVE")
        for work in (lambda: writer.write([record_of(2)]), lambda: writer.forget(1), writer.prepare, lambda: read(url)):
            assert "locked" in str(rid_of_waiting(work))
        other.rollback()
        assert is_ready(writer)
        writer.write([record_of(2)])
    assert ids_in(url) == {"req_gw_1", "req_gw_2"}


# Connections that are cut.


def _end_sessions(postgres: PostgresServer, url: str) -> None:
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [url.rpartition("/")[2]]
        )


def test_a_connection_that_was_cut_is_replaced_in_silence(
    postgres: PostgresServer, path: SilentPath, recording: Callable[[str], Recording], caplog: pytest.LogCaptureFixture
) -> None:
    """Given connections that the server, or what stands before it, ends between two records; then nobody is told."""
    caplog.set_level(logging.INFO)
    url = postgres.new_database()
    running = recording(path.through(url))
    running.put(0)
    assert running.is_stored(0, url)
    for number, cut in enumerate([lambda: _end_sessions(postgres, url), path.cut] * 3, start=1):
        before = path.connections
        cut()
        running.put(number)
        assert running.is_stored(number, url)
        assert path.connections > before
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO] == []


@pytest.mark.parametrize("setting", ["idle_session_timeout", "idle_in_transaction_session_timeout"])
def test_an_idle_time_out_of_the_server_is_a_lost_connection(
    postgres: PostgresServer, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a server that ends idle sessions; then what fails by that says that a new connection may do."""
    url = postgres.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET {setting} = 200")
    is_in_transaction = setting == "idle_in_transaction_session_timeout"

    def ask(database: Database, then: Callable[[int], None] = lambda pid: None) -> int:
        with database.transaction() as connection:
            pid: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            then(pid)
            connection.exec_driver_sql("SELECT 1")
        return pid

    def wait_for_end(pid: int) -> None:
        assert wait_until(lambda: not _is_alive(postgres, pid), SOON_SECONDS)

    with closing(Database(url)) as database:
        if not is_in_transaction:
            wait_for_end(ask(database))
        with pytest.raises(ConnectionLost):
            ask(database, wait_for_end if is_in_transaction else lambda pid: None)
        ask(database)
    assert "Traceback" not in caplog.text


def _is_alive(postgres: PostgresServer, pid: int) -> bool:
    with psycopg.connect(postgres.url("postgres")) as connection:
        return bool(connection.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchall())


# Databases that are not fit.


def _database_of(postgres: PostgresServer, encoding: str) -> str:
    name = f"{encoding.lower()}_{time.monotonic_ns()}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    return postgres.url(name)


def test_a_database_without_an_encoding_is_refused_clearly(
    postgres: PostgresServer, recording: Callable[[str], Recording], caplog: pytest.LogCaptureFixture
) -> None:
    """Given a PostgreSQL database in SQL_ASCII; then writing and reading say what it needs, once, and nothing else."""
    url = _database_of(postgres, "SQL_ASCII")
    assert "SQL_ASCII" in str(rid_of_waiting(lambda: read(url)))
    running = recording(url)
    running.put(1)
    assert wait_until(lambda: "ENCODING 'UTF8'" in caplog.text, SOON_SECONDS)
    running.put(2)
    running.close()
    assert caplog.text.count("SQL_ASCII") == 1
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_other_encodings_hold_what_they_can(postgres: PostgresServer, encoding: str) -> None:
    """Given a database in an encoding that converts from UTF-8; then records are stored in it, and read as they were.

    A text that it cannot hold is refused for good, and no others with it.
    """
    url = _database_of(postgres, encoding)
    with closing(writer_of(url)) as writer:
        writer.prepare()
        assert writer.write([record_of(1), record_of(2, token="\N{GRINNING FACE}")]) == 1
    assert read(url) == [record_of(1)]


@pytest.mark.parametrize("where", ["environment", "role", "url"])
def test_a_client_encoding_that_is_set_elsewhere_changes_nothing(
    postgres: PostgresServer, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a preference for SQL_ASCII, in which texts would arrive as bytes; then records are as they were."""
    url = postgres.new_database()
    if where == "environment":
        monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    elif where == "url":
        url += "?client_encoding=SQL_ASCII"
    else:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET client_encoding = 'SQL_ASCII'")
    with closing(writer_of(url)) as writer:
        writer.prepare()
        assert writer.write([record_of(1, token="Zoë")]) == 0
    assert read(url) == [record_of(1, token="Zoë")]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("DELETE FROM gateway_schema", "is empty"),
        ("INSERT INTO gateway_schema VALUES (7)", "does not"),
        ("UPDATE gateway_schema SET version = -1", "does not"),
    ],
)
def test_a_schema_table_that_says_nothing_is_told_with_what_to_do(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, statement: str, word: str
) -> None:
    """Given a schema table that was emptied, or has nonsense in it; then the words name it, and what belongs there."""
    url = f"sqlite:///{tmp_path / 'records.db'}"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
    with closing(writer_of(url)) as writer:
        writer.prepare()
    if kind == "postgresql":
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement)
    else:
        with closing(sqlite3.connect(tmp_path / "records.db", isolation_level=None)) as database:
            database.execute(statement)
    with closing(writer_of(url)) as writer:
        for work in (writer.prepare, lambda: read(url)):
            told = str(rid_of_waiting(work))
            assert "gateway_schema must hold one row" in told
            assert word in told


# Files that are removed or replaced.


def _remove(file: Path) -> None:
    file.unlink()


def _replace(file: Path) -> None:
    file.rename(file.with_name("moved.db"))
    shutil.copy(file.with_name("moved.db"), file)


def _move_folder(file: Path) -> None:
    file.parent.rename(file.parent.with_name("moved"))
    file.parent.mkdir()


def _remove_folder(file: Path) -> None:
    shutil.rmtree(file.parent)


@pytest.mark.parametrize("harm", [_remove, _replace, _move_folder, _remove_folder])
def test_a_database_file_that_is_gone_is_begun_anew(
    tmp_path: Path,
    harm: Callable[[Path], None],
    recording: Callable[[str], Recording],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Given records.db, or its folder, removed or replaced in use; then that is told, and what comes is kept."""
    file = tmp_path / "data" / "records.db"
    file.parent.mkdir()
    url = f"sqlite:///{file}"
    running = recording(url)
    running.put(1)
    assert running.is_stored(1)
    harm(file)
    running.put(2, 3)
    assert running.is_stored(2)
    assert running.is_stored(3)
    assert caplog.text.count(f"{file} was removed or replaced while it was in use") == 1
    assert "cannot be used" not in caplog.text
    assert running.meter.lost == {}
    if harm is not _replace:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_is_removed_behind_a_commit_is_stored_again(tmp_path: Path) -> None:
    """Given a file that vanishes while a batch is written; then that is no success, and the batch can be sent again."""
    url = f"sqlite:///{tmp_path / 'records.db'}"
    with closing(Database(url)) as database:
        database.prepare()
        with pytest.raises(ConnectionLost), database.transaction():
            (tmp_path / "records.db").unlink()


# A disk without room.


def test_sqlite_maps_no_file_into_memory(tmp_path: Path) -> None:
    """Given a database of an earlier version, with a write-ahead log; then nothing of it is mapped, here or later.

    Touching a mapped page for which a full disk has no room kills the process.
    """
    file = tmp_path / "records.db"
    url = f"sqlite:///{file}"
    with closing(writer_of(url)) as writer:
        writer.prepare()
    with closing(sqlite3.connect(file)) as before:
        before.execute("PRAGMA journal_mode=WAL")
        before.execute("UPDATE gateway_schema SET version = version")
        before.commit()
        assert (tmp_path / "records.db-shm").exists()
    with closing(writer_of(url)) as writer:
        writer.prepare()
        writer.write([record_of(1)])
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
        assert not (tmp_path / "records.db-shm").exists()
        assert read(url) == [record_of(1)]


def test_a_full_disk_is_told_and_loses_nothing(small_disk: SmallDisk, caplog: pytest.LogCaptureFixture) -> None:
    """Given a disk that is full of both the spool and the database; then records wait in memory, and none is lost."""
    caplog.set_level(logging.INFO)
    url = f"sqlite:///{small_disk.folder / 'records.db'}"
    running = Recording(url, small_disk.folder / "journal")
    try:
        running.put(*range(10))
        assert running.is_stored(9)
        small_disk.fill()
        running.put(*range(10, 500))
        assert wait_until(lambda: "the spool cannot be written to: No space left" in caplog.text, SOON_SECONDS)
        assert running.meter.lost == {}
        small_disk.free()
        assert wait_until(lambda: len(ids_in(url)) == 500, SOON_SECONDS)
        assert wait_until(lambda: "the spool can be written to again" in caplog.text, SOON_SECONDS)
        assert running.meter.lost == {}
    finally:
        running.close()


def test_a_database_on_a_full_disk_is_told_and_has_all_in_the_end(
    small_disk: SmallDisk, recording: Callable[[str], Recording], caplog: pytest.LogCaptureFixture
) -> None:
    """Given a disk that is full of the database alone; then records wait in the spool, and all are stored later."""
    url = f"sqlite:///{small_disk.folder / 'records.db'}"
    running = recording(url)
    running.put(0)
    assert running.is_stored(0)
    small_disk.fill()
    running.put(*range(1, 200))
    assert wait_until(lambda: "disk is full" in caplog.text or "disk I/O error" in caplog.text, SOON_SECONDS)
    small_disk.free()
    assert wait_until(lambda: len(ids_in(url)) == 200, SOON_SECONDS)
    assert running.meter.lost == {}

"""Recording in a real gateway whose files, folder or database somebody tampers with: it says so, and goes on."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.records.interception_record import encode_record
from gateway.runtime.data_folder import spool_folder
from tests.e2e.recorded import run_command
from tests.e2e.test_recording import KEYS, SOON_SECONDS, Stage
from tests.harness import GatewayProcess, wait_until
from tests.record_samples import record_of
from tests.stores.odd_entries import put_all
from tests.stores.postgres_server import PASSWORD, PostgresServer
from tests.stores.silent_path import SilentPath


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """With the default database."""
    with closing(Stage(tmp_path)) as stage:
        yield stage


@pytest.fixture
def path(postgres: PostgresServer) -> Iterator[SilentPath]:
    with closing(SilentPath(postgres.port)) as path:
        yield path


def test_odd_entries_in_the_spool_hold_up_nothing(stage: Stage) -> None:
    """Given all that may lie in the spool's folder; then each is named, and all records are stored."""
    folder = spool_folder(str(stage.data_dir))
    stage.ask("first")
    stage.records.wait_for(["first"])
    names = put_all(folder)
    (folder / "9-dead.jsonl").write_bytes(encode_record(record_of(1, session="dead")))
    stage.ask("later")
    stage.assert_each_is_recorded_once(["first", "later", "dead"])
    for name in names:
        stage.gateway.wait_for_log(f"{name!r} in {folder} is left out", SOON_SECONDS)
    assert stage.lost() == 0
    log = stage.gateway.stop()
    assert "Traceback" not in log
    assert "\x1b" not in log


def test_a_database_and_spool_that_are_removed_are_begun_anew(stage: Stage) -> None:
    """Given somebody who removes records.db and the spool under a running gateway; then it says so and goes on."""
    for number in range(4):  # so that each worker has opened both
        stage.ask(f"before-{number}")
    stage.records.wait_for([f"before-{number}" for number in range(4)])
    (stage.data_dir / "records.db").unlink()
    shutil.rmtree(spool_folder(str(stage.data_dir)))
    sessions = [f"after-{number}" for number in range(8)]
    for session in sessions:
        assert stage.ask(session) == 200
    stage.assert_each_is_recorded_once(sessions)
    assert stage.lost() == 0
    log = stage.gateway.stop()
    assert "records.db was removed or replaced while it was in use" in log
    assert "Traceback" not in log


def test_a_second_gateway_is_refused_where_the_lock_was_removed(stage: Stage) -> None:
    """Given a lock that somebody removed; then the gateway holds a new one, and a second is refused as before."""
    (stage.data_dir / "lock").unlink()
    stage.gateway.wait_for_log("was removed or replaced: it is begun anew", SOON_SECONDS)
    second = GatewayProcess(stage.simulator.url, [f"a={KEYS['good']}"], must_start=False, data_dir=str(stage.data_dir))
    assert second.wait(SOON_SECONDS) != 0
    assert "another gateway uses the data folder" in second.stop()
    assert stage.ask("first") == 200
    stage.assert_each_is_recorded_once(["first"])


def test_a_gateway_whose_folder_another_has_taken_stops(stage: Stage) -> None:
    """Given a folder in whose place another gateway was quicker; then this one says so and stops: one folder each."""
    stage.ask("first")
    theirs = stage.data_dir / "lock.theirs"
    with theirs.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        theirs.replace(stage.data_dir / "lock")
        assert stage.gateway.wait(SOON_SECONDS) == 1
    assert "another gateway uses the data folder" in stage.gateway.stop()
    stage.assert_each_is_recorded_once(["first"])


def test_commands_do_not_wait_for_a_silent_database(postgres: PostgresServer, path: SilentPath, tmp_path: Path) -> None:
    """Given a path that takes all and forwards nothing; then `report`, `explain` and `check` say so."""
    path.fall_silent()
    url = path.through(postgres.new_database())
    for words in (["report"], ["explain", "req_gw_1"]):
        done = run_command(tmp_path, *words, record_url=url)  # which waits for a minute
        assert done.returncode == 1
        assert "timeout expired" in done.stderr
        assert "no record of" not in done.stderr
        assert "has no records" not in done.stderr
        assert "Traceback" not in done.stderr
        assert PASSWORD not in done.stderr
    checked = run_command(tmp_path, "check", record_url=url, bind="127.0.0.1:0")
    assert checked.returncode == 1
    assert "GATEWAY_RECORD_URL: the database of records" in checked.stderr
    assert PASSWORD not in checked.stdout + checked.stderr


def test_a_silent_database_holds_up_neither_requests_nor_the_stop(
    postgres: PostgresServer, path: SilentPath, tmp_path: Path
) -> None:
    """Given a path that falls silent; then requests are answered, the stop is in time, and the next start has all."""
    url = postgres.new_database()
    stage = Stage(tmp_path, path.through(url))
    try:
        stage.ask("first")
        stage.records.wait_for(["first"])
        path.fall_silent()
        sessions = [f"silent-{number}" for number in range(10)]
        for session in sessions:
            assert stage.ask(session) == 200
        began_at = time.monotonic()
        stage.gateway.stop()
        assert time.monotonic() - began_at < SOON_SECONDS
        assert wait_until(lambda: set(stage.waiting) == set(sessions), SOON_SECONDS)
        path.recover()
        stage.start()
        stage.assert_each_is_recorded_once(["first", *sessions])
    finally:
        stage.close()

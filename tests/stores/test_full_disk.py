"""The data folder on a disk that is full: nobody who uses its files is killed, and all goes on when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.embedded_store import EmbeddedStore
from gateway.ledger import Database, DatabaseLedger
from gateway.records import Cause
from gateway.shipper import LedgerUnavailable
from tests.full_disk import SmallDisk
from tests.record_samples import record_of

ROOT = Path(__file__).parents[2]
LIMITED = Cause("rate_limited", 429, 0.0)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "small", size_bytes=8 << 20) as disk:
        yield disk


# The slots of so many readers do not fit into the lock file's first page, which is written to when it is opened.
READ = """
import sys
import threading
from pathlib import Path
from gateway.embedded_store import EmbeddedStore

store = EmbeddedStore(Path(sys.argv[1]))
print("opened", flush=True)
sys.stdin.readline()
together = threading.Barrier(200)

def read():
    with store._environment.begin() as transaction:
        transaction.get(b"salt")
        together.wait(60)

threads = [threading.Thread(target=read) for _ in range(200)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("read", flush=True)
"""


def begun(program: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("is_known", [False, True], ids=["new", "with-a-sparse-lock-file"])
def test_readers_of_the_keys_state_live_when_the_disk_is_full(disk, is_known):
    """Given a store that was opened, here or by an earlier program, when the disk is full and many threads read at
    once, then none is killed at a page of the lock file that has no block."""
    if is_known:
        EmbeddedStore(disk.folder).close()
        lock_file = disk.folder / "keys.lmdb-lock"
        size_bytes = lock_file.stat().st_size
        lock_file.unlink()
        with lock_file.open("wb") as file:
            file.truncate(size_bytes)
    process = begun(READ, disk.folder)
    assert process.stdout.readline() == "opened\n"
    disk.fill()
    told, _ = process.communicate("go\n", timeout=110)
    assert (told, process.returncode) == ("read\n", 0)


def test_marks_are_kept_while_the_disk_is_full(disk):
    """Given a store that was opened while there was room, when the disk is full, then marks go on, here and in a
    process that opens it only now."""
    with closing(EmbeddedStore(disk.folder)) as store:
        disk.fill()
        for turn in range(1, 200):
            store.cool(f"key-{turn % 20}", float(turn), 0, LIMITED)
        assert store.is_up
    with closing(EmbeddedStore(disk.folder)) as store:
        assert store.read(["key-0"])[0].cooling_until_at == 180.0
        store.cool("key-0", 999.0, 0, LIMITED)
        assert store.read(["key-0"])[0].cooling_until_at == 999.0


def test_a_lock_file_that_others_have_mapped_keeps_its_length(tmp_path):
    """Given a process that has the store open for few readers, when one opens it for more, then the lock file stays as
    long as it is: LMDB would look for slots behind the end of what the first has mapped."""
    process = begun(READ, tmp_path)
    assert process.stdout.readline() == "opened\n"
    size_bytes = (tmp_path / "keys.lmdb-lock").stat().st_size
    EmbeddedStore(tmp_path, threads=4096).close()
    assert (tmp_path / "keys.lmdb-lock").stat().st_size == size_bytes
    process.communicate("go\n", timeout=110)
    assert process.returncode == 0
    EmbeddedStore(tmp_path, threads=4096).close()
    assert (tmp_path / "keys.lmdb-lock").stat().st_size > size_bytes


# SQLite gives each page of its mapped index (`-shm`) a block before it writes to it.
RECORD = """
import sys
from pathlib import Path
from gateway.ledger import Database, DatabaseLedger
from gateway.shipper import LedgerUnavailable
from tests.record_samples import record_of

ledger = DatabaseLedger(Database.in_folder(Path(sys.argv[1])), 30)
ledger.prepare()
print("opened", flush=True)
number = 0
try:
    while True:
        ledger.prepare()
        ledger.write([record_of(number := number + 1) for _ in range(100)])
except LedgerUnavailable as error:
    print(error, flush=True)
sys.stdin.readline()
ledger.prepare()
print(ledger.write([record_of(0)]), flush=True)
"""


def test_writers_of_records_live_when_the_disk_is_full(disk):
    """Given two processes that record until the disk is full, then both are told so, and record again when there is
    room."""
    processes = [begun(RECORD, disk.folder) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "opened\n"
    disk.fill(but_bytes=1 << 20)
    for process in processes:
        assert process.stdout.readline() in ("database or disk is full\n", "disk I/O error\n")
    disk.free()
    for process in processes:
        told, _ = process.communicate("go\n", timeout=110)
        assert (told, process.returncode) == ("0\n", 0)


def test_database_that_finds_no_room_for_itself_is_begun_when_there_is(disk):
    """Given a disk that is full before there is a database, then it says so; with room, it records."""
    disk.fill()
    with closing(DatabaseLedger(Database.in_folder(disk.folder), 30)) as ledger:
        with pytest.raises(LedgerUnavailable):
            ledger.prepare()
        disk.free()
        ledger.prepare()
        assert ledger.write([record_of(0)]) == 0

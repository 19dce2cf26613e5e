"""The database of records on a disk that is full: nobody is killed, and all goes on when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.records.database import Database, DatabaseWriter
from gateway.records.forwarder import DatabaseUnavailable
from tests.full_disk import SmallDisk
from tests.record_samples import record_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "small", size_bytes=8 << 20) as disk:
        yield disk


def begun(program: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


RECORD = """
import sys
from pathlib import Path
from gateway.records.database import Database, DatabaseWriter
from gateway.records.forwarder import DatabaseUnavailable
from tests.record_samples import record_of

writer = DatabaseWriter(Database.in_folder(Path(sys.argv[1])), 30)
writer.prepare()
print("opened", flush=True)
number = 0
try:
    while True:
        writer.prepare()
        writer.write([record_of(number := number + 1) for _ in range(100)])
except DatabaseUnavailable as error:
    print(error, flush=True)
sys.stdin.readline()
writer.prepare()
print(writer.write([record_of(0)]), flush=True)
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
    with closing(DatabaseWriter(Database.in_folder(disk.folder), 30)) as writer:
        with pytest.raises(DatabaseUnavailable):
            writer.prepare()
        disk.free()
        writer.prepare()
        assert writer.write([record_of(0)]) == 0

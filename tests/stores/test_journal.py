"""The journal on a real disk: nothing that was written is lost, and nobody reads what another holds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.interception_record import encode_record
from gateway.journal import FileJournal, waiting_records
from tests.record_samples import record_of
from tests.unit.fakes import race

processes = multiprocessing.get_context("forkserver")
RECORD_BYTES = len(encode_record(record_of(1)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(folder: Path) -> Iterator[FileJournal]:
    journal = FileJournal(folder)
    yield journal
    journal.close()


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def test_what_was_appended_is_taken_in_order(journal: FileJournal, folder: Path) -> None:
    """Given records appended in several goes; then taking gives them all, and removing leaves no file."""
    assert journal.take() == []
    assert journal.append([record_of(1), record_of(2)]) == 2
    assert journal.append([record_of(3)]) == 1
    [segment] = journal.take()
    assert segment.read() == ([record_of(1), record_of(2), record_of(3)], 0)
    journal.append([record_of(4)])
    assert [record.id for record in waiting_records(folder)].count("req_gw_4") == 1
    journal.remove(segment)
    [later] = journal.take()
    assert later.read() == ([record_of(4)], 0)
    journal.remove(later)
    assert files(folder) == []


def test_a_segment_that_is_not_removed_is_given_again(journal: FileJournal) -> None:
    """Given the database was down when segments were taken; then the next time they come first."""
    journal.append([record_of(1)])
    [first] = journal.take()
    journal.append([record_of(2)])
    assert [segment.read()[0][0].id for segment in journal.take()] == ["req_gw_1", "req_gw_2"]
    assert first.read() == ([record_of(1)], 0)


def test_files_and_folder_are_private(journal: FileJournal, folder: Path) -> None:
    """Given an open-handed umask; then the journal is for its owner alone."""
    before = os.umask(0)
    try:
        journal.append([record_of(1)])
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(folder)] == [0o600]


def test_what_another_process_holds_is_left_alone_until_it_ends(journal: FileJournal, folder: Path) -> None:
    """Given two journals in one folder; then each has its own segments, and whoever stays takes over the rest."""
    other = FileJournal(folder)
    other.append([record_of(1)])
    journal.append([record_of(2)])
    [own] = journal.take()
    assert own.read()[0] == [record_of(2)]
    [sealed] = other.take()
    assert len(journal.take()) == 1
    other.close()
    assert {segment.read()[0][0].id for segment in journal.take()} == {"req_gw_1", "req_gw_2"}
    assert sealed.path.exists()


def _append_for_ever(folder: Path, ready: object) -> None:
    journal, number = FileJournal(folder), 0
    while True:
        journal.append([record_of(number)])
        number += 1
        if number == 50:
            ready.set()  # type: ignore[attr-defined]


def test_a_killed_process_leaves_every_whole_record(journal: FileJournal, folder: Path) -> None:
    """Given SIGKILL in the middle of writing; then all that was written before is there, and half a record is none."""
    ready = processes.Event()
    process = processes.Process(target=_append_for_ever, args=(folder, ready), daemon=True)
    process.start()
    assert ready.wait(60)
    assert process.pid is not None
    assert journal.take() == []
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    records = [record for segment in journal.take() for record in segment.read()[0]]
    assert [record.id for record in records] == [f"req_gw_{number}" for number in range(len(records))]
    assert len(records) >= 50


def test_segments_that_somebody_removed_stop_nothing(journal: FileJournal, folder: Path) -> None:
    """Given a segment whose file is deleted under the gateway; then it can be let go of, and the next is there."""
    journal.append([record_of(1)])
    [gone] = journal.take()
    gone.path.unlink()
    journal.append([record_of(2)])
    journal.remove(gone)
    [left] = journal.take()
    assert left.read()[0] == [record_of(2)]


def test_half_a_line_at_the_end_is_no_record_and_rubbish_is_counted(journal: FileJournal, folder: Path) -> None:
    """Given a segment that was damaged; then its good records are read, and the bad lines are counted."""
    folder.mkdir()
    good, half = encode_record(record_of(1)), encode_record(record_of(2))[:-20]
    (folder / "1-left.jsonl").write_bytes(good + b"rubbish\n\xff\xfe{}\n" + good + half)
    [segment] = journal.take()
    assert segment.read() == ([record_of(1), record_of(1)], 2)


def test_records_of_an_older_version_can_be_read(journal: FileJournal, folder: Path) -> None:
    """Given a line without the fields that came later, and with one that nobody knows; then it is a record."""
    folder.mkdir()
    (folder / "1-old.jsonl").write_bytes(
        b'{"id":"a","route":"messages","started_at":1,"day":"1970-01-01","duration_seconds":1,"outcome":"completed",'
        b'"status":200,"request_id":"a","credential":"pooled","from_the_future":[1]}\n'
    )
    [segment] = journal.take()
    [record] = segment.read()[0]
    assert (record.id, record.attempts) == ("a", ())


def test_a_full_journal_takes_no_more_than_its_limit(folder: Path) -> None:
    """Given a limit; then so much is taken, by all processes together, and the rest is told; and room comes back."""
    journal = FileJournal(folder, limit_bytes=5 * RECORD_BYTES, segment_bytes=2 * RECORD_BYTES)
    assert [journal.append([record_of(number) for number in range(3)]) for _ in range(3)] == [3, 2, 0]
    other = FileJournal(folder, limit_bytes=5 * RECORD_BYTES)
    assert other.append([record_of(9)]) == 0
    for segment in journal.take():
        journal.remove(segment)
    assert journal.append([record_of(1)]) == 1
    journal.close()
    other.close()


def test_a_write_that_fails_leaves_no_half(journal: FileJournal, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a disk that takes only a part; then nothing of it stays, and later records are whole."""
    journal.append([record_of(1)])
    real = os.write
    monkeypatch.setattr("gateway.journal.os.write", lambda descriptor, data: real(descriptor, data[:50]))
    with pytest.raises(OSError, match="No space"):
        journal.append([record_of(2)])
    monkeypatch.undo()
    journal.append([record_of(3)])
    [segment] = journal.take()
    assert segment.read() == ([record_of(1), record_of(3)], 0)


def test_two_processes_never_take_one_segment(folder: Path) -> None:
    """Given segments that nobody holds and journals that all take at once; then each is taken once."""
    left = FileJournal(folder, segment_bytes=1)
    for number in range(40):
        left.append([record_of(number)])
    left.close()
    journals = [FileJournal(folder) for _ in range(4)]
    taken = race(4, lambda number: [segment.path for segment in journals[number].take()])
    assert sorted(path for paths in taken for path in paths) == files(folder)
    for journal in journals:
        journal.close()

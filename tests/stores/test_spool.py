"""The spool on a real disk: nothing that was written is lost, and nobody reads what another holds."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.records.interception_record import InterceptionRecord, encode_record
from gateway.records.segment import HeldSegment
from gateway.records.spool import FileSpool, waiting_records
from tests.full_disk import SmallDisk
from tests.record_samples import record_of
from tests.stores.odd_entries import ODD
from tests.unit.fakes import race

processes = multiprocessing.get_context("forkserver")
NOBODY = 65534
RECORD_BYTES = len(encode_record(record_of(1)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def spool(folder: Path) -> Iterator[FileSpool]:
    spool = FileSpool(folder)
    yield spool
    spool.close()


def all_of(segment: HeldSegment) -> tuple[list[InterceptionRecord], int]:
    """Its records and how many lines cannot be read."""
    pieces = list(segment.read())
    return [record for records, _ in pieces for record in records], sum(damaged for _, damaged in pieces)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def test_what_was_appended_is_taken_in_order(spool: FileSpool, folder: Path) -> None:
    """Given records appended in several goes; then taking gives them all, and removing leaves no file."""
    assert spool.take() == []
    assert spool.append([record_of(1), record_of(2)]) == 2
    assert spool.append([record_of(3)]) == 1
    [segment] = spool.take()
    assert all_of(segment) == ([record_of(1), record_of(2), record_of(3)], 0)
    spool.append([record_of(4)])
    assert [record.id for record in waiting_records(folder)].count("req_gw_4") == 1
    spool.remove(segment)
    [later] = spool.take()
    assert all_of(later) == ([record_of(4)], 0)
    spool.remove(later)
    assert files(folder) == []


def test_a_segment_that_is_not_removed_is_given_again(spool: FileSpool) -> None:
    """Given the database was down when segments were taken; then the next time they come first."""
    spool.append([record_of(1)])
    [first] = spool.take()
    spool.append([record_of(2)])
    assert [all_of(segment)[0][0].id for segment in spool.take()] == ["req_gw_1", "req_gw_2"]
    assert all_of(first) == ([record_of(1)], 0)


def test_files_and_folder_are_private(spool: FileSpool, folder: Path) -> None:
    """Given an open-handed umask; then the spool is for its owner alone."""
    before = os.umask(0)
    try:
        spool.append([record_of(1)])
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(folder)] == [0o600]


def test_what_another_process_holds_is_left_alone_until_it_ends(spool: FileSpool, folder: Path) -> None:
    """Given two spools in one folder; then each has its own segments, and whoever stays takes over the cooldown."""
    other = FileSpool(folder)
    other.append([record_of(1)])
    spool.append([record_of(2)])
    [own] = spool.take()
    assert all_of(own)[0] == [record_of(2)]
    [sealed] = other.take()
    assert len(spool.take()) == 1
    other.close()
    assert {all_of(segment)[0][0].id for segment in spool.take()} == {"req_gw_1", "req_gw_2"}
    assert sealed.path.exists()


def _append_for_ever(folder: Path, ready: object) -> None:
    spool, number = FileSpool(folder), 0
    while True:
        spool.append([record_of(number)])
        number += 1
        if number == 50:
            ready.set()  # type: ignore[attr-defined]


def test_a_killed_process_leaves_every_whole_record(spool: FileSpool, folder: Path) -> None:
    """Given SIGKILL in the middle of writing; then all that was written before is there, and half a record is none."""
    ready = processes.Event()
    process = processes.Process(target=_append_for_ever, args=(folder, ready), daemon=True)
    process.start()
    assert ready.wait(60)
    assert process.pid is not None
    assert spool.take() == []
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    records = [record for segment in spool.take() for record in all_of(segment)[0]]
    assert [record.id for record in records] == [f"req_gw_{number}" for number in range(len(records))]
    assert len(records) >= 50


def test_segments_that_somebody_removed_stop_nothing(spool: FileSpool, folder: Path) -> None:
    """Given a segment whose file is deleted under the gateway; then it can be let go of, and the next is there."""
    spool.append([record_of(1)])
    [gone] = spool.take()
    gone.path.unlink()
    spool.append([record_of(2)])
    spool.remove(gone)
    [left] = spool.take()
    assert all_of(left)[0] == [record_of(2)]


def test_half_a_line_at_the_end_is_no_record_and_rubbish_is_counted(spool: FileSpool, folder: Path) -> None:
    """Given a segment that was damaged; then its good records are read, and the bad lines are counted."""
    folder.mkdir()
    good, half = encode_record(record_of(1)), encode_record(record_of(2))[:-20]
    (folder / "1-left.jsonl").write_bytes(good + b"rubbish\n\xff\xfe{}\n" + good + half)
    [segment] = spool.take()
    assert all_of(segment) == ([record_of(1), record_of(1)], 2)


def test_records_of_an_older_version_can_be_read(spool: FileSpool, folder: Path) -> None:
    """Given a line without the fields that came later, and with one that nobody knows; then it is a record."""
    folder.mkdir()
    (folder / "1-old.jsonl").write_bytes(
        b'{"id":"a","route":"messages","started_at":1,"day":"1970-01-01","duration_seconds":1,"outcome":"completed",'
        b'"status":200,"request_id":"a","credential":"pooled","from_the_future":[1]}\n'
    )
    [segment] = spool.take()
    [record] = all_of(segment)[0]
    assert (record.id, record.attempts) == ("a", ())


def test_a_full_spool_takes_no_more_than_its_limit(folder: Path) -> None:
    """Given a limit; then so much is taken, by all processes together, and the cooldown is told; and room comes
    back."""
    spool = FileSpool(folder, limit_bytes=5 * RECORD_BYTES, segment_bytes=2 * RECORD_BYTES)
    assert [spool.append([record_of(number) for number in range(3)]) for _ in range(3)] == [3, 2, 0]
    other = FileSpool(folder, limit_bytes=5 * RECORD_BYTES)
    assert other.append([record_of(9)]) == 0
    for segment in spool.take():
        spool.remove(segment)
    assert spool.append([record_of(1)]) == 1
    spool.close()
    other.close()


def test_a_write_that_fails_leaves_no_half(spool: FileSpool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a disk that takes only a part; then nothing of it stays, and later records are whole."""
    spool.append([record_of(1)])
    real = os.write
    monkeypatch.setattr("gateway.records.segment.os.write", lambda descriptor, data: real(descriptor, data[:50]))
    with pytest.raises(OSError, match="No space"):
        spool.append([record_of(2)])
    monkeypatch.undo()
    spool.append([record_of(3)])
    [segment] = spool.take()
    assert all_of(segment) == ([record_of(1), record_of(3)], 0)


def test_two_processes_never_take_one_segment(folder: Path) -> None:
    """Given segments that nobody holds and spools that all take at once; then each is taken once."""
    left = FileSpool(folder, segment_bytes=1)
    for number in range(40):
        left.append([record_of(number)])
    left.close()
    spools = [FileSpool(folder) for _ in range(4)]
    taken = race(4, lambda number: [segment.path for segment in spools[number].take()])
    assert sorted(path for paths in taken for path in paths) == files(folder)
    for spool in spools:
        spool.close()


# What is no segment, or cannot be used.


def assert_left_out(spool: FileSpool, folder: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """All but this entry is taken, told, read by others; and the entry is named, once."""
    left_behind(folder, record_of(1))
    for number in (2, 3):
        assert spool.append([record_of(number)]) == 1
        for segment in spool.take():
            assert all_of(segment)[1] == 0
            spool.remove(segment)
    told: list[str] = []
    spool.append([record_of(4)])
    assert [record.id for record in waiting_records(folder, lambda name, why: told.append(name))] == ["req_gw_4"]
    assert told == [name]
    assert caplog.text.count(f"{name!r} in {folder} is left out") == 1
    caplog.text.encode()
    assert os.path.lexists(folder / name)


def left_behind(folder: Path, *records: InterceptionRecord) -> None:
    """A segment of a worker that is dead."""
    left = FileSpool(folder)
    left.append(records)
    left.close()


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_entry_is_left_out_and_told_once(
    spool: FileSpool, folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Given something that is no segment but is called like one; then nobody waits for it, and all else is taken."""
    folder.mkdir()
    ODD[kind](folder / "0-odd.jsonl")
    assert_left_out(spool, folder, "0-odd.jsonl", caplog)


def test_an_odd_entry_with_an_unprintable_name_is_told_safely(
    spool: FileSpool, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a name that is no UTF-8, with a line end and an escape sequence; then the log has neither."""
    folder.mkdir()
    name = os.fsdecode(b"0-\xff\n\x1b[31m.jsonl")
    (folder / name).mkdir()
    assert_left_out(spool, folder, name, caplog)
    assert "\x1b" not in caplog.text


def test_a_segment_with_an_unprintable_name_is_taken(spool: FileSpool, folder: Path) -> None:
    """Given a dead worker's segment whose name is no UTF-8; then it is one like all others."""
    folder.mkdir()
    (folder / os.fsdecode(b"1-\xff.jsonl")).write_bytes(encode_record(record_of(1)))
    [segment] = spool.take()
    assert all_of(segment) == ([record_of(1)], 0)
    assert [record.id for record in waiting_records(folder)] == ["req_gw_1"]
    spool.remove(segment)
    assert files(folder) == []


@pytest.fixture
def as_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a spool may be, in a folder of this process's user, who is not root."""
    monkeypatch.chdir(tmp_path)  # nobody else may pass what is above it
    uid = os.geteuid()
    if uid == 0:
        os.chown(tmp_path, NOBODY, -1)
        os.seteuid(NOBODY)
    yield Path("spool")
    os.seteuid(uid)


def test_a_file_that_this_user_may_not_open_is_left_out_and_told_once(
    as_nobody: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a segment of somebody else's, as after a start by root; then it is named, and all else is taken."""
    as_nobody.mkdir()
    (as_nobody / "0-theirs.jsonl").write_bytes(encode_record(record_of(9)))
    (as_nobody / "0-theirs.jsonl").chmod(0)
    with closing(FileSpool(as_nobody)) as spool:
        assert_left_out(spool, as_nobody, "0-theirs.jsonl", caplog)
    assert "Permission denied" in caplog.text


def test_a_folder_that_this_user_may_not_list_holds_up_nothing_of_its_own(
    as_nobody: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a folder that can be written to and not read; then what this process has written is taken all the same."""
    as_nobody.mkdir(mode=0o300)
    with closing(FileSpool(as_nobody)) as spool:
        for number in (1, 2):
            spool.append([record_of(number)])
            [segment] = spool.take()
            assert all_of(segment) == ([record_of(number)], 0)
            spool.remove(segment)
    as_nobody.chmod(0o700)
    assert caplog.text.count("is left out: Permission denied") == 1


def test_a_segment_that_cannot_be_removed_is_stored_once(as_nobody: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Given a folder from which nothing can be removed; then a stored segment is told, and has no records any more."""
    with closing(FileSpool(as_nobody)) as spool:
        spool.append([record_of(1)])
        [segment] = spool.take()
        as_nobody.chmod(0o500)
        spool.remove(segment)
        assert list(waiting_records(as_nobody)) == []
        assert spool.take() == []  # or the log would tell of it at every look
    as_nobody.chmod(0o700)
    assert caplog.text.count("cannot be removed: ") == 1


def test_a_segment_that_cannot_be_read_is_given_up(
    spool: FileSpool, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a disk that fails under a segment; then it is told, stays where it is, and is not taken again."""

    def failing(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    left_behind(folder, record_of(1))
    [segment] = spool.take()
    monkeypatch.setattr("gateway.records.segment.os.pread", failing)
    with pytest.raises(OSError, match="Input/output") as failed:
        segment.read()
    spool.give_up(segment, failed.value)
    assert spool.take() == []
    assert caplog.text.count("cannot be read: Input/output error") == 1
    assert len(files(folder)) == 1


def test_an_entry_that_vanishes_is_nothing(
    spool: FileSpool, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a segment that is gone between two looks, as when it was shipped; then nothing is said of it."""
    gone = [(folder / "0-gone.jsonl", 10)]
    monkeypatch.setattr("gateway.records.spool.segments", lambda *_: gone)
    spool.append([record_of(1)])
    [segment] = spool.take()
    assert all_of(segment) == ([record_of(1)], 0)
    assert list(waiting_records(folder)) == []
    assert caplog.text == ""


def test_a_large_segment_is_read_some_at_a_time(spool: FileSpool, folder: Path) -> None:
    """Given a segment of many records; then it is given in pieces of bounded size, in order."""
    folder.mkdir()
    (folder / "1-left.jsonl").write_bytes(b"".join(encode_record(record_of(number)) for number in range(1200)))
    [segment] = spool.take()
    pieces = [records for records, _ in segment.read()]
    assert max(map(len, pieces)) <= 500
    assert [record.id for records in pieces for record in records] == [f"req_gw_{number}" for number in range(1200)]


# A folder that somebody removes, or replaces.


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _move_away(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def _replace(folder: Path) -> None:
    _move_away(folder)
    folder.mkdir()


def _remove_all_above(folder: Path) -> None:
    shutil.rmtree(folder.parent)


@pytest.fixture(params=[_remove, _move_away, _replace, _remove_all_above])
def harm(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """What may become of a folder in use."""
    return request.param


def test_a_folder_that_is_gone_is_begun_anew(
    tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Given a folder that vanishes with records in it; then that is told, and others find them in the new one."""
    folder = tmp_path / "data" / "journal"
    with closing(FileSpool(folder)) as spool:
        spool.append([record_of(1)])
        spool.take()
        spool.append([record_of(2)])
        harm(folder)
        assert spool.append([record_of(3)]) == 1
        assert {record.id for record in waiting_records(folder)} == {"req_gw_1", "req_gw_2", "req_gw_3"}
        assert "was removed while its records waited" in caplog.text
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        caplog.clear()
        taken = [record.id for segment in spool.take() for record in all_of(segment)[0]]
        assert set(taken) == {"req_gw_1", "req_gw_2", "req_gw_3"}
        for segment in spool.take():
            spool.remove(segment)
        assert spool.take() == []
        assert caplog.text == ""
    assert files(folder) == []


def test_a_folder_that_is_gone_at_the_end_leaves_all_to_others(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """Given a folder that vanishes, and nothing comes in; when the worker ends; then others find what waited."""
    folder = tmp_path / "data" / "journal"
    spool = FileSpool(folder)
    spool.append([record_of(1)])
    harm(folder)
    spool.close()
    with closing(FileSpool(folder)) as other:
        [segment] = other.take()
        assert all_of(segment) == ([record_of(1)], 0)


def test_a_folder_moved_away_and_back_loses_nothing(tmp_path: Path) -> None:
    """Given a folder that is gone only for a while; then what others held in it is theirs still."""
    folder = tmp_path / "data" / "journal"
    with closing(FileSpool(folder)) as spool:
        spool.append([record_of(1)])
        _move_away(folder)
        folder.with_name("moved").rename(folder)
        spool.append([record_of(2)])
        [segment] = spool.take()
        assert all_of(segment) == ([record_of(1), record_of(2)], 0)


# A disk without room.


def test_a_full_disk_takes_nothing_and_later_all(small_disk: SmallDisk, caplog: pytest.LogCaptureFixture) -> None:
    """Given a disk that fills up; then appending says so, what was written stays whole, and it goes on with room."""
    folder = small_disk.folder / "journal"
    with closing(FileSpool(folder)) as spool:
        spool.append([record_of(1)])
        small_disk.fill()
        with pytest.raises(OSError, match="No space left"):
            spool.append([record_of(number) for number in range(2, 100)])
        [segment] = spool.take()
        assert all_of(segment) == ([record_of(1)], 0)
        small_disk.free()
        assert spool.append([record_of(2)]) == 1
        assert [record.id for record in waiting_records(folder)] == ["req_gw_1", "req_gw_2"]

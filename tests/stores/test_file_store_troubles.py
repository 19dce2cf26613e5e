"""What happens to the file, its folder, or another process keeps no request from being served, and loses no mark."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.keys import keys_file
from gateway.keys.file_store import FileStore
from gateway.keys.key_record import NEVER_SEEN, Cause
from gateway.server import master
from tests.stores.test_file_store import begin, end
from tests.unit.fakes import race
from tests.unit.runtime.test_folder_lock import holding

LIMITED = Cause("rate_limited", 429, 1.0)
REFUSED = Cause("unauthorized", 401, 1.0)
BY_HAND = Cause("operator", 0, 1.0)
PATIENT_SECONDS = 30.0
KEYS = ["cooled", "retired", "disabled", "enabled"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def workers(folder: Path) -> Iterator[list[FileStore]]:
    """Three workers that know of four keys' states, by what each has read; the third read first, and nothing since."""
    folder.mkdir(mode=0o700)
    stores = [FileStore(folder, PATIENT_SECONDS) for _ in range(3)]
    stores[0].start_anew(1.0)
    stores[0].cool("cooled", 60.0, 0, LIMITED)
    stores[0].retire("retired", 0, REFUSED)
    stores[0].disable("disabled", BY_HAND)
    stores[2].read(KEYS)
    stores[0].enable("enabled")
    stores[1].read(KEYS)
    yield stores
    for store in stores:
        store.close()


def are_as_they_were(store: FileStore) -> bool:
    cooled, retired, disabled, enabled = store.read(KEYS)
    return cooled.cooling_until_at == 60.0 and retired.is_retired and disabled.is_disabled and enabled.generation == 1


def file_of(folder: Path) -> Path:
    return folder / "keys.jsonl"


def is_sound(folder: Path) -> bool:
    """Whether a process that starts now would know all, without anything to mend."""
    store = FileStore(folder)
    try:
        return store.is_up and not store._has_news and are_as_they_were(store)
    finally:
        store.close()


# What may happen to the file while workers use it.


def truncate_to(part: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * part))


def overwrite(content: bytes) -> Callable[[Path], None]:
    """In place, as `cp` does."""

    def happen(path: Path) -> None:
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()

    return happen


def overwrite_with_zeros(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


def damage_a_line(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\0\xff{[")


def add_rubbish(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"# a note of the operator's\n")


def replace_by(content: bytes) -> Callable[[Path], None]:
    def happen(path: Path) -> None:
        fresh = path.with_name("fresh")
        fresh.write_bytes(content)
        fresh.rename(path)

    return happen


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("")


def replace_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def replace_by_a_long_one(path: Path) -> None:
    path.unlink()
    path.touch()
    os.truncate(path, 10**12)


def remove_the_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


SQLITE = b"SQLite format 3\0" + bytes(20000)
DAMAGE = {
    "truncated to nothing": truncate_to(0),
    "truncated to half": truncate_to(0.5),
    "zeros": overwrite_with_zeros,
    "a damaged line": damage_a_line,
    "rubbish at its end": add_rubbish,
    "another program's, in place": overwrite(SQLITE),
    "a text, in place": overwrite(b"# notes\n"),
    "JSON of another kind, in place": overwrite(b'{"version": 1}\n[]\n'),
    "a time that is no number": overwrite(
        b'{"salt":"00","boot":"","at":0,"wall_at":0}\n["a",{"cooling_until_at":1e999}]\n'
    ),
    "another program's": replace_by(SQLITE),
    "empty": replace_by(b""),
    "a folder": replace_by_a_folder,
    "a named pipe": replace_by_a_pipe,
    "a link to itself": replace_by_a_link_to_itself,
    "an endless file": replace_by_a_long_one,
    "removed": lambda path: path.unlink(),
    "folder removed": remove_the_folder,
}


@pytest.mark.parametrize("by", [0, 1], ids=["the marker notices", "another notices"])
@pytest.mark.parametrize("happen", DAMAGE.values(), ids=DAMAGE)
def test_file_is_begun_anew_in_the_running_processes_with_what_they_know(
    folder: Path, workers: list[FileStore], happen: Callable[[Path], None], by: int
) -> None:
    """Given a file in use, when anything happens to it, then every worker answers with what it knew, the next mark is
    everybody's, and the file is whole again."""
    happen(file_of(folder))
    assert are_as_they_were(workers[by])
    assert workers[by].cool("mine", 50.0, 0, LIMITED)
    for worker in workers:
        assert worker.read(["mine"])[0].cooling_until_at == 50.0
        assert are_as_they_were(worker)
        assert worker.is_up
    assert is_sound(folder)
    assert stat.S_IMODE(file_of(folder).stat().st_mode) == 0o600


def test_what_was_unusable_is_set_aside_and_told_once(
    folder: Path, workers: list[FileStore], caplog: pytest.LogCaptureFixture
) -> None:
    overwrite(SQLITE)(file_of(folder))
    with caplog.at_level(logging.INFO):
        for worker in workers:
            assert are_as_they_were(worker)
    assert (folder / "keys.jsonl.unusable").read_bytes() == SQLITE
    ((name, level, message),) = caplog.record_tuples
    assert (name, level) == ("gateway.file_store", logging.WARNING)
    assert str(file_of(folder)) in message
    assert "keys.jsonl.unusable" in message


def test_removed_file_is_told_once(folder: Path, workers: list[FileStore], caplog: pytest.LogCaptureFixture) -> None:
    file_of(folder).unlink()
    with caplog.at_level(logging.INFO):
        for worker in workers:
            assert are_as_they_were(worker)
    assert [record.message.split(str(folder))[1] for record in caplog.records] == [
        "/keys.jsonl was removed, and begun anew with what this process knows"
    ]


def test_worker_that_serves_nobody_knows_what_was_written_before_the_file_was_removed(
    folder: Path, workers: list[FileStore]
) -> None:
    workers[0].retire("late", 0, REFUSED)
    workers[1].tick()
    file_of(folder).unlink()
    assert workers[1].read(["late"])[0].is_retired
    assert FileStore(folder).read(["late"])[0].is_retired


def test_older_copy_put_back_undoes_nothing(folder: Path, workers: list[FileStore]) -> None:
    """Given a copy of the file from before the last marks, when it is put back in place, then they stand."""
    copy = file_of(folder).read_bytes()
    workers[0].retire("late", 0, REFUSED)
    assert workers[1].read(["late"])[0].is_retired
    overwrite(copy)(file_of(folder))
    assert workers[1].read(["late"])[0].is_retired
    assert FileStore(folder).read(["late"])[0].is_retired


def test_file_of_another_gateway_takes_over_what_is_known(
    tmp_path: Path, folder: Path, workers: list[FileStore]
) -> None:
    """Given another salt, under which each key has another name, then what is known of a key is still known."""
    other = FileStore(tmp_path / "other")
    other.start_anew(1.0)
    other.cool("theirs", 70.0, 0, LIMITED)
    replace_by(file_of(tmp_path / "other").read_bytes())(file_of(folder))
    for worker in workers[:2]:
        assert are_as_they_were(worker)
        assert worker.read(["theirs"])[0].cooling_until_at == 70.0
    assert is_sound(folder)


def test_reason_that_is_not_the_files_leaves_it_alone(
    folder: Path, workers: list[FileStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a disk that fails for a moment, then a worker goes on with what it knows, and the file stays; later it
    catches up."""
    before = file_of(folder).read_bytes()
    real = os.pread
    workers[0].cool("late", 70.0, 0, LIMITED)

    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    assert are_as_they_were(workers[1])
    assert not workers[1].is_up
    assert workers[1].cool("mine", 50.0, 0, LIMITED)
    assert workers[1].read(["mine"])[0].cooling_until_at == 50.0
    monkeypatch.setattr(os, "pread", real)
    workers[1].tick()
    assert workers[1].is_up
    for worker in workers:
        assert [record.cooling_until_at for record in worker.read(["mine", "late"])] == [50.0, 70.0]
    assert file_of(folder).read_bytes().startswith(before)


# Writing that fails.


def fill_the_disk_then_make_room(folder: Path) -> None:
    """In a process of its own: no file may grow beyond what it is, later all may."""
    store = FileStore(folder, PATIENT_SECONDS)
    size_bytes = file_of(folder).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes + 100, limits[1]))  # half a line
    for number in range(3):
        assert store.cool(f"mine-{number}", 50.0, 0, LIMITED)
        assert store.read([f"mine-{number}"])[0].cooling_until_at == 50.0
        assert not store.is_up
    assert are_as_they_were(store)
    assert not store.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store.tick()
    assert store.is_up
    assert store.flush()


def test_mark_that_finds_no_room_is_written_when_there_is_some(folder: Path, workers: list[FileStore]) -> None:
    """Given a full disk, then marks are made in the process, and everybody has them once they can be written; the half
    line that stands in the file harms nobody."""
    assert end(begin(fill_the_disk_then_make_room, folder)) == 0
    for worker in workers:
        assert all(record.cooling_until_at == 50.0 for record in worker.read([f"mine-{at}" for at in range(3)]))
        assert are_as_they_were(worker)
    assert b"\x18\n" in file_of(folder).read_bytes()
    assert not (folder / "keys.jsonl.unusable").exists()
    assert is_sound(folder)


def test_trouble_and_its_end_are_told_once(
    folder: Path, workers: list[FileStore], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    caplog.set_level(logging.INFO)
    with monkeypatch.context() as patch:
        patch.setattr(keys_file.KeysFile, "append", fail)
        for number in range(5):
            workers[0].cool(f"mine-{number}", 50.0, 0, LIMITED)
            workers[0].tick()
    for _ in range(3):
        workers[0].tick()
    assert [(record.levelno, record.message.partition(" (")[0]) for record in caplog.records] == [
        (logging.ERROR, "the keys' state cannot be shared"),
        (logging.INFO, "the keys' state is shared again; marks made meanwhile are in it"),
    ]
    assert workers[1].read(["mine-4"])[0].cooling_until_at == 50.0


def test_half_a_line_of_a_killed_writer_harms_nobody(folder: Path, workers: list[FileStore]) -> None:
    with file_of(folder).open("ab") as file:
        file.write(b'["0123')
    for worker in workers:
        assert are_as_they_were(worker)
    assert workers[0].cool("mine", 50.0, 0, LIMITED)
    for worker in workers:
        assert worker.read(["mine"])[0].cooling_until_at == 50.0
    assert is_sound(folder)


def test_file_that_has_grown_long_is_replaced_by_a_short_one(
    folder: Path, workers: list[FileStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_file, "LONG_BYTES", 20_000)
    longest = 0
    for turn in range(1000):
        workers[turn % 2].cool("mine", float(turn), 0, LIMITED)
        longest = max(longest, file_of(folder).stat().st_size)
        assert workers[1 - turn % 2].read(["mine"])[0].limited_count == turn + 1
    assert longest < 21_000
    for worker in workers:
        assert are_as_they_were(worker)
    assert is_sound(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_file_that_root_begins_belongs_to_the_folders_owner(folder: Path) -> None:
    """Given an operator's command run by root, then the gateway can still use its file."""
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12346)
    store = FileStore(folder)
    store.cool("a", 5.0, 0, LIMITED)
    status = file_of(folder).stat()
    assert (status.st_uid, status.st_gid) == (12345, 12346)
    store.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_start_goes_on_though_nothing_can_be_written(
    folder: Path,
    workers: list[FileStore],
    monkeypatch: pytest.MonkeyPatch,
    error: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Given a full disk, when a gateway starts, then it is told, workers know what the file says, and mark on."""

    def fail(*_: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(keys_file.KeysFile, "begun", fail)
    monkeypatch.setattr(keys_file.KeysFile, "append", fail)
    master._begin_keys(folder)
    assert "the keys' state cannot be shared" in caplog.text
    store = FileStore(folder)
    assert are_as_they_were(store)
    assert store.cool("mine", 50.0, 0, LIMITED)
    assert store.read(["mine"])[0].cooling_until_at == 50.0
    store.close()


# A process that keeps the lock.


def test_stopped_process_with_the_lock_costs_a_moment_and_no_mark(
    folder: Path, workers: list[FileStore], caplog: pytest.LogCaptureFixture
) -> None:
    """Given a process that is stopped with the folder's lock, when a worker marks keys in thirty threads, then each
    mark is made there; when the lock is free again, all workers have them."""
    caplog.set_level(logging.INFO)
    marker = FileStore(folder, 0.1)
    with holding(folder) as other:
        other.send_signal(signal.SIGSTOP)
        names = [f"mine-{number}" for number in range(30)]
        assert race(30, lambda number: marker.cool(names[number], 50.0, 0, LIMITED)) == [True] * 30
        assert marker.retire("refused", 0, REFUSED)
        assert not marker.is_up
        assert [record.cooling_until_at for record in marker.read(names)] == [50.0] * 30
        for worker in workers:
            assert are_as_they_were(worker)
            assert worker.read(names) == [NEVER_SEEN] * 30
        marker.tick()
        assert not marker.is_up
        assert [record.levelname for record in caplog.records] == ["ERROR"]
    marker.tick()
    assert marker.is_up
    for worker in workers:
        assert [record.cooling_until_at for record in worker.read(names)] == [50.0] * 30
        assert worker.read(["refused"])[0].is_retired
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    marker.close()


def test_marks_of_two_cut_off_workers_are_joined(folder: Path, workers: list[FileStore]) -> None:
    """Given two workers that mark one key apart, then the later deadline, the retirement and the enabling stand."""
    apart = [FileStore(folder, 0.0) for _ in range(2)]
    with holding(folder):
        apart[0].cool("a", 100.0, 0, Cause("rate_limited", 429, 2.0))
        apart[1].cool("a", 200.0, 0, Cause("rate_limited", 429, 3.0))
        apart[0].retire("b", 0, REFUSED)
        apart[1].cool("b", 100.0, 0, LIMITED)
        apart[1].enable("retired")
    for store in apart:
        assert store.flush()
    for store in [*apart, *workers]:
        a, b, retired = store.read(["a", "b", "retired"])
        assert a.cooling_until_at == 200.0
        assert (b.is_retired, b.cooling_until_at) == (True, 100.0)
        assert (retired.is_retired, retired.generation) == (False, 1)
    for store in apart:
        store.close()


def test_without_the_lock_one_request_of_each_worker_may_try_a_key(folder: Path, workers: list[FileStore]) -> None:
    apart = [FileStore(folder, 0.0) for _ in range(2)]
    with holding(folder):
        granted = [store.lease("cooled", 100.0, 70.0) for store in apart for _ in range(3)]
    assert granted == [True, False, False] * 2
    for store in apart:
        store.close()


def test_flush_waits_for_a_lock_that_comes_free(folder: Path, workers: list[FileStore]) -> None:
    """Given a command's change while another process writes, then the command hands it on when that has done."""
    store = FileStore(folder, 0.0)
    with holding(folder) as other:
        store.disable("mine", BY_HAND)
        assert not store.is_up
        thread = threading.Thread(target=other.communicate)
        thread.start()
        while not store.flush():
            pass
        thread.join(PATIENT_SECONDS)
    assert workers[0].read(["mine"])[0].is_disabled
    store.close()


def test_start_goes_on_without_the_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a stopped process with the lock, when a gateway starts, then it is told, and works in memory."""
    monkeypatch.setattr("gateway.keys.file_store._START_SECONDS", 0.05)
    folder.mkdir()
    with holding(folder):
        store = FileStore(folder)
        store.start_anew(1.0)
        assert isinstance(store.trouble, TimeoutError)
        assert store.cool("a", 5.0, 0, LIMITED)
    store.tick()
    assert FileStore(folder).read(["a"])[0].cooling_until_at == 5.0
    store.close()


# Another start of the machine.

LATER_BOOT = "00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize(
    ("down_seconds", "left_seconds"),
    [
        pytest.param(60.0, 540.0, id="a minute later"),
        pytest.param(3600.0, -3000.0, id="an hour later"),
        pytest.param(-3600.0, 600.0, id="the wall clock was set back"),
    ],
)
def test_cooldown_goes_on_over_a_reboot(
    folder: Path, monkeypatch: pytest.MonkeyPatch, down_seconds: float, left_seconds: float
) -> None:
    """Given a key with 600 s to cool down, when the machine starts again, whose clock then begins anew, then the time
    in between counts, and a wall clock that was set back does not make it longer; other states stay."""
    clock, wall_clock = [1e9 + 5000.0], [1_800_000_000.0]
    monkeypatch.setattr(keys_file, "machine_time", lambda: clock[0])
    monkeypatch.setattr(keys_file.time, "time", lambda: wall_clock[0])
    store = FileStore(folder)
    store.start_anew(clock[0])
    clock[0] += 100
    wall_clock[0] += 100
    store.cool("a", clock[0] + 600, 0, Cause("rate_limited", 429, clock[0]))
    store.cool("tried", clock[0] - 1, 0, Cause("rate_limited", 429, clock[0]))
    store.lease("tried", clock[0] + 30, clock[0])
    store.disable("b", Cause("operator", 0, clock[0]))
    store.close()
    monkeypatch.setattr(keys_file, "boot_id", lambda: LATER_BOOT)
    clock[0] = 1e9 + 10.0
    wall_clock[0] += down_seconds
    store = FileStore(folder)
    a, tried, b, never = store.read(["a", "tried", "b", "never"])
    assert a.cooling_until_at - clock[0] == pytest.approx(left_seconds)
    assert a.marked_at - clock[0] == pytest.approx(left_seconds - 600)
    assert a.confirmed_at == 0.0
    assert a.is_unconfirmed
    assert (tried.is_on_trial(clock[0]), tried.lease_until_at) == (True, 0.0)
    assert b.is_disabled
    assert never == NEVER_SEEN
    store.start_anew(clock[0])
    clock[0] += 100
    wall_clock[0] += 10_000
    assert FileStore(folder).read(["a"]) == store.read(["a"]), "from then on it is a file of this start"
    store.close()


def test_record_of_a_later_version_is_read_as_far_as_it_is_known(folder: Path, workers: list[FileStore]) -> None:
    line = file_of(folder).read_bytes().splitlines()[1]
    with file_of(folder).open("ab") as file:
        file.write(line[:-2] + b',"scopes":{"messages/opus":5}}]\n')
    assert are_as_they_were(workers[0])
    assert workers[0].is_up

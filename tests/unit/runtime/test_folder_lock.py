"""The lock that threads and processes hold in turn, for which nobody waits for long."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.runtime.folder_lock import FolderLock
from tests.harness import wait_until
from tests.unit.fakes import race

PATIENCE_SECONDS = 30.0

# Holds the lock of a folder until its standard input ends.
HOLD = """
import pathlib, sys
from gateway.runtime.folder_lock import FolderLock
FolderLock(pathlib.Path(sys.argv[1]), 30.0).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@contextmanager
def inside(lock: FolderLock) -> Iterator[int]:
    descriptor = lock.acquire()
    try:
        yield descriptor
    finally:
        lock.release(descriptor)


def test_threads_enter_one_at_a_time(tmp_path: Path) -> None:
    """Given four threads that enter again and again, then none ever meets another inside."""
    lock = FolderLock(tmp_path, PATIENCE_SECONDS)
    there: list[int] = []
    met: list[int] = []

    def visit(number: int) -> None:
        for _ in range(300):
            with inside(lock):
                met.extend(there)
                there.append(number)
                time.sleep(0)  # the others may run
                there.remove(number)

    race(4, visit)
    assert (there, met) == ([], [])


@pytest.mark.parametrize("is_killed", [False, True], ids=["leaves", "is killed"])
def test_thread_waits_until_the_other_process_leaves_or_is_killed(tmp_path: Path, is_killed: bool) -> None:
    lock, entered = FolderLock(tmp_path, PATIENCE_SECONDS), threading.Event()

    def enter() -> None:
        with inside(lock):
            entered.set()

    with holding(tmp_path) as other:
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.05)
        if is_killed:
            other.kill()
        other.communicate()
        assert entered.wait(PATIENCE_SECONDS)
        thread.join(PATIENCE_SECONDS)


def test_nobody_waits_for_a_stopped_process_beyond_the_patience(tmp_path: Path) -> None:
    """Given a process that is stopped inside, when twenty threads want to enter, then all are told so, side by side;
    after that hardly anybody waits until it has gone on and left."""
    lock = FolderLock(tmp_path, 0.5)
    with holding(tmp_path) as other:
        other.send_signal(signal.SIGSTOP)

        def enter(_: int) -> None:
            with pytest.raises(TimeoutError):
                lock.acquire()

        began_at = time.monotonic()
        race(20, enter)
        assert time.monotonic() - began_at < 20 * 0.5, "one after the other"
        fast = FolderLock(tmp_path, 3600.0)
        fast._is_stuck = True
        with pytest.raises(TimeoutError):
            fast.acquire()  # else the test's own time limit ends it
        other.send_signal(signal.SIGCONT)
        other.communicate()
    assert wait_until(lambda: not is_refused(lock), PATIENCE_SECONDS)
    assert not lock._is_stuck


def is_refused(lock: FolderLock) -> bool:
    try:
        with inside(lock):
            return False
    except TimeoutError:
        return True


def test_impatient_caller_asks_once(tmp_path: Path) -> None:
    """Given a lock that is held, when somebody has no patience at all, then it is told; others stay patient."""
    lock = FolderLock(tmp_path, 3600.0)
    with holding(tmp_path), pytest.raises(TimeoutError):
        lock.acquire(0.0)
    assert not lock._is_stuck
    with inside(lock):
        pass


def test_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    with inside(FolderLock(tmp_path / "new" / "er", 1.0)) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), os.stat(tmp_path / "new" / "er"))
    assert (tmp_path / "new" / "er").stat().st_mode & 0o777 == 0o700


def test_folder_that_was_removed_and_made_again_is_the_one_that_is_locked(tmp_path: Path) -> None:
    """Given a process inside a folder that is removed, then the folder that takes its place has a lock of its own, and
    what is done by way of the old descriptor is not done to the new folder."""
    folder = tmp_path / "folder"
    old = FolderLock(folder, 1.0)
    gone = old.acquire()
    shutil.rmtree(folder)
    with inside(FolderLock(folder, 1.0)) as descriptor:
        assert not os.path.samestat(os.fstat(descriptor), os.fstat(gone))
        with pytest.raises(FileNotFoundError):
            os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=gone)
    old.release(gone)


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lock = FolderLock(tmp_path / "file", 1.0)
    for _ in range(2):
        with pytest.raises(NotADirectoryError):
            lock.acquire()

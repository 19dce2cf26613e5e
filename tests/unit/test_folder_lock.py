"""The lock that threads and processes hold in turn."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gateway.folder_lock import FolderLock
from tests.harness import wait_until

PATIENCE_SECONDS = 30.0

# Holds the lock of a folder until its standard input ends.
HOLD = """
import pathlib, sys
from gateway.folder_lock import FolderLock
with FolderLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_threads_enter_one_at_a_time(tmp_path: Path) -> None:
    """Given four threads that enter again and again, then none ever meets another inside."""
    lock, barrier = FolderLock(tmp_path), threading.Barrier(4)
    inside: list[int] = []
    met: list[int] = []

    def visit(number: int) -> None:
        barrier.wait(PATIENCE_SECONDS)
        for _ in range(500):
            with lock:
                met.extend(inside)
                inside.append(number)
                time.sleep(0)  # the others may run
                inside.remove(number)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert (inside, met) == ([], [])
    lock.close()


@pytest.mark.parametrize("is_killed", [False, True], ids=["leaves", "is killed"])
def test_thread_waits_until_the_other_process_leaves_or_is_killed(tmp_path: Path, is_killed: bool) -> None:
    lock, other, entered = FolderLock(tmp_path), holding(tmp_path), threading.Event()

    def enter() -> None:
        with lock:
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert wait_until(lambda: "-> FLOCK" in Path("/proc/locks").read_text(), PATIENCE_SECONDS)
    assert not entered.is_set()
    if is_killed:
        other.kill()
    other.communicate()
    assert entered.wait(PATIENCE_SECONDS)
    thread.join(PATIENCE_SECONDS)
    lock.close()


def test_lock_is_left_when_what_it_guards_fails(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(KeyError), lock:
        raise KeyError
    with lock:
        pass
    lock.close()


def test_closed_lock_lets_nobody_in_and_keeps_nobody_out(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.close()
    lock.close()
    for _ in range(2):
        with pytest.raises(ValueError, match="negative"), lock:
            pass
    holding(tmp_path).communicate()


def test_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FolderLock(tmp_path / "nowhere")

"""The folder of the gateway's own files: private, and one gateway's at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.data_folder import DataFolder, DataFolderError, metrics_folder
from tests.harness import wait_until

# A master that holds the folder, perhaps forks a worker and goes, and ends when its standard input does.
HOLD = """
import os, sys
from gateway.data_folder import DataFolder
folder = DataFolder(sys.argv[1])
if sys.argv[2] == "with-worker" and os.fork():
    os._exit(0)
if sys.argv[2] == "with-command":
    os.execvp("sh", ["sh", "-c", "echo held; read line"])
print("held", flush=True)
sys.stdin.read()
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_free(path: Path) -> bool:
    """Whether another gateway could take the folder now."""
    try:
        release(DataFolder(str(path)))
    except DataFolderError:
        return False
    return True


def release(folder: DataFolder) -> None:
    """What the end of a process does."""
    os.close(folder._lock)


@pytest.fixture
def held(tmp_path) -> Iterator[Callable[..., DataFolder]]:
    """Holds a folder in this process until the test ends."""
    holding: list[DataFolder] = []

    def hold(path: Path) -> DataFolder:
        holding.append(DataFolder(str(path)))
        return holding[-1]

    yield hold
    for folder in holding:
        release(folder)


@pytest.fixture
def holder(tmp_path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that holds `tmp_path/data`; it is ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(manner: str = "alone") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "data"), manner],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.stdin.close()  # which ends its worker too
        process.stdout.close()
        process.wait(30)


def test_folder_is_made_and_private(tmp_path, held):
    """Given a folder that is not there, nor those above it, then it is made for the owner alone."""
    path = tmp_path / "above" / "data"
    assert held(path).path == path
    assert mode_of(path) == 0o700
    assert mode_of(path / "lock") == 0o600


def test_folder_that_is_there_keeps_its_mode_and_its_files(tmp_path, held):
    """Given a folder that somebody made, with a file in it, then both stay as they were; our own files are private."""
    path = tmp_path / "data"
    path.mkdir()
    path.chmod(0o755)
    (path / "theirs").write_text("precious")
    held(path).begin()
    assert mode_of(path) == 0o755
    assert (path / "theirs").read_text() == "precious"
    assert mode_of(path / "lock") == 0o600


def test_second_gateway_on_a_folder_is_refused(tmp_path, holder):
    """Given a gateway on a folder, when a second one is started on it, then it is told whose it is and what to set."""
    holder()
    with pytest.raises(DataFolderError, match=r"another gateway uses the data folder .*data; set GATEWAY_DATA_DIR"):
        DataFolder(str(tmp_path / "data"))


def test_refusal_leaves_nothing_open(tmp_path, held):
    """Given a folder in use, when it is asked for again and again, then no file stays open."""
    held(tmp_path / "data")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        assert not is_free(tmp_path / "data")
    assert len(os.listdir("/proc/self/fd")) == before


def test_other_folders_are_free(tmp_path, holder, held):
    """Given a gateway on one folder, then another folder can be taken."""
    holder()
    assert held(tmp_path / "other").path == tmp_path / "other"


def test_folder_of_a_killed_gateway_is_free(tmp_path, holder):
    """Given a gateway that was killed, then the next one takes its folder: no lock is left behind."""
    process = holder()
    process.kill()
    process.wait(30)
    assert is_free(tmp_path / "data")


def test_folder_is_held_until_the_last_worker_has_ended(tmp_path, holder):
    """Given a master that was killed while a worker still drains, then the folder is free when the worker has ended."""
    process = holder("with-worker")
    process.wait(30)
    assert not is_free(tmp_path / "data")
    process.stdin.close()
    assert wait_until(lambda: is_free(tmp_path / "data"), 30)


def test_commands_that_a_gateway_starts_do_not_hold_its_folder(tmp_path, holder):
    """Given a process that became another program, then it does not hold the folder."""
    holder("with-command")
    assert is_free(tmp_path / "data")


@pytest.mark.parametrize(
    ("place", "why"),
    [("file", "File exists"), ("file/below", "Not a directory")],
    ids=["a-file", "below-a-file"],
)
def test_folder_that_cannot_be_used_is_told(tmp_path, place, why):
    """Given a place where no folder can be, then the error names it and says why."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFolderError) as raised:
        DataFolder(str(tmp_path / place))
    assert str(raised.value) == f"the data folder {tmp_path / place} cannot be used: {why}"


def test_each_start_begins_with_empty_counts(tmp_path, held):
    """Given the counts of an earlier start beside the keys' state, when a start begins, then only the counts go."""
    folder = held(tmp_path / "data")
    folder.begin()
    assert folder.metrics == metrics_folder(str(tmp_path / "data"))
    assert mode_of(folder.metrics) == 0o700
    (folder.metrics / "counter_1.db").write_bytes(b"old")
    state = tmp_path / "data" / "keys.jsonl"
    state.write_bytes(b"state")
    folder.begin()
    assert list(folder.metrics.iterdir()) == []
    assert state.read_bytes() == b"state"

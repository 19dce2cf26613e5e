"""The folder of the gateway's own files: private, and one gateway's at a time."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.runtime.data_folder import DataFolder, DataFolderError, DataFolderTaken, master_of
from tests.harness import wait_until
from tests.unit.fakes import descriptors

# A master that holds the folder, perhaps forks a worker and goes, and ends when its standard input does.
HOLD = """
import os, sys
from gateway.runtime.data_folder import DataFolder
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
    for lock in folder._locks:
        os.close(lock)


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
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
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
    held(path)
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
    before = descriptors()
    for _ in range(5):
        assert not is_free(tmp_path / "data")
    assert wait_until(lambda: descriptors() <= before, 30)


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


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _move_away(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def _replace(folder: Path) -> None:
    _move_away(folder)
    folder.mkdir()


def _remove_all_above(folder: Path) -> None:
    shutil.rmtree(folder.parent)


def _remove_the_lock(folder: Path) -> None:
    (folder / "lock").unlink()


@pytest.mark.parametrize("harm", [_remove, _move_away, _replace, _remove_all_above, _remove_the_lock])
def test_folder_that_is_gone_is_made_and_held_anew(tmp_path, held, caplog, harm):
    """Given a folder, or its lock, that was removed or replaced, then it is made, held and told, once."""
    folder = held(tmp_path / "above" / "data")
    for _ in range(2):
        folder.keep()
    assert caplog.text == ""
    harm(folder.path)
    for _ in range(2):
        folder.keep()
    assert caplog.text.count("was removed or replaced: it is begun anew") == 1
    assert not is_free(folder.path)
    if harm in (_remove, _move_away, _remove_all_above):
        assert mode_of(folder.path) == 0o700


def test_folder_that_another_gateway_was_quicker_to_take_is_taken(tmp_path, held, holder):
    """Given a folder that was removed, and another gateway that has begun in its place, then that is said."""
    folder = held(tmp_path / "data")
    _remove(folder.path)
    holder()
    with pytest.raises(DataFolderTaken, match="another gateway uses the data folder"):
        folder.keep()


def test_folder_that_was_moved_away_and_back_is_still_held(tmp_path, held, caplog):
    """Given a folder that is moved away, and later comes back in place of the new one, then it is this gateway's."""
    folder = held(tmp_path / "data")
    _move_away(folder.path)
    folder.keep()
    shutil.rmtree(folder.path)
    (tmp_path / "moved").rename(folder.path)
    caplog.clear()
    folder.keep()
    assert caplog.text == ""
    assert not is_free(folder.path)


def test_folder_that_cannot_be_made_anew_is_told_once_and_tried_again(tmp_path, held, caplog):
    """Given something in the folder's place, then that is told once; when that is gone, the folder is made."""
    folder = held(tmp_path / "data")
    _remove(folder.path)
    folder.path.write_text("in the way")
    for _ in range(3):
        folder.keep()
    assert caplog.text.count("there is no new one: the data folder") == 1
    folder.path.unlink()
    folder.keep()
    assert not is_free(folder.path)


def test_master_is_known_once_it_has_named_itself(held, tmp_path) -> None:
    """Given a folder that is held, then its master is known when it says that it may get signals, not before."""
    assert master_of(tmp_path / "data") is None
    folder = held(tmp_path / "data")
    assert master_of(tmp_path / "data") is None
    folder.name_master()
    assert master_of(tmp_path / "data") == os.getpid()


def test_master_of_a_folder_that_was_begun_anew_is_known(held, tmp_path) -> None:
    """Given a folder that is removed while its gateway runs, then the new one names the master, too."""
    folder = held(tmp_path / "data")
    shutil.rmtree(tmp_path / "data")
    folder.keep()
    assert master_of(tmp_path / "data") == os.getpid()


@pytest.mark.parametrize(
    "pid",
    [
        pytest.param("1", id="init"),
        pytest.param(str(os.getppid()), id="another-process"),
        pytest.param("4194305", id="none"),
        "-1",
        "0",
        "nonsense",
        "",
    ],
)
def test_pid_that_is_not_the_master_s_is_none(tmp_path, pid) -> None:
    """Given a lock file left by a gateway that has ended, then whoever has its pid now is not taken for a master."""
    (tmp_path / "lock").write_text(pid)
    assert master_of(tmp_path) is None


def test_master_that_starts_removes_the_pid_of_the_one_before(held, tmp_path) -> None:
    """Given the pid of an earlier master, which may be its own in a container, then a start takes it out."""
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    held(tmp_path)
    assert master_of(tmp_path) is None

"""The folder of counts: whose it is, what it begins with, and that none is left behind for good."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.runtime.counts_folder import CountsFolder, counts_folder, remove_leftovers
from gateway.runtime.shared_counts import SharedCounts
from tests.full_disk import SmallDisk

KINDS = 7

# A master that holds the folder, and ends when its standard input does.
HOLD = """
import os, sys
from pathlib import Path
from gateway.runtime.counts_folder import CountsFolder
folder = CountsFolder(Path(sys.argv[1]), 1)
if sys.argv[2] == "with-worker" and os.fork():
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "messages-gateway-1-2"


@pytest.fixture
def holder(path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that holds the folder; it is ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(manner: str = "alone") -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLD, str(path), manner],
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def test_it_begins_with_nothing_and_room_for_all(path: Path) -> None:
    """Given what an earlier start left, then it is gone, every worker's files have their blocks, and all is private."""
    path.mkdir(mode=0o700)
    SharedCounts(path, 7).value("counter", "a", "a_total", [], [], "A.").inc(1)
    folder = CountsFolder(path, workers=2)
    files = list(path.iterdir())
    assert len(files) == 2 * KINDS
    assert not (path / "counter_7.db").exists()
    for file in files:
        status = file.stat()
        assert status.st_blocks * 512 >= status.st_size > 0
        assert status.st_mode & 0o077 == 0
    assert path.stat().st_mode & 0o077 == 0
    folder.end()
    assert not path.exists()


@pytest.mark.parametrize("what", ["open-to-others", "a-link", "a-file", "another-user's"])
def test_one_that_is_not_ours_alone_is_refused(path: Path, tmp_path: Path, what: str) -> None:
    """Given something else with the folder's name, as others may put there, then it is not used, nor touched."""
    if what == "a-link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (tmp_path / "elsewhere" / "their.db").touch()
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "a-file":
        path.touch()
    else:
        path.mkdir(mode=0o700)
        (path / "their.db").touch()
        if what == "open-to-others":
            path.chmod(0o755)
        else:
            os.chown(path, 65534, 65534)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="messages-gateway-1-2"):
        CountsFolder(path, workers=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_one_that_another_gateway_holds_is_refused(path: Path, holder: Callable[..., subprocess.Popen[str]]) -> None:
    """Given a gateway that counts there, then another does not, and takes nothing away."""
    holder()
    with pytest.raises(BlockingIOError):
        CountsFolder(path, workers=1)
    assert len(list(path.iterdir())) == KINDS


def test_what_a_killed_gateway_left_behind_is_removed_by_the_next(
    path: Path, tmp_path: Path, holder: Callable[..., subprocess.Popen[str]]
) -> None:
    """Given a gateway that was killed, then the next start, of whichever, removes its folder, but no other's."""
    (tmp_path / "somebody-else").mkdir()
    process = holder()
    remove_leftovers(tmp_path)
    assert path.exists()
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    CountsFolder(tmp_path / "messages-gateway-3-4", workers=1).end()
    assert [entry.name for entry in tmp_path.iterdir()] == ["somebody-else"]


def test_it_is_held_as_long_as_a_worker_lives(
    path: Path, tmp_path: Path, holder: Callable[..., subprocess.Popen[str]]
) -> None:
    """Given a master that is gone while its worker still drains, then its folder is in use."""
    holder("with-worker").wait(30)
    remove_leftovers(tmp_path)
    assert len(list(path.iterdir())) == KINDS


def test_start_without_room_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """Given a full file system, then no room is found for a start; nothing is left behind that is not whole."""
    with SmallDisk(tmp_path / "small", size_bytes=4 << 20) as disk:
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            CountsFolder(disk.folder / "messages-gateway-1-2", workers=4)
        assert [entry.name for entry in disk.folder.iterdir()] == ["ballast"]


def test_each_data_folder_has_its_own(tmp_path: Path) -> None:
    """Given two data folders, then their counts lie apart, and where they lie stays the same."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert counts_folder(one) == counts_folder(one / ".." / "one") != counts_folder(other)

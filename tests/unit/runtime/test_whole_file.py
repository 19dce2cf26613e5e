"""Files that others write: read when they are whole, and only if they are files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gateway.runtime import whole_file
from gateway.runtime.whole_file import WatchedFile, read_now, read_whole
from tests.unit.fakes import FakeClock


def backdate(path: Path, seconds: float = 60.0) -> None:
    """Make a file look as if it had been written that long ago."""
    at = time.time() - seconds
    os.utime(path, (at, at))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("whole")
    return path


def test_file_that_nobody_writes_is_read_at_once(path, monkeypatch):
    """Given a file that was written a while ago, then it is read without waiting."""
    backdate(path)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waited"))
    assert read_whole(str(path)) == b"whole"


def test_file_in_the_writing_is_waited_for(path, monkeypatch):
    """Given a file that is written in place, when it is half there, then its reader waits for the other half."""
    path.write_text("")
    pieces = ["wh", "o", "le and more"]

    def write_on(_: float) -> None:
        if pieces:
            with path.open("a") as file:
                file.write(pieces.pop(0))

    monkeypatch.setattr(time, "sleep", write_on)
    assert read_whole(str(path)) == b"whole and more"


def test_file_from_a_machine_with_another_clock_is_read(path):
    """Given a file whose time lies ahead, then it is read when it has been seen to stay the same."""
    backdate(path, -3600)
    assert read_whole(str(path)) == b"whole"


def test_file_that_is_written_without_end_is_given_up(path, monkeypatch):
    """Given a file that changes at every look, then its reader says so in the end."""
    monkeypatch.setattr(whole_file, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(time, "sleep", lambda _: path.write_text(path.read_text() + "x"))
    with pytest.raises(OSError, match="it is being written"):
        read_whole(str(path))


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_large(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        pytest.param(make_fifo, "not a regular file", id="pipe"),
        pytest.param(Path.mkdir, "not a regular file", id="folder"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "not a regular file", id="device"),
        pytest.param(lambda path: path.symlink_to(path), "symbolic links", id="loop"),
        pytest.param(make_large, "larger than", id="a-terabyte"),
        pytest.param(lambda path: None, "No such file", id="nothing"),
    ],
)
@pytest.mark.parametrize("read", [read_now, read_whole])
def test_what_is_no_file_is_refused_at_once(tmp_path, make, why, read):
    """Given a pipe that nobody writes to, or what else has no content or too much, then an error, and no waiting."""
    path = tmp_path / "odd"
    make(path)
    with pytest.raises(OSError, match=why):
        read(str(path))


def test_pipe_that_takes_a_file_s_place_between_look_and_opening_does_not_hang(path, monkeypatch):
    """Given a pipe that comes after the look, then opening it does not wait for somebody to write to it."""
    real = os.open

    def swap(*arguments, **options):
        path.unlink()
        os.mkfifo(path)
        return real(*arguments, **options)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(OSError, match="not a regular file"):
        read_now(str(path))


def test_look_tells_how_long_a_file_has_been_as_it_is(path):
    """Given a file, then a look says since when it has not changed: by its own time, or by the looks before."""
    backdate(path, 5.0)
    clock = FakeClock(0.0)
    file = WatchedFile(str(path), clock)
    stamp, seconds = file.look()
    assert 5.0 <= seconds < 60.0
    path.write_text("ahead")
    backdate(path, -3600)
    assert file.look()[1] == 0.0
    clock.advance(3.0)
    assert file.look()[1] == 3.0
    assert file.look()[0] != stamp


def test_file_of_a_machine_whose_clock_is_behind_does_not_look_settled(path):
    """Given a file that was seen otherwise a moment ago, when its time lies far back, then it has changed since."""
    clock = FakeClock()
    file = WatchedFile(str(path), clock)
    file.look()
    clock.advance(0.25)
    path.write_text("half")
    backdate(path, 3600)
    assert file.look()[1] == 0.25
    clock.advance(5)
    assert file.look()[1] == 5.25


def test_content_belongs_to_its_stamp(path):
    """Given a file that has changed since the look, in place or by renaming, then it is not read for that stamp."""
    file = WatchedFile(str(path))
    stamp, _ = file.look()
    assert file.read(stamp) == b"whole"
    path.write_text("other, in place")
    assert file.read(stamp) is None
    stamp, _ = file.look()
    fresh = path.with_suffix(".new")
    fresh.write_text("other, in place")
    fresh.rename(path)
    assert file.read(stamp) is None

"""Changing a file that others change, too: nothing is lost, and what is said to be changed is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.runtime import edited_file
from gateway.runtime.edited_file import edit
from tests.unit.fakes import race


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def add(path: Path, line: str, **options: bool) -> None:
    edit(str(path), lambda text: f"{text}{line}\n", lambda text: f"{line}\n" in text, **options)


def meddle(monkeypatch: pytest.MonkeyPatch, meddling: Callable[[int], None]) -> None:
    """Have somebody else act each time before the file is replaced."""
    calls = iter(range(1000))
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            meddling(next(calls))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("exists", [True, False])
def test_changes_at_once_are_all_made(path, exists):
    """Given 24 changes at once, to a file or to none yet, then the file has them all, and nothing else is left."""
    if exists:
        path.write_text("# ours\n")
    race(24, lambda number: add(path, f"line {number}", may_be_new=True))
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted([*(["# ours"] if exists else []), *(f"line {number}" for number in range(24))])
    assert os.listdir(path.parent) == ["file"]


def test_what_an_editor_writes_meanwhile_is_kept(path, monkeypatch):
    """Given an editor that replaces or writes the file while it is changed, without a lock, then both changes stand."""
    path.write_text("a\n")

    def edit_too(number: int) -> None:
        if number == 0:
            fresh = path.with_suffix(".editor")
            fresh.write_text("a\nb\n")
            fresh.rename(path)
        elif number == 1:
            with path.open("a") as file:
                file.write("c\n")

    meddle(monkeypatch, edit_too)
    add(path, "ours")
    assert path.read_text() == "a\nb\nc\nours\n"


def test_change_that_is_overwritten_at_once_is_made_again(path, monkeypatch):
    """Given an editor that puts its old text in the place of the change, then the change is made once more."""
    path.write_text("a\n")
    real = os.replace
    overwritten = []

    def replace(*arguments: str) -> None:
        real(*arguments)
        if not overwritten:
            overwritten.append(path.write_text("a\nb\n"))

    monkeypatch.setattr(os, "replace", replace)
    add(path, "ours")
    assert path.read_text() == "a\nb\nours\n"


def test_file_that_is_changed_all_the_time_is_given_up(path, monkeypatch):
    """Given somebody who writes all the time, then the change is not said to be made."""
    path.write_text("a\n")
    meddle(monkeypatch, lambda number: path.write_text(f"{number}" * (number + 1)))
    with pytest.raises(OSError, match="somebody else changes it"):
        add(path, "ours")


def test_lock_that_is_held_is_waited_for_and_given_up(path, monkeypatch):
    """Given a command that was stopped in the middle, then another says so after a while, and changes nothing."""
    path.write_text("a\n")
    monkeypatch.setattr(edited_file, "_LOCK_SECONDS", 0.1)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another command holds its lock; nothing was changed"):
            add(path, "ours")
    assert path.read_text() == "a\n"
    add(path, "ours")


def test_mode_owner_and_attributes_stay(path):
    """Given a file with a mode, an owner and attributes of its own, then the changed file has them, too."""
    path.write_text("a\n")
    path.chmod(0o640)
    owner = (os.getuid(), os.getgid())
    if os.getuid() == 0:
        owner = (12345, 23456)
        os.chown(path, *owner)
    with contextlib.suppress(OSError):  # not every file system has attributes
        os.setxattr(path, "user.note", b"ours")
    attributes = os.listxattr(path)
    add(path, "b")
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, *owner)
    assert os.listxattr(path) == attributes


def test_new_file_is_private(path):
    """Given no file, then it is made for its owner alone, where it may be; else it is missed."""
    with pytest.raises(FileNotFoundError):
        add(path, "a")
    add(path, "a", may_be_new=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_behind_links_is_replaced_where_it_is(path, tmp_path):
    """Given a link to a link to a file, or to one that is not yet there, then the links stay links."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "link").symlink_to("real")
    path.symlink_to("elsewhere/link")
    add(path, "a", may_be_new=True)
    add(path, "b")
    assert (folder / "real").read_text() == "a\nb\n"
    assert path.is_symlink()
    assert (folder / "link").is_symlink()
    assert sorted(os.listdir(folder)) == ["link", "real"]


def test_link_that_is_turned_elsewhere_meanwhile_is_followed_anew(path, tmp_path, monkeypatch):
    """Given a mounted secret whose link is exchanged during the change, then the change is in what stands there now."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"{name}\n")
    path.symlink_to("one")

    def exchange(number: int) -> None:
        if number == 0:
            (tmp_path / "fresh").symlink_to("two")
            (tmp_path / "fresh").rename(path)

    meddle(monkeypatch, exchange)
    add(path, "ours")
    assert path.read_text() == "two\nours\n"


def test_line_ends_stay(path):
    """Given a file from another system, then its line ends are not rewritten."""
    path.write_bytes(b"a\r\nb\r\n")
    add(path, "c")
    assert path.read_bytes() == b"a\r\nb\r\nc\n"

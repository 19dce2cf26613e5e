"""What may lie in a spool's folder besides segments, each under the name of one."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

TERABYTE = 1 << 40


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "below").write_text("something")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def _looping_link(path: Path) -> None:
    path.symlink_to(path.name)


def _link_to_a_file(path: Path) -> None:
    elsewhere = path.parent.parent / "precious"
    elsewhere.write_text("precious\n")
    path.symlink_to(elsewhere)


def _socket(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # a socket's path has a short limit
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def _huge_file(path: Path) -> None:
    path.touch()
    os.truncate(path, TERABYTE)


def _device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero


ODD: dict[str, Callable[[Path], None]] = {
    "directory": _directory,
    "fifo": _fifo,
    "dangling-link": _dangling_link,
    "looping-link": _looping_link,
    "link-to-a-file": _link_to_a_file,
    "socket": _socket,
    "huge-file": _huge_file,
}
if os.geteuid() == 0:  # nobody else may make one
    ODD["device"] = _device


def put_all(folder: Path) -> list[str]:
    """Put one of each into a folder, and one whose name is no UTF-8; their names."""
    names = [f"0-{kind}.jsonl" for kind in ODD]
    for name, make in zip(names, ODD.values(), strict=True):
        make(folder / name)
    unwritten = os.fsdecode(b"0-\xff\n\x1b[31m.jsonl")
    (folder / unwritten).mkdir()
    return [*names, unwritten]

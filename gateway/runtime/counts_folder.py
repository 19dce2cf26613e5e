"""The folder in which the workers of one start keep their counts for each other.

Owns: where it is, whose it is, and how long it is there. The master's only thread. It lies in the
machine's memory file system, where others have folders, too: so it is looked at before it is used, and held by a lock
that the kernel takes back when the last process of the gateway has ended, however it did. A folder that nobody holds is
what a killed gateway has left behind; the next one that starts removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from gateway.runtime.counts_file import FIRST_BYTES, LIVE_KINDS, counts_path, make_empty, make_room

_MEMORY_FILES = Path("/dev/shm")
_NAME = "messages-gateway-"
_TRIES = 3


def counts_folder(data_dir: Path) -> Path:
    """Where the gateway that holds this data folder keeps its counts: one folder a data folder."""
    status = data_dir.stat()
    return _MEMORY_FILES / f"{_NAME}{status.st_dev:x}-{status.st_ino:x}"


class CountsFolder:
    """The folder, empty at first, with room for so many workers. It is held by this process and those it forks.

    Raises OSError, and leaves nothing behind, if it cannot be had.
    """

    def __init__(self, path: Path, workers: int) -> None:
        self.path = path
        remove_leftovers(path.parent)
        self._lock = _held(path)
        try:
            _empty(path)
            for row in range(workers):
                for kind, first_bytes in FIRST_BYTES.items():
                    make_room(counts_path(path, kind, row), first_bytes)
        except BaseException:
            self.end()
            raise

    def forget_moment(self, row: int) -> None:
        """A worker has ended: what its gauges said of the moment is over. Its files keep their room for the next."""
        for kind in LIVE_KINDS:
            make_empty(counts_path(self.path, kind, row))

    def end(self) -> None:
        """Remove it."""
        with suppress(OSError):  # what is left goes with the next start
            _empty(self.path)
            self.path.rmdir()
        os.close(self._lock)


def remove_leftovers(folder: Path) -> None:
    """Remove the folders of gateways that have ended without a chance to."""
    for path in folder.glob(f"{_NAME}*"):
        with suppress(OSError):  # another's, or in use
            descriptor = _locked(path)
            try:
                _empty(path)
                path.rmdir()
            finally:
                os.close(descriptor)


def _held(path: Path) -> int:
    for _ in range(_TRIES):
        path.mkdir(mode=0o700, exist_ok=True)
        try:
            descriptor = _locked(path)
        except FileNotFoundError:
            continue  # somebody took it for a leftover
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _locked(path: Path) -> int:
    """A descriptor that holds a folder. Raises OSError if it is not this user's alone, or held by another gateway."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _refuse_foreign(path, os.fstat(descriptor))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_foreign(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise PermissionError(errno.EPERM, "others can enter it", str(path))


def _empty(path: Path) -> None:
    for file in path.glob("*.db"):
        file.unlink(missing_ok=True)

"""The folder of the gateway's own files.

Owns: making it private, and that one gateway uses it at a time, for as long as it runs: a folder that was removed or
replaced meanwhile is made and held anew. The lock file has the master's pid. A DataFolder is the master's
only thread's.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


class DataFolderError(Exception):
    """The folder cannot be used; the message says why."""


class DataFolderTaken(DataFolderError):
    """Another gateway uses it."""


class DataFolder:
    """A folder held by this process and those it forks, until the last of them has ended.

    It is made private if it is made here; one that exists keeps its mode, and each file in it has one of its own.

    Raises DataFolderError if it cannot be made or another gateway holds it.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._locks = [self._taken()]  # of folders that were moved away, too: one may be moved back
        self._trouble = ""

    def keep(self) -> None:
        """See that it is still this gateway's: to be called now and then, as anybody may remove or replace it.

        A new one is made and held by this process, and by those that it forks from then on. While that cannot be, the
        log says so, once. Raises DataFolderTaken if another gateway was quicker.
        """
        if self._is_held():
            return
        try:
            lock = self._taken()
        except DataFolderTaken:
            if self._is_held():  # it was moved back just now
                return
            raise
        except DataFolderError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.error("the data folder was removed, and there is no new one: %s; this is tried again", error)
            return
        self._locks.append(lock)
        self.name_master()
        self._trouble = ""
        log.warning("the data folder %s was removed or replaced: it is begun anew, without what it held", self.path)

    def name_master(self) -> None:
        """Write this process's pid into the lock file, for `master_of`: from now on it may get signals."""
        with suppress(OSError):  # a full disk keeps nobody from serving
            os.pwrite(self._locks[-1], b"%d\n" % os.getpid(), 0)

    def _is_held(self) -> bool:
        """Whether what lies under the folder's name is what this process has locked."""
        try:
            there = os.stat(self.path / "lock")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # nobody can tell now
        return any(os.path.samestat(there, os.fstat(lock)) for lock in self._locks)

    def _taken(self) -> int:
        try:
            make_private(self.path)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataFolderError(f"the data folder {self.path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise DataFolderTaken(f"another gateway uses the data folder {self.path}; set GATEWAY_DATA_DIR") from None
        except OSError as error:
            os.close(lock)
            raise DataFolderError(f"the data folder {self.path} cannot be locked: {error.strerror}") from error
        with suppress(OSError):  # what an earlier master left
            os.ftruncate(lock, 0)
        return lock


def master_of(folder: Path) -> int | None:
    """The pid of the living gateway's master that holds a data folder; None if there is none.

    The lock file has its pid; that it still lives, and is no other process with that pid, shows in its open files.
    Raises OSError if this user may not read the lock file.
    """
    try:
        pid = int((folder / "lock").read_bytes() or b"0")
        held = os.stat(folder / "lock")
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return pid if held.st_ino in _open_inodes(pid, held.st_dev) else None


def _open_inodes(pid: int, device: int) -> set[int]:
    """The inodes of that device which a process has open; none if it has ended or is another user's."""
    found = set()
    with suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                status = file.stat()
                if status.st_dev == device:
                    found.add(status.st_ino)
    return found


def make_private(folder: Path) -> None:
    """Make a folder for its owner alone, if there is none; what is above it is made as is usual. Raises OSError."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def spool_folder(data_dir: str) -> Path:
    """The folder of records that wait to be stored, in a data folder."""
    return Path(data_dir) / "journal"


def sessions_folder(data_dir: str) -> Path:
    """The folder of the tools that sessions began with, in a data folder."""
    return Path(data_dir) / "tool-sessions"

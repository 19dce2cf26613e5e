"""The folder of the gateway's own files.

Owns: making it private, and that one gateway uses it at a time. Edge layer; the master's only thread.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class DataFolderError(Exception):
    """The folder cannot be used; the message says why."""


class DataFolder:
    """A folder held by this process and those it forks, until the last of them has ended.

    It is made private if it is made here; one that exists keeps its mode, and each file in it has one of its own.

    Raises DataFolderError if it cannot be made or another gateway holds it.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        try:
            if not self.path.is_dir():
                self.path.mkdir(mode=0o700, parents=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataFolderError(f"the data folder {path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise DataFolderError(f"another gateway uses the data folder {path}; set GATEWAY_DATA_DIR") from None


def journal_folder(data_dir: str) -> Path:
    """The folder of records that wait to be stored, in a data folder."""
    return Path(data_dir) / "journal"

"""One process among all of a machine, for what only one of them should do.

Owns: the kernel's lock on a file, which ends with the process.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Chair:
    """A seat for one process of the machine, kept until it leaves or ends. One thread's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def is_taken(self) -> bool:
        """Whether this process has it, or could take it now."""
        if self._descriptor is None:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._descriptor = descriptor
        return True

    def leave(self) -> None:
        """Let another process have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __repr__(self) -> str:
        return f"<Chair {'taken' if self._descriptor is not None else 'free'}>"

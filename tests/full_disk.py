"""A real file system that is small enough to be filled.

Owns: mounting and unmounting it. It is a tmpfs with a limit, which takes the right to mount (root, or a container with
CAP_SYS_ADMIN): where that is missing, a test that needs it fails and says so.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from types import TracebackType

_PIECE_BYTES = 4096


class SmallDisk:
    """A file system of so many bytes at `folder`."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "small-disk", str(folder)], check=True
        )
        self._ballast = folder / "ballast"

    def fill(self, but_bytes: int = 0) -> None:
        """Leave no block free, or just so many bytes."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            while True:
                os.write(descriptor, bytes(_PIECE_BYTES))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - but_bytes))
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Take away what fills it."""
        self._ballast.unlink()

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

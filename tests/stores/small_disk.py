"""A file system of its own that can be full: a small tmpfs, mounted for one test."""

from __future__ import annotations

import os
import subprocess
from io import FileIO
from pathlib import Path

import pytest

_SIZE_BYTES = 4 * 1024 * 1024


class SmallDisk:
    """A file system of 4 MiB. Only root may mount one; a test by anybody else is skipped, and says so."""

    def __init__(self, path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("a file system can be mounted by root alone")
        self.path = path
        path.mkdir()
        options = f"size={_SIZE_BYTES},mode=755"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr}")

    def fill(self) -> None:
        """Leave no room."""
        with (self.path / "filling").open("ab", buffering=0) as file:
            for piece in (b"x" * 4096, b"x"):
                with pytest.raises(OSError, match="No space left"):
                    _write_on(file, piece)

    def empty(self) -> None:
        """There is room again."""
        (self.path / "filling").unlink()

    def close(self) -> None:
        """Unmount it, whoever still uses it."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


def _write_on(file: FileIO, piece: bytes) -> None:
    while True:
        file.write(piece)

"""Files that are mapped into memory: they must have their blocks before anybody writes to a page.

Owns: nothing; one function. Any thread. A page of a mapped file gets its block on the disk when it is
first written to, and where there is none left the kernel kills the process (SIGBUS). With its blocks allocated the file
can be written to however full the disk is, and where they cannot be had that is an error like any other.
"""

from __future__ import annotations

import os

_BLOCK_BYTES = 512  # the unit of st_blocks, see stat(2)


def allocate(descriptor: int, size_bytes: int) -> None:
    """Make a file at least so large, with blocks for all of it. Raises OSError if the disk has not so much room."""
    status = os.fstat(descriptor)
    if status.st_size < size_bytes or status.st_blocks * _BLOCK_BYTES < size_bytes:
        os.posix_fallocate(descriptor, 0, size_bytes)

"""One at a time, among all threads of all processes that use one folder.

Owns: the kernel's lock on a folder. Edge layer; any thread.

A robust mutex in shared memory, which LMDB brings, is not enough where processes are killed. Whoever unlocks it wakes
one waiter and leaves the mutex free; if another takes it before that waiter runs, and the waiter is killed before it
has noted that it waits again, then nobody knows of the other waiters, and they sleep until two processes happen to
meet there once more. (glibc's `pthread_mutex_lock.c` and Linux's `handle_futex_death` leave this gap.) The kernel
itself keeps the queue of a file's lock, so a waiter that is killed leaves it, and takes nobody's turn along.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from types import TracebackType


class FolderLock:
    """A context manager; not re-entrant. A process that dies lets go of it.

    Raises OSError if the folder cannot be opened. Not to be used across a fork.
    """

    def __init__(self, folder: Path) -> None:
        self._threads = threading.Lock()  # guards _descriptor: the kernel's lock is the process's, not the thread's
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except BaseException:
            self._threads.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def close(self) -> None:
        """Nobody may enter any more: that raises ValueError."""
        with self._threads:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

"""Changing a text file that others change, too, and that a running gateway reads.

Owns: one change at a time, each on top of the last, and that a change which is said to be made is in the file. Any
thread. The file is replaced in one step, so a reader sees the old one or the new one. Who changes it by this module
waits for the others, at the kernel's lock on the file; an editor does not, so what it writes meanwhile is looked for
before and after.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gateway.runtime.whole_file import Stamp, read_now, read_stamped, stamp_now

_TRIES = 20
_LOCK_SECONDS = 30.0
_LOCK_PAUSE_SECONDS = 0.01


def edit(path: str, change: Callable[[str], str], is_changed: Callable[[str], bool], may_be_new: bool = False) -> None:
    """Make a change to a file's text: `change` gives the new text, `is_changed` says whether a text has the change.

    The file keeps its mode, owner and attributes (access lists among them); behind a link it is replaced where it is. A
    file that is not there begins as an empty text if it `may_be_new`, for its owner alone. Both functions may be called
    again. Raises OSError with nothing changed, UnicodeDecodeError, and what `change` raises.
    """
    for _ in range(_TRIES):
        try:
            _change(os.path.realpath(path), change, may_be_new)
        except (_ChangedMeanwhile, FileExistsError):
            continue
        if is_changed(read_now(path).decode()):
            return
    raise OSError(errno.EBUSY, "somebody else changes it all the time; look what is in it")


class _ChangedMeanwhile(Exception):
    """Somebody else has written or replaced the file."""


def _change(target: str, change: Callable[[str], str], may_be_new: bool) -> None:
    try:
        with _locked(target):
            content, stamp = read_stamped(target)
            _replace(target, stamp, change(content.decode()))
    except FileNotFoundError:
        if not may_be_new:
            raise
        _replace(target, None, change(""))


@contextmanager
def _locked(target: str) -> Iterator[None]:
    """Hold the kernel's lock on the file that stands there; it dies with this process.

    Whoever held it before has put another file there, and that one is to be locked.
    """
    gives_up_at = time.monotonic() + _LOCK_SECONDS
    while (descriptor := _try_to_lock(target)) is None:
        if time.monotonic() >= gives_up_at:
            raise OSError(errno.EBUSY, "another command holds its lock; nothing was changed")
        time.sleep(_LOCK_PAUSE_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


def _try_to_lock(target: str) -> int | None:
    """A descriptor that holds the lock; None if somebody else has it."""
    stamp_now(target)  # opens nothing but a regular file
    access = os.O_RDWR if os.access(target, os.W_OK) else os.O_RDONLY  # over NFS the lock wants the former
    descriptor = os.open(target, access | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(target)):
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _replace(target: str, stamp: Stamp | None, text: str) -> None:
    """Put a new file in the place of the one with that stamp, or of none. Raises FileExistsError, _ChangedMeanwhile."""
    folder, name = os.path.split(target)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as output:
            output.write(text)
            output.flush()
            if stamp is not None:
                _take_after(target, output.fileno())
            os.fsync(output.fileno())
        if stamp is None:
            os.link(temporary, target)  # unlike a renaming, this never takes another file's place
        elif stamp_now(target) != stamp:
            raise _ChangedMeanwhile
        else:
            os.replace(temporary, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    _make_durable(folder)


def _take_after(target: str, descriptor: int) -> None:
    """Give an open file the owner, mode and attributes of another."""
    model, own = os.stat(target), os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (model.st_uid, model.st_gid):
        os.fchown(descriptor, model.st_uid, model.st_gid)
    os.fchmod(descriptor, model.st_mode & 0o7777)
    for attribute in os.listxattr(target):
        with suppress(OSError):  # not everybody may set each
            os.setxattr(descriptor, attribute, os.getxattr(target, attribute))


def _make_durable(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

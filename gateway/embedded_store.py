"""The records of the keys in a file that all workers of one machine share; no server to run.

Owns: the file `keys.lmdb` in the data folder. Edge layer. LMDB (https://www.symas.com/lmdb) is a memory-mapped
B-tree with one writer at a time and readers that never wait: a walk reads its keys in about a microsecond each. A
transaction that was not committed never happened, so a process may be killed at any instruction.

LMDB has a writers' mutex of its own, but nobody waits at it: who writes holds the folder's lock, which says why. Nor
does a reader wait, but for another one who takes a place in the table of readers at that very moment.

One environment a process, opened after the fork; its threads share it. The file holds no secret: a key is known by
a keyed hash of its fingerprint, under a salt of the file's own.

All that the file holds can be learned again from the upstream, so a file that cannot be used (half written when the
power failed, say) is set aside and begun anew: it never keeps a gateway from starting.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import lmdb
import msgspec

from gateway.allocation import allocate
from gateway.folder_lock import FolderLock
from gateway.records import NEVER_SEEN, Record, started_anew
from gateway.store import Change, MergingStore

log = logging.getLogger(__name__)

_FILE_NAME = "keys.lmdb"
_SALT = b"salt"
# The names of all records: `get` answers for a broken page with an error, where a cursor would end the process.
_NAMES = b"names"
_MAP_BYTES = 256 * 1024 * 1024  # address space, not disk; room for what a stalled reader keeps from being used again
_CHANGES_BETWEEN_READER_CHECKS = 256
_RESERVED_BYTES = 1024 * 1024
_LOCK_HEAD_BYTES, _READER_BYTES = 4096, 64  # at least what LMDB's take

# The file's own fault; what a full disk or a missing permission raises is not among them.
_UNUSABLE = (
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.PageFullError,
    lmdb.PanicError,
    msgspec.MsgspecError,
)

_decode = msgspec.msgpack.Decoder(Record).decode
_decode_names = msgspec.msgpack.Decoder(list[bytes]).decode
_encode = msgspec.msgpack.Encoder().encode


class EmbeddedStore(MergingStore):
    """A Store for the workers of one machine.

    `folder` is private to the gateway (mode 0700). Raises OSError or lmdb.Error if the file cannot be used.
    """

    def __init__(self, folder: Path, threads: int = 512) -> None:
        self._is_up = True
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / _FILE_NAME
        self._lock = FolderLock(folder)  # guards which file is in use, and writing to it
        try:
            with self._lock:
                self._environment, self._salt = _opened_or_begun_anew(self._path, threads)
        except BaseException:
            self._lock.close()
            raise
        self._changes = count()
        self._names: dict[str, bytes] = {}  # a cache that only grows; races write the same value
        self._pid = os.getpid()
        self._closing = threading.Lock()

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a gateway has kept its keys' records in this folder."""
        return (folder / _FILE_NAME).exists()

    def read(self, fingerprints: Sequence[str]) -> list[Record]:
        names = [self._name(fingerprint) for fingerprint in fingerprints]
        with self._environment.begin() as transaction:
            found = [transaction.get(name) for name in names]
        return [NEVER_SEEN if data is None else _decode(data) for data in found]

    def start_anew(self, now: float) -> None:
        """The gateway restarts: give every refused key its one trial. Before any worker runs."""
        with self._lock, self._environment.begin(write=True) as transaction:
            for name, record in _records(transaction).items():
                transaction.put(name, _encode(started_anew(record, now)))

    @property
    def is_up(self) -> bool:
        """Whether the last change could be written."""
        return self._is_up

    def _change(self, fingerprint: str, change: Change) -> tuple[Record, Record]:
        """Apply a change; one that cannot be written (the disk is full, say) is told and forgotten, for the request
        that made it can still be served by another key.
        """
        try:
            changed = self._written(fingerprint, change)
        except lmdb.Error as error:
            if self._is_up:
                log.error("the keys' state cannot be written: %s", error)  # it says all there is
            self._is_up = False
            (record,) = self.read([fingerprint])
            return record, record
        self._is_up = True
        return changed

    def _written(self, fingerprint: str, change: Change) -> tuple[Record, Record]:
        with self._lock:
            if next(self._changes) % _CHANGES_BETWEEN_READER_CHECKS == 0:
                self._environment.reader_check()  # until then no page that a killed reader saw is used again
            return self._committed(self._name(fingerprint), change)

    def _committed(self, name: bytes, change: Change) -> tuple[Record, Record]:
        with self._environment.begin(write=True) as transaction:
            data = transaction.get(name)
            before = NEVER_SEEN if data is None else _decode(data)
            after = change(before)
            if after is not before:
                transaction.put(name, _encode(after))
                if data is None:
                    transaction.put(_NAMES, _encode([*_names(transaction), name]))
            return before, after

    def close(self) -> None:
        """Close the file; for the process that opened it alone."""
        with self._closing:
            if self._pid == os.getpid():
                self._environment.close()
                self._lock.close()

    def _name(self, fingerprint: str) -> bytes:
        name = self._names.get(fingerprint)
        if name is None:
            name = hmac.digest(self._salt, fingerprint.encode(), hashlib.sha256)
            self._names[fingerprint] = name
        return name

    def __repr__(self) -> str:
        return f"<EmbeddedStore {self._path}>"


def _opened_or_begun_anew(path: Path, threads: int) -> tuple[lmdb.Environment, bytes]:
    """The file's environment and its salt. The folder's lock is held, so none sets aside what another has begun."""
    try:
        return _opened(path, threads)
    except _UNUSABLE as error:
        _set_aside(path, error)
        return _opened(path, threads)


def _opened(path: Path, threads: int) -> tuple[lmdb.Environment, bytes]:
    """The file, looked through from end to end, and its salt."""
    readers = max(512, 4 * threads)
    if not path.exists():
        _begin(path)
    _reserve(path, readers)
    environment = lmdb.open(
        str(path),
        map_size=_MAP_BYTES,
        subdir=False,
        mode=0o600,
        # Marks outlive the process, which is what counts; after a power failure cooldowns are old news.
        sync=False,
        max_readers=readers,
    )
    try:
        environment.reader_check()  # slots of readers that were killed
        with environment.begin(write=True) as transaction:
            _fill_up(environment, path)
            _records(transaction)
            salt = bytes(transaction.get(_SALT) or secrets.token_bytes(32))
            transaction.put(_SALT, salt)  # written again, for that goes through the list of free pages
            return environment, salt
    except BaseException:
        environment.close()
        raise


def _begin(path: Path) -> None:
    """Make the file under another name first: a kill may cut LMDB's very first write, and half a head is unusable."""
    begun = path.with_name(f"{path.name}.begun")
    begun.unlink(missing_ok=True)
    lmdb.open(str(begun), subdir=False, mode=0o600, lock=False).close()
    _lock_file(path).unlink(missing_ok=True)
    begun.replace(path)


def _lock_file(path: Path) -> Path:
    """LMDB's own. Who still uses an old file, removed or set aside, must not share it with the new one."""
    return path.with_name(f"{path.name}-lock")


def _reserve(path: Path, readers: int) -> None:
    """See that a full disk kills nobody, and that the state can be written while it is full. Raises OSError.

    LMDB writes its data with `pwrite`, which fails with an error; but readers write to the mapped lock file, which must
    have its blocks before. It is lengthened only if nobody has it mapped, which LMDB's own lock tells; a process that
    has the file open must not call this: closing a file gives up all its locks, see fcntl(2).
    """
    with _descriptor(_lock_file(path)) as descriptor:
        size_bytes = os.fstat(descriptor).st_size
        with suppress(BlockingIOError, PermissionError):
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            size_bytes = max(size_bytes, _LOCK_HEAD_BYTES + readers * _READER_BYTES)
        allocate(descriptor, size_bytes)
    with _descriptor(path) as descriptor, suppress(OSError):  # it may be full now: then changes are told and forgotten
        allocate(descriptor, _RESERVED_BYTES)


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _names(transaction: lmdb.Transaction) -> list[bytes]:
    data = transaction.get(_NAMES)
    return [] if data is None else _decode_names(data)


def _records(transaction: lmdb.Transaction) -> dict[bytes, Record]:
    return {name: _decode(transaction.get(name, b"")) for name in _names(transaction)}


def _fill_up(environment: lmdb.Environment, path: Path) -> None:
    """Make the file as long as it says it is: reading a mapped page behind its end would kill the process (SIGBUS).

    The writers' lock is held, so nobody lengthens it meanwhile. Pages that are missing then read as empty ones.
    """
    needed_bytes = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if needed_bytes > _MAP_BYTES:
        raise lmdb.CorruptedError("the file says that it is longer than it can be")
    if path.stat().st_size < needed_bytes:
        os.truncate(path, needed_bytes)


def _set_aside(path: Path, error: Exception) -> None:
    """Out of the way, so that the next opening begins anew."""
    aside = path.with_name(f"{path.name}.unusable")
    path.replace(aside)
    log.warning("%s cannot be used (%s): it was set aside as %s, and the keys begin anew", path, error, aside.name)

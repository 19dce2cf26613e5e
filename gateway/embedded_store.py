"""The records of the keys in a file that all workers of one machine share; no server to run.

Owns: the file `keys.lmdb` in the data folder. Edge layer. LMDB (https://www.symas.com/lmdb) is a memory-mapped
B-tree with one writer at a time and readers that never wait: a walk reads its keys in about a microsecond each. Its
writers' lock is a robust mutex, which a killed process cannot leave locked, and a transaction that was not
committed never happened.

One environment a process, opened after the fork; its threads share it. The file holds no secret: a key is known by
a keyed hash of its fingerprint, under a salt of the file's own.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

import lmdb
import msgspec

from gateway.records import NEVER_SEEN, Record, started_anew
from gateway.store import Change, MergingStore

_FILE_NAME = "keys.lmdb"
_SALT = b"salt"
_KEY_PREFIX = b"key:"
_MAP_BYTES = 16 * 1024 * 1024  # address space, not disk; thousands of keys fit

_decode = msgspec.msgpack.Decoder(Record).decode
_encode = msgspec.msgpack.Encoder().encode


class EmbeddedStore(MergingStore):
    """A Store for the workers of one machine.

    `folder` is private to the gateway (mode 0700). Raises OSError or lmdb.Error if the file cannot be used.
    """

    def __init__(self, folder: Path, threads: int = 512) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._environment = lmdb.open(
            str(folder / _FILE_NAME),
            map_size=_MAP_BYTES,
            subdir=False,
            mode=0o600,
            # Marks outlive the process, which is what counts; after a power failure cooldowns are old news.
            sync=False,
            max_readers=max(512, 4 * threads),
        )
        self._environment.reader_check()  # slots of readers that were killed
        self._names: dict[str, bytes] = {}  # a cache that only grows; races write the same value
        self._salt = self._salted()
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
        with self._environment.begin(write=True) as transaction:
            for name, data in list(transaction.cursor()):
                if bytes(name).startswith(_KEY_PREFIX):
                    transaction.put(name, _encode(started_anew(_decode(data), now)))

    def _change(self, fingerprint: str, change: Change) -> tuple[Record, Record]:
        name = self._name(fingerprint)
        with self._environment.begin(write=True) as transaction:
            data = transaction.get(name)
            before = NEVER_SEEN if data is None else _decode(data)
            after = change(before)
            if after is not before:
                transaction.put(name, _encode(after))
            return before, after

    def close(self) -> None:
        """Close the file; for the process that opened it alone."""
        with self._closing:
            if self._pid == os.getpid():
                self._environment.close()

    def _name(self, fingerprint: str) -> bytes:
        name = self._names.get(fingerprint)
        if name is None:
            name = _KEY_PREFIX + hmac.digest(self._salt, fingerprint.encode(), hashlib.sha256)
            self._names[fingerprint] = name
        return name

    def _salted(self) -> bytes:
        with self._environment.begin(write=True) as transaction:
            salt = transaction.get(_SALT)
            if salt is None:
                salt = secrets.token_bytes(32)
                transaction.put(_SALT, salt)
            return bytes(salt)

    def __repr__(self) -> str:
        return f"<EmbeddedStore {self._environment.path()}>"

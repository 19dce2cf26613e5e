"""The keys' records as earlier gateways kept them: in `keys.lmdb`, read once at the first start after an upgrade.

Owns: as much of LMDB's file format as that takes. The master's only thread. What counts is that a key
which the operator disabled stays disabled. The format (http://www.lmdb.tech/doc/, `mdb.c`): pages; two of them,
written in turn, name the root of a B-tree.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.keys.key_record import Record
from gateway.keys.keys_file import moved
from gateway.keys.known_keys import Known
from gateway.runtime.machine_clock import machine_time

log = logging.getLogger(__name__)

_FILE_NAME = "keys.lmdb"
_LOCK_NAME = "keys.lmdb-lock"

_HEAD_BYTES = 16  # of each page: its number, padding, flags, and where its free room begins and ends
_IS_BRANCH = 1
_MAGIC_AND_VERSION = (0xBEEFC0DE, 1)
_NO_ROOT = 2**64 - 1
_SALT, _NAMES = b"salt", b"names"
_DEEPEST = 16

_decode = msgspec.msgpack.Decoder(Record).decode


class NotReadable(Exception):
    """This is no such file, or not a whole one."""


def read(folder: Path) -> Known | None:
    """What an earlier gateway knew of its keys; None if there is no such file, or, which is told, it cannot be read."""
    path = folder / _FILE_NAME
    try:
        salt, records = records_of(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, NotReadable) as error:
        log.warning(
            "%s cannot be read (%s): all keys count as valid; disable again those that were disabled", path, error
        )
        return None
    ahead_seconds = machine_time() - time.time()
    log.info("%s was read: %d keys are known from it", path, len(records))
    return Known(salt.hex(), {name.hex(): moved(record, ahead_seconds) for name, record in records.items()})


def remove(folder: Path) -> None:
    """It has been taken over. Raises OSError."""
    for name in (_FILE_NAME, _LOCK_NAME):
        (folder / name).unlink(missing_ok=True)


def records_of(data: bytes) -> tuple[bytes, dict[bytes, Record]]:
    """The file's salt and its records, by keyed hash. Times are epoch seconds. Raises NotReadable."""
    try:
        page_bytes: int = struct.unpack_from("<I", data, 40)[0]
        _, root = max(_root(data, at) for at in (0, page_bytes))
        found = {} if root == _NO_ROOT else dict(_entries(data, page_bytes, root, 0))
        salt = found.pop(_SALT)
        found.pop(_NAMES, None)
        return salt, {name: _decode(value) for name, value in found.items()}
    except (struct.error, LookupError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise NotReadable(str(error)) from error


def _root(data: bytes, at: int) -> tuple[int, int]:
    """The number of the transaction that wrote this head, and the page of the root."""
    if struct.unpack_from("<II", data, at + 16) != _MAGIC_AND_VERSION:
        raise ValueError("it does not begin as such a file does")
    root, _, transaction = struct.unpack_from("<QQQ", data, at + 128)
    return transaction, root


def _entries(data: bytes, page_bytes: int, page: int, depth: int) -> Iterator[tuple[bytes, bytes]]:
    if depth > _DEEPEST:
        raise ValueError("its pages point to each other in a circle")
    start = page * page_bytes
    flags, lower = struct.unpack_from("<HH", data, start + 10)
    for offset in struct.unpack_from(f"<{(lower - _HEAD_BYTES) // 2}H", data, start + _HEAD_BYTES):
        low, high, upper, key_bytes = struct.unpack_from("<4H", data, start + offset)
        if flags & _IS_BRANCH:
            yield from _entries(data, page_bytes, low | high << 16 | upper << 32, depth + 1)
        else:
            key_at = start + offset + 8
            value_at = key_at + key_bytes
            yield data[key_at:value_at], data[value_at : value_at + (low | high << 16)]

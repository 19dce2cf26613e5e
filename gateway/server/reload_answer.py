"""What became of the last reload: a small file in the data folder, for `gateway reload`.

Owns: its form, and that it is replaced in one step. The master's only thread writes, commands read. Times
are the machine's clock, which all its processes share; so a command knows the answer to its own signal.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

_NAME = "reload"


@dataclass(frozen=True, slots=True)
class ReloadAnswer:
    """A reload whose reading of the files began then: what is wrong with them, or what has to wait for a restart.

    With any complaint the reload was refused, and nothing has changed.
    """

    began_at: float
    complaints: list[str]
    needing_restart: list[str]


def leave(folder: Path, answer: ReloadAnswer) -> None:
    """Put an answer in the place of the one before. Raises OSError."""
    fresh = folder / f"{_NAME}.new"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(asdict(answer)))
    os.replace(fresh, folder / _NAME)


def forget(folder: Path) -> None:
    """Remove an answer of an earlier start: the machine's clock may have begun again since. Raises OSError."""
    (folder / _NAME).unlink(missing_ok=True)


def last(folder: Path) -> ReloadAnswer | None:
    """The latest answer; None if there is none that can be read."""
    try:
        return msgspec.json.decode((folder / _NAME).read_bytes(), type=ReloadAnswer)
    except (OSError, msgspec.DecodeError):
        return None

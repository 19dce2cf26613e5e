"""The injected tools of each session, kept as they were when it began.

Owns: what all workers of a gateway remember of that, in the data folder. Any thread.

A model's thoughts are bound to the tools that it was offered, and prompt caches begin with them. So a session goes on
with the tools of its first request, as long as they exist, whatever an MCP server lists meanwhile: what is new is for
new sessions. The next request may come to another worker, so a worker's own memory would not do: the session would
change its tools to and fro.

The folder `sets` has a file for each set of tools, named by its contents; `sessions` has a symbolic link for each
session, to the name of its set. Both come to be at once or not at all, and nobody changes them: there is no lock, and
of two workers the first one decides. A name is a digest of the client's token and the session that it names. What has
not been used for a day is removed, and the oldest of what is too much. Where nothing can be kept, sessions have the
tools of the moment.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.protocol.json_values import to_json
from gateway.tools.toolbox import InjectedTool

log = logging.getLogger(__name__)

IDLE_SECONDS = 86400.0
MOST_SESSIONS = 10_000
MOST_SETS = 64
_TOUCH_SECONDS = 60.0
_SESSIONS_A_SWEEP = 500

Definitions = Mapping[str, Mapping[str, Any]]


class ToolSessions:
    """The sessions of one gateway. Without a folder nothing is kept. `wall_clock` is the one that files' times have."""

    def __init__(self, folder: Path | None, wall_clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._wall_clock = wall_clock
        self._named: tuple[Sequence[InjectedTool], str] = ((), "")
        self._has_failed = False
        self._lock = threading.Lock()  # guards all below
        self._touched: OrderedDict[str, tuple[str, float]] = OrderedDict()  # a session's set, and when it was used
        self._sets: OrderedDict[str, Definitions] = OrderedDict()
        self._begun = 0

    def tools(self, client: str | None, session: str | None, current: Sequence[InjectedTool]) -> Sequence[InjectedTool]:
        """The tools for a request of this session: those that there are now, if it names none or has just begun."""
        if self._folder is None or session is None or not current:
            return current
        try:
            kept = self._kept(self._folder, _digest(to_json([client, session])), current)
        except (OSError, ValueError, LookupError, TypeError) as error:  # the disk is full; a file is another one
            self._failed(error)
            return current
        self._has_failed = False
        return kept

    def _kept(self, folder: Path, name: str, current: Sequence[InjectedTool]) -> Sequence[InjectedTool]:
        now = self._name_of(current)
        then = self._used(folder, name) or self._begin(folder, name, now, current)
        if then == now:
            return current
        definitions = self._set(folder, then)
        if definitions is None:  # removed, as the oldest of too many; the session begins anew when this is noticed
            return current
        kept = [replace(tool, definition=definitions[tool.name]) for tool in current if tool.name in definitions]
        return kept or current  # none of them exists any more

    def _used(self, folder: Path, name: str) -> str | None:
        """The set of a session that is known, and that it is in use; None if there is none."""
        now = self._wall_clock()
        with self._lock:
            known, touched_at = self._touched.get(name, (None, 0.0))
            if known is not None and 0 <= now - touched_at < _TOUCH_SECONDS:
                return known
        link = folder / "sessions" / name
        try:
            known = os.readlink(link)
            if now - os.lstat(link).st_mtime > IDLE_SECONDS:
                link.unlink(missing_ok=True)
                return None
            os.utime(link, (now, now), follow_symlinks=False)
            os.utime(folder / "sets" / known, (now, now))
        except FileNotFoundError:
            return None
        self._note(name, known, now)
        return known

    def _begin(self, folder: Path, name: str, now: str, current: Sequence[InjectedTool]) -> str:
        """A session begins with these tools, unless another worker has just begun it with others."""
        for part in ("sets", "sessions"):
            (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / "sets" / now).exists():
            self._write_set(folder, now, current)
        link = folder / "sessions" / name
        if (old := _link_of(link)) is not None and not (folder / "sets" / old).exists():
            link.unlink(missing_ok=True)  # its set is gone, and so it begins anew
        with suppress(FileExistsError):
            os.symlink(now, link)
        begun, used_at = os.readlink(link), self._wall_clock()
        os.utime(link, (used_at, used_at), follow_symlinks=False)
        self._note(name, begun, used_at)
        with self._lock:
            self._begun += 1
            is_due = self._begun % _SESSIONS_A_SWEEP == 0
        if is_due:
            self._sweep(folder / "sessions", MOST_SESSIONS)
        return begun

    def _write_set(self, folder: Path, name: str, tools: Sequence[InjectedTool]) -> None:
        written = folder / "sets" / f"new-{secrets.token_hex(8)}"
        try:
            written.write_bytes(to_json([tool.definition for tool in tools]))
            os.utime(written, (self._wall_clock(), self._wall_clock()))
            written.replace(folder / "sets" / name)
        finally:
            written.unlink(missing_ok=True)
        self._sweep(folder / "sets", MOST_SETS)

    def _set(self, folder: Path, name: str) -> Definitions | None:
        with self._lock:
            known = self._sets.get(name)
        if known is not None:
            return known
        try:
            written = json.loads((folder / "sets" / name).read_bytes())
        except FileNotFoundError:
            return None
        definitions = {definition["name"]: definition for definition in written}
        with self._lock:
            self._sets[name] = definitions
            while len(self._sets) > MOST_SETS:
                self._sets.popitem(last=False)
        return definitions

    def _name_of(self, tools: Sequence[InjectedTool]) -> str:
        """The name of a set; that of the last one is known, for it hardly ever changes."""
        known, name = self._named
        if known is not tools:
            name = _digest(to_json([tool.definition for tool in tools]))
            self._named = (tools, name)
        return name

    def _note(self, name: str, known: str, now: float) -> None:
        with self._lock:
            self._touched[name] = (known, now)
            self._touched.move_to_end(name)
            while len(self._touched) > MOST_SESSIONS:
                self._touched.popitem(last=False)

    def _sweep(self, folder: Path, most: int) -> None:
        """Remove what has not been used for long, and the oldest of what is too much."""
        ages: list[tuple[float, str]] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another worker sweeps as well
                    ages.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
        ages.sort()
        too_old = self._wall_clock() - IDLE_SECONDS
        for place, (used_at, path) in enumerate(ages):
            if used_at < too_old or place < len(ages) - most:
                with suppress(OSError):
                    os.unlink(path)

    def _failed(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            reason = getattr(error, "strerror", None) or type(error).__name__
            log.warning(
                "the tools of sessions cannot be kept in the data folder: %s; until they can, each session has the "
                "tools that there are now",
                reason,
            )

    def __repr__(self) -> str:
        return f"<ToolSessions known={len(self._touched)}>"


def _link_of(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

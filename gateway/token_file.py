"""The client tokens as they stand in their file now.

Owns: noticing that the file has changed. Edge layer; thread-safe. A revoked token must fail within two seconds, so
the file's stamp is looked at when a request asks, at most every half second; there is no timer and no watcher.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from gateway.access import ClientToken, TokenFileError, parse_tokens

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5


class TokenFile:
    """The tokens of one file, given those that were read at first. A file that turns bad keeps the last good ones."""

    def __init__(self, path: str, tokens: tuple[ClientToken, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows
        self._tokens = tokens
        self._stamp: tuple[int, int, int] | None = None
        self._looked_at = -_LOOK_SECONDS
        self._last_complaint = ""

    def tokens(self) -> tuple[ClientToken, ...]:
        """The tokens as of half a second ago at most."""
        now = self._clock()
        if now - self._looked_at < _LOOK_SECONDS:
            return self._tokens
        complaint: Exception | None = None
        with self._lock:
            self._looked_at = now
            try:
                self._look()
            except (OSError, UnicodeDecodeError, TokenFileError) as error:
                complaint = error
            tokens = self._tokens
        if complaint is not None and str(complaint) != self._last_complaint:
            self._last_complaint = str(complaint)
            log.error("token file %s: %s; the tokens read before stay in force", self._path, complaint)
        return tokens

    def _look(self) -> None:
        status = os.stat(self._path)
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return
        self._stamp = stamp  # noted first: a bad file is complained of once
        with open(self._path, encoding="utf-8") as file:
            self._tokens = parse_tokens(file.read())
        self._last_complaint = ""

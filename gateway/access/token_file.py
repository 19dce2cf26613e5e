"""The client tokens as they stand in their file now.

Owns: noticing that the file has changed, and when a change counts. Thread-safe. The file is looked at when
a request asks, at most every quarter of a second; there is no timer and no watcher. A revoked token must fail within
two seconds, and so the waits below are together less than that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from gateway.access.authentication import ClientToken, TokenFileError, parse_tokens
from gateway.runtime.whole_file import WatchedFile

log = logging.getLogger("gateway.token_file")  # below `gateway.access` lies the access log

_LOOK_SECONDS = 0.25
# How long a changed file must not have changed again: it may be half written. Longer if most tokens are gone from it:
# that is what a file looks like that somebody has emptied in order to write it.
_SETTLE_SECONDS = 1.0
_SETTLE_AFTER_LOSS_SECONDS = 1.5


class TokenFile:
    """The tokens of one file, given those that were read at first. A file that turns bad keeps the last good ones."""

    def __init__(
        self,
        path: str,
        tokens: tuple[ClientToken, ...],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows; who finds it taken goes on with the tokens that are known
        self._file = WatchedFile(path, clock, wall_clock)
        self._tokens = tokens
        self._read_stamp: object = None
        self._looked_at = -_LOOK_SECONDS
        self._last_complaint = ""

    def tokens(self) -> tuple[ClientToken, ...]:
        """The tokens as of two seconds ago at most."""
        now = self._clock()
        if now - self._looked_at < _LOOK_SECONDS or not self._lock.acquire(blocking=False):
            return self._tokens
        complaint = ""
        before = tokens = self._tokens
        try:
            self._looked_at = now
            self._look()
            tokens = self._tokens
        except (OSError, UnicodeDecodeError, TokenFileError) as error:
            said = (error.strerror if isinstance(error, OSError) else None) or str(error)
            complaint, self._last_complaint = said if said != self._last_complaint else "", said
        finally:
            self._lock.release()
        if complaint:
            log.error("token file %s: %s; the tokens read before stay in force", self._file.path, complaint)
        if tokens != before:
            log.info("token file %s has changed; tokens now: %d, before: %d", self._file.path, len(tokens), len(before))
        return tokens

    def _look(self) -> None:
        stamp, settled_seconds = self._file.look()
        if stamp == self._read_stamp:
            return
        if settled_seconds < _SETTLE_SECONDS or (content := self._file.read(stamp)) is None:
            return
        try:
            tokens = parse_tokens(content.decode())
        except ValueError:
            self._read_stamp = stamp  # a bad file is complained of once
            raise
        if _loses_most(self._tokens, tokens) and settled_seconds < _SETTLE_AFTER_LOSS_SECONDS:
            return
        self._tokens, self._read_stamp, self._last_complaint = tokens, stamp, ""


def _loses_most(before: tuple[ClientToken, ...], after: tuple[ClientToken, ...]) -> bool:
    return 2 * len({token.digest for token in before} - {token.digest for token in after}) > len(before)

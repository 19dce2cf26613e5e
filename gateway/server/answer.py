"""One response on its way to a client: what is left of it, and what it waits for.

Owns: running the application's pieces and writing them, never waiting for anybody. Belongs to whoever runs it: one of
the worker's threads, or the poller of parked responses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from gateway.runtime.pause import GONE, HANG_UP, WRITABLE, Pause, Wanted, wait
from gateway.server.connection import Connection
from gateway.server.server_response import PromptResponse

# A response that has given so many pieces at once lets others go first.
_MOST_PIECES = 8


class Answer:
    """A request's response. `run` goes on with it; `end` comes last, once, in any case.

    Once it has paused, its Pause stands in it as whoever parks it needs it: what to watch (`wanted`), until when at the
    latest (`until_at`, monotonic), whether what follows may block or take long (`needs_thread`), and whether it has
    something to do at the end of the drain time (`minds_the_end`). `followed` is what the poller watches for it now.
    `has_begun`: the client has something of it.
    """

    __slots__ = (
        *("_began_at", "_body", "_environ", "_has_all", "_pause", "_pieces", "_wanted_before"),
        *("connection", "followed", "has_begun", "minds_the_end", "needs_thread", "request", "response"),
        *("until_at", "wanted", "__weakref__"),
    )

    def __init__(self, connection: Connection, request: Any, response: PromptResponse, environ: dict[str, Any]) -> None:
        self.connection = connection
        self.request = request
        self.response = response
        self.followed: Wanted = ()
        self.wanted: Wanted = ()
        self.until_at = -math.inf
        self.needs_thread = False
        self.minds_the_end = False
        self.has_begun = False
        self._body: Iterable[bytes] = ()
        self._pieces: Iterator[bytes] = iter(())
        self._pause: Pause | None = None
        self._wanted_before: Wanted | None = None  # by the Pause of which `wanted` was made
        self._has_all = False  # the application has no more pieces
        self._environ = environ
        self._began_at = time.monotonic()

    def begin(self, application: Callable[..., Iterable[bytes]]) -> None:
        """Call the application."""
        self._body = application(self._environ, self.response.start_response)
        self._pieces = iter(self._body)

    def run(self) -> bool:
        """Go on until something has to be waited for, and return True; False at the end.

        Raises OSError if the client is gone, and whatever the application raises.
        """
        response = self.response
        if response.held:
            response.flush()
        if response.held:
            return self._waits_for_client()
        if self._has_all:
            return False
        for given, piece in enumerate(self._pieces, start=1):
            if isinstance(piece, Pause):
                self._pause = piece
                carried = piece.carried
                if carried:
                    piece.carried = b""
                    response.write(carried)
                    self.has_begun = True
                    if response.held:
                        break
                self._waits_for(piece)
                return True
            response.write(piece)
            self.has_begun = True
            if response.held:
                break
            if given == _MOST_PIECES:
                self.until_at, self.needs_thread, self.minds_the_end = -math.inf, False, False
                return True
        else:
            self._has_all = True
            response.close()
        return self._waits_for_client() if response.held else False

    def _waits_for(self, pause: Pause) -> None:
        self.until_at = pause.until_at
        self.needs_thread = pause.needs_thread
        self.minds_the_end = pause.over is not None
        wanted = pause.wanted
        if wanted is not self._wanted_before:  # after an event of a stream it is
            self._wanted_before = wanted
            self.wanted = wanted if pause.client is None else (*wanted, (pause.client, HANG_UP))

    def _waits_for_client(self) -> bool:
        self.wanted, self._wanted_before = ((self.connection.sock.fileno(), WRITABLE),), None
        self.until_at, self.needs_thread, self.minds_the_end = math.inf, False, False
        return True

    def end(self, log: Any) -> None:
        """The response is over, however it ended; gunicorn's `log` is told of it."""
        try:
            close = getattr(self._body, "close", None)  # not every iterable has it (PEP 3333)
            if close is not None:
                close()
        finally:
            duration = timedelta(seconds=time.monotonic() - self._began_at)
            log.access(self.response, self.request, self._environ, duration)

    def wait(self) -> None:
        """Wait in this thread until it can go on."""
        if self._pause is not None and not self.is_held_up:
            wait(self._pause)
        else:
            pause = Pause(None, None)
            pause.wanted = self.wanted
            wait(pause)

    @property
    def is_held_up(self) -> bool:
        """Whether it waits for the client to take what it has been sent."""
        return bool(self.response.held)

    def told_of(self, descriptor: int, events: int) -> None:
        """A descriptor that was watched has come to its end, or is broken."""
        if self._pause is not None and descriptor == self._pause.client and events & GONE:
            self._pause.client_is_gone = True

    def __repr__(self) -> str:
        return f"<Answer{' held up' if self.is_held_up else ''} {self._pause!r}>"

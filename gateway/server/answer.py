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

from gateway.runtime.pause import GONE, HANG_UP, WRITABLE, Pause, wait
from gateway.server.connection import Connection
from gateway.server.server_response import PromptResponse

# A response that has given so many pieces at once lets others go first.
_MOST_PIECES = 8

Watched = tuple[tuple[int, int], ...]  # descriptors, and what each is wanted for


class Answer:
    """A request's response. `run` goes on with it; `end` comes last, once, in any case.

    `followed` is what the poller watches for it now. `began_at` is monotonic.
    """

    __slots__ = (
        *("_began_at", "_body", "_environ", "_has_all", "_is_crowding", "_pause", "_pieces"),
        *("__weakref__", "connection", "followed", "request", "response"),
    )

    def __init__(self, connection: Connection, request: Any, response: PromptResponse, environ: dict[str, Any]) -> None:
        self.connection = connection
        self.request = request
        self.response = response
        self.followed: Watched = ()
        self._body: Iterable[bytes] = ()
        self._pieces: Iterator[bytes] = iter(())
        self._pause: Pause | None = None
        self._has_all = False  # the application has no more pieces
        self._is_crowding = False
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
        self._is_crowding = False
        if response.is_held_up:
            response.flush()
        given = 0
        while not response.is_held_up:
            if self._has_all:
                return False
            if given == _MOST_PIECES:
                self._is_crowding = True
                return True
            piece = next(self._pieces, None)
            if piece is None:
                self._has_all = True
                response.close()
            elif isinstance(piece, Pause):
                self._pause = piece
                return True
            else:
                response.write(piece)
                given += 1
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
        return self.response.is_held_up

    @property
    def minds_the_end(self) -> bool:
        """Whether it has something to do at the end of the drain time."""
        return not self.response.is_held_up and (self._pause is None or self._pause.over is not None)

    @property
    def until_at(self) -> float:
        """When to go on at the latest, by time.monotonic."""
        if self.response.is_held_up:
            return math.inf
        return -math.inf if self._is_crowding or self._pause is None else self._pause.until_at

    @property
    def needs_thread(self) -> bool:
        """Whether what follows may block or take long."""
        return self._pause is not None and self._pause.needs_thread and not (self._is_crowding or self.is_held_up)

    @property
    def wanted(self) -> Watched:
        """What to watch for it."""
        if self.response.is_held_up or self._pause is None:
            return ((self.connection.sock.fileno(), WRITABLE),)
        if self._pause.client is None:
            return self._pause.wanted
        return (*self._pause.wanted, (self._pause.client, HANG_UP))

    def told_of(self, descriptor: int, events: int) -> None:
        """Something has come of what was watched."""
        if self._pause is not None and descriptor == self._pause.client and events & GONE:
            self._pause.client_is_gone = True

    def __repr__(self) -> str:
        return f"<Answer{' held up' if self.is_held_up else ''} {self._pause!r}>"

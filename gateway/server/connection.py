"""A client's connection, from one request to the next.

Owns: its parser, and what has come of the next request's head. It belongs to the main loop while it waits,
and to whoever runs the request while one is served.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from gunicorn import util
from gunicorn.http import RequestParser
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.workers.gthread import TConn

from gateway.runtime.client_socket import ClientSocket
from gateway.server.head_collector import Head, HeadRules

_RECEIVE_BYTES = 8192


class Progress(Enum):
    """How far a connection has come with its next request."""

    WAITING = "more of the head has to come"
    READY = "a thread can serve it without waiting for the head"
    GONE = "the client has hung up"


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A connection that collects its requests' heads, and does not wait for its client when it is closed.

    `linger` sees to the latter. `refusal` is why the next request is refused by what has come of it. `timeout` is when
    the wait that began at `waits_since` is over; both are monotonic times.
    """

    sock: ClientSocket
    parser: Any
    timeout: float
    waits_since: float
    refusal: Exception | None = None

    def __init__(
        self,
        rules: HeadRules,
        linger: Callable[[ClientSocket], None],
        cfg: Any,
        client: ClientSocket,
        address: Any,
        server: Any,
    ) -> None:
        super().__init__(cfg, client, address, server)
        self.data_ready = True  # it comes to a thread with a head
        self._rules = rules
        self._linger = linger
        self._head = Head(rules, address)

    @property
    def head_bytes(self) -> int:
        """How much has come of the next request's head."""
        return len(self._head)

    def begins_with(self, prefix: bytes) -> bool:
        """Whether what has come of the next request's head begins so."""
        return self._head.begins_with(prefix)

    def init(self) -> None:
        """Be ready to read a request; called before each, in its thread."""
        super().init()
        if type(self.parser) is RequestParser:  # not yet ours, and no uWSGI
            self.parser = self._rules.parser(self.sock, self.client)
        self.parser.unreader.unread(self._head.take())

    def collect(self) -> Progress:
        """Take in what the client has sent, without waiting."""
        try:
            data = self.sock.receive_now(_RECEIVE_BYTES)
        except OSError:
            return Progress.GONE
        if data is None:
            return Progress.WAITING
        return self._feed(data) if data else Progress.GONE

    def collect_read_ahead(self) -> Progress:
        """A request has been served: take back what the parser holds of the next."""
        data: bytes = self.parser.unreader.take_buffered()
        return self._feed(data) if data else Progress.WAITING

    def close(self, graceful: bool = False) -> None:
        """Close now, or as soon as the client has had the answer; may be called again."""
        if graceful:
            self._linger(self.sock)
        else:
            util.close(self.sock)

    def refuse_size(self) -> None:
        """The head is too large, whatever else may come of it."""
        self.refusal = LimitRequestHeaders("max buffer headers")

    def _feed(self, data: bytes) -> Progress:
        has_last_word = self._head.feed(data)
        if self._head.is_too_large:
            self.refuse_size()
        return Progress.READY if has_last_word else Progress.WAITING

    def __repr__(self) -> str:
        return f"<Connection {self._head!r}>"

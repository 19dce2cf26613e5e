"""A way from the gateway to a neighbour that can be spoilt: cut, silent, or answering rubbish.

Owns: a port of its own in front of a server's, and every connection through it. Nothing here knows what is spoken.
"""

from __future__ import annotations

import random
import selectors
import socket
import threading
from contextlib import suppress
from enum import Enum
from types import TracebackType

_PIECE_BYTES = 65536
# What some server once said, and what none says: as answers to whatever was asked.
RUBBISH = (
    b"+OK\r\n",
    b":1\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"-ERR rubbish\r\n",
    b"$3\r\n\xff\xfe\xfd\r\n",
    b"*2\r\n$1\r\na\r\n:7\r\n",
    b"E\x00\x00\x00\x0cSFATAL\x00\x00",
    b"Z\x00\x00\x00\x05I",
    b"N",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    bytes(range(256)),
)


class Manner(Enum):
    """What the way does with connections and bytes."""

    FORWARD = "forward"
    SILENT = "silent"  # takes connections and bytes, and passes nothing on, in neither direction
    RUBBISH = "rubbish"  # answers whatever is asked with rubbish
    CUT = "cut"  # resets every connection


class Interposer:
    """Listens on a free loopback port and forwards to `port`, in the present manner. Its manner may change any time."""

    def __init__(self, port: int, seed: int = 0) -> None:
        self._server_port = port
        self._chance = random.Random(seed)
        self._manner = Manner.FORWARD
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="interposer", daemon=True)
        self._is_closing = False
        self._thread.start()

    def __enter__(self) -> Interposer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def become(self, manner: Manner) -> None:
        """From now on it does this. Connections that were silent or answered with rubbish are cut when it forwards."""
        self._manner = manner
        self._wake.send(b"!")

    def close(self) -> None:
        """End every connection and stop listening."""
        self._is_closing = True
        self._wake.send(b"!")
        self._thread.join(10)
        self._listener.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _run(self) -> None:
        was = self._manner
        while not self._is_closing:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._woken.recv(64)
                else:
                    self._carry(key.fileobj)  # type: ignore[arg-type]  # only sockets are registered
            if self._manner is not was and (self._manner is Manner.CUT or was in (Manner.RUBBISH, Manner.SILENT)):
                self._end_all()  # what was swallowed is lost for good, as on a path that was rerouted
            was = self._manner
        self._end_all()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        if self._manner is Manner.CUT:
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port), 1.0)
        except OSError:
            client.close()
            return
        for one, other in ((client, server), (server, client)):
            one.setblocking(True)
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _carry(self, source: socket.socket) -> None:
        target = self._pairs.get(source)
        if target is None:  # its pair ended in this round
            return
        try:
            data = source.recv(_PIECE_BYTES)
            if not data or self._manner is Manner.CUT:
                self._end(source)
            elif self._manner is Manner.FORWARD:
                target.sendall(data)
            elif self._manner is Manner.RUBBISH and source.getpeername()[1] != self._server_port:
                source.sendall(self._chance.choice(RUBBISH))
        except OSError:
            self._end(source)

    def _end_all(self) -> None:
        for one in list(self._pairs):
            self._end(one)

    def _end(self, one: socket.socket) -> None:
        for each in (one, self._pairs.get(one)):
            if each is not None and self._pairs.pop(each, None) is not None:
                self._selector.unregister(each)
                with suppress(OSError):
                    each.close()

"""A path to a server that can fall silent: a TCP relay that then takes everything and forwards nothing.

Neither side's kernel sees anything wrong: what is sent is acknowledged. A connection that has lost bytes so never comes
back, even when the path is well again; one that is made then is good.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit


class SilentPath:
    """A relay from a free port of the loopback address to one of the same machine's ports."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._is_silent = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()  # guards what follows
        self._sockets: list[socket.socket] = []
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def through(self, url: str) -> str:
        """The same URL by this path."""
        parts = urlsplit(url)
        netloc = parts.netloc.rpartition(":")[0] + f":{self._listener.getsockname()[1]}"
        return urlunsplit(parts._replace(netloc=netloc))

    def fall_silent(self) -> None:
        """Forward nothing."""
        self._is_silent.set()

    def recover(self) -> None:
        """Forward what comes over connections that have lost nothing."""
        self._is_silent.clear()

    def cut(self) -> None:
        """End every connection."""
        with self._lock:
            ended, self._sockets = self._sockets, []
        for each in ended:
            with suppress(OSError):  # the other side was first
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                has_lost = threading.Event()
                with self._lock:
                    self.connections += 1
                    self._sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(*pair, has_lost), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, has_lost: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self._is_silent.is_set():
                    has_lost.set()
                if not has_lost.is_set():
                    target.sendall(data)
        if not has_lost.is_set():
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)
        source.close()

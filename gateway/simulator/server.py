"""Accepts connections and gives each a thread; stops all of them promptly."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable

from gateway.simulator.wire import Wire

_BACKLOG = 1024
_STOP_SECONDS = 30.0


class Server:
    """Listens and serves every connection with `serve`, which returns once its wire is aborted."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, serve: Callable[[Wire], None]) -> None:
        """Raises: OSError when the address cannot be had."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._tls = tls
        self._serve = serve
        self._stopping = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name="simulator", daemon=True)
        # Guards the connections that are being served.
        self._lock = threading.Lock()
        self._served: dict[Wire, threading.Thread] = {}

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        self._acceptor.start()

    def stop(self) -> None:
        """Closes the listener and every connection, and waits for their threads; idempotent.

        Raises: RuntimeError when a thread does not end: a behaviour that does not watch its wire is
        a bug.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        with contextlib.suppress(OSError):
            # Wakes `accept`; closing alone would not.
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._acceptor.ident is not None:
            self._acceptor.join(_STOP_SECONDS)
        self._listener.close()
        with self._lock:
            served = dict(self._served)
        for wire in served:
            wire.abort()
        deadline_at = time.monotonic() + _STOP_SECONDS
        for thread in served.values():
            thread.join(max(0.0, deadline_at - time.monotonic()))
        if any(thread.is_alive() for thread in served.values()):
            raise RuntimeError("a connection of the simulator did not end")

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                # Stopped, or out of file descriptors: then a moment may bring some back.
                self._stopping.wait(0.05)
                continue
            try:
                self._begin(connection)
            except OSError:
                # Gone before its TLS could begin.
                connection.close()

    def _begin(self, connection: socket.socket) -> None:
        if self._tls is not None:
            # Without the handshake, which waits for the peer and so belongs to its own thread.
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        wire = Wire(connection)
        thread = threading.Thread(target=self._run, args=(wire,), daemon=True)
        with self._lock:
            self._served[wire] = thread
        thread.start()

    def _run(self, wire: Wire) -> None:
        try:
            self._serve(wire)
        finally:
            wire.close()
            with self._lock:
                del self._served[wire]

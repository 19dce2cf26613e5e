"""Real sockets for the tests of connections: a server that runs a script on each connection, and a CONNECT proxy."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from collections.abc import Callable

Script = Callable[[socket.socket], object]


class TinyServer:
    """Listens on a free loopback port; the n-th connection gets the n-th script, later ones the last.

    `connections` counts those accepted.
    """

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self._open.append(accepted)
            thread = threading.Thread(target=self._serve, args=(accepted, script))
            self._threads.append(thread)
            thread.start()

    def _serve(self, accepted: socket.socket, script: Script) -> None:
        # A script ends when its client hangs up, whichever way that shows.
        with contextlib.suppress(OSError), accepted:
            if self._tls is None:
                script(accepted)
                return
            with self._tls.wrap_socket(accepted, server_side=True) as wrapped:
                self._open.append(wrapped)
                script(wrapped)

    def __enter__(self) -> TinyServer:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a server's thread hangs"
        for accepted in self._open:
            accepted.close()


def take_request(client: socket.socket) -> bytes:
    """One request, head and body, by its Content-Length; empty when the client has hung up."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        body += client.recv(65536)
    return head + b"\r\n\r\n" + body


class Recorder:
    """A script that answers every request of a connection with the same bytes and keeps the requests."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []

    def __call__(self, client: socket.socket) -> None:
        while request := take_request(client):
            self.requests.append(request)
            client.sendall(self.answer)


def connect_proxy(seen: list[bytes]) -> Script:
    """A script that opens a tunnel where CONNECT asks for it, and notes the request."""

    def script(client: socket.socket) -> None:
        head = take_request(client)
        seen.append(head)
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        with socket.create_connection((host, int(port)), 10) as target:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _carry(client, target)

    return script


def _carry(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side hangs up."""
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for ready, _ in selector.select(30):
                data = ready.fileobj.recv(65536)  # type: ignore[union-attr]
                if not data:
                    return
                ready.data.sendall(data)

"""Real sockets for the tests of connections: a server that runs a script on each connection."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable

import trustme

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


def until_hung_up(client: socket.socket) -> None:
    """A script that says nothing until its client hangs up."""
    while client.recv(65536):
        pass


class Recorder:
    """A script that answers every request of a connection with the same bytes and keeps the requests."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []

    def __call__(self, client: socket.socket) -> None:
        while request := take_request(client):
            self.requests.append(request)
            client.sendall(self.answer)


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """What a server shows that has a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def pem_of(authority: trustme.CA) -> str:
    """The authority's own certificate."""
    return authority.cert_pem.bytes().decode()

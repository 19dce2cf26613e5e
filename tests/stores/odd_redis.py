"""A way to a local Redis server on which a test may answer in the server's place, with whatever it likes.

Owns: as much of RESP as it takes to tell where a client's command ends.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import BinaryIO

from gateway.keys.redis.scripts import EXCHANGE, LEASE, LOOK
from gateway.limits.link_script import EXCHANGE as LIMITS

_SCRIPTS: Mapping[bytes, str] = {
    hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode(): name
    for name, script in (("LOOK", LOOK), ("EXCHANGE", EXCHANGE), ("LEASE", LEASE), ("LIMITS", LIMITS))
}

# What to answer to a command of that name, or None for what the server answers; b"" closes the connection.
Answer = Callable[[str], bytes | None]


def as_the_server(command: str) -> None:
    """Say nothing of one's own."""


class OddRedis:
    """Scripts are commands of their own names: LOOK, EXCHANGE, LEASE, LIMITS. `answer` may be exchanged at any time."""

    def __init__(self, server_port: int) -> None:
        self.answer: Answer = as_the_server
        self.drips = False  # instead of an answer a byte of one comes now and then, for ever
        self.asked: list[str] = []
        self._server_port = server_port
        self._is_closing = False
        self._pause = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/1"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Close it, with all that is connected."""
        self._is_closing = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._sockets:
            _shut(connection)
        for thread in self._threads:
            thread.join(10.0)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while not self._is_closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            self._sockets += client, server
            for target in (self._carry_commands, self._carry_answers):
                self._threads.append(threading.Thread(target=target, args=(client, server), daemon=True))
                self._threads[-1].start()

    def _carry_commands(self, client: socket.socket, server: socket.socket) -> None:
        is_elsewhere = False  # the client believes that it has chosen a database, and the server has not heard of it
        try:
            with client.makefile("rb") as stream:
                while command := _command(stream):
                    name = _name(command)
                    self.asked.append(name)
                    answer = self.answer(name)
                    while self.drips and not self._is_closing:
                        client.sendall(b"+")
                        self._pause.wait(0.05)
                    is_elsewhere |= name == "SELECT" and answer is not None
                    if answer is None:
                        if is_elsewhere:
                            break
                        server.sendall(_written(command))
                    elif answer:
                        client.sendall(answer)
                    else:
                        break
        except OSError:
            pass  # one side has gone
        finally:
            _shut(client)
            _shut(server)

    def _carry_answers(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                client.sendall(data)
        except OSError:
            pass  # as above
        finally:
            _shut(client)
            client.close()
            server.close()


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it is already
        connection.shutdown(socket.SHUT_RDWR)


def _command(stream: BinaryIO) -> list[bytes]:
    """The words of the next command; none at the end."""
    line = stream.readline()
    words = []
    for _ in range(int(line[1:] or 0)):
        size = int(stream.readline()[1:])
        words.append(stream.read(size + 2)[:-2])
    return words


def _written(words: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _name(words: list[bytes]) -> str:
    if words[0] == b"EVALSHA":
        return _SCRIPTS[words[1]]
    if words[0] == b"EVAL":
        return _SCRIPTS[hashlib.sha1(words[1], usedforsecurity=False).hexdigest().encode()]
    return words[0].decode()

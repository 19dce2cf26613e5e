"""A real PostgreSQL server for tests, in a folder of its own, that can be stopped, killed and started again.

Owns: its folder, its port, its life; its superuser has a password, so that tests can look for it where it should not
be. A machine without the server's programs fails the tests: what they show cannot be shown without one.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psycopg

from tests.harness import wait_until
from tests.ports import free_port

PASSWORD = "PlantedPasswordOfTheDatabase8k"
_START_SECONDS = 120.0
_TRIES = 5


class PostgresServer:
    """One server on a free port of the loopback address. It refuses to run as root, so root runs it as `postgres`."""

    def __init__(self) -> None:
        self._programs = _programs()
        self._user = "postgres" if os.geteuid() == 0 else None
        self._folder = tempfile.TemporaryDirectory(prefix="postgres-")
        folder = Path(self._folder.name)
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        self._data = folder / "data"
        password_file = folder / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        self._run(
            *("initdb", "--pgdata", str(self._data), "--username", "gateway", "--pwfile", str(password_file)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
        )
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        for _ in range(_TRIES):
            self.port = free_port()
            if self._starts():
                return
        self._folder.cleanup()
        raise AssertionError("postgres does not start")

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"records_{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://gateway:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Every connection ends at once, in mid-statement or not; what was committed stays."""
        self._end(signal.SIGQUIT)

    def pause(self) -> None:
        """SIGSTOP for all its processes: its port is open, its kernel takes what is sent, nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT for all its processes."""
        self._signal_all(signal.SIGCONT)

    def start(self) -> None:
        """Start it again on the same port."""
        assert self._starts()

    def stop(self) -> None:
        """End it for good."""
        self._end(signal.SIGQUIT)
        self._folder.cleanup()

    def _starts(self) -> bool:
        # Without fsync it is quick, and loses nothing but with the machine.
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
        process = self._process = subprocess.Popen(
            [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port), *options],
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            cwd=self._folder.name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        if wait_until(lambda: process.poll() is not None or self._answers(), _START_SECONDS) and process.poll() is None:
            return True
        self._end(signal.SIGQUIT)
        return False

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait(30)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in [self._process.pid, *map(int, children)]:
            with suppress(ProcessLookupError):  # a connection's process ends with its connection
                os.kill(pid, number)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            cwd=self._folder.name,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def _programs() -> Path:
    """The folder of the server's programs, which Debian keeps off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("postgres")
    if not found and on_path is None:
        raise AssertionError("these tests need PostgreSQL's server: apt-get install postgresql")
    return found[-1].parent if found else Path(on_path or "").resolve().parent

"""Gateways, their commands and MCP servers, forked from a process that has imported what they import, which is most of
the cost.

Owns: that process, one for each process of tests, and what is known of its children. It runs `python -m tests.forked`
and has no other thread. It imports nothing that makes shared memory: each gateway does that itself, in
`gateway.web.launch` and what needs it.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from gateway.pricing.prices import known_prices

ROOT = Path(__file__).resolve().parent.parent
_NEEDED = (
    "gunicorn.app.wsgiapp",
    "gunicorn.glogging",
    "gateway.cli.explain",
    "gateway.cli.keys",
    "gateway.cli.limits",
    "gateway.cli.reload",
    "gateway.cli.report",
    "gateway.keys.former_keys_file",
    "gateway.keys.redis.store",
    "gateway.limits.link",
    "gateway.limits.shared_limiter",
    "gateway.records.database",
    "gateway.runtime.counts_folder",
    "gateway.runtime.process_tuning",
    "gateway.server.arriving_body",
    "gateway.server.clients_at_hand",
    "gateway.server.connection",
    "gateway.server.descriptors",
    "gateway.server.head_collector",
    "gateway.server.logs",
    "gateway.server.parking",
    "gateway.server.thread_pool",
    "gateway.server.waiting_room",
    "gateway.telemetry.log_format",
    "gateway.web.application",
    "gateway.web.routes",
    "gateway.web.service",
    "gateway.web.starts",
    "gateway.web.status_pages",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
)
# What MCP servers need, and gateways that talk with them. Others must not have it: a gateway without MCP servers does
# not load the SDK, and a master never does.
TOOLS = ("gateway.tools.mcp.keeper", "mcp.server.mcpserver", "uvicorn")
INSIDE = "TESTS_INSIDE"  # names a file that what is forked runs first: what a test changes within a gateway
_NEVER_SHARED = "gateway.web.launch"
_MESSAGE_BYTES = 1 << 20
_ENVIRON = dict(os.environ)  # before any test has changed it


class ForkedProcess:
    """What was forked; what `subprocess.Popen` offers, as far as it is needed."""

    def __init__(self, news: socket.socket) -> None:
        self._news = news
        self.returncode: int | None = None
        told, handles, _, _ = socket.recv_fds(news, _MESSAGE_BYTES, 1)
        assert told, "the process that forks gateways has ended"
        self.pid, [self._handle] = int(told), handles

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        if self.returncode is None:
            self._hear(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended. Raises: TimeoutExpired."""
        if self.returncode is None:
            self._hear(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a forked gateway", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it by force."""
        self.send_signal(signal.SIGKILL)

    def _hear(self, timeout: float | None) -> None:
        self._news.settimeout(timeout)
        try:
            told = self._news.recv(_MESSAGE_BYTES)
        except (BlockingIOError, TimeoutError):
            return
        assert told, "the process that forks gateways has ended"
        self.returncode = int(told)
        self._news.close()
        os.close(self._handle)


class Nursery:
    """The process that the others are forked from."""

    def __init__(self, more: Sequence[str]) -> None:
        self._environ = _lasting(_ENVIRON)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno()), *more],
                cwd=ROOT,
                env=_ENVIRON,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def offers(self, environ: Mapping[str, str]) -> bool:
        """Whether the process started in this environment, but for the gateway's settings: imports depend on it."""
        return _lasting(environ) == self._environ

    def start(
        self, module: str, arguments: Sequence[str], environ: Mapping[str, str], output: IO[Any], errors: IO[Any]
    ) -> ForkedProcess:
        """`python -m MODULE` with these arguments, at the top of the sources."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            wish = json.dumps([module, list(arguments), dict(environ)]).encode()
            socket.send_fds(self._control, [wish], [output.fileno(), errors.fileno(), theirs.fileno()])
        return ForkedProcess(ours)

    def close(self) -> None:
        """End it, and gateways that still run."""
        self._control.close()
        self._process.wait()


@cache
def nursery(more: Sequence[str] = ()) -> Nursery:
    """The one of this process that has imported these modules, too; it ends with it."""
    made = Nursery(more)
    atexit.register(made.close)
    return made


def _lasting(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(("GATEWAY_", "PYTEST_", INSIDE))}


@dataclass(frozen=True)
class _Wish:
    module: str
    arguments: list[str]
    environ: dict[str, str]
    output: int
    errors: int
    news: socket.socket


class _Parent:
    """The main loop of the forking process."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, tuple[int, socket.socket]] = {}  # process id and who hears of its end, by descriptor
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def serve(self) -> _Wish | None:
        """Fork until told to end. Returns in each child, with what it is to be, and in the parent with None."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._control:
                    self._bury(key.fd)
                    continue
                wish = self._next_wish()
                if wish is None:
                    self._end_children()
                    return None
                if self._fork(wish) == 0:
                    return wish

    def _next_wish(self) -> _Wish | None:
        told, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 3)
        if not told:
            return None
        output, errors, news = descriptors
        return _Wish(*json.loads(told), output, errors, socket.socket(fileno=news))

    def _fork(self, wish: _Wish) -> int:
        child = os.fork()
        if child == 0:
            self._let_go()
            return 0
        os.close(wish.output)
        os.close(wish.errors)
        handle = os.pidfd_open(child)
        self._children[handle] = child, wish.news
        self._selector.register(handle, selectors.EVENT_READ)
        socket.send_fds(wish.news, [b"%d" % child], [handle])
        return child

    def _let_go(self) -> None:
        """In a child: nothing of the parent's stays open."""
        self._selector.close()
        self._control.close()
        for handle, (_, news) in self._children.items():
            os.close(handle)
            news.close()

    def _bury(self, handle: int) -> None:
        child, news = self._children.pop(handle)
        self._selector.unregister(handle)
        os.close(handle)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with news, suppress(BrokenPipeError):  # if nobody asks any more
            news.send(b"%d" % status)

    def _end_children(self) -> None:
        for child, _ in self._children.values():
            os.kill(child, signal.SIGTERM)


def _become(wish: _Wish) -> None:
    wish.news.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(wish.output, 1)
    os.dup2(wish.errors, 2)
    os.close(wish.output)
    os.close(wish.errors)
    os.environ.clear()
    os.environ.update(wish.environ)
    if INSIDE in os.environ:
        runpy.run_path(os.environ[INSIDE])
    sys.argv = [wish.module, *wish.arguments]
    ending = _Ending()
    atexit.register(ending.leave)
    try:
        runpy.run_module(wish.module, run_name="__main__", alter_sys=True)
        ending.status = 0
    except SystemExit as ended:
        ending.status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise


class _Ending:
    """How a process that was forked ends, its workers included: when all is done, threads and `atexit` too, it does not
    take itself apart. That would write to all memory it has from its parent, and take longer than its start.
    """

    def __init__(self) -> None:
        self.status = 1

    def leave(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.status)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests: they end their gateways
    for name in (*_NEEDED, *sys.argv[2:]):
        __import__(name)
    known_prices()  # a table that each gateway would read
    assert _NEVER_SHARED not in sys.modules
    gc.freeze()  # what is loaded is nothing that a child's collections need to walk through, at its end least of all
    wish = _Parent(socket.socket(fileno=int(sys.argv[1]))).serve()
    if wish is not None:
        _become(wish)


if __name__ == "__main__":
    _main()

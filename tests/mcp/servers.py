"""Real MCP servers for tests, each a process of its own that can be killed, stopped in its tracks, and restarted.

Owns: their processes and ports. `setup.sh` beside this file installs the published ones.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.forked import TOOLS, ForkedProcess, nursery
from tests.harness import ROOT, wait_until
from tests.ports import free_port

HERE = Path(__file__).parent
ENVIRONMENT = ROOT / ".venv-mcp" / "python"
NODE_MODULES = HERE / "node" / "node_modules"
START_SECONDS = 120.0


class ServerProcess:
    """One server, listening on `port`. It is started with `start`, and may be started again after it was killed."""

    def __init__(self, command: Sequence[str], port: int, path: str = "/mcp", env: Mapping[str, str] | None = None):
        self.port = port
        self.url = f"http://127.0.0.1:{port}{path}"
        self._command = command
        self._env = dict(env or {})
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed in stop
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        assert self._process is None or self._process.poll() is not None
        self._process = self._started()
        assert wait_until(self._accepts, START_SECONDS), f"the server did not start:\n{self.log}"

    def kill(self) -> None:
        """End it at once, with whatever it has started."""
        assert self._process is not None
        if self._process.poll() is None:
            self._send_signal(signal.SIGKILL)
        self._process.wait(60)

    def freeze(self) -> None:
        """Let it hang: connections are accepted by the kernel, and nothing is answered."""
        self._send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it for good; may be called again."""
        if self._process is not None:
            self.kill()
        self._log.close()

    @property
    def log(self) -> str:
        """What it has printed."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode(errors="replace")

    def _started(self) -> subprocess.Popen[bytes] | ForkedProcess:
        return subprocess.Popen(
            self._command,
            cwd=ROOT,
            env={**os.environ, **self._env},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _send_signal(self, number: int) -> None:
        """To it and whatever it has started."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended:\n{self.log}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class FaultServer(ServerProcess):
    """The project's own server, `fault_server.py`, with its journal; forked, for most of its start is imports."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.folder = folder
        self._journal = folder / f"journal-{port}"
        super().__init__((str(port), str(self._journal)), port)

    @property
    def journal(self) -> list[str]:
        """What it has executed."""
        return self._journal.read_text().splitlines() if self._journal.exists() else []

    def forget(self) -> None:
        """Begin a new journal."""
        self._journal.unlink(missing_ok=True)

    def _started(self) -> ForkedProcess:
        return nursery(TOOLS).start("tests.mcp.fault_server", self._command, os.environ, self._log, self._log)

    def _send_signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def everything_server() -> ServerProcess:
    """The reference server from npm, `@modelcontextprotocol/server-everything`."""
    port = free_port()
    script = NODE_MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
    return ServerProcess(("node", str(script), "streamableHttp"), port, env={"PORT": str(port)})


def time_server() -> ServerProcess:
    """`mcp-server-time` from PyPI, brought to streamable HTTP by `mcp-proxy`, on the SDK's previous major version."""
    port = free_port()
    programs = ENVIRONMENT / "bin"
    command = (str(programs / "mcp-proxy"), "--port", str(port), str(programs / "mcp-server-time"))
    return ServerProcess((*command, "--", "--local-timezone", "UTC"), port, "/mcp/")

"""Who is measured: each started as its makers would for production, in front of the same fake upstream.

Versions and settings stand here, and go into the results with the figures.
"""

from __future__ import annotations

import hashlib
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from importlib.metadata import version
from pathlib import Path

from bench.wording import GOOD_KEY, LIMITED_KEY, MODEL
from tests.harness import ROOT, GatewayProcess, wait_until

FOLDER = ROOT / ".bench"
DEFAULT_REQUESTS = 5000  # at once, at least, on any machine that can run this
_START_SECONDS = 120.0
_LITELLM_KEY = "sk-litellm-bench"
_TOKEN = "gwt_bench"
_SENT = ("host: 127.0.0.1", "content-type: application/json", "anthropic-version: 2023-06-01", "user-agent: bench")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Contender(ABC):
    """One program between the clients and the upstream. `request` are the header lines that its clients send."""

    name: str
    health = "/healthz"
    request: tuple[str, ...] = (*_SENT, f"x-api-key: {GOOD_KEY.decode()}")

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix=f"bench-{self.name}-")

    @property
    def roots(self) -> list[int]:
        """The processes from which all of its own descend."""
        return [self._process.pid] if self._process is not None else []

    @abstractmethod
    def version(self) -> str:
        """What exactly is measured."""

    def ready(self, streams: int) -> None:
        """Have it run, with room for so many streams at once."""
        if self._process is None:
            self.port = free_port()
            self._start()

    @abstractmethod
    def _start(self) -> None: ...

    def _run(self, *command: str, **environment: str) -> None:
        log = Path(self._folder.name) / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=self._folder.name, env=os.environ | environment, stdout=output, stderr=output
            )
        if not wait_until(self._is_up, _START_SECONDS):
            raise RuntimeError(f"{self.name} did not start:\n{log.read_text()}")

    def _is_up(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended at its start: {Path(self._folder.name, 'log').read_text()}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.health}", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def rest(self) -> None:  # noqa: B027  # most do nothing
        """A scenario is over. What is slow to start stays."""

    def stop(self) -> None:
        """End it; may be called again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._folder.cleanup()


class Upstream(Contender):
    """Nobody in between: what the upstream and the load generator can do by themselves."""

    name = "straight"

    def __init__(self) -> None:
        super().__init__(0)

    def version(self) -> str:
        return f"bench/upstream.py on CPython {platform.python_version()}"

    def _start(self) -> None:
        self._run(sys.executable, "-m", "bench.upstream", str(self.port), PYTHONPATH=str(ROOT))

    def answer(self, kind: str) -> None:
        """What it answers from now on; see `upstream`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/answer/{kind}", timeout=5):
            pass


class Nginx(Contender):
    """nginx as a reverse proxy that holds nothing back."""

    name = "nginx"

    def version(self) -> str:
        told = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
        return f"{told.strip().rpartition('/')[2]}, one worker, `proxy_buffering off`, kept upstream connections"

    def _start(self) -> None:
        folder = Path(self._folder.name)
        configuration = (ROOT / "bench" / "nginx.conf").read_text()
        for name, value in {"PORT": self.port, "UPSTREAM": self._upstream_port, "FOLDER": folder}.items():
            configuration = configuration.replace(f"@{name}@", str(value))
        (folder / "nginx.conf").write_text(configuration)
        self._run("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"))


class LiteLlm(Contender):
    """LiteLLM's proxy."""

    name = "litellm"
    health = "/health/liveliness"
    request = (*_SENT, f"x-api-key: {_LITELLM_KEY}")

    def version(self) -> str:
        python = FOLDER / "litellm/bin/python"
        code = (
            "import platform; from importlib.metadata import version as v; "
            "print(v('litellm'), 'on uvicorn', v('uvicorn'), 'and CPython', platform.python_version())"
        )
        told = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout
        return f"{told.strip()}, one worker, `LITELLM_MODE=PRODUCTION`, `LITELLM_LOG=ERROR`, a master key, no database"

    def _start(self) -> None:
        configuration = Path(self._folder.name) / "config.yaml"
        configuration.write_text(
            f"model_list:\n- model_name: {MODEL}\n  litellm_params:\n    model: anthropic/{MODEL}\n"
            f"    api_base: http://127.0.0.1:{self._upstream_port}\n    api_key: {GOOD_KEY.decode()}\n"
            f"general_settings:\n  master_key: {_LITELLM_KEY}\nlitellm_settings:\n  num_retries: 0\n"
        )
        where = ("--host", "127.0.0.1", "--port", str(self.port))
        self._run(
            *(str(FOLDER / "litellm/bin/litellm"), "--config", str(configuration), *where),
            *("--num_workers", "1", "--telemetry", "False"),
            LITELLM_MODE="PRODUCTION",
            LITELLM_LOG="ERROR",
            LITELLM_LOCAL_MODEL_COST_MAP="True",
        )


class Portkey(Contender):
    """Portkey's gateway."""

    name = "portkey"
    health = "/"

    def __init__(self, upstream_port: int) -> None:
        super().__init__(upstream_port)
        to = f"x-portkey-custom-host: http://127.0.0.1:{upstream_port}/v1"
        self.request = (*Contender.request, "x-portkey-provider: anthropic", to)

    def version(self) -> str:
        node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        return f"1.15.2 on Node.js {node}, one process, with the line of `bench/setup.sh` that lets it stream there"

    def _start(self) -> None:
        server = FOLDER / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
        self._run("node", str(server), f"--port={self.port}", "--headless", NODE_ENV="production")


class Ours(Contender):
    """This gateway. `workers` is a number; None is the default."""

    name = "gateway"
    request = (*_SENT, f"x-api-key: {_TOKEN}")

    def __init__(
        self, upstream_port: int, workers: int | None = 1, keys: tuple[bytes, ...] = (GOOD_KEY,), root: Path = ROOT
    ) -> None:
        super().__init__(upstream_port)
        self._root = root
        self._workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self._keys = keys
        self._capacity: dict[str, str | None] = {}
        self._gateway: GatewayProcess | None = None

    @property
    def roots(self) -> list[int]:
        return [self._gateway.pid] if self._gateway is not None else []

    def version(self) -> str:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=self._root, capture_output=True, text=True, check=True
        ).stdout.strip()
        count = "one worker" if self._workers == 1 else f"{self._workers} workers, the default here"
        python = f"CPython {platform.python_version()}"
        packages = f"gunicorn {version('gunicorn')}, Flask {version('flask')}"
        return f"{commit}, {count}; {python}, {packages}; tokens, metrics, recorder"

    def ready(self, streams: int) -> None:
        self._capacity = {"max_requests": str(streams) if streams > DEFAULT_REQUESTS else None}  # None: the default
        if self._gateway is None:
            self._start()

    def _start(self) -> None:
        tokens = Path(self._folder.name) / "tokens"
        tokens.write_text(f"bench sha256:{hashlib.sha256(_TOKEN.encode()).hexdigest()}\n")
        self._gateway = GatewayProcess(
            f"http://127.0.0.1:{self._upstream_port}",
            [key.decode() for key in self._keys],
            root=self._root,
            workers=str(self._workers),
            threads=None,  # the default
            **self._capacity,
            client_tokens_file=str(tokens),
            drain_seconds="1",
        )
        self.port = self._gateway.port

    def rest(self) -> None:
        """The next scenario meets a fresh process."""
        if self._gateway is not None:
            self._gateway.stop()
            self._gateway = None

    def stop(self) -> None:
        self.rest()
        self._folder.cleanup()


class OursWide(Ours):
    """This gateway with as many workers as it takes by default."""

    name = "gateway-all"

    def __init__(self, upstream_port: int) -> None:
        super().__init__(upstream_port, workers=None)


class OursLimited(Ours):
    """This gateway when its first key is limited."""

    name = "gateway-failover"

    def __init__(self, upstream_port: int) -> None:
        super().__init__(upstream_port, keys=(LIMITED_KEY, GOOD_KEY))


class Before(Ours):
    """This gateway at an earlier commit, whose checkout is `root`."""

    name = "before"

    def __init__(self, upstream_port: int, root: Path, keys: tuple[bytes, ...] = (GOOD_KEY,)) -> None:
        super().__init__(upstream_port, keys=keys, root=root)


class BeforeLimited(Before):
    """That one when its first key is limited."""

    name = "before-failover"

    def __init__(self, upstream_port: int, root: Path) -> None:
        super().__init__(upstream_port, root, keys=(LIMITED_KEY, GOOD_KEY))

"""A real gateway for end-to-end tests: gunicorn with the project's own configuration, in a process of its own.

Owns: starting and stopping it, its log, its metrics. Nothing here knows how the gateway works inside.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.forked import INSIDE, TOOLS, ForkedProcess, nursery

ROOT = Path(__file__).resolve().parent.parent
_LISTENING = re.compile(r"Listening at: http://([0-9.]+):([0-9]+)")
START_SECONDS = 120.0
COMMAND_SECONDS = 300.0
_SETTLED_SECONDS = 60.0


def wait_until(holds: Callable[[], bool], timeout_seconds: float) -> bool:
    """Look again and again until it holds; False if the time is over before. A fifth of the time is spent on looking,
    at most: what is waited for may need the processor.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = threading.Event()
    while True:
        began_at = time.monotonic()
        if holds():
            return True
        ended_at = time.monotonic()
        if ended_at >= deadline:
            return False
        pause.wait(min(max(4 * (ended_at - began_at), 0.01), 0.25))


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def _sample(samples: Samples, name: str, labels: Mapping[str, str]) -> float:
    return samples.get((f"gateway_{name}", frozenset(labels.items())), 0.0)


def total_of(samples: Samples, name: str, /, **labels: str) -> float:
    """The sum of a metric's samples that have these labels, over all others."""
    wanted = set(labels.items())
    return sum(value for (known, having), value in samples.items() if known == f"gateway_{name}" and wanted <= having)


def samples_of(text: str) -> Samples:
    """What Prometheus reads in a page of metrics, by name and labels."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {_named(sample): float(value) for sample, _, value in lines}


@cache
def _named(sample: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """Name and labels of a sample. To read all of a page each time would take more than many a test."""
    [family] = text_string_to_metric_families(f"{sample} 0\n")
    [read] = family.samples
    return read.name, frozenset(read.labels.items())


def _limited(open_files: int | None) -> list[str]:
    """What to run a program by, so that it may open so many files."""
    return [] if open_files is None else ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh"]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer read to its end; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def environ_of(settings: Mapping[str, object]) -> dict[str, str]:
    """This process's environment with these GATEWAY_* settings alone, by their lower-case names without the prefix."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return clean | {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items() if value is not None}


def run_command(*words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """`gateway WORDS` with these settings alone, to its end; forked, which saves most of its work."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = nursery().start("gateway.cli", words, environ_of(settings), output, errors)
        status = process.wait(COMMAND_SECONDS)
        printed, complained = (os.pread(file.fileno(), 1 << 26, 0).decode() for file in (output, errors))
    return subprocess.CompletedProcess(words, status, printed, complained)


class GatewayProcess:
    """One started gateway. `env` are GATEWAY_* settings by their lower-case name without the prefix.

    `root` is the checkout that is run, by default this one; `open_files` is its hard limit of descriptors;
    `knows_tools` spares each of its workers loading the MCP SDK.
    """

    def __init__(
        self,
        upstream_url: str,
        keys: Sequence[str],
        arguments: Sequence[str] = (),
        must_start: bool = True,
        root: Path = ROOT,
        open_files: int | None = None,
        knows_tools: bool = False,
        **env: str | None,
    ) -> None:
        self._data_folder = tempfile.TemporaryDirectory(prefix="gateway-data-")
        self.data_dir = Path(str(env.get("data_dir", self._data_folder.name)))
        settings = {
            "data_dir": self._data_folder.name,
            "bind": "127.0.0.1:0",
            "workers": "1",
            "threads": "32",
            "upstream_url": upstream_url,
            "probe_at_start": "false",  # what the upstream has seen is what was asked of it
            "probe_seconds": "0",
        } | env
        if not {"threads", "reserved_threads"} & env.keys():
            settings.setdefault("max_requests", "24")
        if keys:
            settings["api_keys"] = ",".join(keys)
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  # closed in stop
        self._process = self._started(arguments, environ_of(settings), root, open_files, TOOLS if knows_tools else ())
        self.port = 0
        if must_start and not wait_until(self._is_up, START_SECONDS):
            log = self.stop(signal.SIGKILL)
            raise AssertionError(f"the gateway did not start:\n{log}")

    def _started(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        root: Path,
        open_files: int | None,
        more: Sequence[str],
    ) -> subprocess.Popen[bytes] | ForkedProcess:
        """Forked in a test, if nothing about it is unusual: that saves most of a start's work. What is measured starts
        as users start it."""
        usual = ["-c", "gunicorn.conf.py"]
        is_test = "PYTEST_VERSION" in os.environ
        if is_test and root == ROOT and open_files is None and nursery(more).offers(environ):
            return nursery(more).start("gunicorn", [*usual, *arguments], environ, self._log, self._log)
        assert INSIDE not in environ, "only what is forked runs that file"
        return subprocess.Popen(
            [*_limited(open_files), sys.executable, "-m", "gunicorn", *usual, *arguments],
            cwd=root,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The master's process id."""
        return self._process.pid

    @property
    def worker_pids(self) -> list[int]:
        """The workers' process ids."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    @property
    def log(self) -> str:
        """All it has logged so far."""
        return os.pread(self._log.fileno(), 1 << 26, 0).decode()

    def send_signal(self, number: int) -> None:
        """Send the master a signal."""
        self._process.send_signal(number)

    def wait_for_log(self, text: str, timeout_seconds: float = 60.0) -> None:
        """Wait until a text stands in the log."""
        assert wait_until(lambda: text in self.log, timeout_seconds), f"{text!r} is not in the log:\n{self.log}"

    def wait(self, timeout_seconds: float) -> int:
        """Wait for the master's end; its exit status."""
        return self._process.wait(timeout_seconds)

    def stop(self, number: int = signal.SIGTERM, timeout_seconds: float = 60.0) -> str:
        """End it if it still runs, and return the whole log; may be called again."""
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(timeout_seconds)
                raise AssertionError(f"the gateway did not stop in {timeout_seconds} s:\n{self.log}") from None
        log = "" if self._log.closed else self.log
        self._log.close()
        self._data_folder.cleanup()
        return log

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own, answered whole."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()

    def metrics(self) -> Samples:
        """Every sample of `/metrics`, by name and labels."""
        return samples_of(self.request("GET", "/metrics").body.decode())

    def metric(self, name: str, **labels: str) -> float:
        """One sample's value; 0 if there is none."""
        return _sample(self.metrics(), name, labels)

    def total(self, name: str, /, **labels: str) -> float:
        """The sum of a metric's samples that have these labels, over all others."""
        return total_of(self.metrics(), name, **labels)

    def key_states(self) -> dict[str, str]:
        """Key name to state."""
        return {
            dict(labels)["key"]: dict(labels)["state"]
            for (name, labels), value in self.metrics().items()
            if name == "gateway_key_state" and value == 1
        }

    def counted(self, name: str, **labels: str) -> float:
        """One sample's value once no request runs: a client has its answer a moment before all of it is counted."""
        samples: Samples = {}

        def is_settled() -> bool:
            nonlocal samples
            samples = self.metrics()
            return total_of(samples, "requests_inflight") == 0

        assert wait_until(is_settled, _SETTLED_SECONDS), "requests still run"
        return _sample(samples, name, labels)

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"the gateway ended at its start:\n{self.stop()}")
        match = _LISTENING.search(self.log)
        if match is None:
            return False
        self.port = int(match[2])
        return self.is_ready()

    def is_ready(self) -> bool:
        """Whether it says that it serves."""
        try:
            return self.request("GET", "/readyz").status == 200
        except OSError:
            return False

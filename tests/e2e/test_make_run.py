"""`make run` says which process is the gateway, for make stays between it and whoever sends signals.

The Makefile is run as it is, in a folder of its own, with the Python that runs the tests as its `.venv`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.harness import ROOT, wait_until

SOON_SECONDS = 120.0
RELOADED = "configuration reloaded"


class MakeRun:
    """A started `make run`: the process of make, and what it prints."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        shutil.copy(ROOT / "Makefile", folder)
        (folder / ".venv").symlink_to(Path(sys.prefix))
        (folder / "scripts").mkdir()
        (folder / "scripts/venv.sh").write_text("# it is set up\n")
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "MAKE", "MFLAGS"))
        }
        self._log = folder / "log"
        self._environ = clean | settings
        with self._log.open("w") as log:
            self.make = subprocess.Popen(
                ["make", "run"],
                cwd=folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of their own, as in a terminal
            )
        try:
            assert wait_until(lambda: "Listening at" in self.log, SOON_SECONDS), self.log
        except BaseException:
            os.killpg(self.make.pid, signal.SIGKILL)
            self.make.wait()
            raise
        said = re.search(r"make run: process ([0-9]+) is the gateway", self.log)
        assert said, self.log
        self.gateway_pid = int(said[1])

    @property
    def log(self) -> str:
        return self._log.read_text()

    def reload(self) -> None:
        """What the first line says."""
        command = re.search(r"read its configuration again: (\S+) reload", self.log)
        assert command, self.log
        subprocess.run([command[1], "reload"], cwd=self._log.parent, env=self._environ, check=True, timeout=60)

    def stop(self) -> None:
        with suppress(ProcessLookupError):  # it has ended
            os.kill(self.gateway_pid, signal.SIGQUIT)
        self.make.wait(SOON_SECONDS)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[MakeRun]:
    (tmp_path / "keys").write_text("first=sk-sim-first\n")
    with Simulator(keys={"sk-sim-first": "ok"}) as simulator:
        started = MakeRun(
            tmp_path,
            {
                "GATEWAY_API_KEYS_FILE": str(tmp_path / "keys"),
                "GATEWAY_BIND": "127.0.0.1:0",
                "GATEWAY_DATA_DIR": str(tmp_path / "data"),
                "GATEWAY_UPSTREAM_URL": simulator.url,
                "GATEWAY_WORKERS": "1",
            },
        )
        yield started
        started.stop()


def test_the_named_process_is_the_gateway_and_the_named_command_reloads_it(run: MakeRun) -> None:
    """Given `make run`, then the command of its first line reloads the gateway, and so does SIGHUP to the process that
    it names; SIGHUP to make does not."""
    run.reload()
    assert wait_until(lambda: run.log.count(RELOADED) == 1, SOON_SECONDS), run.log
    run.make.send_signal(signal.SIGHUP)
    os.kill(run.gateway_pid, signal.SIGHUP)
    assert wait_until(lambda: run.log.count(RELOADED) == 2, SOON_SECONDS), run.log
    assert run.make.poll() is None
    run.reload()  # whatever make had handed on would have been done before this
    assert wait_until(lambda: run.log.count(RELOADED) == 3, SOON_SECONDS), run.log


STOPS: dict[str, Callable[[MakeRun], None]] = {
    "SIGTERM to make": lambda run: os.kill(run.make.pid, signal.SIGTERM),
    "SIGTERM to the gateway": lambda run: os.kill(run.gateway_pid, signal.SIGTERM),
    "Ctrl-C": lambda run: os.killpg(run.make.pid, signal.SIGINT),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_what_stops_it_stops_both(run: MakeRun, stop: Callable[[MakeRun], None]) -> None:
    """Given `make run`, when it is stopped in one of the ways that its first lines name, then gateway and make end."""
    stop(run)
    run.make.wait(SOON_SECONDS)
    assert "Shutting down: Master" in run.log
    assert not Path(f"/proc/{run.gateway_pid}").exists()

"""`gateway reload` tells what became of a reload: in force, or refused and why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.runtime.machine_clock import machine_time
from gateway.server import reload_answer
from gateway.server.reload_answer import ReloadAnswer
from gateway.simulator import Simulator
from tests.harness import GatewayProcess

FIRST, SECOND = "sk-sim-first", "sk-sim-second"


class Reloading:
    """A gateway whose settings stand in a TOML file, and `gateway reload` with the same file."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        self.config = folder / "gateway.toml"
        self.data = folder / "data"
        self.write(FIRST)
        self.process = GatewayProcess(
            simulator.url, [], config=str(self.config), data_dir=str(self.data), client_tokens_file=""
        )

    def write(self, secret: str, more: str = "") -> None:
        """Replace the settings' file."""
        self.config.write_text(f'api_keys = ["only={secret}"]\n{more}')

    def reload(self, **environ: str) -> tuple[int, str, str]:
        """Status, output and complaints of the command."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", "reload", "--config", str(self.config)],
            env=clean | {"GATEWAY_DATA_DIR": str(self.data), **environ},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(keys={FIRST: "ok", SECOND: "ok"}) as simulator:
        yield simulator


@pytest.fixture
def gateway(simulator: Simulator, tmp_path: Path) -> Iterator[Reloading]:
    reloading = Reloading(simulator, tmp_path)
    yield reloading
    reloading.process.stop()


def test_good_configuration_is_in_force(gateway: Reloading) -> None:
    """Given other settings, then they are in force, and what needs a restart is named; a second time the same."""
    gateway.write(SECOND, 'log_format = "json"\n')
    for _ in range(2):
        assert gateway.reload() == (
            0,
            "reloaded: the new configuration is in force\nGATEWAY_LOG_FORMAT has changed; that needs a restart\n",
            "",
        )
    gateway.process.wait_for_log("configuration reloaded")


def test_configuration_that_is_plainly_bad_is_told_without_a_signal(gateway: Reloading) -> None:
    """Given a bad value in the file, then it is named, the status is 1, and the gateway is left alone."""
    gateway.write(SECOND, "ping_seconds = -1\n")
    status, printed, complaints = gateway.reload()
    assert (status, printed) == (1, "")
    fault, end = complaints.splitlines()
    assert "ping_seconds: a positive number" in fault
    assert end == "gateway: not reloaded: the running gateway keeps its configuration"
    assert "reload" not in gateway.process.log


def test_configuration_that_the_gateway_refuses_is_told_with_its_reasons(gateway: Reloading) -> None:
    """Given a file that is good for the command's environment and not for the gateway's, then its reasons are told."""
    gateway.config.write_text("allow_byok = true\n")
    status, printed, complaints = gateway.reload(GATEWAY_API_KEYS=f"only={FIRST}")
    assert (status, printed) == (1, "")
    assert complaints.splitlines()[0].startswith("gateway: there are no keys")
    assert complaints.splitlines()[-1] == "gateway: reload refused: the running gateway keeps its configuration"
    assert "reload refused" in gateway.process.log


def test_without_a_running_gateway_that_is_told(gateway: Reloading) -> None:
    """Given a gateway that has ended, then the command says that none runs with this data folder."""
    gateway.process.stop()
    status, printed, complaints = gateway.reload()
    assert (status, printed) == (1, "")
    assert complaints.startswith(f"gateway: no gateway runs with the data folder {gateway.data}")


def test_answer_of_an_earlier_reload_is_not_taken_for_this_one(gateway: Reloading) -> None:
    """Given an older answer that was a refusal, then the command waits for its own."""
    reload_answer.leave(gateway.data, ReloadAnswer(machine_time(), ["of yesterday"], []))
    assert gateway.reload()[0] == 0

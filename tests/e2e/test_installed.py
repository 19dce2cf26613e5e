"""The wheel in an environment of its own, used as a newcomer does: `gateway init`, `gateway check`, `gateway serve`.

Nothing of the checkout is there: the wheel is built from a copy of the sources, the commands run in an empty folder,
and only the dependencies are taken from the environment that runs the tests.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.talk import message
from tests.harness import ROOT, START_SECONDS, wait_until

FIRST, SECOND = "sk-sim-first", "sk-sim-second"
_LISTENING = re.compile(r"Listening at: http://127\.0\.0\.1:([0-9]+)")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    sources, environment = folder / "sources", folder / "environment"
    sources.mkdir()
    for name in ("setup.py", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    shutil.copytree(ROOT / "gateway", sources / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-index", "--no-deps", "--no-cache-dir"]
    _run([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), str(sources)])
    (wheel,) = folder.glob("*.whl")
    _run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    _run([*pip, "--python", str(environment / "bin" / "python"), "install", *offline, str(wheel)])
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    found = _run([str(environment / "bin" / "python"), "-c", "import gateway; print(gateway.__file__)"], folder)
    assert found.strip() == str(packages / "gateway" / "__init__.py")
    return environment / "bin"


def _run(command: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Installed:
    """The installed `gateway` in an empty folder, with a home of its own, where the data folder comes to be."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._program = str(programs / "gateway")
        self._log = folder / "log"
        self._here = folder / "empty"
        self._here.mkdir()
        mine = ("GATEWAY_", "PYTHON", "XDG_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        self._environ = clean | {"HOME": str(folder), "GATEWAY_WORKERS": "1", "GATEWAY_PROBE_AT_START": "false"}
        self.port = 0

    def run(self, *arguments: str, typed: str = "") -> tuple[int, str, str]:
        """Run a command to its end: status, output, complaints."""
        command = [self._program, *arguments]
        done = subprocess.run(
            command,
            cwd=self._here,
            env=self._environ,
            input=typed,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    @property
    def log(self) -> str:
        """What the served gateway has logged."""
        return self._log.read_text()

    @contextmanager
    def serve(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Serve until the end of `with`."""
        with self._log.open("w") as log:
            process = subprocess.Popen(
                [self._program, "serve", *arguments], cwd=self._here, env=self._environ, stdout=log, stderr=log
            )
        try:
            assert wait_until(lambda: self._is_up(process), START_SECONDS), self.log
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
            process.wait(60)

    def _is_up(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.log
        match = _LISTENING.search(self.log)
        if match is None:
            return False
        self.port = int(match[1])
        try:
            return self.status("GET", "/readyz") == 200
        except OSError:
            return False

    @contextmanager
    def asked(self, method: str, path: str, body: bytes = b"", token: str = "") -> Iterator[http.client.HTTPResponse]:
        """The answer to a request; its body is still to be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"x-api-key": token} if token else {})
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def status(self, method: str, path: str, body: bytes = b"", token: str = "") -> int:
        """The status of an answer that is read to its end."""
        with self.asked(method, path, body, token) as response:
            response.read()
            return response.status


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(keys={FIRST: "ok", SECOND: "ok:events=20,delay=0.05"}) as simulator:
        yield simulator


@pytest.fixture
def installed(programs: Path, tmp_path: Path) -> Installed:
    return Installed(programs, tmp_path)


def test_newcomer_gets_from_nothing_to_an_answer(installed: Installed, simulator: Simulator, tmp_path: Path) -> None:
    """Given an empty folder, when init, check and serve are run, then a client with the printed token gets an answer;
    SIGHUP puts another key in force; SIGTERM lets a running stream end."""
    folder = tmp_path / "empty" / "mine"
    options = ("--yes", "--keys-from", "-", "--upstream", simulator.url, "--bind", "127.0.0.1:0")
    status, printed, complaints = installed.run("init", "mine", *options, typed=f"only={FIRST}\n")
    assert (status, complaints) == (0, "")
    (token,) = re.findall(r"^  (gwt_\S+)$", printed, re.MULTILINE)
    config = ("--config", str(folder / "gateway.toml"))

    status, printed, complaints = installed.run("check", *config, "--upstream")
    assert (status, complaints) == (0, "")
    assert "only (" in printed

    with installed.serve(*config) as process:
        (told,) = [line for line in installed.log.splitlines() if "listens on" in line]
        url = f"http://127.0.0.1:{installed.port}"
        assert f"{url}; 1 key; clients need a token, and 1 is known; status page: {url}/status" in told
        assert installed.status("POST", "/v1/messages", message()) == 401
        assert installed.status("POST", "/v1/messages", message(), token) == 200
        assert simulator.keys_seen[-1] == FIRST

        (folder / "keys").write_text(f"other={SECOND}\n")
        process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: "configuration reloaded" in installed.log, 20), installed.log
        with installed.asked("POST", "/v1/messages", message(streamed=True), token) as stream:
            assert simulator.keys_seen[-1] == SECOND
            process.send_signal(signal.SIGTERM)
            assert b"event: message_stop" in stream.read()
        assert process.wait(60) == 0
    assert os.listdir(tmp_path / "empty") == ["mine"]


def test_without_a_configuration_serve_names_the_way_to_one(installed: Installed) -> None:
    """Given an empty folder and nothing else, then the status is 1, and the lines name the settings and `init`."""
    status, printed, complaints = installed.run("serve")
    assert (status, printed) == (1, "")
    missing, hint = complaints.splitlines()
    assert "there are no keys: set GATEWAY_API_KEYS" in missing
    assert "`gateway init`" in hint


def test_options_of_serve_win_over_the_file(installed: Installed, simulator: Simulator, tmp_path: Path) -> None:
    """Given a file with another address and another file of keys, then those of the command line are used."""
    config, keys = tmp_path / "gateway.toml", tmp_path / "keys"
    config.write_text(f'upstream_url = "{simulator.url}"\napi_keys_file = "/nonexistent"\nbind = "nowhere:1"\n')
    keys.write_text(f"only={FIRST}\n")
    with installed.serve("--config", str(config), "--bind", "127.0.0.1:0", "--keys-file", str(keys)):
        assert installed.status("POST", "/v1/messages", message()) == 200
    assert simulator.keys_seen[-1] == FIRST


def test_taken_address_ends_the_start_with_one_line(installed: Installed, simulator: Simulator, tmp_path: Path) -> None:
    """Given an address that another program listens on, then the gateway ends at once, and says so in one line."""
    (tmp_path / "keys").write_text(f"only={FIRST}\n")
    address = simulator.url.removeprefix("http://")
    status, _, complaints = installed.run("serve", "--keys-file", str(tmp_path / "keys"), "--bind", address)
    assert status == 1
    (line,) = [line for line in complaints.splitlines() if "Starting gunicorn" not in line]
    assert line.startswith(f"gateway: cannot listen on {address}: it is in use")

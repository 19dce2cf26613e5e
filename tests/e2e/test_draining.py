"""One of two gateways behind deploy/nginx is drained as docs/deploying.md says, and restarted: nobody notices."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.clients import Client, Received, message_body
from tests.e2e.nginx_deployed import DeployedNginx
from tests.e2e.talk import token_line
from tests.harness import ROOT, GatewayProcess, wait_until
from tests.ports import free_port

# A key for each gateway tells the upstream, and so the test, which one has sent a request.
KEYS = ("sk-ant-api03-of-the-first", "sk-ant-api03-of-the-second")
TOKEN = "gateway-token-of-alice-0123456789"
HEADERS = (f"X-Gateway-Token: {TOKEN}",)
LOADS = 6
LONG_STREAMS = 6

Start = Callable[..., GatewayProcess]


class _Pair:
    """Two gateways, nginx in front, and the commands of the documentation, run against them."""

    def __init__(self, simulator: Simulator, start: Start, folder: Path, stack: ExitStack) -> None:
        tokens = folder / "tokens"
        tokens.write_text(token_line("alice", TOKEN))
        self.ports = [free_port(), free_port()]
        self._simulator = simulator
        self._start = lambda number: start(
            simulator.url,
            [KEYS[number]],
            bind=f"127.0.0.1:{self.ports[number]}",
            client_tokens_file=str(tokens),
            threads=64,
        )
        self.gateways = [self._start(number) for number in range(2)]
        self.nginx = stack.enter_context(DeployedNginx(self.ports))
        self._folder = folder
        # `nginx` as it is typed, where the files are in /etc/nginx.
        shim = folder / "nginx"
        shim.write_text(f'#!/bin/sh\nexec {" ".join(self.nginx.command)} "$@"\n')
        shim.chmod(0o755)

    def drain_and_restart(self, number: int, commands: str) -> None:
        """What the documentation says, with the signal that systemd would send."""
        before, restart, after = commands.partition("systemctl restart messages-gateway@8081\n")
        reload, waiting, nothing = before.partition("sleep 2\n")
        assert restart
        assert waiting
        assert nothing.startswith("#")
        self._run(reload, number)
        # What a person waits for by the clock.
        assert wait_until(lambda: self._is_left_alone(number), 20), "it still gets new requests"
        gateway = self.gateways[number]
        gateway.stop()
        assert gateway.wait(0) == 0
        self.gateways[number] = self._start(number)
        self._run(after, number)

    def _run(self, commands: str, number: int) -> None:
        here = commands.replace("/etc/nginx/", f"{self.nginx.folder}/").replace("8081", str(self.ports[number]))
        subprocess.run(
            ["sh", "-euc", here],
            env={"PATH": f"{self._folder}:/usr/bin:/bin"},
            check=True,
            capture_output=True,
            timeout=300,
        )

    def taken(self, number: int) -> int:
        """How many messages a gateway has sent upstream."""
        return self._simulator.keys_seen.count(KEYS[number])

    def script(self, script: str) -> None:
        """From now on both keys play this."""
        for key in KEYS:
            self._simulator.script(key, script)

    def _is_left_alone(self, number: int) -> bool:
        """Whether it gets no request while the other gets some."""
        mine, others = self.taken(number), self.taken(1 - number)
        return wait_until(lambda: self.taken(1 - number) > others + 20, 30) and self.taken(number) == mine


class _Load(threading.Thread):
    """A client that asks until told to stop, whole and streamed in turn; what went wrong is in `lost`."""

    def __init__(self, nginx: DeployedNginx, is_kept: bool) -> None:
        super().__init__()
        self._nginx = nginx
        self._is_kept = is_kept
        self._is_over = threading.Event()
        self.served = 0
        self.lost: list[str] = []

    def stop(self) -> None:
        """Ask no more."""
        self._is_over.set()

    def run(self) -> None:
        try:
            while not self._is_over.is_set():
                with self._nginx.client() as client:
                    self._use(client)
        except OSError as error:
            self.lost.append(f"connecting: {error!r}")

    def _use(self, client: Client) -> None:
        """Requests on one connection, as long as nginx keeps it."""
        for number in range(1_000_000):
            if self._is_over.is_set() or not self._asks(client, is_first=number == 0) or not self._is_kept:
                return

    def _asks(self, client: Client, is_first: bool) -> bool:
        is_streamed = self.served % 2 == 0
        try:
            client.send(message_body(is_streamed), headers=HEADERS)
            answer = client.read_answer()
        except (OSError, AssertionError) as error:
            # A reload closes idle connections; every client knows that of a kept one, and asks again on another.
            if is_first:
                self.lost.append(repr(error))
            return False
        self.served += 1
        if not _is_good(answer, is_streamed):
            self.lost.append(f"{answer.status} {answer.body[-300:]!r}")
        return answer.header("connection") != "close"


def _is_good(answer: Received, is_streamed: bool) -> bool:
    is_ended = not is_streamed or b"event: message_stop" in answer.body
    return answer.status == 200 and answer.is_complete and is_ended and b"event: error" not in answer.body


def documented_commands() -> str:
    """The drain's commands as docs/deploying.md has them."""
    text = (ROOT / "docs" / "deploying.md").read_text()
    section = text.split("\n## Draining", 1)[1].split("\n## ", 1)[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return str(block)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(keys=dict.fromkeys(KEYS, "ok:events=5,delay=0.01")) as simulator:
        yield simulator


def test_gateway_drained_and_restarted_under_load_fails_no_request(
    simulator: Simulator, gateway_process: Start, tmp_path: Path
) -> None:
    """Given constant load and long streams, when each gateway in turn is drained and restarted, then none fails."""
    commands = documented_commands()
    with ExitStack() as stack:
        pair = _Pair(simulator, gateway_process, tmp_path, stack)
        loads = [_Load(pair.nginx, is_kept=number % 2 == 0) for number in range(LOADS)]
        for load in loads:
            load.start()
        try:
            assert wait_until(lambda: all(load.served >= 5 for load in loads), 30)
            for number in range(2):
                pair.script("ok:events=60,delay=0.1")
                streams = [stack.enter_context(pair.nginx.client()) for _ in range(LONG_STREAMS)]
                for stream in streams:
                    stream.send(message_body(True), headers=HEADERS)
                heads = [stream.read_head() for stream in streams]
                pair.script("ok:events=5,delay=0.01")
                pair.drain_and_restart(number, commands)
                for stream, head in zip(streams, heads, strict=True):
                    assert _is_good(stream.read_body(head), is_streamed=True)
                before = pair.taken(number)
                assert wait_until(lambda: pair.taken(number) > before + 10, 30), "it gets no requests again"  # noqa: B023
        finally:
            for load in loads:
                load.stop()
            for load in loads:
                load.join(30)
        assert not any(load.is_alive() for load in loads)
        assert [lost for load in loads for lost in load.lost] == []

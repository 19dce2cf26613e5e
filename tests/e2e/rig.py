"""A simulator with a real gateway in front of it, shared by the tests of a module.

Owns: fresh keys for a test without a new gateway (states are kept by secret, so a reload with new secrets starts
with a valid pool), and what a test wants to know about them afterwards.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import TracebackType

from gateway.simulator import Simulator
from tests.e2e.clients import Received, ask
from tests.harness import GatewayProcess, wait_until

_RELOADED = "configuration reloaded"
STATES = ("valid", "temporary", "permanent")


class Rig:
    """One simulator, plain or over TLS, and one gateway; `settings` are the gateway's.

    `server` are gunicorn's arguments for another worker than the gateway's own.
    """

    def __init__(self, is_tls: bool = False, server: Sequence[str] = (), **settings: object) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rig-")
        self._keys_file = Path(self._folder.name) / "keys"
        self._pools = count()
        self.names: list[str] = []
        self.secrets: list[str] = []
        self._has_own_worker = not server
        self.simulator = Simulator(tls=is_tls)
        self.simulator.start()
        self._write_keys(1)
        env = {"api_keys_file": str(self._keys_file)} | {name: str(value) for name, value in settings.items()}
        if is_tls:
            env["upstream_ca_file"] = self.simulator.ca_file
        try:
            self.gateway = GatewayProcess(self.simulator.url, [], server, **env)
        except BaseException:
            self.simulator.stop()
            raise

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.gateway.stop()
        finally:
            self.simulator.stop()
            self._folder.cleanup()

    def keys(self, *scripts: str) -> None:
        """From now on the pool consists of valid keys that play these scripts, in that order."""
        if len(scripts) != len(self.secrets) or set(self.states) != {"valid"}:
            self.replace_keys(len(scripts))
        for secret, script in zip(self.secrets, scripts, strict=True):
            self.simulator.script(secret, script)
        self.simulator.clear_requests()

    def replace_keys(self, number: int) -> None:
        """From now on the pool consists of so many keys that were never used, under the names of those before."""
        reloads, workers = self.gateway.log.count(_RELOADED), self.gateway.worker_pids
        self._write_keys(number)
        self.gateway.send_signal(signal.SIGHUP)
        if self._has_own_worker:
            assert wait_until(lambda: self.gateway.log.count(_RELOADED) > reloads, 30), self.gateway.log
        else:  # it begins other workers, and ends these
            assert wait_until(lambda: not set(workers) & set(self.gateway.worker_pids), 20), self.gateway.log
            assert wait_until(self.gateway.is_ready, 30), self.gateway.log

    def script(self, script: str) -> None:
        """From now on the first key plays this script; its state stays as it is."""
        self.simulator.script(self.secrets[0], script)
        self.simulator.clear_requests()

    @property
    def calls(self) -> list[int]:
        """The positions of the keys that the upstream has seen since the keys or the script were set."""
        return [self.secrets.index(secret) for secret in self.simulator.keys_seen]

    @property
    def states(self) -> list[str]:
        """The states of the keys in order, as `/metrics` shows them."""
        samples = self.gateway.metrics()

        def state_of(name: str) -> str:
            shown = [
                state
                for state in STATES
                if samples[("gateway_key_state", frozenset({("key", name), ("state", state)}))] == 1
            ]
            assert len(shown) == 1
            return shown[0]

        return [state_of(name) for name in self.names]

    def cooldown_seconds(self, position: int) -> float:
        """How long the key at this position still cools down."""
        cooldowns = self.gateway.metrics().items()
        named = ("key", self.names[position])
        return max(
            value for (name, labels), value in cooldowns if name == "gateway_key_cooldown_seconds" and named in labels
        )

    def direct(self, body: bytes, *, path: str = "/v1/messages", method: str = "POST") -> Received:
        """The answer that the first key gets straight from the simulator."""
        headers = [f"x-api-key: {self.secrets[0]}"]
        return ask(self.simulator.url, body, ca_file=self.simulator.ca_file, path=path, method=method, headers=headers)

    def _write_keys(self, number: int) -> None:
        pool = next(self._pools)
        self.names = [f"k{position}" for position in range(number)]
        self.secrets = [f"sk-sim-{pool}-{name}" for name in self.names]
        lines = [f"{name}={secret}\n" for name, secret in zip(self.names, self.secrets, strict=True)]
        self._keys_file.write_text("".join(lines))
        os.utime(self._keys_file, (0, 0))  # it is whole: the gateway need not wait to see whether it still changes

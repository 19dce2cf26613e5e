"""Gateways of several workers, alone or as replicas: what their tests need to know of each worker and key.

Owns: a gateway's keys file and data folder, so that it can be reloaded and started again; crowds of connections with
one request each. How many requests a worker has served is read where it counts them for the others.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType

from prometheus_client.mmap_dict import MmapedDict

from gateway.runtime.counts_folder import counts_folder
from gateway.simulator import Simulator
from tests.e2e.clients import Client, Received, message_body
from tests.harness import GatewayProcess, Samples, run_command, samples_of, wait_until

WORKERS = 4
SOON_SECONDS = 30.0
_MORE_CONNECTIONS = 4
CROWD_SECONDS = 60.0


class KeysFile:
    """The keys file of one gateway or of several, and the scripts that its keys play."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        self.path = folder / "keys"
        self.names: list[str] = []
        self.secrets: list[str] = []
        self._simulator = simulator
        self._numbers = count()
        self.write("k=sk-sim-at-start")

    def write(self, *lines: str) -> None:
        """Replace the file, at one stroke."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.rename(self.path)
        self.names = [line.partition("=")[0] for line in lines]
        self.secrets = [line.partition("=")[2] for line in lines]

    def renew(self, *scripts: str) -> None:
        """Replace the file by keys that were never used and play these scripts."""
        number = next(self._numbers)
        self.write(*(f"n{number}k{at}=sk-sim-n{number}-secret-{at}" for at in range(len(scripts))))
        self.play(*scripts)

    def play(self, *scripts: str) -> None:
        """From now on the keys play these scripts; their states stay as they are."""
        for secret, script in zip(self.secrets, scripts, strict=True):
            self._simulator.script(secret, script)
        self._simulator.clear_requests()

    @property
    def calls(self) -> list[int]:
        """The positions of the keys that the upstream has seen since the scripts were set."""
        return [self.secrets.index(secret) for secret in self._simulator.keys_seen]


class Fleet:
    """One gateway of several workers, with a keys file and a data folder that outlive it."""

    def __init__(
        self,
        simulator: Simulator,
        keys: KeysFile,
        data_dir: Path,
        workers: int = WORKERS,
        headers: Sequence[str] = (),
        **settings: object,
    ) -> None:
        """`headers` are lines that every request brings."""
        self.keys = keys
        self.data_dir = data_dir
        self._simulator = simulator
        self._headers = headers
        self._workers = workers
        self._settings = {"api_keys_file": keys.path, "data_dir": data_dir, "workers": workers, **settings}
        self._reloads = 0
        self.start()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.gateway.stop()

    def start(self) -> None:
        """Start it, the first time or again, and wait for every worker."""
        named = {name: str(value) for name, value in self._settings.items()}
        self.gateway = GatewayProcess(self._simulator.url, [], **named)
        self._reloads = 0
        if not wait_until(lambda: self.is_whole, SOON_SECONDS):
            raise AssertionError(f"not all workers have started:\n{self.gateway.stop()}")

    def restart(self) -> None:
        """Stop it and start it again in the same data folder."""
        self.gateway.stop()
        self.start()

    @property
    def is_whole(self) -> bool:
        """Whether every worker is there and serves."""
        pids = self.gateway.worker_pids
        return len(pids) == self._workers and all(self._has_begun(pid) for pid in pids)

    def renew_keys(self, *scripts: str) -> None:
        """From now on the pool consists of keys that were never used and play these scripts."""
        self.keys.renew(*scripts)
        self.reload()

    def reload(self) -> None:
        """SIGHUP, and wait until the keys of the file are in force in every worker."""
        self.gateway.send_signal(signal.SIGHUP)
        self._reloads += 1
        assert wait_until(lambda: len(self.reloads) == self._reloads, SOON_SECONDS), self.gateway.log
        assert self.reloads[-1] == ", ".join(self.keys.names)

    @property
    def reloads(self) -> list[str]:
        """The keys that each reload's line names; the line comes when all workers have them."""
        lines = self.gateway.log.splitlines()
        return [line.partition("reloaded; keys: ")[2] for line in lines if "configuration reloaded" in line]

    def served_by(self, pid: int) -> float:
        """How many requests for messages a worker has counted."""
        wanted = '["gateway_requests", "gateway_requests_total"'
        return sum(n for key, n in self._counts_of(pid).items() if key.startswith(wanted) and '"messages"' in key)

    @contextmanager
    def only(self, pid: int) -> Iterator[None]:
        """Within this, that worker alone takes new connections: the others are paused. Nothing else may run."""
        others = [other for other in self.gateway.worker_pids if other != pid]
        for other in others:
            os.kill(other, signal.SIGSTOP)
        try:
            assert wait_until(lambda: all(is_paused(other) for other in others), SOON_SECONDS)
            yield
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)

    def serve_from_every_worker(self, number: int) -> None:
        """So many requests at once to each worker in turn, all of which are answered with 200."""
        for pid in self.gateway.worker_pids:
            wanted = self.served_by(pid) + number  # an answer is counted a moment after its client has it
            with self.only(pid):
                answers = crowd(self.gateway.url, number, self._headers)
                served_all = partial(lambda pid, wanted: self.served_by(pid) >= wanted, pid, wanted)
                assert [answer.status for answer in answers] == [200] * number
                assert wait_until(served_all, SOON_SECONDS)

    def states(self) -> dict[str, str]:
        """Key name to state, as `/metrics` has it."""
        return self.gateway.key_states()

    def total(self, name: str, /, **labels: str) -> float:
        """The sum of a metric's samples that have these labels, over all others."""
        return self.gateway.total(name, **labels)

    def settle(self) -> None:
        """Wait until every request is counted: clients have their answers a moment earlier."""
        assert wait_until(lambda: self.total("requests_inflight") == 0, SOON_SECONDS)

    def metrics_of_each_worker(self) -> list[Samples]:
        """Every sample of `/metrics` by name and labels, as each of the workers answers."""
        held: dict[int, Client] = {}
        with ExitStack() as stack:

            def each_has_one() -> bool:
                number = _MORE_CONNECTIONS * self._workers
                clients.extend(stack.enter_context(Client(self.gateway.url)) for _ in range(number))
                held.update(self._accepted(clients))
                return len(held) == self._workers

            clients: list[Client] = []
            assert wait_until(each_has_one, SOON_SECONDS), f"only {list(held)} take connections"
            for client in held.values():
                client.send(method="GET", path="/metrics")
            return [samples_of(client.read_answer().body.decode()) for client in held.values()]

    def _accepted(self, clients: Iterable[Client]) -> dict[int, Client]:
        """One of these connections for each worker that has accepted any, by its process id."""
        own_end = f":{self.gateway.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        sockets = {int(row[2].partition(":")[2], 16): f"socket:[{row[9]}]" for row in rows if row[1].endswith(own_end)}
        by_socket = {sockets[port]: client for client in clients if (port := client.port) in sockets}
        owned = {
            pid: [by_socket[link] for link in map(_link, Path(f"/proc/{pid}/fd").iterdir()) if link in by_socket]
            for pid in self.gateway.worker_pids
        }
        return {pid: own[0] for pid, own in owned.items() if own}

    def kill_worker(self, pid: int) -> None:
        """SIGKILL a worker, and wait until another has its place."""
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: pid not in self.gateway.worker_pids and self.is_whole, SOON_SECONDS)

    def command(self, *words: str) -> str:
        """What `gateway keys` prints with these words. Raises AssertionError if it fails."""
        done = run_command("keys", *words, **self._settings)
        assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"
        return done.stdout

    @property
    def metrics_folder(self) -> Path:
        """Where its workers keep their counts."""
        return counts_folder(self.data_dir)

    def _has_begun(self, pid: int) -> bool:
        return any("gateway_build_info" in key for key in self._counts_of(pid, "gauge_livemax"))

    def _counts_of(self, pid: int, kind: str = "counter") -> Mapping[str, float]:
        """What a worker has counted, or its predecessor in the same place: in the file that it has mapped."""
        try:
            maps = Path(f"/proc/{pid}/maps").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return {}
        mapped = [line.split(maxsplit=5)[5] for line in maps.splitlines() if f"/{kind}_" in line]
        return {key: value for file in mapped for key, value, _, _ in MmapedDict.read_all_values_from_file(file)}


class Crowd:
    """So many connections, each with one request that has been sent. Not thread-safe."""

    def __init__(
        self,
        url: str,
        number: int,
        body: bytes = message_body(False),
        headers: Iterable[str] = (),
        method: str = "POST",
        path: str = "/v1/messages",
    ) -> None:
        self.answers: list[Received] = []
        self._poll = select.poll()
        self._waiting: dict[int, Client] = {}
        for _ in range(number):
            client = Client(url)
            self._waiting[client.socket.fileno()] = client
            self._poll.register(client.socket, select.POLLIN)
            client.send(body, method=method, path=path, headers=headers)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for client in self._waiting.values():
            client.close()

    def wait_for(self, number: int, timeout_seconds: float = CROWD_SECONDS) -> None:
        """Wait until so many answers are there, whole."""
        deadline = time.monotonic() + timeout_seconds
        while len(self.answers) < number:
            ready = self._poll.poll(1000 * max(0.0, deadline - time.monotonic()))
            assert ready, f"{len(self.answers)} of {number} were answered"
            for descriptor, _ in ready:
                client = self._waiting.pop(descriptor)
                self._poll.unregister(descriptor)
                with client:
                    self.answers.append(client.read_answer())

    @property
    def statuses(self) -> list[int]:
        """The statuses of the answers so far."""
        return [answer.status for answer in self.answers]


def _link(descriptor: Path) -> str:
    """What a descriptor of another process leads to; nothing if that has closed it by now."""
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:
        return ""


def is_paused(pid: int) -> bool:
    """Whether a process is stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def crowd(url: str, number: int, headers: Iterable[str] = ()) -> list[Received]:
    """The answers to so many requests at once, each on a connection of its own."""
    with Crowd(url, number, headers=headers) as everybody:
        everybody.wait_for(number)
        return everybody.answers

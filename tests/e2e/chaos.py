"""What can befall a gateway: faults of its machine, its stores, its neighbours and its own processes.

Owns: each fault, how it begins and ends, and which failures of clients docs/faults.md excuses by it.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gateway.runtime.data_folder import spool_folder
from gateway.simulator import Simulator
from tests.e2e.interposer import Interposer, Manner
from tests.full_disk import SmallDisk
from tests.harness import GatewayProcess, wait_until
from tests.mcp.servers import FaultServer
from tests.stores.postgres_server import PostgresServer
from tests.stores.redis_server import RedisServer

SOON_SECONDS = 30.0
KEYS_FILE = "keys.jsonl"
_SLOW_WRITER_SECONDS = 0.3

# What a client may see go wrong, if a fault excuses it.
BROKEN = "broken"  # its connection ended in mid-answer, or before one
UPSTREAM = "upstream"  # 502, 504 or an error event, in the gateway's words or the upstream's


@dataclass
class Stage:
    """The gateway, and everything around it that can fail. What is not part of a stage is None."""

    gateway: GatewayProcess
    data_dir: Path
    disk: SmallDisk
    simulator: Simulator
    scripts: dict[str, str]
    tokens_file: Path
    tokens: str
    clock_file: Path
    mcp: FaultServer
    redis: RedisServer | None = None
    redis_way: Interposer | None = None
    postgres: PostgresServer | None = None
    postgres_way: Interposer | None = None
    chance: random.Random = field(default_factory=random.Random)


class Fault(ABC):
    """One thing that goes wrong from `begin` to `end`. `row` is its row in docs/faults.md."""

    row = ""
    struck = ""  # whom it strikes: no two faults strike one at a time
    excuses: frozenset[str] = frozenset()

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @abstractmethod
    def begin(self) -> None:
        """Let it go wrong."""

    def end(self) -> None:  # noqa: B027  # some faults are over as soon as they have begun
        """Mend it."""


class WorkerKilled(Fault):
    row = "a worker is killed"
    struck = "worker"
    excuses = frozenset({BROKEN})

    def begin(self) -> None:
        workers = self.stage.gateway.worker_pids
        if workers:  # all of them may just be being replaced
            with suppress(ProcessLookupError):
                os.kill(self.stage.chance.choice(workers), signal.SIGKILL)


class WorkerStopped(Fault):
    row = "a worker stands still"
    struck = "worker"

    def begin(self) -> None:
        self._stopped = self.stage.chance.choice(self.stage.gateway.worker_pids or [0])
        if self._stopped:
            with suppress(ProcessLookupError):
                os.kill(self._stopped, signal.SIGSTOP)

    def end(self) -> None:
        if self._stopped:
            with suppress(ProcessLookupError):
                os.kill(self._stopped, signal.SIGCONT)


class Reloaded(Fault):
    row = "the configuration is reloaded"
    struck = "worker"

    def begin(self) -> None:
        self.stage.gateway.send_signal(signal.SIGHUP)


class FullDisk(Fault):
    row = "the data folder's disk is full"
    struck = "disk"

    def begin(self) -> None:
        self.stage.disk.fill()

    def end(self) -> None:
        self.stage.disk.free()


class ClockJumps(Fault):
    row = "the wall clock jumps"
    struck = "clock"

    def begin(self) -> None:
        self._set(self.stage.chance.choice((-3600.0, 3600.0, -172800.0, 86400.0)))

    def end(self) -> None:
        self._set(0.0)

    def _set(self, offset_seconds: float) -> None:
        with self.stage.clock_file.open("r+b") as file:
            file.write(struct.pack("d", offset_seconds))


class OddSpool(Fault):
    row = "odd entries lie among the waiting records"
    struck = "spool"

    def begin(self) -> None:
        folder = spool_folder(str(self.stage.data_dir))
        self._made = [folder / f"{name}.jsonl" for name in ("a-folder", "a-pipe", "a-link", "nonsense")]
        with suppress(OSError):  # the disk may be full at the same time
            self._made[0].mkdir()
            os.mkfifo(self._made[1])
            self._made[2].symlink_to(self._made[2])
            self._made[3].write_bytes(b"\x00\xff" * 2000)

    def end(self) -> None:
        for path in self._made:
            with suppress(OSError):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


class TokensHalfWritten(Fault):
    row = "the token file is half written, by a writer that goes on within a second"
    struck = "tokens"

    def begin(self) -> None:
        """As a slow writer does it; one that rests for longer than a second is taken for finished."""
        self.stage.tokens_file.write_text(self.stage.tokens[: len(self.stage.tokens) // 3])
        threading.Event().wait(_SLOW_WRITER_SECONDS)
        self.stage.tokens_file.write_text(self.stage.tokens)


class UpstreamRubbish(Fault):
    row = "the upstream answers rubbish for a while"
    struck = "upstream"
    excuses = frozenset({UPSTREAM})
    scripts = (
        "garbage",
        "close",
        "cut:after=3",
        "reset:after=3",
        "bad_chunk:after=2",
        "empty",
        "cut_half:after=2",
        "html",
    )

    def begin(self) -> None:
        for secret in self.stage.scripts:
            self.stage.simulator.script(secret, self.stage.chance.choice(self.scripts))

    def end(self) -> None:
        for secret, script in self.stage.scripts.items():
            self.stage.simulator.script(secret, script)


class McpServerKilled(Fault):
    row = "an MCP server dies"
    struck = "mcp"

    def begin(self) -> None:
        self.stage.mcp.kill()

    def end(self) -> None:
        self.stage.mcp.start()


class McpServerStopped(Fault):
    row = "an MCP server stands still"
    struck = "mcp"

    def begin(self) -> None:
        self.stage.mcp.freeze()

    def end(self) -> None:
        self.stage.mcp.thaw()


class KeyStoreOverwritten(Fault):
    row = "the key store's file is overwritten"
    struck = "keys"

    def begin(self) -> None:
        with (self.stage.data_dir / KEYS_FILE).open("r+b") as file:
            file.write(self.stage.chance.randbytes(4096))


class KeyStoreRemoved(Fault):
    row = "the key store's file is removed"
    struck = "keys"

    def begin(self) -> None:
        (self.stage.data_dir / KEYS_FILE).unlink(missing_ok=True)


class RedisKilled(Fault):
    row = "Redis dies"
    struck = "redis"

    def begin(self) -> None:
        assert self.stage.redis is not None
        self.stage.redis.kill()

    def end(self) -> None:
        assert self.stage.redis is not None
        self.stage.redis.start()


class RedisStopped(Fault):
    row = "Redis stands still"
    struck = "redis"

    def begin(self) -> None:
        assert self.stage.redis is not None
        self.stage.redis.pause()

    def end(self) -> None:
        assert self.stage.redis is not None
        self.stage.redis.resume()


class _WaySpoilt(Fault):
    """The way to a neighbour is spoilt in some manner."""

    def way(self) -> Interposer:
        raise NotImplementedError

    manner: Manner

    def begin(self) -> None:
        self.way().become(self.manner)

    def end(self) -> None:
        self.way().become(Manner.FORWARD)


class _RedisWay(_WaySpoilt):
    def way(self) -> Interposer:
        assert self.stage.redis_way is not None
        return self.stage.redis_way


class _PostgresWay(_WaySpoilt):
    def way(self) -> Interposer:
        assert self.stage.postgres_way is not None
        return self.stage.postgres_way


class RedisRubbish(_RedisWay):
    row = "Redis answers rubbish"
    struck = "redis"
    manner = Manner.RUBBISH


class RedisSilent(_RedisWay):
    row = "the way to Redis is silent or cut"
    struck = "redis"
    manner = Manner.SILENT


class RedisCut(_RedisWay):
    row = "the way to Redis is silent or cut"
    struck = "redis"
    manner = Manner.CUT


class DatabaseKilled(Fault):
    row = "the records' database dies"
    struck = "database"

    def begin(self) -> None:
        assert self.stage.postgres is not None
        self.stage.postgres.kill()

    def end(self) -> None:
        assert self.stage.postgres is not None
        self.stage.postgres.start()


class DatabaseStopped(Fault):
    row = "the records' database stands still"
    struck = "database"

    def begin(self) -> None:
        assert self.stage.postgres is not None
        self.stage.postgres.pause()

    def end(self) -> None:
        assert self.stage.postgres is not None
        self.stage.postgres.resume()


class DatabaseRubbish(_PostgresWay):
    row = "the records' database answers rubbish"
    struck = "database"
    manner = Manner.RUBBISH


class DatabaseSilent(_PostgresWay):
    row = "the way to the records' database is silent or cut"
    struck = "database"
    manner = Manner.SILENT


class DatabaseCut(_PostgresWay):
    row = "the way to the records' database is silent or cut"
    struck = "database"
    manner = Manner.CUT


ANYWHERE: Sequence[type[Fault]] = (
    WorkerKilled,
    WorkerStopped,
    Reloaded,
    FullDisk,
    ClockJumps,
    OddSpool,
    TokensHalfWritten,
    UpstreamRubbish,
    McpServerKilled,
    McpServerStopped,
)
OF_OWN_STORES: Sequence[type[Fault]] = (KeyStoreOverwritten, KeyStoreRemoved)
OF_SHARED_STORES: Sequence[type[Fault]] = (
    RedisKilled,
    RedisStopped,
    RedisRubbish,
    RedisSilent,
    RedisCut,
    DatabaseKilled,
    DatabaseStopped,
    DatabaseRubbish,
    DatabaseSilent,
    DatabaseCut,
)


def workers_run(gateway: GatewayProcess, number: int) -> bool:
    """Whether so many workers run, none of them stopped or dead."""
    states = []
    for pid in gateway.worker_pids:
        try:
            states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        except FileNotFoundError:
            return False
    return len(states) == number and not set(states) & {"T", "Z"}


def wait_for_workers(gateway: GatewayProcess, number: int) -> None:
    """Wait until the gateway is whole."""
    assert wait_until(lambda: workers_run(gateway, number), SOON_SECONDS), gateway.log[-4000:]

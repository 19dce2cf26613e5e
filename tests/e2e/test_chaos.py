"""Everything goes wrong at random while clients ask: what docs/faults.md promises holds, and nothing is lost or leaks.

Every request has a session of its own, so that what its client saw can be laid beside what was recorded.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e import chaos
from tests.e2e.chaos import BROKEN, UPSTREAM, Fault, Stage
from tests.e2e.interposer import Interposer
from tests.e2e.recorded import Records
from tests.e2e.talk import message, token_line
from tests.forked import INSIDE
from tests.full_disk import SmallDisk
from tests.harness import ROOT, GatewayProcess, wait_until
from tests.mcp.servers import FaultServer
from tests.stores.postgres_server import PostgresServer
from tests.stores.redis_server import RedisServer

SEED = 20261201
CLIENTS = 24
WORKERS = 2
TOKEN = "gwt_token-of-the-chaos-0123456789"
DISK_BYTES = 512 << 20
CLIENT_PATIENCE_SECONDS = 60.0
# A connection that a killed worker had kept fails at its client's next request, which may come a little later.
GRACE_SECONDS = 2.0
SERVED_AGAIN_SECONDS = 5.0
SOON_SECONDS = 60.0
NOT_RECORDED = {401, 403, 404, 405, 529}
USAGE = "input-tokens=13,output-tokens=17"
CYCLES = 3_000  # the last step of a script goes on for ever, so that is a good answer
SCRIPTS = {
    "sk-ant-chaos-limited": f"ok:{USAGE}*7 then rate_limited:retry-after-ms=300 then " * CYCLES + f"ok:{USAGE}",
    "sk-ant-chaos-good": f"ok:{USAGE}*12 then tool_use:{USAGE} then " * CYCLES + f"ok:{USAGE}",
}
JUMPING_CLOCK = Path(__file__).parent / "jumping_clock.py"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as its client saw it; times are monotonic seconds, `failure` is None if it was served."""

    session: str
    begun_at: float
    ended_at: float
    status: int
    failure: str | None


@dataclass(frozen=True, slots=True)
class Period:
    """When a fault held."""

    fault: Fault
    begun_at: float
    ended_at: float

    def excuses(self, asked: Asked) -> bool:
        """Whether it excuses what that client saw."""
        return (
            asked.failure in self.fault.excuses
            and asked.begun_at <= self.ended_at + GRACE_SECONDS
            and asked.ended_at >= self.begun_at
        )


class Client(threading.Thread):
    """Asks in all manners, one request after the other on a kept connection and with pauses, until told to stop."""

    def __init__(
        self, stage: Stage, numbers: Iterator[int], is_over: threading.Event, seed: int, pause_seconds: float
    ) -> None:
        super().__init__(daemon=True)
        self.asked: list[Asked] = []
        self._port = stage.gateway.port
        self._numbers = numbers
        self._is_over = is_over
        self._pause_seconds = pause_seconds
        self._chance = random.Random(seed)
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        while not self._is_over.wait(self._pause_seconds):
            session = f"chaos-{next(self._numbers)}"
            begun_at = time.monotonic()
            status, failure = self._ask(session)
            self.asked.append(Asked(session, begun_at, time.monotonic(), status, failure))
        self._hang_up()

    def _ask(self, session: str) -> tuple[int, str | None]:
        manner = self._chance.choice(("streamed", "streamed", "whole", "count"))
        path = "/v1/messages/count_tokens" if manner == "count" else "/v1/messages"
        headers = {"x-api-key": TOKEN, "x-session-id": session}
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=CLIENT_PATIENCE_SECONDS)
            self._connection.request("POST", path, message(streamed=manner == "streamed"), headers)
            response = self._connection.getresponse()
            body = response.read()
        except TimeoutError:
            self._hang_up()
            return 0, "hangs"
        except (OSError, http.client.HTTPException):
            self._hang_up()
            return 0, BROKEN
        return response.status, _failure_of(response.status, body, manner == "streamed")

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _failure_of(status: int, body: bytes, is_streamed: bool) -> str | None:
    """What is wrong with an answer; None if nothing is."""
    if status in (502, 504):
        return UPSTREAM
    if status != 200:
        return f"status {status}: {body[:200]!r}"
    if is_streamed and b"event: error\n" in body:
        return UPSTREAM
    if is_streamed:
        return None if b'"message_stop"' in body else f"cut in silence: {body[-200:]!r}"
    return None if isinstance(json.loads(body), dict) else "no answer"


@contextmanager
def _staged(tmp_path: Path, is_shared: bool, patch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with ExitStack() as stack:
        disk = stack.enter_context(SmallDisk(tmp_path / "disk", DISK_BYTES))
        simulator = stack.enter_context(Simulator(keys=SCRIPTS, journal_limit=1000, keep_bodies=False))
        mcp = stack.enter_context(FaultServer(tmp_path))
        tokens = "".join(token_line(name, f"{TOKEN}-{name}") for name in ("alice", "bob")) + token_line("chaos", TOKEN)
        (tmp_path / "tokens").write_text(tokens)
        (tmp_path / "clock").write_bytes(bytes(8))
        (tmp_path / "gateway.toml").write_text(f'[[mcp_servers]]\nname = "faults"\nurl = "{mcp.url}"\n')
        settings = {
            "config": tmp_path / "gateway.toml",
            "client_tokens_file": tmp_path / "tokens",
            "data_dir": disk.folder / "data",
            "workers": WORKERS,
            "threads": 2 * CLIENTS + 16,
            "read_idle_timeout_seconds": 20,
            "idle_connection_seconds": 2,
            "drain_seconds": 2,
        }
        redis = redis_way = postgres = postgres_way = None
        if is_shared:
            redis = RedisServer(is_persistent=True)
            stack.callback(redis.stop)
            postgres = PostgresServer()
            stack.callback(postgres.stop)
            redis_way = stack.enter_context(Interposer(redis.port, SEED))
            postgres_way = stack.enter_context(Interposer(postgres.port, SEED))
            settings["state_url"] = f"redis://127.0.0.1:{redis_way.port}/0"
            settings["record_url"] = postgres.new_database().replace(f":{postgres.port}/", f":{postgres_way.port}/")
        with patch.context() as clock:
            clock.setenv(INSIDE, str(JUMPING_CLOCK))
            clock.setenv(f"{INSIDE}_CLOCK", str(tmp_path / "clock"))
            gateway = GatewayProcess(
                simulator.url, list(SCRIPTS), knows_tools=True, **{name: str(value) for name, value in settings.items()}
            )
        stack.callback(gateway.stop)
        yield Stage(
            gateway=gateway,
            data_dir=disk.folder / "data",
            disk=disk,
            simulator=simulator,
            scripts=SCRIPTS,
            tokens_file=tmp_path / "tokens",
            tokens=tokens,
            clock_file=tmp_path / "clock",
            mcp=mcp,
            redis=redis,
            redis_way=redis_way,
            postgres=postgres,
            postgres_way=postgres_way,
            chance=random.Random(SEED),
        )


class Director:
    """Lets faults happen, one or two at a time, and remembers when they held."""

    def __init__(self, stage: Stage, kinds: Sequence[type[Fault]]) -> None:
        self.periods: list[Period] = []
        self._stage = stage
        self._kinds = kinds

    def play_each(self, hold_seconds: float) -> None:
        """Every fault once, in a random order."""
        for kind in self._stage.chance.sample(self._kinds, len(self._kinds)):
            self._play([kind], hold_seconds)

    def play(self, deadline: float) -> None:
        """Faults at random until the deadline, often two of different neighbours at a time."""
        chance = self._stage.chance
        while time.monotonic() < deadline:
            kinds = chance.sample(self._kinds, chance.choice((1, 1, 2)))
            if len({kind.struck for kind in kinds}) == len(kinds):
                self._play(kinds, chance.uniform(0.2, 4.0))
                _pause(chance.uniform(0.0, 2.0))

    def _play(self, kinds: Sequence[type[Fault]], hold_seconds: float) -> None:
        faults = [kind(self._stage) for kind in kinds]
        begun_at = time.monotonic()
        for fault in faults:
            fault.begin()
        _pause(hold_seconds)
        for fault in reversed(faults):
            fault.end()
        self.periods += [Period(fault, begun_at, time.monotonic()) for fault in faults]


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def _use_of(gateway: GatewayProcess) -> list[tuple[int, int]]:
    """Threads and descriptors of each worker."""
    return [(len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))) for pid in gateway.worker_pids]


def _rows() -> dict[str, str]:
    """Each fault of docs/faults.md, and what it says of clients."""
    lines = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: f"{row[2]} {row[3]}" for row in cells if len(row) == 5}


KINDS = {"own": (*chaos.ANYWHERE, *chaos.OF_OWN_STORES), "shared": (*chaos.ANYWHERE, *chaos.OF_SHARED_STORES)}


@pytest.mark.parametrize("kind", sorted({*KINDS["own"], *KINDS["shared"]}, key=lambda kind: kind.__name__))
def test_every_fault_of_the_chaos_is_promised(kind: type[Fault]) -> None:
    """Given a fault, then the table of promises has it, and speaks of a failure only if it excuses one."""
    promised = _rows()[kind.row]
    assert promised.startswith("served") is (not kind.excuses)


@pytest.mark.parametrize("stores", ["own", "shared"])
@pytest.mark.parametrize(
    ("seconds", "requests", "pause_seconds"),
    [
        pytest.param(0.0, 500, 0.4, id="short", marks=[pytest.mark.timeout(300)]),
        pytest.param(300.0, 100_000, 0.0, id="long", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_chaos_breaks_no_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stores: str, seconds: float, requests: int, pause_seconds: float
) -> None:
    """Given faults at random, when clients go on asking, then only what is excused fails, and nothing is lost."""
    with _staged(tmp_path, stores == "shared", monkeypatch) as stage:
        numbers, is_over = itertools.count(), threading.Event()
        clients = [Client(stage, numbers, is_over, SEED + number, pause_seconds) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        assert wait_until(lambda: sum(len(client.asked) for client in clients) > 10 * CLIENTS, SOON_SECONDS)
        use_before = _use_of(stage.gateway)
        director = Director(stage, KINDS[stores])

        director.play_each(hold_seconds=1.0)
        deadline = time.monotonic() + seconds
        director.play(deadline)
        while sum(len(client.asked) for client in clients) < requests:
            director.play(time.monotonic() + 1.0)
        assert wait_until(lambda: chaos.workers_run(stage.gateway, WORKERS), SOON_SECONDS)
        mended_at = time.monotonic()

        def served_again() -> list[Asked]:
            all_asked = [one for client in clients for one in list(client.asked)]
            return [one for one in all_asked if one.begun_at > mended_at + SERVED_AGAIN_SECONDS]

        assert wait_until(lambda: len(served_again()) > CLIENTS, SOON_SECONDS)
        is_over.set()
        for client in clients:
            client.join(2 * CLIENT_PATIENCE_SECONDS)
            assert not client.is_alive()
        asked = [one for client in clients for one in client.asked]

        _assert_only_what_is_excused_failed(asked, director.periods)
        assert {one.failure for one in served_again()} == {None}
        assert stage.gateway.request("GET", "/readyz").status == 200
        try:
            _assert_nothing_leaks(stage, use_before)
            _assert_each_is_recorded_or_counted(stage, asked)
        finally:
            assert "Traceback" not in stage.gateway.log, _tracebacks(stage.gateway.log)


def _assert_only_what_is_excused_failed(asked: Sequence[Asked], periods: Sequence[Period]) -> None:
    wrong = [one for one in asked if one.failure and not any(period.excuses(one) for period in periods)]
    told = [
        (
            one,
            sorted(
                {type(p.fault).__name__ for p in periods if p.begun_at <= one.ended_at and p.ended_at >= one.begun_at}
            ),
        )
        for one in wrong[:10]
    ]
    assert wrong == [], f"{len(wrong)} of {len(asked)}, {Counter(one.failure for one in wrong)}, among them {told}"


def _assert_nothing_leaks(stage: Stage, before: Sequence[tuple[int, int]]) -> None:
    gateway = stage.gateway
    most_threads = max(threads for threads, _ in before)
    most_files = max(files for _, files in before)
    assert wait_until(lambda: gateway.total("requests_inflight") == 0, SOON_SECONDS)
    assert wait_until(lambda: stage.simulator.open_connections == 0, SOON_SECONDS)
    assert wait_until(lambda: all(files <= most_files for _, files in _use_of(gateway)), SOON_SECONDS), _use_of(gateway)
    assert all(threads <= most_threads + 2 for threads, _ in _use_of(gateway)), (before, _use_of(gateway))
    children = subprocess.run(
        ["ps", "-o", "stat=", "--ppid", str(gateway.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == WORKERS, children


def _assert_each_is_recorded_or_counted(stage: Stage, asked: Sequence[Asked]) -> None:
    """A request that broke off beside a killed worker may be recorded; every other that was admitted is, once."""
    records = Records.in_folder(stage.data_dir)
    if stage.postgres is not None:
        records = Records(stage.postgres.url("records_1"))
    admitted = {one.session for one in asked if one.failure != BROKEN and one.status not in NOT_RECORDED}

    def lost() -> float:
        """What a killed worker or a full disk took, and what was found damaged or refused behind that."""
        gateway = stage.gateway
        late = sum(gateway.metric("recorder_dropped_total", reason=reason) for reason in ("damaged", "refused"))
        return gateway.metric("requests_admitted_total") - gateway.metric("recorder_written_total") + late

    def missing() -> int:
        return len(admitted - set(records.ids_by_session()))

    assert wait_until(lambda: missing() <= lost(), SOON_SECONDS), f"{missing()} are missing, {lost()} counted as lost"
    doubled = [session for session, ids in records.ids_by_session().items() if len(ids) > 1]
    assert doubled == []


def _tracebacks(log: str) -> str:
    return "\n...\n".join(match[0] for match in re.finditer(r"(?s).{0,300}Traceback.{0,1500}", log))[:8000]

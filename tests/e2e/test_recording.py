"""Recording while things go wrong: databases that stop, processes that are killed; every interception, exactly once."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from gateway.records.database.schema import SCHEMA_VERSION
from gateway.records.spool import waiting_records
from gateway.runtime.data_folder import spool_folder
from gateway.simulator import Simulator
from tests.e2e.clients import Client, ask, message_body
from tests.e2e.recorded import Records, Said, run_command
from tests.e2e.talk import token_line
from tests.harness import GatewayProcess, wait_until
from tests.stores.postgres_server import PASSWORD, PostgresServer

SOON_SECONDS = 30.0
KEYS = {"limited": "sk-ant-pool-limited", "good": "sk-ant-pool-good"}
USAGE = "input-tokens=13,output-tokens=17,cache-read=19,cache-write=23,cache-write-1h=29"
POOL_SCRIPTS = {
    KEYS["limited"]: "rate_limited:retry-after-ms=30",
    KEYS["good"]: f"ok:web-searches=1,{USAGE}",
}
# Credentials that clients bring, each with an end of its own.
OWN_SCRIPTS = {
    "sk-ant-own-good": "ok:events=20,input-tokens=7",
    "sk-ant-own-tools": f"tool_use:calls=2,{USAGE}",
    "sk-ant-own-cut": f"cut:after=6,{USAGE}",
    "sk-ant-own-cut-late": f"cut:after=10,{USAGE}",
    "sk-ant-own-half": f"cut_half:after=9,{USAGE}",
    "sk-ant-own-reset": f"reset:after=4,hold=0.05,{USAGE}",
    "sk-ant-own-error": f"error_event:after=3,{USAGE}",
    "sk-ant-own-gzip": f"split:size=40,gzip=true,{USAGE}",
    "sk-ant-own-failing": "server_error",
    "sk-ant-own-limited": "rate_limited:retry-after=1",
}
TOKENS = {"alice": "gwt_token-of-alice-0123456789", "bob": "gwt_token-of-bob-0123456789"}
PROXY_ID = "4f1d2c3b4a5968778695a4b3c2d1e0ff"
MODELS = ("claude-one", "claude-two", "claude-three")


class Stage:
    """A simulator, a data folder that outlives gateways, and a gateway of several workers with tokens."""

    def __init__(self, folder: Path, record_url: str = "", workers: int = 2) -> None:
        self.data_dir = folder / "data"
        tokens = folder / "tokens"
        tokens.write_text("".join(token_line(name, token) for name, token in TOKENS.items()))
        self.simulator = Simulator(keys=POOL_SCRIPTS | OWN_SCRIPTS)
        self.simulator.start()
        self._settings = {
            "data_dir": str(self.data_dir),
            "client_tokens_file": str(tokens),
            "workers": str(workers),
            "drain_seconds": "2",
        }
        if record_url:
            self._settings["record_url"] = record_url
        self.records = Records(record_url) if record_url else Records.in_folder(self.data_dir)
        self.start()

    def start(self) -> None:
        """A new gateway in the same folder."""
        keys = [f"{name}={secret}" for name, secret in KEYS.items()]
        self.gateway = GatewayProcess(self.simulator.url, keys, **self._settings)

    def close(self) -> None:
        try:
            self.gateway.stop(signal.SIGKILL)
        finally:
            self.simulator.stop()

    def ask(
        self, session: str, *, own: str = "", token: str = "alice", model: str = "claude-one", streamed: bool = True
    ) -> int:
        """One request of its own session; the answer's status."""
        headers = [f"X-Gateway-Token: {TOKENS[token]}", f"x-session-id: {session}"]
        if own:
            headers.append(f"x-api-key: {own}")
        return ask(self.gateway.url, message_body(streamed, model=model), headers=headers).status

    @property
    def waiting(self) -> list[str]:
        """The sessions whose records lie in a spool."""
        return [record.session or "" for record in waiting_records(spool_folder(str(self.data_dir)))]

    def lost(self) -> float:
        """How many records the gateway says it dropped."""
        return self.gateway.total("recorder_dropped_total")

    def assert_each_is_recorded_once(self, sessions: Sequence[str]) -> None:
        """Every one of these sessions has exactly one interception."""
        self.records.wait_for(sessions, SOON_SECONDS)
        found = self.records.ids_by_session()
        assert Counter(len(found[session]) for session in sessions) == {1: len(sessions)}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """With the default database."""
    stage = Stage(tmp_path)
    yield stage
    stage.close()


@pytest.fixture
def stage_on_postgres(postgres: PostgresServer, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, postgres.new_database())
    yield stage
    stage.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def wide_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Four workers, with the default database and with PostgreSQL."""
    url = ""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.new_database()
    stage = Stage(tmp_path, url, workers=4)
    yield stage
    stage.close()


class Load(threading.Thread):
    """Asks one request after the other, each in a session of its own, until it is told to stop."""

    def __init__(self, ask: Callable[[str], int], name: str) -> None:
        super().__init__(name=name)
        self.statuses: list[int] = []
        self._ask = ask
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.is_set():
            self.statuses.append(self._ask(f"{self.name}-{len(self.statuses)}"))

    def end(self) -> list[str]:
        """Stop; the sessions that were asked in."""
        self._is_over.set()
        self.join(60)
        assert set(self.statuses) == {200}
        return [f"{self.name}-{number}" for number in range(len(self.statuses))]


# All of it, exactly.


@pytest.mark.parametrize("total", [600, pytest.param(6000, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
def test_the_report_is_the_upstream_s_own_count(wide_stage: Stage, total: int) -> None:
    """Given mixed requests over four workers, good, failing and broken; then the report says what the upstream said."""
    stage = wide_stage
    chance = random.Random(20270115)
    mix = [
        (
            chance.choice(["", "", *OWN_SCRIPTS]),
            chance.choice(list(TOKENS)),
            chance.choice(MODELS),
            chance.random() < 0.7,
        )
        for _ in range(total)
    ]
    sessions = [f"mixed-{number}" for number in range(total)]
    turn = iter(range(total))
    lock = threading.Lock()

    def worker() -> None:
        while True:
            with lock:
                number = next(turn, None)
            if number is None:
                return
            own, token, model, streamed = mix[number]
            stage.ask(sessions[number], own=own, token=token, model=model, streamed=streamed)

    threads = [threading.Thread(target=worker) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    stage.assert_each_is_recorded_once(sessions)
    upstream = _upstreams_count(stage.simulator)

    for dimension, counted in (("model", 0), ("key", 1)):
        rows = _report(stage, dimension)["rows"]
        assert {row[dimension]: _said(row) for row in rows if _said(row) != Said()} == _summed(upstream, counted)
    total_row = _report(stage, "token")["total"]
    assert total_row["requests"] == total
    assert _said(total_row) == sum(_summed(upstream, 0).values(), Said())
    by_token = {row["token"]: row["requests"] for row in _report(stage, "token")["rows"]}
    assert by_token == Counter(token for _, token, _, _ in mix)
    assert stage.lost() == 0


def _upstreams_count(simulator: Simulator) -> Counter[tuple[str, str, Said]]:
    """For each model and payer, what the upstream said of usage, in every request that it saw."""
    said: dict[tuple[str, bytes], Said | None] = {}
    counted: Counter[tuple[str, str, Said]] = Counter()
    for seen in simulator.requests:
        if (seen.key, seen.body) not in said:
            answer = ask(simulator.url, seen.body, headers=[f"x-api-key: {seen.key}"])
            is_streamed = answer.header("content-type") != "application/json"
            said[seen.key, seen.body] = Said.in_answer(answer.body, is_streamed) if answer.status == 200 else None
        usage = said[seen.key, seen.body]
        if usage is not None:
            model = next(model for model in MODELS if model.encode() in seen.body)
            payer = "good" if seen.key == KEYS["good"] else "(client's own)"
            counted[model, payer, usage] += 1
    return counted


def _summed(counted: Counter[tuple[str, str, Said]], by: int) -> dict[str, Said]:
    sums: dict[str, Said] = {}
    for row, times in counted.items():
        for _ in range(times):
            sums[str(row[by])] = sums.get(str(row[by]), Said()) + row[2]
    return sums


def _report(stage: Stage, by: str) -> dict:
    settings = {"record_url": stage.records.url} if stage.records.url.startswith("postgresql") else {}
    done = run_command(stage.data_dir, "report", "--by", by, "--format", "json", **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _said(row: dict) -> Said:
    assert row["cache_write"] == row["cache_write_5m"] + row["cache_write_1h"]
    return Said(**{name: row[name] for name in Said.__dataclass_fields__})


def test_requests_of_one_proxy_s_id_are_each_recorded(stage: Stage) -> None:
    """Given a proxy that asks again under the same id, or gives all the same; then each request has its record."""
    for session in ("first", "again"):
        headers = [
            f"X-Gateway-Token: {TOKENS['alice']}",
            f"x-session-id: {session}",
            f"X-Gateway-Request-Id: {PROXY_ID}",
        ]
        assert ask(stage.gateway.url, message_body(False), headers=headers).status == 200
    stage.assert_each_is_recorded_once(["first", "again"])
    explained = run_command(stage.data_dir, "explain", f"req_gw_{PROXY_ID}")
    assert explained.stdout.count("How it ended") == 2, explained.stderr


# Databases that stop.


def test_a_postgresql_that_stops_and_starts_under_load_has_all_in_the_end(
    postgres: PostgresServer, stage_on_postgres: Stage
) -> None:
    """Given a database that is killed, started, frozen and thawed under load; then nobody notices, and all is in it."""
    stage = stage_on_postgres
    loads = [Load(stage.ask, f"load{number}") for number in range(6)]
    for load in loads:
        load.start()
    try:
        assert wait_until(lambda: len(stage.records.ids_by_session()) > 30, SOON_SECONDS)
        postgres.kill()
        assert wait_until(lambda: len(stage.waiting) > 60, SOON_SECONDS)
        postgres.start()
        before = len(stage.records.ids_by_session())
        assert wait_until(lambda: len(stage.records.ids_by_session()) > before + 60, SOON_SECONDS)
        postgres.pause()
        asked = sum(len(load.statuses) for load in loads)
        assert wait_until(lambda: sum(len(load.statuses) for load in loads) > asked + 60, SOON_SECONDS)
        assert wait_until(lambda: len(stage.waiting) > 60, SOON_SECONDS)
        postgres.resume()
    finally:
        sessions = [session for load in loads for session in load.end()]
    stage.assert_each_is_recorded_once(sessions)
    assert stage.lost() == 0
    assert wait_until(lambda: stage.gateway.metric("recorder_queue_length") == 0, SOON_SECONDS)
    log = stage.gateway.stop()
    assert "records wait in the spool" in log
    assert "records are stored again" in log
    assert PASSWORD not in log


def test_a_sqlite_that_is_locked_under_load_has_all_in_the_end(tmp_path: Path) -> None:
    """Given another program that locks the database for longer than anybody waits; then all is in it in the end."""
    stage = Stage(tmp_path)
    try:
        stage.ask("first")
        stage.records.wait_for(["first"])
        load = Load(stage.ask, "load")
        with closing(sqlite3.connect(stage.data_dir / "records.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            load.start()
            stage.gateway.wait_for_log("database is locked", SOON_SECONDS)
            assert stage.waiting
            other.execute("COMMIT")
        stage.assert_each_is_recorded_once(load.end())
        assert stage.lost() == 0
    finally:
        stage.close()


def test_a_database_that_is_down_at_the_start_keeps_no_gateway_from_starting(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Given no database when the gateway starts; then it serves, and what was asked is stored when there is one."""
    url = postgres.new_database()
    postgres.kill()
    try:
        stage = Stage(tmp_path, url)
        try:
            assert stage.ask("early") == 200
            assert wait_until(lambda: stage.waiting == ["early"], SOON_SECONDS)
            explained = run_command(
                stage.data_dir,
                "explain",
                next(iter(waiting_records(spool_folder(str(stage.data_dir))))).id,
                record_url=url,
            )
            assert explained.returncode == 0
            assert "session early" in explained.stdout
            assert PASSWORD not in explained.stdout + explained.stderr
            postgres.start()
            stage.assert_each_is_recorded_once(["early"])
        finally:
            stage.close()
    finally:
        if not postgres.is_up:
            postgres.start()


def test_a_database_of_a_newer_gateway_is_not_written_to(tmp_path: Path) -> None:
    """Given a schema that this program does not know; then it serves, says so, and keeps the records."""
    stage = Stage(tmp_path, workers=1)
    try:
        stage.ask("before")
        stage.records.wait_for(["before"])
        stage.gateway.stop()
        with closing(sqlite3.connect(stage.data_dir / "records.db", isolation_level=None)) as database:
            database.execute("UPDATE gateway_schema SET version = 99")
        stage.start()
        assert stage.ask("after") == 200
        stage.gateway.wait_for_log("a newer gateway has used it", SOON_SECONDS)
        assert wait_until(lambda: stage.waiting == ["after"], SOON_SECONDS)
        stage.gateway.stop()
        assert stage.waiting == ["after"]
        with closing(sqlite3.connect(stage.data_dir / "records.db", isolation_level=None)) as database:
            database.execute("UPDATE gateway_schema SET version = ?", (SCHEMA_VERSION,))
        stage.start()
        stage.assert_each_is_recorded_once(["before", "after"])
    finally:
        stage.close()


# Processes that end.


def test_a_killed_worker_s_records_are_stored_by_the_others(postgres: PostgresServer, stage_on_postgres: Stage) -> None:
    """Given records on disk and a database that is away; when every worker is killed; then others store the records."""
    stage = stage_on_postgres
    stage.ask("before")
    stage.records.wait_for(["before"])
    postgres.kill()
    try:
        sessions = [f"killed-{number}" for number in range(20)]
        for session in sessions:
            assert stage.ask(session) == 200
        # No later than a second after they ended, with a margin for a busy machine.
        assert wait_until(lambda: set(stage.waiting) == set(sessions), 30)
        workers = stage.gateway.worker_pids
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not set(stage.gateway.worker_pids) & set(workers), SOON_SECONDS)
    finally:
        postgres.start()
    stage.assert_each_is_recorded_once(["before", *sessions])


def test_a_killed_gateway_s_records_are_stored_by_the_next(stage: Stage) -> None:
    """Given a load; when all processes are killed and a gateway is started again; then what had ended is recorded."""
    load = Load(stage.ask, "load")
    load.start()
    assert wait_until(lambda: len(load.statuses) > 20, SOON_SECONDS)
    sessions = load.end()
    assert wait_until(lambda: set(sessions) <= {*stage.waiting, *stage.records.ids_by_session()}, 30)
    for pid in [stage.gateway.pid, *stage.gateway.worker_pids]:
        os.kill(pid, signal.SIGKILL)
    stage.gateway.stop()
    stage.start()
    stage.assert_each_is_recorded_once(sessions)


def test_a_graceful_stop_loses_nothing(stage: Stage) -> None:
    """Given a load, and streams that are still open; when the gateway is stopped; then all is in the database."""
    stage.simulator.script(KEYS["good"], f"stall:after=6,{USAGE}")
    with Client(stage.gateway.url) as client:
        client.send(message_body(True), headers=[f"X-Gateway-Token: {TOKENS['bob']}", "x-session-id: drained"])
        client.read_body(client.read_head(), lambda body: b"content_block_delta" in body)
        sessions = [f"last-{number}" for number in range(30)]
        for session in sessions:
            stage.ask(session, own="sk-ant-own-good")
        log = stage.gateway.stop()
    assert "Traceback" not in log
    found = stage.records.ids_by_session()
    assert {session: len(found.get(session, [])) for session in [*sessions, "drained"]} == dict.fromkeys(
        [*sessions, "drained"], 1
    )
    record = stage.records.of_session("drained")
    assert record.outcome == "drained"
    assert Said.recorded(record) == Said(13, 19, 23, 29, 1)


def test_a_stop_records_a_client_that_takes_nothing_any_more(stage: Stage) -> None:
    """Given a stream whose client has stopped reading; when the gateway is stopped; then that is recorded, too."""
    stage.simulator.script(KEYS["good"], f"ok:events=100000,bytes=2000,{USAGE}")
    with Client(stage.gateway.url) as client:
        client.send(message_body(True), headers=[f"X-Gateway-Token: {TOKENS['bob']}", "x-session-id: stuck"])
        client.read_head()
        assert wait_until(lambda: stage.gateway.metric("requests_inflight", route="messages") == 1, SOON_SECONDS)
        log = stage.gateway.stop()
    assert "Traceback" not in log
    assert stage.records.of_session("stuck").outcome == "client_disconnected"


def test_a_graceful_stop_without_a_database_leaves_all_to_the_next_start(
    postgres: PostgresServer, stage_on_postgres: Stage
) -> None:
    """Given the database is away when the gateway stops; then it stops in time, and the next start stores the rest."""
    stage = stage_on_postgres
    postgres.kill()
    try:
        sessions = [f"left-{number}" for number in range(10)]
        for session in sessions:
            stage.ask(session)
        stage.gateway.stop()
        assert sorted(stage.waiting) == sorted(sessions)
    finally:
        postgres.start()
    stage.start()
    stage.assert_each_is_recorded_once(sessions)
    assert wait_until(lambda: stage.waiting == [], SOON_SECONDS)


def test_a_client_that_hangs_up_leaves_the_usage_so_far(stage: Stage) -> None:
    """Given a client that goes away in mid-stream, or before a byte; then its record has what was said by then."""
    headers = [f"X-Gateway-Token: {TOKENS['alice']}"]
    stage.simulator.script(KEYS["good"], f"stall:after=6,{USAGE}")
    with Client(stage.gateway.url) as client:
        client.send(message_body(True), headers=[*headers, "x-session-id: gone-later"])
        client.read_body(client.read_head(), lambda body: b"content_block_delta" in body)
    stage.simulator.script(KEYS["good"], "silent")
    seen = len(stage.simulator.requests)
    with Client(stage.gateway.url) as client:
        client.send(message_body(True), headers=[*headers, "x-session-id: gone-early"])
        assert stage.simulator.wait_until(
            lambda: any(request.key == KEYS["good"] for request in stage.simulator.requests[seen:]), SOON_SECONDS
        )
    later, early = stage.records.of_session("gone-later"), stage.records.of_session("gone-early")
    assert (later.outcome, later.usage[0].certainty) == ("client_disconnected", "estimated")
    assert Said.recorded(later) == Said(13, 19, 23, 29, 1)
    assert (early.outcome, early.status) == ("client_disconnected", 499)
    assert ([each.kind for each in early.usage], Said.recorded(early)) == (["lost"], Said())
    assert early.attempts[-1].outcome == "abandoned"

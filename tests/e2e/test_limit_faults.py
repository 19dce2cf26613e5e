"""Over a limit, and with the counts of limits in trouble: what a client gets, streamed and whole."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.limits.link import ASK_SECONDS
from gateway.limits.machine_file import FILE_NAME
from gateway.simulator import Simulator
from tests.e2e.clients import Client, Received, ask, message_body
from tests.e2e.fleet import SOON_SECONDS, Fleet, KeysFile
from tests.e2e.talk import token_line
from tests.harness import wait_until
from tests.stores.odd_redis import OddRedis
from tests.stores.redis_server import RedisServer

KEY = "x-api-key: gwt_carol"


@contextmanager
def fleet_with(limits: str, folder: Path, **settings: object) -> Iterator[Fleet]:
    """A gateway of two workers, whose only client belongs to the group `research` with these limits."""
    (folder / "gateway.toml").write_text(f"[limits.groups.research]\n{limits}\n")
    (folder / "tokens").write_text(token_line("carol", "gwt_carol", "group=research"))
    with Simulator() as simulator:
        keys = KeysFile(simulator, folder)
        keys.renew("ok")
        settings = {"config": folder / "gateway.toml", "client_tokens_file": folder / "tokens", **settings}
        with Fleet(simulator, keys, folder / "data", workers=2, **settings) as fleet:
            yield fleet


def asked(fleet: Fleet, is_streamed: bool = False) -> Received:
    """One request of that client's, and its answer."""
    return ask(fleet.gateway.url, message_body(is_streamed), headers=[KEY])


def soon(fleet: Fleet, status: int) -> bool:
    """Whether a request gets this status before long: an answer is counted a moment after its client has it."""
    return wait_until(lambda: asked(fleet).status == status, SOON_SECONDS)


def test_spent_budget_is_a_refusal_that_says_when_to_come_back(tmp_path: Path) -> None:
    """Given a group that has spent its money, then a 429 says how much, until when, and not to retry."""
    with fleet_with("dollars_per_day = 0.000001", tmp_path) as fleet:
        assert asked(fleet).status == 200
        assert soon(fleet, 429)
        before = len(fleet.keys.calls)
        for is_streamed in (True, False):
            answer = asked(fleet, is_streamed)
            error = answer.json()["error"]
            assert (answer.status, error["type"], answer.header("x-should-retry")) == (429, "billing_error", "false")
            assert error["message"].startswith("spend limit reached (daily; resets ")
            assert ": group research has spent " in error["message"]
            assert 1 <= int(answer.header("retry-after") or "") <= 86_400
        assert len(fleet.keys.calls) == before
        counted = ask(fleet.gateway.url, message_body(False), path="/v1/messages/count_tokens", headers=[KEY])
        assert counted.status == 200


def test_limit_by_the_minute_is_a_refusal_that_says_when_to_come_back(tmp_path: Path) -> None:
    """Given a group that has asked as often as it may in a minute, then a 429 says how long to wait."""
    with fleet_with("requests_per_minute = 1", tmp_path) as fleet:
        assert asked(fleet).status == 200
        for is_streamed in (True, False):
            answer = asked(fleet, is_streamed)
            error = answer.json()["error"]
            assert (answer.status, error["type"], answer.header("x-should-retry")) == (429, "rate_limit_error", None)
            assert error["message"].startswith("group research has used its 1 requests a minute; try again in ")
            assert 1 <= int(answer.header("retry-after") or "") <= 61


def test_what_a_killed_worker_ran_no_longer_counts(tmp_path: Path) -> None:
    """Given streams that take all that a group may run, when their worker is killed, then others are let in."""
    with fleet_with("concurrent = 1", tmp_path) as fleet, ExitStack() as stack:
        fleet.keys.play("stall:after=4")
        first = fleet.gateway.worker_pids[0]
        with fleet.only(first):  # which accepts the connection, too
            client = stack.enter_context(Client(fleet.gateway.url))
            client.send(message_body(True), headers=[KEY])
            assert client.read_head().status == 200
        fleet.keys.play("ok")
        assert soon(fleet, 429)
        refused = asked(fleet)
        assert (refused.status, refused.header("retry-after")) == (429, "1")
        assert "has used its 1 running requests" in refused.json()["error"]["message"]
        os.kill(first, signal.SIGKILL)
        assert soon(fleet, 200)


def _removed(path: Path) -> None:
    path.unlink()


def _overwritten(path: Path) -> None:
    path.write_bytes(b"no counts\n" * 1000)


def _cut(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize("spoil", [_removed, _overwritten, _cut], ids=["removed", "overwritten", "cut"])
def test_counts_of_limits_that_are_spoilt_are_begun_anew(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """Given counts of limits that somebody spoils in use, then requests are served, and held to limits again."""
    with fleet_with("dollars_per_day = 0.000001", tmp_path) as fleet:
        assert asked(fleet).status == 200
        assert soon(fleet, 429)
        spoil(fleet.data_dir / FILE_NAME)
        assert soon(fleet, 200)
        assert soon(fleet, 429)
        assert len(fleet.gateway.worker_pids) == 2


def test_workers_count_by_themselves_while_another_process_keeps_the_counts(tmp_path: Path) -> None:
    """Given a process that keeps the lock on the counts, then requests are served, and counted when it lets go."""
    with fleet_with("requests_per_minute = 5", tmp_path) as fleet:
        path = fleet.data_dir / FILE_NAME
        assert wait_until(path.exists, SOON_SECONDS)
        with path.open("rb") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            assert [asked(fleet).status for _ in range(4)] == [200] * 4
            fcntl.flock(holder, fcntl.LOCK_UN)
        assert wait_until(lambda: fleet.total("limit_used_ratio", limit="requests_per_minute") >= 0.8, SOON_SECONDS)
        assert asked(fleet).status == 200
        assert asked(fleet).status == 429


@pytest.mark.parametrize(("limits_fail", "status"), [("open", 200), ("closed", 529)])
def test_while_redis_is_away_limits_do_what_they_are_set_to(tmp_path: Path, limits_fail: str, status: int) -> None:
    """Given limits over several machines, when Redis dies, then requests go on, or are refused until it is back."""
    server = RedisServer()
    try:
        limits = "requests_per_minute = 1000000\nconcurrent = 100"
        with fleet_with(limits, tmp_path, state_url=server.url, limits_fail=limits_fail) as fleet:
            assert soon(fleet, 200)
            server.kill()
            assert soon(fleet, status)
            assert asked(fleet, is_streamed=True).status == status
            server.start()
            assert soon(fleet, 200)
    finally:
        server.stop()


def test_closed_gateway_takes_a_slow_redis_for_one_that_answers(tmp_path: Path) -> None:
    """Given limits that refuse without Redis, when it takes longer than an open gateway would wait, then requests are
    answered."""

    def late(command: str) -> None:
        if command == "LIMITS":
            time.sleep(2.5 * ASK_SECONDS)

    server = RedisServer()
    line = OddRedis(server.port)
    try:
        with fleet_with("concurrent = 100", tmp_path, state_url=line.url, limits_fail="closed") as fleet:
            assert soon(fleet, 200)
            line.answer = late
            statuses = [asked(fleet).status for _ in range(20)]
            assert statuses.count(200) > 10, statuses  # not all: a busy machine may make some much later
    finally:
        line.close()
        server.stop()

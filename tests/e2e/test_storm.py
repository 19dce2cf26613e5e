"""Many clients at once while keys are limited, revoked and recover: the invariants of failover, and no leaks.

Every request carries an id that the upstream sees too, so that the two sides can be laid beside each other without
knowing which answer came when: a key that was tried for an id before another key was, has refused.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from gateway.simulator import SeenRequest, Simulator
from tests.e2e.talk import message
from tests.harness import GatewayProcess, total_of, wait_until

CLIENTS = 64
THREADS, RESERVED = 96, 16
# The workers' shared counts: two files, each open and mapped, are made when the first of their kind is counted.
COUNTS_FILES = 4
COOLDOWN_SECONDS = 0.3
CLOCK_SLACK_SECONDS = 0.02
SEED = 20260101

LIMITED = [f"sk-ant-api03-storm-limited-{n}" for n in range(4)]
REVOKED = [f"sk-ant-api03-storm-revoked-{n}" for n in range(3)]
GOOD = "sk-ant-api03-storm-good"
POOL = [*itertools.chain.from_iterable(itertools.zip_longest(LIMITED, REVOKED)), GOOD]
KEYS = [key for key in POOL if key]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as its client saw it; times are monotonic seconds."""

    id: str
    status: int
    is_whole: bool
    begun_at: float
    ended_at: float


class Client(threading.Thread):
    """One of many: asks in all manners, each time with an id, on a connection that it keeps."""

    def __init__(self, gateway: GatewayProcess, ids: itertools.count[int], total: int, seed: int) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.failure: Exception | None = None
        self._gateway = gateway
        self._ids = ids
        self._total = total
        self._random = random.Random(seed)

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._gateway.port, timeout=60)
        try:
            while (number := next(self._ids)) < self._total:
                self._ask(connection, f"storm-{number}")
        except Exception as error:  # noqa: BLE001  # told by the test
            self.failure = error
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, request_id: str) -> None:
        manner = self._random.choice(("streamed", "streamed", "whole", "count"))
        path = "/v1/messages/count_tokens" if manner == "count" else "/v1/messages"
        body = message(streamed=manner == "streamed", metadata={"user_id": request_id})
        begun_at = time.monotonic()
        connection.request("POST", path, body)
        response = connection.getresponse()
        answer = response.read()
        is_whole = b"message_stop" in answer if manner == "streamed" else isinstance(json.loads(answer), dict)
        self.asked.append(Asked(request_id, response.status, is_whole, begun_at, time.monotonic()))


def _scripts(chance: random.Random) -> dict[str, str]:
    """For each key a random play: what is limited recovers again and again, what is revoked stays so."""
    limited = f"rate_limited:retry-after-ms={int(COOLDOWN_SECONDS * 1000)}"

    def good() -> str:
        return f"ok:delay={chance.choice((0, 0, 0.001, 0.01))}*{chance.randint(1, 6)}"

    scripts = {
        key: " then ".join(f"{good()} then {limited}*{chance.randint(1, 4)}" for _ in range(300)) for key in LIMITED
    }
    scripts |= {key: f"ok*{chance.randint(10, 60)} then unauthorized" for key in REVOKED[:2]}
    scripts |= {key: f"ok*{chance.randint(10, 60)} then forbidden" for key in REVOKED[2:]}
    return scripts | {GOOD: "ok:delay=0.002"}


def _id_of(request: SeenRequest) -> str:
    user_id: str = json.loads(request.body)["metadata"]["user_id"]
    return user_id


def _assert_no_cooling_key_was_seen(asked: list[Asked], seen: list[SeenRequest]) -> int:
    """Nobody who began after a client had learnt of a refusal reached that key before its cooldown was over. Messages
    and counts have limits of their own; a revocation concerns both.
    """
    begun_at = {request.id: request.begun_at for request in asked}
    ended_at = {request.id: request.ended_at for request in asked}
    by_id: dict[str, list[SeenRequest]] = defaultdict(list)
    by_key: dict[str, list[SeenRequest]] = defaultdict(list)
    for request in seen:
        by_id[_id_of(request)].append(request)
        by_key[request.key].append(request)
    refusals = 0
    for request_id, attempts in by_id.items():
        keys = [attempt.key for attempt in attempts]
        assert len(set(keys)) == len(keys), f"{request_id} tried a key twice: {keys}"
        # A walk goes on in order, but for a key that has recovered meanwhile.
        steady = [key for key in keys if key not in LIMITED]
        assert steady == sorted(steady, key=KEYS.index), f"{request_id} did not walk in order: {keys}"
        for attempt in attempts[:-1]:
            refusals += 1
            cooldown_seconds = COOLDOWN_SECONDS if attempt.key in LIMITED else float("inf")
            until = attempt.arrived_at + cooldown_seconds - CLOCK_SLACK_SECONDS
            wrong = [
                later.index
                for later in by_key[attempt.key]
                if begun_at[_id_of(later)] > ended_at[request_id]
                and later.arrived_at < until
                and (attempt.key not in LIMITED or later.path == attempt.path)
            ]
            assert wrong == [], f"{attempt.key} was cooling down since {attempt.arrived_at}"
    return refusals


def _worker_tasks_and_files(gateway: GatewayProcess) -> tuple[int, int]:
    (worker,) = gateway.worker_pids
    process = Path(f"/proc/{worker}")
    return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))


def _storm(gateway: GatewayProcess, total: int) -> list[Asked]:
    ids = itertools.count()
    clients = [Client(gateway, ids, total, SEED + number) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(600)
        assert not client.is_alive()
    assert [client.failure for client in clients if client.failure is not None] == []
    return [asked for client in clients for asked in client.asked]


@pytest.mark.parametrize(
    "total",
    [
        pytest.param(1200, id="short"),
        pytest.param(10_000, id="long", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
def test_storm_of_limits_and_revocations_reaches_no_client(
    gateway_process: Callable[..., GatewayProcess], total: int
) -> None:
    """Given one key that stays valid, when others come and go under 64 clients, then all are served; nothing leaks."""
    with Simulator(keys=_scripts(random.Random(SEED))) as simulator:
        gateway = gateway_process(
            simulator.url,
            keys=KEYS,
            threads=str(THREADS),
            reserved_threads=str(RESERVED),
            idle_connection_seconds="1",
            head_timeout_seconds="5",
        )
        assert gateway.request("GET", "/readyz").status == 200
        _, files_before = _worker_tasks_and_files(gateway)
        asked = _storm(gateway, total)

        assert sorted(int(request.id.partition("-")[2]) for request in asked) == list(range(total))
        assert {request.status for request in asked} == {200}
        assert all(request.is_whole for request in asked)
        assert _assert_no_cooling_key_was_seen(asked, simulator.requests) > 20
        _assert_counts_agree(gateway, simulator, total)

        assert wait_until(lambda: simulator.open_connections == 0, 30)
        tasks, _ = _worker_tasks_and_files(gateway)
        assert tasks <= THREADS + 5
        assert wait_until(lambda: _worker_tasks_and_files(gateway)[1] <= files_before + 2 + COUNTS_FILES, 30)
        assert "Traceback" not in gateway.log


def _assert_counts_agree(gateway: GatewayProcess, simulator: Simulator, total: int) -> None:
    """What the gateway counted is what the upstream saw, and each change of state was counted once."""
    assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == 0, 30)
    counted = partial(total_of, gateway.metrics())
    seen = simulator.requests
    assert counted("requests_total", credential="pooled") == total
    assert counted("requests_inflight") == 0
    assert counted("key_attempts_total") == len(seen)
    assert counted("key_attempts_total", outcome="ok") == total
    assert counted("key_failovers_total") == len(seen) - total
    assert counted("pool_exhaustions_total") == 0
    for position, key in enumerate(KEYS, start=1):
        name = f"key-{position}"
        assert counted("key_attempts_total", key=name) == sum(request.key == key for request in seen)
        if key in REVOKED:
            assert counted("key_transitions_total", key=name, state="permanent") == 1
            assert counted("key_state", key=name, state="permanent") == 1
            assert counted("key_transitions_total", key=name, state="temporary") == 0

"""Two gateways behind nginx that share a Redis act as one pool, whatever becomes of Redis and of their clocks.

A gateway behind a proxy wants tokens, so every request brings one.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.clients import Client, Received, ask, message_body
from tests.e2e.fleet import SOON_SECONDS, Crowd, Fleet, KeysFile, Samples, crowd
from tests.e2e.nginx_server import NginxServer
from tests.e2e.talk import token_line
from tests.forked import INSIDE
from tests.harness import wait_until
from tests.ports import free_port
from tests.stores.redis_server import RedisServer

A, B, C, D = 0, 1, 2, 3
WORKERS = 2
TOKEN = "gateway-token-of-alice-0123456789"
HEADERS = (f"X-Gateway-Token: {TOKEN}",)
KNOWN_SECONDS = 30.0


class Replicas:
    """Two gateways of two workers each, their Redis, and nginx in front of them."""

    def __init__(self, simulator: Simulator, folder: Path, stack: ExitStack, **settings: object) -> None:
        self.redis = RedisServer()
        stack.callback(self.redis.stop)
        self.keys = KeysFile(simulator, folder)
        tokens = folder / "tokens"
        tokens.write_text(token_line("alice", TOKEN))
        self.fleets = [
            stack.enter_context(
                Fleet(
                    simulator,
                    self.keys,
                    folder / f"data-{name}",
                    workers=WORKERS,
                    headers=HEADERS,
                    client_tokens_file=tokens,
                    state_url=self.redis.url,
                    bind=f"127.0.0.1:{free_port()}",  # the same after a restart, for nginx
                    **({"threads": 128} | settings),  # a crowd of 200 has room wherever it comes
                )
            )
            for name in ("one", "two")
        ]
        self.nginx = NginxServer(fleet.gateway.port for fleet in self.fleets)
        stack.callback(self.nginx.stop)

    def renew_keys(self, *scripts: str) -> None:
        """From now on the pool of both consists of keys that were never used and play these scripts."""
        self.keys.renew(*scripts)
        for fleet in self.fleets:
            fleet.reload()

    def ask(self, number: int) -> Received:
        """One message, straight to one of the gateways."""
        return ask(self.fleets[number].gateway.url, message_body(False), headers=HEADERS)

    def all_know(self, position: int, state: str) -> bool:
        """Whether every worker of both comes to show that state of a key in time."""
        name = self.keys.names[position]
        wanted = ("gateway_key_state", frozenset({("key", name), ("state", state)}))
        return self._all_come_to(lambda samples: samples.get(wanted) == 1, KNOWN_SECONDS)

    def comes_to_pay(self, number: int, position: int) -> bool:
        """Whether a gateway's messages, one after the other, come to be paid by this key in time."""
        return wait_until(lambda: self.ask(number).status == 200 and self.keys.calls[-1] == position, SOON_SECONDS)

    def crowd_is_paid_by(self, position: int) -> bool:
        """Whether a crowd at nginx, all of which is served, is paid for by this key alone."""
        before = len(self.keys.calls)
        assert {answer.status for answer in crowd(self.nginx.url, 50, HEADERS)} == {200}
        return set(self.keys.calls[before:]) == {position}

    def stores_are_up(self, is_up: bool) -> bool:
        """Whether every worker of both comes to say so in time."""
        return self._all_come_to(lambda samples: samples["gateway_store_up", frozenset()] == is_up, SOON_SECONDS)

    def _all_come_to(self, holds: Callable[[Samples], bool], timeout_seconds: float) -> bool:
        """Whether it comes to hold for every worker of both."""
        return wait_until(
            lambda: all(holds(samples) for fleet in self.fleets for samples in fleet.metrics_of_each_worker()),
            timeout_seconds,
        )

    def log_count(self, text: str) -> int:
        """How often a text stands in both logs."""
        return sum(fleet.gateway.log.count(text) for fleet in self.fleets)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module."""
    with Simulator() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def replicas(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Two gateways for the module; a test gives them fresh keys."""
    with ExitStack() as stack:
        yield Replicas(simulator, tmp_path_factory.mktemp("replicas"), stack)


@pytest.fixture
def own_replicas(simulator: Simulator, tmp_path: Path) -> Iterator[Callable[..., Replicas]]:
    """Starts two gateways for one test: `own_replicas(**settings)`."""
    with ExitStack() as stack:
        yield lambda **settings: Replicas(simulator, tmp_path, stack, **settings)


# One pool


@pytest.mark.parametrize(
    ("script", "state"),
    [
        pytest.param("rate_limited:retry-after=600 then ok", "temporary", id="limited"),
        pytest.param("unauthorized then ok", "permanent", id="revoked"),
        pytest.param("forbidden then ok", "permanent", id="forbidden"),
    ],
)
def test_key_marked_through_one_gateway_is_skipped_by_both(replicas: Replicas, script: str, state: str) -> None:
    """Given a key that one gateway found refused, when many ask through nginx, then neither gateway tries it."""
    replicas.renew_keys(script, "ok")
    assert replicas.ask(0).status == 200
    assert replicas.all_know(A, state)
    for fleet in replicas.fleets:
        fleet.settle()
    before = [fleet.total("requests_total", route="messages") for fleet in replicas.fleets]
    assert [answer.status for answer in crowd(replicas.nginx.url, 200, HEADERS)] == [200] * 200
    assert replicas.keys.calls == [A] + [B] * 201

    def have_served() -> list[float]:
        return [
            fleet.total("requests_total", route="messages") - was
            for fleet, was in zip(replicas.fleets, before, strict=True)
        ]

    assert wait_until(lambda: sum(have_served()) == 200, SOON_SECONDS)
    assert min(have_served()) > 50


_PULLS_NEVER = """
from gateway.keys.redis.store import RedisStore

RedisStore.__init__.__kwdefaults__["pull_seconds"] = 3600.0
"""


def test_marks_are_published_and_no_pull_is_waited_for(
    own_replicas: Callable[..., Replicas], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given workers that look for changes once an hour, when one gateway finds keys refused, and an operator enables
    one, then every worker of both knows; also after a restart of Redis."""
    with monkeypatch.context() as patch:
        (tmp_path / "inside.py").write_text(_PULLS_NEVER)
        patch.setenv(INSIDE, str(tmp_path / "inside.py"))
        replicas = own_replicas()
    replicas.renew_keys("rate_limited:retry-after=600 then ok", "unauthorized then ok", "ok")
    assert replicas.ask(0).status == 200
    assert replicas.keys.calls == [A, B, C]
    assert replicas.all_know(A, "temporary")
    assert replicas.all_know(B, "permanent")
    replicas.fleets[1].command("enable", replicas.keys.names[A])
    assert replicas.all_know(A, "valid")
    replicas.redis.kill()
    replicas.redis.start()
    assert replicas.stores_are_up(True)
    replicas.fleets[1].command("disable", replicas.keys.names[C])
    assert replicas.all_know(C, "permanent")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(200, id="short"),
        pytest.param(1000, id="long", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
def test_crowd_after_a_cooldown_sends_one_probe(own_replicas: Callable[..., Replicas], number: int) -> None:
    """Given a key whose cooldown is over and which does not answer, when many ask both gateways, then one tries it.

    When that one hangs up, the next may try, and from its answer on both gateways use the key.
    """
    replicas = own_replicas(threads=number + 40, reserved_threads=20, head_timeout_seconds=60)
    replicas.renew_keys("rate_limited:retry-after=10 then silent*1 then ok", "ok")
    assert replicas.ask(0).status == 200
    assert replicas.all_know(A, "temporary")
    assert wait_until(lambda: replicas.all_know(A, "valid"), SOON_SECONDS)
    with Crowd(replicas.nginx.url, number, headers=HEADERS) as everybody:
        everybody.wait_for(number - 1)
        assert set(everybody.statuses) == {200}
        assert replicas.keys.calls.count(A) == 2  # the refusal and the probe
        assert len(replicas.keys.calls) == 2 + number
    for at in (0, 1):
        assert replicas.comes_to_pay(at, A)


def test_restart_changes_nothing(replicas: Replicas) -> None:
    """Given a retired, a cooling and a disabled key, when a gateway starts again, then all stay so, without a trial."""
    replicas.renew_keys("unauthorized then ok", "rate_limited:retry-after=600 then ok", "ok", "ok")
    first, second = replicas.fleets
    second.command("disable", replicas.keys.names[C])
    assert replicas.all_know(C, "permanent")
    assert replicas.ask(0).status == 200
    assert replicas.all_know(B, "temporary")
    first.restart()
    for pid in second.gateway.worker_pids:
        second.kill_worker(pid)
    for position, state in enumerate(["permanent", "temporary", "permanent", "valid"]):
        assert replicas.all_know(position, state)
    assert {answer.status for answer in crowd(replicas.nginx.url, 100, HEADERS)} == {200}
    assert replicas.keys.calls == [A, B] + [D] * 101


def test_operators_commands_are_effective_in_every_replica(replicas: Replicas) -> None:
    """Given two gateways, when a key is cooled, disabled and enabled, then every worker of both knows in a second."""
    replicas.renew_keys("ok", "ok")
    first, _ = replicas.keys.names
    fleet = replicas.fleets[0]
    rows = [
        # words, state shown, state on /metrics, the key that pays then
        (("cool", first, "600"), "cooling down", "temporary", B),
        (("enable", first), "valid", "valid", A),
        (("disable", first), "disabled", "permanent", B),
        (("enable", first), "valid", "valid", A),
    ]
    for words, state, state_on_metrics, paid_by in rows:
        fleet.command(*words)
        assert replicas.all_know(A, state_on_metrics)
        replicas.keys.play("ok", "ok")
        assert {answer.status for answer in crowd(replicas.nginx.url, 40, HEADERS)} == {200}
        assert set(replicas.keys.calls) == {paid_by}, words
        shown = {entry["key"]: entry for entry in json.loads(replicas.fleets[1].command("--json", "list"))}
        assert shown[first]["state"] == state


def test_refusals_under_way_when_a_key_is_enabled_do_not_retire_it(replicas: Replicas) -> None:
    """Given slow refusals on both gateways, when the key is enabled before they come, then it stays valid in both."""
    replicas.renew_keys("unauthorized:delay=5*2 then ok", "ok")
    with Client(replicas.fleets[0].gateway.url) as one, Client(replicas.fleets[1].gateway.url) as other:
        for client in (one, other):
            client.send(message_body(False), headers=HEADERS)
        assert wait_until(lambda: replicas.keys.calls == [A, A], SOON_SECONDS)
        replicas.fleets[0].command("enable", replicas.keys.names[A])
        assert [client.read_answer().status for client in (one, other)] == [200, 200]
    assert sorted(replicas.keys.calls) == [A, A, B, B]
    assert replicas.all_know(A, "valid")
    for at in (0, 1):
        assert replicas.ask(at).status == 200
    assert replicas.keys.calls[4:] == [A, A]


# Redis that fails


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the traffic. Times are monotonic seconds; status 0: no answer."""

    status: int
    begun_at: float
    seconds: float


class Traffic:
    """A few clients that ask through nginx without a pause, within a `with`."""

    def __init__(self, url: str) -> None:
        self.asked: list[Asked] = []
        self._url = url
        self._is_over = threading.Event()
        self._clients = [threading.Thread(target=self._run) for _ in range(4)]

    def __enter__(self) -> Traffic:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for client in self._clients:
            client.join(60)
            assert not client.is_alive()

    def run_on(self, number: int) -> list[Asked]:
        """Wait for so many more requests; they."""
        before = len(self.asked)
        assert wait_until(lambda: len(self.asked) >= before + number, 60)
        return self.asked[before:]

    def _run(self) -> None:
        while not self._is_over.is_set():
            begun_at = time.monotonic()
            try:
                status = ask(self._url, message_body(False), headers=HEADERS).status
            except (OSError, AssertionError):
                status = 0
            self.asked.append(Asked(status, begun_at, time.monotonic() - begun_at))


def _slow_seconds(asked: list[Asked]) -> float:
    """What one request in twenty exceeds."""
    return statistics.quantiles([request.seconds for request in asked], n=20)[-1]


@pytest.mark.parametrize("is_killed", [pytest.param(True, id="killed"), pytest.param(False, id="paused")])
def test_nothing_fails_or_waits_while_redis_is_away(replicas: Replicas, is_killed: bool) -> None:
    """Given traffic, when Redis is away, then all goes on, and logs and metrics say so; back again, marks are merged.

    A key that recovers again and again takes part, so that leases are asked for meanwhile.
    """
    recovering = " then ".join(["rate_limited:retry-after-ms=200 then ok*20"] * 300)
    replicas.renew_keys("ok", recovering, "ok")
    assert replicas.stores_are_up(True)
    down, up = replicas.log_count("does not answer"), replicas.log_count("answers again")
    replicas.fleets[0].command("disable", replicas.keys.names[A])
    assert replicas.all_know(A, "permanent")
    with Traffic(replicas.nginx.url) as traffic:
        before = traffic.run_on(300)
        (replicas.redis.kill if is_killed else replicas.redis.pause)()
        meanwhile = traffic.run_on(600)
        assert wait_until(lambda: replicas.log_count("does not answer") == down + 2 * WORKERS, SOON_SECONDS)
        meanwhile += traffic.run_on(300)
        (replicas.redis.start if is_killed else replicas.redis.resume)()
        afterwards = traffic.run_on(300)
        assert wait_until(lambda: replicas.log_count("answers again") == up + 2 * WORKERS, SOON_SECONDS)
    assert {request.status for request in before + meanwhile + afterwards} == {200}
    limit_seconds = 3 * _slow_seconds(before) + 0.1
    assert _slow_seconds(meanwhile) < limit_seconds
    assert _slow_seconds(afterwards) < limit_seconds
    assert replicas.stores_are_up(True)
    # A killed server has lost everything; the gateways told it what they knew.
    assert replicas.all_know(A, "permanent")
    shown = json.loads(replicas.fleets[1].command("--json", "list"))
    assert [entry["state"] for entry in shown][A] == "disabled"


@pytest.mark.parametrize("is_killed", [pytest.param(True, id="killed"), pytest.param(False, id="paused")])
def test_marks_made_while_redis_is_away_are_merged_when_it_is_back(replicas: Replicas, is_killed: bool) -> None:
    """Given Redis away, when each gateway marks a key, then it skips it itself, and the other when Redis is back."""
    replicas.renew_keys("unauthorized*1 then ok", "rate_limited:retry-after=600*1 then ok", "ok")
    assert replicas.stores_are_up(True)
    (replicas.redis.kill if is_killed else replicas.redis.pause)()
    assert replicas.stores_are_up(False)
    first, second = replicas.fleets
    with first.only(first.gateway.worker_pids[0]):
        assert replicas.ask(0).status == 200
        assert replicas.keys.calls == [A, B, C]
        assert replicas.ask(0).status == 200
        assert replicas.keys.calls[3:] == [C]
        assert list(first.states().values()) == ["permanent", "temporary", "valid"]
    assert list(second.states().values()) == ["valid", "valid", "valid"]
    (replicas.redis.start if is_killed else replicas.redis.resume)()
    assert replicas.stores_are_up(True)
    assert replicas.all_know(A, "permanent")
    assert replicas.all_know(B, "temporary")
    replicas.keys.play("ok", "ok", "ok")
    assert {answer.status for answer in crowd(replicas.nginx.url, 100, HEADERS)} == {200}
    assert set(replicas.keys.calls) == {C}


def test_gateway_starts_and_serves_without_redis(replicas: Replicas) -> None:
    """Given Redis away, when a gateway starts, then it serves; when Redis is back, it knows what the other knew."""
    replicas.renew_keys("unauthorized*1 then ok", "ok")
    assert replicas.ask(0).status == 200
    assert replicas.all_know(A, "permanent")
    replicas.redis.kill()
    replicas.fleets[1].restart()
    assert replicas.ask(1).status == 200
    replicas.redis.start()
    assert replicas.stores_are_up(True)
    assert replicas.all_know(A, "permanent")


# Clocks that are wrong


# (libfaketime would turn the clock for more than Python, but on some systems it breaks `sleep`.)
_WRONG_CLOCK = """
import time

_right = time.time
time.time = lambda: _right() + ({offset_seconds})
"""


@pytest.mark.parametrize("offset_seconds", [pytest.param(60, id="fast"), pytest.param(-60, id="slow")])
def test_wrong_clock_on_one_side_moves_no_deadline(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offset_seconds: int
) -> None:
    """Given a gateway whose clock is a minute wrong, when either limits a key, then both agree until when."""
    with monkeypatch.context() as patch:
        (tmp_path / "inside.py").write_text(_WRONG_CLOCK.format(offset_seconds=offset_seconds))
        patch.setenv(INSIDE, str(tmp_path / "inside.py"))
        replicas.fleets[1].restart()
    try:
        told_at = datetime.strptime(replicas.fleets[1].gateway.log[1:26], "%Y-%m-%d %H:%M:%S %z")
        assert (told_at.timestamp() - time.time()) * offset_seconds > 0, "its clock is right"
        for number in (0, 1):
            replicas.renew_keys("rate_limited:retry-after=30*1 then ok", "ok")
            assert replicas.ask(number).status == 200
            assert replicas.all_know(A, "temporary")
            begun_at = time.monotonic()
            cooldowns = [fleet.total("key_cooldown_seconds") for fleet in replicas.fleets]
            assert abs(cooldowns[0] - cooldowns[1]) < 1 + time.monotonic() - begun_at
            assert max(cooldowns) <= 30
            assert {answer.status for answer in crowd(replicas.nginx.url, 50, HEADERS)} == {200}
            assert replicas.keys.calls == [A] + [B] * 51

        # A short cooldown ends for both, and its trial too.
        replicas.renew_keys("rate_limited:retry-after=2*1 then ok", "ok")
        assert replicas.ask(1).status == 200
        for at in (0, 1):
            assert replicas.comes_to_pay(at, A)
        assert wait_until(lambda: replicas.crowd_is_paid_by(A), KNOWN_SECONDS)
    finally:
        replicas.fleets[1].restart()

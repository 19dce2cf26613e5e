"""A storm over the pool, end to end: several workers, or gateways, before a world whose limits fill up and drain.

The same world, requests and judgement as in tests/unit/keys/test_pool_storm.py, where the clock stands still between
two steps. Here it does not: a mark is known a moment after the upstream has told it. So a refusal is judged by what the
upstream had told before the client had it, and cooldowns are counted as longer by the longest time that a request took.
The oracle needs one attempt for each request that is served, and none for one that is refused. Of the gateway's
attempts those do not count that were made before a refusal of the same kind can have been known: a busy machine has
more.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from gateway.simulator import Asked, Simulator, World
from gateway.simulator.caches import Prefix
from gateway.simulator.world import Ruling
from tests.e2e.clients import ask, message_body
from tests.harness import GatewayProcess
from tests.pool_storm import BETA, MODELS, UNENTITLED, Told, secrets_of, storm_world, wanted
from tests.stores.redis_server import RedisServer

REQUESTS, ALL_REQUESTS = 600, 10_000
REQUESTS_A_SECOND = 100.0
CLIENTS = 16
MOST_REFUSALS = 0.2  # of a gateway's, for one request that is served
ALL_LIMITED = "all configured keys are rate-limited"


class WatchedWorld(World):
    """Remembers what it has told, and when."""

    rulings: list[tuple[float, str, str, Ruling]]

    def rule(self, secret: str, asked: Asked, prefixes: tuple[Prefix, ...]) -> Ruling:
        ruling = super().rule(secret, asked, prefixes)
        self.rulings.append((time.monotonic(), secret, asked.scope, ruling))
        return ruling


@dataclass(frozen=True)
class Served:
    """A request, and how it ended. Times are of the monotonic clock."""

    asked: Asked
    begun_at: float
    ended_at: float
    status: int
    error: str


@dataclass
class Storm:
    """A world, its upstream, and the gateways before it."""

    dice: random.Random
    world: WatchedWorld
    gateways: list[GatewayProcess] = field(default_factory=list)

    def blow(self, requests: int) -> list[Served]:
        """So many requests at random moments, each to one of the gateways; a key is revoked half-way."""
        begin_at = time.monotonic()
        plan: list[tuple[float, Asked, str]] = []
        for _ in range(requests):
            begin_at += self.dice.expovariate(REQUESTS_A_SECOND)
            plan.append((begin_at, wanted(self.dice), self.dice.choice(self.gateways).url))
        revoked = self.dice.choice(secrets_of(self.world))
        never = threading.Event()

        def one(number: int) -> Served:
            at, asked, url = plan[number]
            never.wait(max(0.0, at - time.monotonic()))
            if number == requests // 2:
                self.world.change(revoked, revoked=True)
            return _ask(url, asked, is_streamed=number % 2 == 0)

        with ThreadPoolExecutor(CLIENTS) as clients:
            return list(clients.map(one, range(requests)))

    def told(self, slack_seconds: float) -> Told:
        """What the upstream has told; cooldowns are longer by so much."""
        told = Told.of(self.world)
        for at, secret, scope, ruling in self.world.rulings:
            told.note(secret, scope, ruling.cause, at, at + ruling.retry_after_seconds + slack_seconds)
        return told

    def overtaken(self, answer_seconds: float) -> int:
        """How many refusals were asked for before the first of their kind, an answer's time ago, can be known."""
        first_at: dict[tuple[str, str], float] = {}
        number = 0
        for at, secret, scope, ruling in self.world.rulings:
            if ruling.cause is None:
                continue
            if at < first_at.get((secret, scope), -math.inf) + answer_seconds:
                number += 1
            else:
                first_at[secret, scope] = at
        return number


def _ask(url: str, asked: Asked, *, is_streamed: bool) -> Served:
    begun_at = time.monotonic()
    headers = [f"anthropic-beta: {beta}" for beta in asked.betas]
    answer = ask(url, message_body(is_streamed, model=asked.model), headers=headers)
    assert answer.is_complete
    error = "" if answer.status == 200 else json.loads(answer.body)["error"]["message"]
    return Served(asked, begun_at, time.monotonic(), answer.status, error)


@contextmanager
def _storm(seed: int, *, gateways: int, **settings: str) -> Iterator[Storm]:
    dice = random.Random(seed)
    world = storm_world(dice, REQUESTS_A_SECOND / len(MODELS), WatchedWorld)
    assert isinstance(world, WatchedWorld)
    world.rulings = []
    keys = [f"k{number}={secret}" for number, secret in enumerate(secrets_of(world))]
    storm = Storm(dice, world)
    with ExitStack() as stack:
        upstream = stack.enter_context(Simulator(world=world))
        for _ in range(gateways):
            gateway = GatewayProcess(upstream.url, keys, **({"workers": "2", "threads": "32"} | settings))
            stack.callback(gateway.stop)
            storm.gateways.append(gateway)
        yield storm


def _judge(storm: Storm, served: Sequence[Served]) -> None:
    slack_seconds = max(one.ended_at - one.begun_at for one in served)
    told, secrets = storm.told(slack_seconds), secrets_of(storm.world)
    for one in served:
        if one.status == 200:
            continue
        assert (one.status, one.error.partition(":")[0]) == (429, ALL_LIMITED)
        for secret in secrets:
            is_barred = BETA in one.asked.betas and storm.world.standing(secret).organisation_id == UNENTITLED
            is_excused = told.excuses(secret, one.asked.scope, one.begun_at, one.ended_at)
            assert is_barred or is_excused, f"{secret} was left: {one}"
    for gateway in storm.gateways:
        _judge_states(gateway, secrets, storm, told)
    answers = sum(one.status == 200 for one in served)
    answer_seconds = statistics.median(one.ended_at - one.begun_at for one in served)
    attempts = storm.world.counts().attempts - storm.overtaken(answer_seconds)
    print(f"{len(served)} requests, {answers} served, {attempts} attempts: {attempts / answers:.3f} of the oracle's")
    assert answers > len(served) / 2
    assert attempts <= (1 + MOST_REFUSALS * len(storm.gateways)) * answers


def _judge_states(gateway: GatewayProcess, secrets: Sequence[str], storm: Storm, told: Told) -> None:
    """A key is retired only if it was revoked and has said so; it cools down only if it was told to."""
    now = time.monotonic()
    samples = gateway.metrics()
    for number, secret in enumerate(secrets):

        def shown(name: str, state: str, key: str = f"k{number}") -> float:
            return samples.get((f"gateway_{name}", frozenset({("key", key), ("state", state)})), 0.0)

        is_retired = shown("key_state", "permanent") == 1
        assert is_retired == (secret in told.revoked)
        assert is_retired or not shown("key_transitions_total", "permanent")
        if shown("key_state", "temporary") == 1:
            scopes = {scope for _, scope in told.cooldowns}
            assert any(told.excuses(secret, scope, now, now) for scope in scopes)


counts = pytest.mark.parametrize(
    "requests",
    [REQUESTS, pytest.param(ALL_REQUESTS, marks=[pytest.mark.long, pytest.mark.timeout(600)])],
)


@counts
def test_workers_serve_a_storm_as_well_as_by_one_who_knows_all_limits(requests: int) -> None:
    """Given two workers and random limits, then nobody is refused while a key was left, no key is marked for another's
    fault, and there are at most 1.2 attempts for one of the oracle's."""
    with _storm(1, gateways=1) as storm:
        _judge(storm, storm.blow(requests))


@counts
def test_gateways_that_share_a_redis_serve_a_storm_as_one(requests: int) -> None:
    """Given two gateways of two workers over one Redis, then the same; but what one has marked the other knows within a
    second, which is as long as most cooldowns are, so each of them is refused for itself."""
    redis = RedisServer()
    try:
        with _storm(3, gateways=2, state_url=redis.url) as storm:
            _judge(storm, storm.blow(requests))
    finally:
        redis.stop()

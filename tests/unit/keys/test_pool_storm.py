"""A storm over the pool, in one thread and by a clock that is told the time: the walk against the simulator's world.

10^4 requests over 8 keys in 3 organisations of two workspaces each, several of them under way at once; the limits of
each class are random, and all together allow about as much as is asked, as a pool is run. What the upstream answers is
the simulator's own answer, byte for byte, judged by the gateway's table.

The oracle knows every limit: it needs one attempt for each request that is served, and none for one that is refused. A
gateway has to be refused to know, once for each time that a key comes back. So the ratio is small where a few requests
come back at a time (limits of some hundred a minute), and near 2 where each `retry-after` brings back one alone.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count

import pytest

from gateway.access.credential import Key, Secret
from gateway.keys.classification import Cooldowns, judge
from gateway.keys.failover import Course, walk
from gateway.keys.places import place_of
from gateway.keys.pool import Pool
from gateway.keys.standing import KeyState
from gateway.keys.store import MemoryStore
from gateway.keys.verdict import Verdict
from gateway.protocol.errors import GatewayError, RateLimited
from gateway.protocol.outcomes import Outcome
from gateway.simulator import Asked
from gateway.simulator.world import Cause
from tests.pool_storm import (
    BETA,
    MODELS,
    ORGANISATIONS,
    UNENTITLED,
    WORKSPACES,
    Told,
    scope_of,
    secrets_of,
    storm_world,
    wanted,
)
from tests.simulator.worlds import answer, request_of
from tests.unit.fakes import FakeAnswer, FakeClock, RecordingObserver

REQUESTS, ALL_REQUESTS = 2_000, 10_000
REQUESTS_A_SECOND = 120.0
ANSWER_SECONDS = 0.2  # at most: an answer's; a refusal comes within a tenth of it
MOST_ATTEMPTS = 1.2
RESTS = Cooldowns(default_seconds=60.0, longest_for_money_seconds=3600.0)
CAUSES = {
    Outcome.RATE_LIMITED: Cause.RATE_LIMITED,
    Outcome.UNAUTHORIZED: Cause.REVOKED,
    Outcome.NOT_ENTITLED: Cause.NOT_ENTITLED,
    Outcome.OUT_OF_CREDIT: Cause.OUT_OF_CREDIT,
    Outcome.WORKSPACE_UNUSABLE: Cause.WORKSPACE_UNUSABLE,
    Outcome.OK: None,
}


@dataclass(slots=True)
class Counts:
    """How a storm has ended."""

    served: int = 0
    refused: int = 0
    not_entitled: int = 0
    attempts: int = 0


class FaultFinder(RecordingObserver):
    """Fails on a mark that the world did not rule."""

    def __init__(self, told: Told, scope: str) -> None:
        super().__init__()
        self._told, self._scope = told, scope

    def transitioned(self, key, state, verdict):
        secret = key.secret.reveal()
        if state is KeyState.PERMANENT:
            assert secret in self._told.revoked
        else:
            assert (secret, self._scope) in self._told.cooldowns or self._told.is_troubled(secret)


class Storm:
    """One storm. Walks under way wait in a heap for the moment at which they go on."""

    def __init__(self, seed: int, *, has_troubles: bool = False) -> None:
        """`has_troubles`: a workspace becomes unusable, and an organisation has no credit any more."""
        self.has_troubles = has_troubles
        self.dice, self.clock, self.counts = random.Random(seed), FakeClock(), Counts()
        self.world = storm_world(self.dice, REQUESTS_A_SECOND / len(MODELS), clock=self.clock)
        self.told = Told.of(self.world)
        keys = [Key(f"k{number}", Secret(secret)) for number, secret in enumerate(secrets_of(self.world))]
        self.pool = Pool(keys, MemoryStore(), self.clock)
        self._numbers = count()
        self._under_way: list[tuple[float, int, Generator[float, None, FakeAnswer], Asked]] = []

    def blow(self, requests: int) -> None:
        """So many requests at random moments; a key is revoked half-way."""
        begins_at = self.clock.now
        for number in range(requests):
            begins_at += self.dice.expovariate(REQUESTS_A_SECOND)
            self._go_on_until(begins_at)
            self.clock.now = begins_at
            self._trouble(number / requests)
            asked = wanted(self.dice)
            course = Course(asked.scope)
            walking = walk(self.pool, self._attempt(asked), FaultFinder(self.told, asked.scope), course)
            self._step(walking, asked)
        self._go_on_until(float("inf"))

    def _trouble(self, part: float) -> None:
        """What becomes of the world when this part of the storm is over."""
        if part == 0.5:
            self.world.change(self.dice.choice(secrets_of(self.world)), revoked=True)
        if part == 0.25 and self.has_troubles:
            self.world.change(self.dice.choice(WORKSPACES), unusable=True)
        if part == 0.75 and self.has_troubles:
            self.world.change(self.dice.choice(ORGANISATIONS), credit=0)

    def _go_on_until(self, end_at: float) -> None:
        while self._under_way and self._under_way[0][0] <= end_at:
            self.clock.now, _, walking, asked = heapq.heappop(self._under_way)
            self._step(walking, asked)

    def _step(self, walking: Generator[float, None, FakeAnswer], asked: Asked) -> None:
        try:
            seconds = next(walking)
        except StopIteration as ended:
            is_entitled = not ended.value.forbids_retries
            self.counts.served += is_entitled
            self.counts.not_entitled += not is_entitled
        except GatewayError as error:
            self._judge_refusal(error, asked)
            self.counts.refused += 1
        else:
            heapq.heappush(self._under_way, (self.clock.now + seconds, next(self._numbers), walking, asked))

    def _attempt(self, asked: Asked):
        def attempt(key: Key) -> Generator[float, None, tuple[FakeAnswer, Verdict]]:
            self.counts.attempts += 1
            secret = key.secret.reveal()
            yield self.dice.uniform(0.0, ANSWER_SECONDS / 20)
            wired = answer(self.world, request_of(secret, model=asked.model, beta=",".join(asked.betas)))
            seconds = ANSWER_SECONDS if wired.status == 200 else ANSWER_SECONDS / 20
            yield self.dice.uniform(0.0, seconds)
            headers = dict(wired.headers)
            self.pool.learn(key, place_of(headers))
            verdict = judge(wired.status, headers, wired.body, self.clock.now, RESTS)
            until_at = self.clock.now + float(headers.get("retry-after", 0))
            self.told.note(secret, asked.scope, CAUSES[verdict.outcome], self.clock.now, until_at)
            fake = FakeAnswer(key)
            fake.forbids_retries = verdict.outcome is Outcome.NOT_ENTITLED
            return fake, verdict

        return attempt

    def _judge_refusal(self, error: GatewayError, asked: Asked) -> None:
        """A refusal is right only if no key was left, and names the moment at which the first one is back."""
        assert isinstance(error, RateLimited), error
        now = self.clock.now
        for secret in secrets_of(self.world):
            is_barred = BETA in asked.betas and self.world.standing(secret).organisation_id == UNENTITLED
            assert is_barred or self.told.excuses(secret, asked.scope, now, now), f"{secret} was left: {error}"


@pytest.mark.parametrize(
    ("seed", "requests"),
    [(seed, REQUESTS) for seed in range(3)]
    + [pytest.param(seed, ALL_REQUESTS, marks=pytest.mark.long) for seed in range(5)],
)
def test_storm_is_served_as_well_as_by_one_who_knows_all_limits(seed: int, requests: int) -> None:
    """Given random limits, workspaces and organisations, then nobody is refused while a key was left, no key is marked
    for another's fault, and there are at most 1.2 attempts for one of the oracle's."""
    storm = Storm(seed)
    storm.blow(requests)
    counts = storm.counts
    assert counts.served + counts.refused + counts.not_entitled == requests
    assert counts.served > requests / 2
    assert counts.attempts <= MOST_ATTEMPTS * counts.served
    _assert_states(storm)


@pytest.mark.parametrize("seed", range(4))
def test_storm_in_which_money_and_workspaces_go_is_served_by_the_rest(seed: int) -> None:
    """Given a workspace that becomes unusable and an organisation whose credit ends, then nobody is refused while a key
    of others was left, and nobody else is marked."""
    storm = Storm(seed, has_troubles=True)
    storm.blow(REQUESTS)
    assert len(storm.told.troubled) == 2
    assert storm.counts.attempts <= MOST_ATTEMPTS * storm.counts.served
    _assert_states(storm)


def _assert_states(storm: Storm) -> None:
    """Each key stands for each scope as it was told itself, or as two of its workspace were."""
    now = storm.clock.now
    for model in MODELS:
        scope = scope_of(model)
        for status in storm.pool.statuses(scope):
            secret = status.key.secret.reveal()
            if status.state is KeyState.PERMANENT:
                assert secret in storm.told.revoked
            elif storm.told.is_troubled(secret):
                assert status.state is KeyState.TEMPORARY
            elif status.is_shared_cooldown:
                assert storm.told.excuses(secret, scope, now, now)
            else:
                until_at = storm.told.cools_until(secret, scope)
                assert (status.state is KeyState.TEMPORARY) == (until_at > now)

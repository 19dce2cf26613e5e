"""Hand-written stand-ins that record what they were asked: a clock, a walk's observer, an answer."""

from __future__ import annotations

import os
import sys
import threading

from gateway.access.authentication import Caller
from gateway.access.client_info import Client
from gateway.access.credential import Key, Secret
from gateway.keys.pool import Pool
from gateway.keys.store import MemoryStore
from gateway.pricing.prices import known_prices
from gateway.records.record_builder import RecordBuilder

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def keys_of(count: int) -> list[Key]:
    """Keys k0, k1, ... with secrets that are easy to spot."""
    return [Key(f"k{number}", Secret(f"sk-ant-unit-{number:04}-planted")) for number in range(count)]


def pool_of(count: int, clock: FakeClock | None = None) -> Pool:
    """A pool of that many fresh keys over a store of its own."""
    return Pool(keys_of(count), MemoryStore(), clock or FakeClock())


def cool(pool: Pool, number: int, seconds: float) -> bool:
    """A 429 for the key in that place, as it stands now."""
    return pool.cool(pool.statuses()[number], seconds, "rate_limited", 429)


def retire(pool: Pool, number: int) -> bool:
    """A 401 for the key in that place, as it stands now."""
    return pool.retire(pool.statuses()[number], "unauthorized", 401)


def builder_of(
    id: str = "req_gw_1", route: str = "messages", caller: Caller | None = None, clock: FakeClock | None = None
) -> RecordBuilder:
    """The builder of a request by nobody in particular."""
    clock = clock or FakeClock()
    return RecordBuilder(id, route, caller or Caller(None, is_operator=False), Client(), clock, clock, known_prices())


def descriptors() -> set[str]:
    """The descriptors that are open now; threads that other tests have left may open and close some at any time."""
    return set(os.listdir("/proc/self/fd"))


class FakeAnswer:
    """An upstream answer that knows whether it was thrown away."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.is_discarded = False
        self.is_relayable = True
        self.forbids_retries = False

    def discard(self) -> None:
        self.is_discarded = True

    def forbid_retries(self) -> None:
        self.forbids_retries = True


class RecordingObserver:
    """Keeps everything that a walk tells, in order, as tuples of the method's name and what matters."""

    def __init__(self) -> None:
        self.told: list[tuple] = []

    def passed_over(self, status, *, is_barred, is_elsewhere):
        self.told.append(("passed_over", status.key.name, status.state.value))

    def transitioned(self, key, state, verdict):
        self.told.append(("transitioned", key.name, state.value))

    def failed_over(self, key, verdict):
        self.told.append(("failed_over", key.name, verdict.outcome.value))

    def walked(self, attempts):
        self.told.append(("walked", attempts))

    def exhausted(self, error, attempts):
        self.told.append(("exhausted", error.kind, attempts))

    def of(self, name: str) -> list[tuple]:
        """What was told under one method's name."""
        return [entry[1:] for entry in self.told if entry[0] == name]


def race(count: int, run, patience_seconds: float = 60.0) -> list:
    """Run `run(number)` in that many threads which start together; their results, or the first one's exception.

    A thread that has not ended after `patience_seconds` is taken to hang: far longer than it can take.
    """
    barrier = threading.Barrier(count)
    results: list = [None] * count
    failures: list[BaseException] = []

    def main(number: int) -> None:
        try:
            barrier.wait(30)
            results[number] = run(number)
        except BaseException as error:  # noqa: BLE001  # raised again below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=main, args=(number,)) for number in range(count)]
    interval_seconds = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # as many changes of threads as there can be
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(patience_seconds)
            assert not thread.is_alive(), "a thread hangs"
    finally:
        sys.setswitchinterval(interval_seconds)
    if failures:
        raise failures[0]
    return results

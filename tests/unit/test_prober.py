"""Retired keys are tried and come back; those the operator disabled stay where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.credential import Key, Secret
from gateway.lifecycle import Lifecycle
from gateway.pool import KeyState, Pool
from gateway.prober import Prober
from gateway.simulator import Simulator
from gateway.store import MemoryStore
from gateway.upstream import Upstream
from gateway.upstream.dialer import Route
from tests.harness import wait_until

MENDED, REFUSED, DISABLED = (Key(name, Secret(f"sk-{name}")) for name in ("mended", "refused", "disabled"))


@pytest.fixture
def pool() -> Pool:
    """Three keys that were refused, one of them disabled besides."""
    pool = Pool((MENDED, REFUSED, DISABLED), MemoryStore())
    for status in pool.statuses():
        pool.retire(status, "unauthorized", 401)
    pool.disable(DISABLED)
    return pool


def states(pool: Pool) -> list[KeyState]:
    """The present state of each key."""
    return [status.state for status in pool.statuses()]


def prober(pool: Pool, simulator: Simulator, folder: Path, seconds: float = 60.0) -> Prober:
    """A prober of this pool against a simulated upstream, whose connections are not kept."""
    upstream = Upstream(Route(simulator.url, 2.0, 30.0), 5.0)
    upstream.close()
    return Prober(lambda: (pool, upstream), Lifecycle(), seconds, folder / "prober.lock")


def test_probe_enables_what_the_upstream_accepts(pool: Pool, tmp_path: Path) -> None:
    """Given a mended, a refused and a disabled key; when they are probed; then only the mended one is valid again."""
    with Simulator(keys={"sk-mended": "ok", "sk-refused": "unauthorized", "sk-disabled": "ok"}) as simulator:
        assert prober(pool, simulator, tmp_path).probe() == ["mended"]
        assert states(pool) == [KeyState.VALID, KeyState.PERMANENT, KeyState.PERMANENT]
        assert simulator.keys_seen == ["sk-mended", "sk-refused"]
        assert {request.path for request in simulator.requests} == {"/v1/models"}


def test_only_one_process_probes(pool: Pool, tmp_path: Path) -> None:
    """Given two probers on one data folder; when both run; then one of them asks, and goes on asking."""
    with Simulator(keys={"sk-mended": "unauthorized", "sk-refused": "unauthorized"}) as simulator:
        first, second = (prober(pool, simulator, tmp_path, seconds=0.1) for _ in range(2))
        assert first._is_chosen()
        assert not second._is_chosen()
        first.start()
        try:
            assert wait_until(lambda: len(simulator.requests) >= 4, 10)
        finally:
            first.stop()


def test_key_disabled_during_its_probe_stays_disabled(pool: Pool) -> None:
    """Given a probe under way; when the operator disables the key meanwhile; then its success changes nothing."""
    (probed, *_) = pool.statuses()
    pool.disable(MENDED)
    assert not pool.revive(probed)
    assert states(pool)[0] is KeyState.PERMANENT

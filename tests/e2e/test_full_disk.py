"""A gateway whose disk, or whose memory file system, is full: it serves, says what it cannot do, and catches up."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.runtime.counts_folder import counts_folder
from gateway.simulator import Simulator
from tests.e2e.recorded import Records
from tests.e2e.talk import message
from tests.full_disk import SmallDisk
from tests.harness import GatewayProcess, wait_until

FIRST, SECOND = "sk-sim-0001", "sk-sim-0002"
SOON_SECONDS = 30.0


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(keys={FIRST: "ok", SECOND: "ok"}) as simulator:
        yield simulator


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "small", size_bytes=16 << 20) as disk:
        yield disk


@pytest.fixture
def gateway(simulator: Simulator, disk: SmallDisk) -> Iterator[GatewayProcess]:
    """A gateway of two workers with its data folder on the small disk."""
    process = GatewayProcess(
        simulator.url, [f"a={FIRST}", f"b={SECOND}"], workers="2", data_dir=str(disk.folder / "data")
    )
    try:
        yield process
    finally:
        process.stop(signal.SIGQUIT)


def ask(gateway: GatewayProcess, session: str, model: str = "claude-simulated") -> int:
    return gateway.request("POST", "/v1/messages", message(model=model), {"x-session-id": session}).status


# Each of these makes counts that were never made before.
NOVEL: tuple[Callable[[GatewayProcess], tuple[int, int]], ...] = (
    lambda gateway: (gateway.request("GET", "/nothing").status, 404),
    lambda gateway: (gateway.request("PUT", "/v1/messages").status, 405),
    lambda gateway: (gateway.request("POST", "/v1/messages", b"no JSON").status, 400),
    lambda gateway: (gateway.request("GET", "/v1/models").status, 200),
    lambda gateway: (gateway.request("POST", "/v1/messages/count_tokens", message()).status, 200),
    *(lambda gateway, n=n: (ask(gateway, f"novel-{n}", f"model-{n}"), 200) for n in range(40)),  # type: ignore[misc]
)


def test_full_disk_kills_nobody_and_records_wait(
    gateway: GatewayProcess, disk: SmallDisk, simulator: Simulator
) -> None:
    """Given a data folder's disk that fills up, then every request is served, whatever is new about it, keys are marked
    and walked, a killed worker is replaced, and the log says that records wait; when there is room, all are stored."""
    records = Records.in_folder(disk.folder / "data")
    assert ask(gateway, "before") == 200
    records.wait_for(["before"])
    workers = gateway.worker_pids
    disk.fill()
    for _ in range(2):
        for novel in NOVEL:
            status, expected = novel(gateway)
            assert status == expected
    simulator.script(FIRST, "rate_limited:retry-after=600 then ok")
    assert [ask(gateway, f"limited-{n}") for n in range(3)] == [200] * 3
    assert gateway.metric("key_state", key="a", state="temporary") == 1
    assert gateway.counted("tokens_total", model="model-39", type="input") > 0
    gateway.wait_for_log("cannot be written to", SOON_SECONDS)
    assert gateway.worker_pids == workers

    os.kill(workers[0], signal.SIGKILL)
    assert wait_until(lambda: len(set(gateway.worker_pids) - set(workers)) == 1, SOON_SECONDS)
    assert wait_until(lambda: gateway.metric("admission_limit") == 48, SOON_SECONDS), gateway.log
    (heir,) = set(gateway.worker_pids) - set(workers)
    os.kill(workers[1], signal.SIGSTOP)
    assert [ask(gateway, f"replaced-{n}") for n in range(3)] == [200] * 3
    os.kill(workers[1], signal.SIGCONT)
    assert heir in gateway.worker_pids

    disk.free()
    assert ask(gateway, "after") == 200
    # What waited in the memory of the killed worker is lost: that alone.
    records.wait_for(["after", *(f"replaced-{n}" for n in range(3))], SOON_SECONDS)
    assert wait_until(lambda: gateway.metric("recorder_queue_length") == 0, SOON_SECONDS)
    assert "SIGBUS" not in gateway.log


def test_full_disk_loses_no_record_of_a_worker_that_lives(gateway: GatewayProcess, disk: SmallDisk) -> None:
    """Given requests while the disk is full, when there is room again, then each has its record."""
    records = Records.in_folder(disk.folder / "data")
    assert ask(gateway, "before") == 200
    records.wait_for(["before"])
    disk.fill()
    sessions = [f"meanwhile-{n}" for n in range(60)]
    assert [ask(gateway, session) for session in sessions] == [200] * len(sessions)
    gateway.wait_for_log("cannot be written to", SOON_SECONDS)
    disk.free()
    records.wait_for(sessions, SOON_SECONDS)
    assert "SIGBUS" not in gateway.log


def test_start_without_room_for_shared_counts_is_told_and_harms_nobody(simulator: Simulator, tmp_path: Path) -> None:
    """Given no room for counts in the memory file system, then the gateway starts, says what /metrics will show, serves
    and counts."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    folder = counts_folder(data_dir)
    folder.touch()
    process = GatewayProcess(simulator.url, [f"a={FIRST}", f"b={SECOND}"], data_dir=str(data_dir))
    try:
        assert "/metrics shows the counts of the worker that answers" in process.log
        for novel in NOVEL:
            status, expected = novel(process)
            assert status == expected
        assert process.counted("tokens_total", model="model-39", type="input") > 0
    finally:
        process.stop()
        folder.unlink()


def test_stopped_gateway_leaves_no_counts_in_memory(simulator: Simulator, tmp_path: Path) -> None:
    """Given a gateway that has counted, when it stops, then its files in the memory file system are gone."""
    process = GatewayProcess(simulator.url, [f"a={FIRST}"], data_dir=str(tmp_path / "data"))
    folder = counts_folder(tmp_path / "data")
    assert list(folder.glob("counter_*.db"))
    process.stop()
    assert not folder.exists()

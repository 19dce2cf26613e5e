"""Where workers count for each other: what is kept, and that no lack of room ends anybody.

The small memory file systems that tests fill are real ones: they are mounted, which takes the right to do so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.runtime.counts_file import LIVE_KINDS, counts_path, make_empty
from gateway.runtime.shared_counts import SharedCounts, SharedValue
from gateway.telemetry.metrics import Metrics
from tests.full_disk import SmallDisk
from tests.unit.fakes import race


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "counts"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "small", size_bytes=4 << 20) as disk:
        yield disk


def counter(counts: SharedCounts, name: str = "a", **labels: str) -> SharedValue:
    return counts.value(
        "counter", f"gateway_{name}", f"gateway_{name}_total", list(labels), list(labels.values()), "A."
    )


def gauge(counts: SharedCounts, mode: str, name: str = "g") -> SharedValue:
    return counts.value("gauge", name, name, [], [], "G.", multiprocess_mode=mode)


def shown(counts: SharedCounts) -> dict[str, float]:
    """What prometheus-client reads in the files, by name and labels."""
    merged = MultiProcessCollector.merge(counts.paths())
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for metric in merged
        for sample in metric.samples
    }


def test_counts_of_all_workers_are_read_by_any(folder):
    """Given two workers that count and gauge, then counters are added and gauges are what their kind says."""
    folder.mkdir()
    one, other = SharedCounts(folder, 0), SharedCounts(folder, 1)
    counter(one).inc(2)
    counter(other).inc(3)
    for counts, level in ((one, 5.0), (other, 7.0)):
        for mode in ("livesum", "livemin", "livemax", "max"):
            gauge(counts, mode, mode).set(level)
    for level, counts, at in ((1.0, other, 2.0), (9.0, one, 1.0)):
        gauge(counts, "mostrecent", "recent").set(level, timestamp=at)
    expected = {"gateway_a_total": 5, "livesum": 12, "livemin": 5, "livemax": 7, "max": 7, "recent": 1}
    assert shown(one) == shown(other) == expected


def test_next_worker_goes_on_where_a_dead_one_ended(folder):
    """Given a dead worker, when another takes its place, then it counts on in the same files: of the moment, nothing is
    left; and there are no more files than before."""
    folder.mkdir()
    dead = SharedCounts(folder, 0)
    counter(dead).inc(2)
    gauge(dead, "livesum", "inflight").set(4)
    gauge(dead, "max", "latest").set(8)
    files = sorted(os.listdir(folder))
    for kind in LIVE_KINDS:  # as the master does
        make_empty(counts_path(folder, kind, 0))
    assert shown(dead) == {"gateway_a_total": 2, "latest": 8}
    heir = SharedCounts(folder, 0)
    counted = counter(heir)
    assert counted.get() == 2
    counted.inc(1)
    gauge(heir, "livesum", "inflight").set(1)
    gauge(heir, "max", "latest").set(9)
    assert shown(heir) == {"gateway_a_total": 3, "inflight": 1, "latest": 9}
    assert sorted(os.listdir(folder)) == files


def test_files_grow(folder):
    """Given more values than the first file holds, then all are there."""
    folder.mkdir()
    counts = SharedCounts(folder, 0)
    for number in range(3000):
        counter(counts, label=f"{number:0200}").inc(number)
    assert sum(shown(counts).values()) == sum(range(3000))
    heir = SharedCounts(folder, 0)
    assert counter(heir, label=f"{2999:0200}").get() == 2999


def test_threads_that_count_at_once_lose_nothing(folder):
    """Given many threads, then every count is there."""
    folder.mkdir()
    counts = SharedCounts(folder, 0)
    value = counter(counts)

    def count(number: int) -> None:
        for _ in range(200):
            value.inc(1)
        counter(counts, label=f"{number}").inc(1)

    race(16, count)
    assert shown(counts)["gateway_a_total"] == 3200
    assert sum(shown(counts).values()) == 3216


@pytest.mark.parametrize(
    "content", [b"rubbish" * 20_000, b"\xff" * 300_000, b"\x00\x01\x00\x00" + bytes(4) + b"\x7f" * 999, b"\x10"],
    ids=["rubbish", "ones", "a-wrong-length", "short"],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_begun_anew(folder, content):
    """Given rubbish in a worker's file, then it counts from nothing."""
    folder.mkdir()
    (folder / "counter_0.db").write_bytes(content)
    counts = SharedCounts(folder, 0)
    counter(counts).inc(1)
    assert shown(counts) == {"gateway_a_total": 1}


@pytest.mark.parametrize("name", ["foreign.db", "counter_7.db"])
def test_what_is_no_file_of_counts_is_not_read(folder, name):
    """Given a foreign file, or a directory, among the files of counts, then counts are read all the same."""
    folder.mkdir()
    counts = SharedCounts(folder, 0)
    counter(counts).inc(1)
    if name == "foreign.db":
        (folder / name).write_bytes(b"no counts, but a text")
    else:
        (folder / name).mkdir()
        (folder / name / "in it").touch()
    assert shown(counts) == {"gateway_a_total": 1}


def test_removed_files_are_written_again(folder, caplog):
    """Given files that somebody removes under a running worker, then all it has counted is soon there again, once."""
    folder.mkdir()
    counts = SharedCounts(folder, 0)
    value = counter(counts)
    value.inc(2)
    away = folder.with_name("away")
    folder.rename(away)
    value.inc(1)
    counts.settle()
    assert shown(counts) == {"gateway_a_total": 3}
    assert "they are written again" in caplog.text
    caplog.clear()
    (folder / "counter_0.db").unlink()
    (away / "counter_0.db").rename(folder / "counter_0.db")
    value.inc(1)
    counts.settle()
    counts.settle()
    assert shown(counts) == {"gateway_a_total": 4}
    assert len(caplog.records) == 1


def test_counts_without_room_are_kept_and_shown_when_there_is(disk, caplog):
    """Given a full file system, when a worker counts what it has never counted, then it says so once, counts, and shows
    it when there is room."""
    caplog.set_level("INFO")
    counts = SharedCounts(disk.folder, 0)
    known = counter(counts)
    disk.fill()
    number = 0
    while not caplog.records:
        counter(counts, label=f"{number:0200}").inc(1)
        number += 1
        assert number < 100_000
    counter(counts, label="one-more").inc(1)
    known.inc(5)
    gauge(counts, "livesum").set(3)
    counts.settle()
    assert shown(counts)["gateway_a_total"] == 5
    assert "g" not in shown(counts)
    assert len(caplog.records) == 1
    assert "no room for counts" in caplog.text
    disk.free()
    counts.settle()
    assert sum(shown(counts).values()) == 5 + number + 1 + 3
    assert caplog.records[1].getMessage().startswith("there is room for all counts")
    counts.settle()
    assert len(caplog.records) == 2


COUNT = """
import sys
from pathlib import Path
from gateway.runtime.shared_counts import SharedCounts
counts = SharedCounts(Path(sys.argv[1]), 0)
print("begun", flush=True)
sys.stdin.readline()
for number in range(30_000):
    counts.value("counter", "gateway_a", "gateway_a_total", ["label"], [f"{number:0200}"], "A.").inc(1)
print("counted", flush=True)
"""


@pytest.mark.parametrize("is_full_at_start", [False, True], ids=["fills-up", "full-at-the-start"])
def test_no_full_file_system_kills_who_counts(disk, is_full_at_start):
    """Given a file system that is full before a process counts, or becomes so meanwhile, then it lives."""
    if is_full_at_start:
        disk.fill()
    process = subprocess.Popen(
        [sys.executable, "-c", COUNT, str(disk.folder)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    told, _ = process.communicate("go\n", timeout=110)
    assert (told, process.returncode) == ("counted\n", 0)


def test_file_that_goes_while_it_is_read_fails_no_scrape(folder, monkeypatch):
    """Given a file of counts that is removed, or begun anew, between being found and being read, then all is read once
    more, and the scrape has it."""
    folder.mkdir()
    counts = SharedCounts(folder, 0)
    metrics = Metrics(counts)
    metrics.requests_admitted.inc()
    half = folder / "counter_9.db"
    half.write_bytes(b"\xff")
    found = iter([[str(folder / "counter_8.db")], [str(half)]])
    paths = counts.paths
    monkeypatch.setattr(counts, "paths", lambda: next(found, None) or [p for p in paths() if p != str(half)])
    assert b"gateway_requests_admitted_total 1.0" in metrics.render()

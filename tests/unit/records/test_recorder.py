"""The recorder between requests and the database: nobody waits, nothing is lost in silence."""

from __future__ import annotations

import errno
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from gateway.records.forwarder import ConnectionLost, DatabaseUnavailable
from gateway.records.interception_record import InterceptionRecord
from gateway.records.recorder import NoRecorder, Recorder
from tests.harness import wait_until
from tests.record_samples import record_of
from tests.unit.fakes import race

SOON_SECONDS = 30.0


class FakeSegment:
    """Records that were sealed together; `failure` is what the disk says when they are read."""

    def __init__(self, records: list[InterceptionRecord], damaged: int = 0, failure: OSError | None = None) -> None:
        self.records = records
        self.damaged = damaged
        self.failure = failure

    def read(self) -> list[tuple[list[InterceptionRecord], int]]:
        if self.failure is not None:
            raise self.failure
        return [(self.records, self.damaged)]


class FakeSpool:
    """A spool in memory; `room` is how many records it takes, `failure` what its disk says."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self.open: list[InterceptionRecord] = []
        self.segments: list[FakeSegment] = []
        self.room = 1_000_000
        self.failure: OSError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.given_up: list[FakeSegment] = []
        self.is_closed = False

    def append(self, records: Sequence[InterceptionRecord]) -> int:
        self.gate.wait(60)
        with self._lock:
            if self.failure is not None:
                raise self.failure
            fitting = list(records)[: self.room]
            self.room -= len(fitting)
            self.open += fitting
            return len(fitting)

    def take(self) -> list[FakeSegment]:
        with self._lock:
            if self.open:
                self.segments.append(FakeSegment(self.open))
                self.open = []
            return list(self.segments)

    def remove(self, segment: FakeSegment) -> None:
        with self._lock:
            self.segments.remove(segment)

    def give_up(self, segment: FakeSegment, error: OSError) -> None:
        self.remove(segment)
        self.given_up.append(segment)

    def close(self) -> None:
        self.is_closed = True


class FakeWriter:
    """A database in memory; while `failure` is set it is down."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.batches: list[int] = []
        self.failure: Exception | None = None
        self.losses = 0  # so many times it says that its connection is lost
        self.gate = threading.Event()
        self.gate.set()
        self.refuses: set[str] = set()
        self.expired = 0
        self.forgotten = 0
        self.is_closed = False

    def prepare(self) -> None:
        self.gate.wait(60)
        if self.losses:
            self.losses -= 1
            raise ConnectionLost("cut")
        if self.failure is not None:
            raise self.failure

    def write(self, records: Sequence[InterceptionRecord]) -> int:
        self.prepare()
        self.batches.append(len(records))
        self.stored += [record.id for record in records if record.id not in self.refuses]
        return sum(record.id in self.refuses for record in records)

    def forget(self, limit: int) -> int:
        number = min(limit, self.expired)
        self.expired -= number
        self.forgotten += number
        return number

    def close(self) -> None:
        self.is_closed = True


class FakeMeter:
    """Counts what becomes of records."""

    def __init__(self) -> None:
        self.lost: Counter[str] = Counter()
        self.queue_length = 0
        self.is_up: bool | None = None
        self.written_count = 0

    def dropped(self, reason: str, number: int) -> None:
        self.lost[reason] += number

    def stores(self, is_up: bool) -> None:
        self.is_up = is_up

    def written(self, number: int) -> None:
        self.written_count += number

    def waiting(self, number: int) -> None:
        self.queue_length = number


class Stage:
    """A recorder and what is around it."""

    def __init__(self, queue_limit: int = 1000, stop_seconds: float = 5.0) -> None:
        self.spool, self.writer, self.meter = FakeSpool(), FakeWriter(), FakeMeter()
        self.recorder = Recorder(self.spool, lambda: self.writer, self.meter, queue_limit, stop_seconds)

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.recorder.put(record_of(number))

    def has_stored(self, number: int) -> bool:
        return wait_until(lambda: len(self.writer.stored) >= number, SOON_SECONDS)


@contextmanager
def running(**options: int) -> Iterator[Stage]:
    stage = Stage(**options)
    stage.recorder.start()
    try:
        yield stage
    finally:
        stage.writer.gate.set()
        stage.recorder.close()


def test_records_go_to_the_database_in_order_and_once() -> None:
    """Given records of one request after the other; then the database has them, and nothing waits any more."""
    with running() as stage:
        stage.put(*range(2000 // 4))
        assert stage.has_stored(500)
        assert wait_until(lambda: stage.meter.queue_length == 0, SOON_SECONDS)
    assert stage.writer.stored == [f"req_gw_{number}" for number in range(500)]
    assert stage.meter.lost == {}
    assert stage.spool.segments == []


def test_records_of_many_threads_all_arrive() -> None:
    """Given threads that put at once; then nothing is lost or doubled."""
    with running(queue_limit=100_000) as stage:
        race(8, lambda thread: stage.put(*range(1000 * thread, 1000 * thread + 500)))
        assert stage.has_stored(4000)
    assert len(set(stage.writer.stored)) == len(stage.writer.stored) == 4000
    assert max(stage.writer.batches) <= 500


def test_a_database_that_is_down_holds_up_nobody_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Given the database is away; then records wait in the spool, are counted, and are stored when it is back."""
    with running() as stage, caplog.at_level(logging.INFO, "gateway.shipper"):
        stage.writer.failure = DatabaseUnavailable("gone")
        stage.put(1, 2)
        assert wait_until(lambda: "the record database cannot be used: gone" in caplog.text, SOON_SECONDS)
        stage.put(3)
        assert wait_until(lambda: stage.meter.queue_length == 3, SOON_SECONDS)
        assert stage.meter.is_up is False
        stage.writer.failure = None
        assert stage.has_stored(3)
        assert wait_until(lambda: stage.meter.is_up is True, SOON_SECONDS)
        assert wait_until(lambda: "records are stored again" in caplog.text, SOON_SECONDS)
        assert wait_until(lambda: stage.meter.queue_length == 0, SOON_SECONDS)
    assert caplog.text.count("gone") == 1
    assert stage.writer.stored == ["req_gw_1", "req_gw_2", "req_gw_3"]


def test_a_record_waits_from_the_moment_it_is_taken() -> None:
    """Given a disk that takes nothing yet; then a record is told of as waiting when `put` returns, and not for ever."""
    with running() as stage:
        stage.spool.gate.clear()
        stage.put(1)
        assert stage.meter.queue_length == 1
        stage.spool.gate.set()
        assert stage.has_stored(1)
        assert wait_until(lambda: stage.meter.queue_length == 0, SOON_SECONDS)


def test_a_database_that_hangs_keeps_nothing_from_the_spool() -> None:
    """Given a database that does not answer; then records are on disk all the same, within a moment."""
    with running() as stage:
        stage.writer.gate.clear()
        stage.put(1)
        assert wait_until(lambda: len(stage.spool.open) == 1, SOON_SECONDS)
        stage.put(2)
        assert wait_until(lambda: len(stage.spool.open) == 2, SOON_SECONDS)
        assert stage.writer.stored == []


def test_a_lost_connection_is_no_outage_yet(caplog: pytest.LogCaptureFixture) -> None:
    """Given a connection that was cut, and a new one that works; then nobody is told, and nothing is lost."""
    caplog.set_level(logging.INFO)
    with running() as stage:
        for number in range(3):
            stage.writer.losses = 1
            stage.put(number)
            assert stage.has_stored(number + 1)
    assert [record.getMessage() for record in caplog.records] == []


def test_a_connection_that_is_lost_again_at_once_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """Given a new connection that is cut, too; then that is told when it begins and when it ends."""
    caplog.set_level(logging.INFO)
    with running() as stage:
        stage.writer.losses = 2
        stage.put(1)
        assert stage.has_stored(1)
        assert wait_until(lambda: "records are stored again" in caplog.text, SOON_SECONDS)
    assert caplog.text.count("the record database cannot be used: cut") == 1


def test_a_segment_that_cannot_be_read_holds_up_no_other() -> None:
    """Given a disk that fails under one segment; then that is given up, and all others are stored."""
    stage = Stage()
    bad = FakeSegment([record_of(1)], failure=OSError(errno.EIO, "Input/output error"))
    stage.spool.segments += [bad, FakeSegment([record_of(2)])]
    stage.recorder.start()
    assert stage.has_stored(1)
    stage.recorder.close()
    assert stage.writer.stored == ["req_gw_2"]
    assert stage.spool.given_up == [bad]


def test_an_unforeseen_failure_does_not_end_the_recording(caplog: pytest.LogCaptureFixture) -> None:
    """Given a bug in the way to the database; then the log has it, and recording goes on."""
    with running() as stage:
        stage.writer.failure = RuntimeError("a bug")
        stage.put(1)
        assert wait_until(lambda: "a bug" in caplog.text, SOON_SECONDS)
        stage.writer.failure = None
        assert stage.has_stored(1)


def test_past_the_queue_s_limit_records_are_dropped_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """Given nobody empties the queue; then it takes so many, the rest is counted; the log has beginning and end."""
    stage = Stage(queue_limit=3)
    stage.put(*range(5))
    assert stage.meter.lost == {"queue_full": 2}
    stage.recorder.start()
    assert stage.has_stored(3)
    stage.recorder.close()
    assert caplog.text.count("records are lost: the queue in memory is full") == 1
    assert "there is room for records again; 2 were lost" in caplog.text


def test_past_the_spool_s_limit_records_are_dropped_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """Given a spool that is full; then what finds no room is counted."""
    stage = Stage()
    stage.spool.room = 2
    stage.put(*range(5))
    stage.recorder.start()
    assert stage.has_stored(2)
    stage.recorder.close()
    assert stage.meter.lost == {"journal_full": 3}
    assert stage.writer.stored == ["req_gw_0", "req_gw_1"]
    assert caplog.text.count("records are lost: the spool is full") == 1


def test_a_disk_that_fails_keeps_records_in_memory_and_in_order(caplog: pytest.LogCaptureFixture) -> None:
    """Given a spool that cannot be written; then records wait in memory, and go on when it can be."""
    with running() as stage, caplog.at_level(logging.INFO, "gateway.recorder"):
        stage.spool.failure = OSError(28, "No space left on device")
        stage.put(1, 2)
        assert wait_until(lambda: "No space left" in caplog.text, SOON_SECONDS)
        stage.put(3)
        stage.spool.failure = None
        assert stage.has_stored(3)
        assert wait_until(lambda: "the spool can be written to again" in caplog.text, SOON_SECONDS)
    assert stage.writer.stored == ["req_gw_1", "req_gw_2", "req_gw_3"]
    assert caplog.text.count("No space left") == 1
    assert "up to 1000 records wait in memory" in caplog.text


def test_records_that_cannot_be_written_down_are_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a bug in the way to the spool; then the log has it, the records are counted, and recording goes on."""
    with running() as stage:
        append = stage.spool.append
        monkeypatch.setattr(stage.spool, "append", lambda records: 1 // 0)
        stage.put(1)
        assert wait_until(lambda: stage.meter.lost == {"refused": 1}, SOON_SECONDS)
        monkeypatch.setattr(stage.spool, "append", append)
        stage.put(2)
        assert stage.has_stored(1)
    assert "ZeroDivisionError" in caplog.text


def test_what_the_database_refuses_and_what_cannot_be_read_is_counted() -> None:
    """Given a record that the database will not have, and damaged lines; then both are counted, and the rest stored."""
    stage = Stage()
    stage.writer.refuses = {"req_gw_2"}
    stage.spool.segments.append(FakeSegment([record_of(1), record_of(2)], damaged=3))
    stage.recorder.start()
    assert stage.has_stored(1)
    stage.recorder.close()
    assert stage.meter.lost == {"damaged": 3, "refused": 1}
    assert stage.spool.segments == []


def test_a_stop_stores_what_there_is() -> None:
    """Given records that came in a moment ago; when the worker stops; then they are stored before it ends."""
    stage = Stage()
    stage.recorder.start()
    stage.put(*range(50))
    stage.recorder.close()
    assert len(stage.writer.stored) == 50
    assert stage.spool.is_closed
    assert stage.writer.is_closed


def test_a_stop_does_not_wait_for_a_database_that_hangs() -> None:
    """Given a database that does not answer; when the worker stops; then it ends in time, its records on disk."""
    stage = Stage(stop_seconds=0.3)
    stage.writer.gate.clear()
    stage.recorder.start()
    stage.put(1)
    stage.recorder.close()
    assert [record.id for record in stage.spool.open] == ["req_gw_1"]
    stage.writer.gate.set()


def test_a_straggler_behind_the_stop_is_in_the_spool() -> None:
    """Given a request that ends while the worker already stops; then its record is written at once."""
    stage = Stage()
    stage.recorder.start()
    stage.recorder.close()
    stage.put(1)
    assert [record.id for record in stage.spool.open] == ["req_gw_1"]


def test_a_straggler_that_finds_no_room_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Given a full disk, and a request that ends when the worker has stored its last; then its record is counted."""
    stage = Stage()
    stage.recorder.start()
    stage.recorder.close()
    stage.spool.failure = OSError(errno.ENOSPC, "No space left on device")
    stage.put(1)
    assert stage.meter.lost == {"journal_full": 1}
    assert "1 records are lost" in caplog.text


def test_a_stop_does_not_wait_for_a_disk_that_hangs() -> None:
    """Given a disk that takes a write and does not end it; when the worker stops; then it ends in time, and counts."""
    stage = Stage(stop_seconds=0.3)
    stage.spool.gate.clear()
    stage.recorder.start()
    stage.put(1)
    assert wait_until(lambda: not stage.recorder._queue, SOON_SECONDS)
    stage.put(2)
    stage.recorder.close()
    assert stage.meter.lost == {"journal_full": 1}
    stage.spool.gate.set()


def test_old_records_are_forgotten_in_batches() -> None:
    """Given more expired records than one batch; then all are forgotten, in several."""
    stage = Stage()
    stage.writer.expired = 1200
    stage.recorder.start()
    stage.put(1)
    assert wait_until(lambda: stage.writer.forgotten == 1200, SOON_SECONDS)
    stage.recorder.close()


def test_no_recorder_records_nothing() -> None:
    """Given recording is switched off; then records go nowhere."""
    sink = NoRecorder()
    sink.put(record_of(1))
    sink.close()


def test_what_a_full_disk_leaves_at_the_end_is_told_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Given a disk that takes nothing up to the end; then what is lost with the process is not lost in silence."""
    with running() as stage:
        stage.spool.failure = OSError(errno.ENOSPC, "No space left on device")
        stage.put(1, 2, 3)
    assert stage.meter.lost == {"journal_full": 3}
    assert "3 records are lost" in caplog.text


def test_what_lies_in_the_spool_is_counted() -> None:
    """Given records, then each is counted when it is written down, and not before."""
    with running() as stage:
        stage.put(*range(5))
        assert stage.has_stored(5)
    assert stage.meter.written_count == 5

"""Whatever a Redis server answers, the gateway serves on, tells it once, and is in step again when it makes sense."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest

from gateway.keys.key_record import Cause, Record
from gateway.keys.pool import LEASE_SECONDS
from gateway.keys.redis.store import RedisStore
from gateway.runtime.machine_clock import machine_time
from tests.harness import wait_until
from tests.stores.odd_redis import OddRedis, as_the_server
from tests.stores.redis_server import RedisServer

SOON_SECONDS = 30.0
_numbers = count()

RUBBISH = {
    "a word": b"+OK\r\n",
    "a number": b":1\r\n",
    "nothing": b"$-1\r\n",
    "no list": b"*-1\r\n",
    "an empty list": b"*0\r\n",
    "an empty text": b"$0\r\n\r\n",
    "a text that is no UTF-8": b"$4\r\n\xff\xfe\x00\x01\r\n",
    "a list of numbers": b"*2\r\n:5\r\n:6\r\n",
    "a list of nothing": b"*2\r\n$-1\r\n$-1\r\n",
    "a list of words": b"*2\r\n$3\r\nabc\r\n$3\r\nabc\r\n",
    "a list of lists": b"*2\r\n*0\r\n*0\r\n",
    "a number that is a text": b"*2\r\n$3\r\nabc\r\n*0\r\n",
    "a number that is no number": b"*2\r\n$3\r\nnan\r\n*0\r\n",
    "a number beyond all": b"*2\r\n$400\r\n" + b"9" * 400 + b"\r\n*0\r\n",
    "a record of one field": b"*2\r\n$1\r\ne\r\n*1\r\n$1\r\n1\r\n",
    "a record of words": b"*2\r\n$1\r\ne\r\n*10\r\n" + b"$1\r\nx\r\n" * 10,
    "a record of nothing": b"*2\r\n$1\r\ne\r\n*10\r\n" + b"$-1\r\n" * 10,
    "an error in a list": b"*2\r\n$1\r\ne\r\n-ERR inside\r\n",
    "a deep list": b"*1\r\n" * 5000 + b":1\r\n",
    "an endless list": b"*1000000000\r\n",
    "a huge text": b"$1000000000\r\nxx",
    "a negative size": b"$-7\r\n",
    "a negative list": b"*-7\r\n",
    "a size that is none": b"$abc\r\n",
    "an odd number": b":1e5\r\n",
    "a long number": b":" + b"9" * 6000 + b"\r\n",
    "a text of another size": b"$2\r\nabcdef\r\n",
    "half an answer": b"*2\r\n$3\r\nabc\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "zeros": bytes(100),
    "a line without an end": b"+" + b"x" * 1_000_000,
    "three answers": b"+OK\r\n+OK\r\n+OK\r\n",
    "RESP3": b"%1\r\n+a\r\n:1\r\n",
    "the end": b"",
    "WRONGTYPE": b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    "NOPERM": b"-NOPERM User default has no permissions to run the 'evalsha' command\r\n",
    "OOM": b"-OOM command not allowed when used memory > 'maxmemory'\r\n",
    "LOADING": b"-LOADING Redis is loading the dataset in memory\r\n",
    "READONLY": b"-READONLY You can't write against a read only replica.\r\n",
    "MOVED": b"-MOVED 3999 127.0.0.1:6381\r\n",
    "NOAUTH": b"-NOAUTH Authentication required.\r\n",
    "NOSCRIPT": b"-NOSCRIPT No matching script\r\n",
    "no word": b"-\r\n",
    "control characters": b"-ERR \x1b[2J\nforged line\x00\xff\r\n",
}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    started = RedisServer()
    yield started
    started.stop()


@pytest.fixture
def line(server: RedisServer) -> Iterator[OddRedis]:
    way = OddRedis(server.port)
    yield way
    way.close()


@pytest.fixture
def store(line: OddRedis) -> Iterator[RedisStore]:
    made = RedisStore(line.url, pull_seconds=0.02, start_timeout_seconds=SOON_SECONDS, lease_timeout_seconds=0.5)
    assert made.is_up
    yield made
    made.close()


@pytest.fixture
def key() -> str:
    """One that no other test uses."""
    return f"{next(_numbers):064x}"


def limited() -> Cause:
    return Cause("rate_limited", 429, machine_time())


def known(store: RedisStore, key: str) -> Record:
    return store.read([key])[0]


def use(store: RedisStore, key: str) -> None:
    """Everything that a request may do with a key."""
    now = machine_time()
    store.read([key])
    store.cool(key, now - 1, 0, limited())
    store.lease(key, now + LEASE_SECONDS, now)
    store.release(key, now + LEASE_SECONDS)
    store.confirm(key, 0, now)
    store.retire(f"{key}-refused", 0, Cause("unauthorized", 401, now))


def is_at_work() -> bool:
    return any(thread.name == "redis-store" for thread in threading.enumerate())


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_rubbish_in_every_answer_is_a_server_that_is_down(
    line: OddRedis, store: RedisStore, key: str, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a server that answers everything with the same rubbish, then requests mark on and wait for nothing, the log
    says once that it is down and once that it is back, and what was marked meanwhile is shared."""
    caplog.set_level(logging.INFO)
    line.answer = lambda command: rubbish
    assert wait_until(lambda: not store.is_up, SOON_SECONDS)
    for _ in range(20):
        use(store, key)
    assert known(store, f"{key}-refused").is_retired
    asked = len(line.asked)
    assert wait_until(lambda: len(line.asked) > asked or not rubbish, SOON_SECONDS), "it is asked again"
    assert not store.is_up
    line.answer = as_the_server
    assert wait_until(lambda: store.is_up, SOON_SECONDS)
    assert store.flush(SOON_SECONDS)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"], caplog.text
    assert caplog.records[0].message.isprintable()
    with closing(RedisStore(line.url, start_timeout_seconds=SOON_SECONDS)) as other:
        assert known(other, f"{key}-refused").is_retired


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
@pytest.mark.parametrize("asked", ["LOOK", "EXCHANGE"])
def test_rubbish_in_one_answer_harms_nobody(
    line: OddRedis, store: RedisStore, key: str, asked: str, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a server that answers one of its commands with rubbish, then no thread fails, and all goes on after it. (An
    empty list is a good answer to some.)"""
    seen = threading.Event()

    def answer(command: str) -> bytes | None:
        if command != asked:
            return None
        seen.set()
        return rubbish

    line.answer = answer
    use(store, key)  # for nothing is exchanged where nothing has changed
    assert seen.wait(SOON_SECONDS)
    for _ in range(5):
        use(store, key)
    line.answer = as_the_server
    assert store.flush(SOON_SECONDS)
    assert wait_until(lambda: store.is_up, SOON_SECONDS)
    assert "Traceback" not in caplog.text
    assert "fails" not in caplog.text
    other = RedisStore(line.url, start_timeout_seconds=SOON_SECONDS)
    assert known(other, f"{key}-refused").is_retired
    other.close()


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_rubbish_to_a_request_that_asks_for_a_lease_is_no_answer(
    line: OddRedis, store: RedisStore, key: str, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a server that answers rubbish to those alone, then one request of this process comes to try the key."""
    line.answer = lambda command: rubbish if command in ("LEASE", "SCRIPT") else None
    store.cool(key, machine_time() - 1, 0, limited())

    def lease() -> bool:
        now = machine_time()
        return store.lease(key, now + LEASE_SECONDS, now)

    assert wait_until(lease, SOON_SECONDS)
    now = machine_time()
    assert not store.lease(key, now + LEASE_SECONDS, now)
    assert "Traceback" not in caplog.text


def test_answer_that_comes_in_drops_has_one_deadline(line: OddRedis, store: RedisStore) -> None:
    """Given a server that sends a byte now and then, for ever, then it is down after the time of one answer."""
    line.drips = True
    assert wait_until(lambda: not store.is_up, SOON_SECONDS)
    line.drips = False
    assert wait_until(lambda: store.is_up, SOON_SECONDS)


# What others have written there.


def odd_members(server: RedisServer, *members: bytes) -> None:
    with server.client() as client:
        client.select(1)
        client.sadd("gateway:keys", *members)


def test_member_that_is_no_name_is_skipped_by_name_and_the_others_count(
    server: RedisServer, line: OddRedis, store: RedisStore, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Given members of the set of names that cannot be decoded, or are something else, then each is told once, and
    marks travel as before."""
    caplog.set_level(logging.INFO)
    odd = [b"\xff\xfe\x00", b"some note", b"\x1b[2Jgateway", b"a" * 100_000, b""]
    odd_members(server, *odd)
    other = RedisStore(line.url, pull_seconds=0.02, start_timeout_seconds=SOON_SECONDS)
    for _ in range(3):
        store.retire(key, 0, Cause("unauthorized", 401, machine_time()))
        assert store.flush(SOON_SECONDS)
        assert other.flush(SOON_SECONDS)
    assert known(other, key).is_retired
    assert store.is_up
    other.close()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 * len(odd), "once in each process"
    assert all("is passed over" in line and line.isprintable() and len(line) < 400 for line in told)
    assert any(r"\xff\xfe" in line for line in told)


ODD_RECORDS = {
    "another type": lambda client, name: client.rpush(name, "x"),
    "a text": lambda client, name: client.set(name, "x"),
    "no fields of ours": lambda client, name: client.hset(name, "field", "x"),
    "a generation that is none": lambda client, name: client.hset(name, mapping={"generation": "abc"}),
    "a negative generation": lambda client, name: client.hset(name, mapping={"generation": "-1"}),
    "a time that is none": lambda client, name: client.hset(name, mapping={"generation": 0, "cooling_until_at": "nan"}),
    "a time beyond all": lambda client, name: client.hset(name, mapping={"generation": 0, "marked_at": "9" * 400}),
    "a fraction": lambda client, name: client.hset(name, mapping={"generation": 0, "status": "4.5"}),
    "a reason of rubbish": lambda client, name: client.hset(name, mapping={"generation": 0, "reason": b"\xff\n"}),
    "a long reason": lambda client, name: client.hset(name, mapping={"generation": 0, "reason": "x" * 10_000}),
}


@pytest.mark.parametrize("write", ODD_RECORDS.values(), ids=ODD_RECORDS)
def test_record_that_no_gateway_wrote_is_passed_over_and_written_anew(
    server: RedisServer, line: OddRedis, store: RedisStore, key: str, write: object
) -> None:
    """Given something odd in the place of one key's record, then the other keys' marks travel, and the next mark of
    that key makes it good; a process that knew the key does so by itself."""
    stranger, fresh = f"{key}-stranger", f"{key}-fresh"
    store.retire(key, 0, Cause("unauthorized", 401, machine_time()))
    assert store.flush(SOON_SECONDS)
    with server.client() as client:
        client.select(1)
        for fingerprint in (key, stranger):
            name = f"gateway:key:{store._name(fingerprint)}"
            client.delete(name)
            write(client, name)  # type: ignore[operator]
            client.sadd("gateway:keys", store._name(fingerprint))
    other = RedisStore(line.url, pull_seconds=0.02, start_timeout_seconds=SOON_SECONDS)
    assert other.is_up
    assert wait_until(lambda: known(other, key).is_retired, SOON_SECONDS)
    other.retire(stranger, 0, Cause("unauthorized", 401, machine_time()))
    other.retire(fresh, 0, Cause("unauthorized", 401, machine_time()))
    assert wait_until(lambda: all(record.is_retired for record in store.read([stranger, fresh])), SOON_SECONDS)
    assert store.is_up
    assert other.is_up
    other.close()


@pytest.mark.parametrize("write", ODD_RECORDS.values(), ids=ODD_RECORDS)
@pytest.mark.parametrize("what", ["lease", "clock"])
def test_odd_lease_or_clock_is_written_anew(
    server: RedisServer, line: OddRedis, store: RedisStore, key: str, what: str, write: object
) -> None:
    """Given something odd where a lease or the server's clock is kept, then leases are given as before."""
    until_at = machine_time() + 0.2
    store.cool(key, until_at, 0, limited())
    assert store.flush(SOON_SECONDS)
    with server.client() as client:
        client.select(1)
        name = "gateway:clock" if what == "clock" else f"gateway:lease:{store._name(key)}"
        client.delete(name)
        write(client, name)  # type: ignore[operator]
    assert wait_until(lambda: machine_time() > until_at, SOON_SECONDS)

    def lease() -> bool:
        now = machine_time()
        return store.lease(key, now + LEASE_SECONDS, now)

    assert wait_until(lease, SOON_SECONDS)
    store.release(key, machine_time() + LEASE_SECONDS)
    assert store.flush(SOON_SECONDS)
    assert store.is_up


def test_defect_of_our_own_ends_no_thread(
    store: RedisStore, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given an exception that nobody thought of, then the store is down, the log has its traceback once, no mark is
    lost, and the thread goes on."""
    caplog.set_level(logging.INFO)
    real = store._exchanges.exchange
    failed = threading.Event()

    def fail(told: object) -> object:
        failed.set()
        raise ZeroDivisionError("nobody thought of it")

    with monkeypatch.context() as patch:
        patch.setattr(store._exchanges, "exchange", fail)
        store.cool(key, machine_time() + 5, 0, limited())  # for nothing is exchanged where nothing has changed
        assert failed.wait(SOON_SECONDS)
        assert wait_until(lambda: not store.is_up, SOON_SECONDS)
        store.retire(key, 0, Cause("unauthorized", 401, machine_time()))
    assert store._exchanges.exchange == real
    assert wait_until(lambda: store.is_up, SOON_SECONDS)
    assert store.flush(SOON_SECONDS)
    assert is_at_work()
    assert caplog.text.count("Traceback") == 1
    assert known(store, key).is_retired

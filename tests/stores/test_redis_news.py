"""What one process marks is published, and the others look at once.

The stores here pull so seldom that only what is published explains what they know.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from gateway.keys.key_record import Cause, Record
from gateway.keys.redis.news import News
from gateway.keys.redis.store import RedisStore
from gateway.keys.redis.wire import Server
from gateway.runtime.machine_clock import machine_time
from tests.harness import wait_until
from tests.stores.odd_redis import OddRedis, as_the_server
from tests.stores.redis_server import RedisServer, tls_server
from tests.stores.silent_path import SilentPath

KEY, OTHER = "11" * 32, "22" * 32
NEVER_SECONDS = 3600.0
SOON_SECONDS = 30.0
NO_NEWS = b"-NOPERM this user has no permissions to access the 'gateway:news:0' channel\r\n"

Maker = Callable[..., RedisStore]


@pytest.fixture
def line(server: RedisServer) -> Iterator[OddRedis]:
    with closing(OddRedis(server.port)) as way:
        yield way


@pytest.fixture
def make(server: RedisServer, client: redis.Redis) -> Iterator[Maker]:
    made: list[RedisStore] = []

    def start(url: str = server.url, **options: object) -> RedisStore:
        store = RedisStore(url, **{"pull_seconds": NEVER_SECONDS, "start_timeout_seconds": SOON_SECONDS, **options})  # type: ignore[arg-type]
        made.append(store)
        return store

    yield start
    for store in made:
        store.close()


def known(store: RedisStore, subject: str = KEY) -> Record:
    return store.read([subject])[0]


def cool(store: RedisStore, subject: str = KEY, rest_seconds: float = 500.0) -> None:
    now = machine_time()
    store.cool(subject, now + rest_seconds, known(store, subject).generation, Cause("rate_limited", 429, now))


def everywhere(stores: list[RedisStore], holds: Callable[[Record], bool], subject: str = KEY) -> bool:
    return wait_until(lambda: all(holds(known(store, subject)) for store in stores), SOON_SECONDS)


def subscribers(client: redis.Redis) -> int:
    ((_, count),) = client.pubsub_numsub("gateway:news:0")
    return int(count)


def test_every_mark_reaches_the_others_without_a_pull(make: Maker) -> None:
    """Given three processes, when one cools, confirms, retires, enables and disables a key, then the others know."""
    stores = [make() for _ in range(3)]
    one, *others = stores
    cool(one, rest_seconds=0.05)
    assert everywhere(others, lambda record: record.limited_count == 1)
    assert everywhere(stores, lambda record: record.is_on_trial(machine_time()))
    one.confirm(KEY, 0, machine_time())
    assert everywhere(others, lambda record: not record.is_unconfirmed)
    others[0].retire(KEY, 0, Cause("unauthorized", 401, machine_time()))
    assert everywhere(stores, lambda record: record.is_retired)
    one.enable(KEY)
    assert everywhere(others, lambda record: record.generation == 1 and not record.is_permanent)
    one.disable(KEY, Cause("operator", 0, machine_time()))
    assert everywhere(others, lambda record: record.is_disabled)
    cool(one, f"{KEY}/messages/opus-5")
    assert everywhere(others, lambda record: record.is_cooling(machine_time()), f"{KEY}/messages/opus-5")


def test_mark_of_a_process_that_ends_reaches_the_others(make: Maker) -> None:
    """Given a command of the operator's, which changes a key and ends, then the gateways know."""
    gateways = [make(), make()]
    with closing(make()) as operator:
        operator.disable(KEY, Cause("operator", 0, machine_time()))
    assert everywhere(gateways, lambda record: record.is_disabled)


def test_another_database_of_the_server_hears_nothing(make: Maker, line: OddRedis) -> None:
    """Given a gateway that uses database 1, when one of database 0 marks a key, then the first is not woken."""
    make(line.url)
    one, other = make(), make()
    line.asked.clear()
    cool(one)
    assert everywhere([other], lambda record: record.limited_count == 1)
    assert line.asked == []


def test_only_what_changes_use_is_published(client: redis.Redis, make: Maker) -> None:
    """Given a mark that changes a count alone, and a process that tells what is known, then nothing is published."""
    store = make()
    cool(store)
    assert store.flush(SOON_SECONDS)
    with closing(client.pubsub(ignore_subscribe_messages=True)) as heard:
        heard.subscribe("gateway:news:0")
        heard.get_message(timeout=SOON_SECONDS)  # that it has subscribed
        cool(store, rest_seconds=1.0)  # the longer rest stays
        assert store.flush(SOON_SECONDS)
        assert make().flush(SOON_SECONDS)
        cool(store, rest_seconds=900.0)
        assert store.flush(SOON_SECONDS)
        client.publish("gateway:news:0", "the end")
        said = []
        while (message := heard.get_message(timeout=SOON_SECONDS)) is None or message["data"] != "the end":
            said += [message["data"]] if message is not None else []
    assert len(said) == 1


def test_many_marks_are_looked_at_together(make: Maker, line: OddRedis) -> None:
    """Given a process that marks without a pause, then another looks less often than that, and knows the last mark."""
    writer, reader = make(), make(line.url.removesuffix("/1") + "/0")
    assert writer.flush(SOON_SECONDS)
    assert reader.flush(SOON_SECONDS)
    line.asked.clear()
    told = 0
    for number in range(400):
        cool(writer, f"{number % 20:064x}", 500.0 + number)
        told += writer.flush(SOON_SECONDS)
    assert told == 400
    assert everywhere([reader], lambda record: record.limited_count == 20, f"{19:064x}")
    assert 0 < line.asked.count("LOOK") < 300


def test_lost_connection_loses_no_mark(client: redis.Redis, make: Maker) -> None:
    """Given subscriptions that the server ends, again and again, while keys are marked, then every mark arrives."""
    stores = [make(), make()]
    for number in range(4):
        assert wait_until(lambda: subscribers(client) == 2, SOON_SECONDS)
        client.client_kill_filter(_type="pubsub")
        cool(stores[number % 2], rest_seconds=500.0 + number)
        assert everywhere(stores, lambda record, number=number: record.limited_count == number + 1)


def test_mark_made_between_two_connections_is_seen(client: redis.Redis, make: Maker) -> None:
    """Given a mark that nobody published, when the subscription breaks, then a look follows that finds the mark."""
    store = make()
    cool(store)
    assert store.flush(SOON_SECONDS)
    client.hset(f"gateway:key:{store._name(KEY)}", "is_disabled", 1)
    assert wait_until(lambda: subscribers(client) == 1, SOON_SECONDS)
    client.client_kill_filter(_type="pubsub")
    assert everywhere([store], lambda record: record.is_disabled)


def test_server_that_comes_back_is_heard_again() -> None:
    """Given a server that was killed and started again, then what one process marks reaches the other as before."""
    server = RedisServer()
    stores = [RedisStore(server.url, pull_seconds=NEVER_SECONDS, start_timeout_seconds=SOON_SECONDS) for _ in range(2)]
    try:
        server.kill()
        assert wait_until(lambda: not any(store.is_up for store in stores), SOON_SECONDS)
        server.start()
        assert wait_until(lambda: all(store.is_up for store in stores), SOON_SECONDS)
        cool(stores[0])
        assert everywhere(stores, lambda record: record.limited_count == 1)
    finally:
        for store in stores:
            store.close()
        server.stop()


def test_path_that_falls_silent_is_noticed(server: RedisServer) -> None:
    """Given a subscription that something on the way has dropped without a word, then it is made once more."""
    with closing(SilentPath(server.port)) as path:
        news = News(Server(path.through(server.url), "gateway:"), "me", life_seconds=0.05)
        news.tend()
        path.fall_silent()

        def is_connected() -> bool:
            news.wait(1.0)
            news.tend()
            return "is_connected=True" in repr(news)

        assert wait_until(lambda: not is_connected(), SOON_SECONDS)
        path.recover()
        assert wait_until(is_connected, SOON_SECONDS)
        news.close()


def test_sign_of_life_keeps_the_connection(server: RedisServer) -> None:
    """Given a connection that is asked for a sign of life again and again, then it stays."""
    with closing(SilentPath(server.port)) as path:
        news = News(Server(path.through(server.url), "gateway:"), "me", life_seconds=2.0)
        for _ in range(4):  # each wait ends when the next sign of life is due
            news.tend()
            news.wait(SOON_SECONDS)
        assert path.connections == 1
        news.close()


def test_server_that_lets_nobody_subscribe_is_told_once_and_pulls_go_on(
    make: Maker, server: RedisServer, line: OddRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a server, or a proxy, that refuses SUBSCRIBE, then marks arrive by pull, the store is up, and one line says
    so; when it no longer refuses, another line says that."""
    caplog.set_level(logging.INFO)
    line.answer = lambda command: NO_NEWS if command == "SUBSCRIBE" else None
    store = make(line.url, pull_seconds=0.02)
    assert wait_until(lambda: "lets nobody subscribe" in caplog.text, SOON_SECONDS)
    writer = make(server.url.removesuffix("/0") + "/1")
    cool(writer)
    assert everywhere([store], lambda record: record.limited_count == 1)
    assert store.is_up
    line.answer = as_the_server
    assert wait_until(lambda: "is heard again" in caplog.text, SOON_SECONDS)
    (told,) = [record.getMessage() for record in caplog.records if "subscribe" in record.getMessage()]
    assert "NOPERM" in told


def test_user_that_may_use_no_channel_marks_as_before(make: Maker, client: redis.Redis, server: RedisServer) -> None:
    """Given a user of the server who may use all keys and commands and no channel, then marks travel by pull."""
    client.acl_setuser(
        "quiet", enabled=True, passwords=["+s3cr3t"], keys=["*"], categories=["+@all"], reset_channels=True
    )
    url = f"redis://quiet:s3cr3t@127.0.0.1:{server.port}/0"
    stores = [make(url, pull_seconds=0.02) for _ in range(2)]
    cool(stores[0])
    assert everywhere(stores, lambda record: record.limited_count == 1)
    assert all(store.is_up for store in stores)
    assert subscribers(client) == 0


RUBBISH = {
    "a word": b"+OK\r\n",
    "a number": b":1\r\n",
    "nothing": b"$-1\r\n",
    "an empty list": b"*0\r\n",
    "another message": b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n*-1\r\n",
    "no RESP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "half an answer": b"*3\r\n$7\r\nmess",
    "a deep list": b"*1\r\n" * 5000,
    "a huge text": b"$1000000000\r\nxx",
    "an error": b"-ERR unknown command\r\n",
    "the end": b"",
}


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_rubbish_that_is_heard_harms_nobody(
    make: Maker, line: OddRedis, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a server that answers a subscription with rubbish, then marks travel by pull, no thread fails, and the log
    has no traceback."""
    line.answer = lambda command: rubbish if command == "SUBSCRIBE" else None
    stores = [make(line.url, pull_seconds=0.02) for _ in range(2)]
    cool(stores[0], OTHER)
    assert everywhere(stores, lambda record: record.is_cooling(machine_time()), OTHER)
    assert all(store.is_up for store in stores)
    assert "Traceback" not in caplog.text
    assert "fails" not in caplog.text


def test_tls_is_heard_alike(tmp_path: Path) -> None:
    """Given a server that speaks TLS, then what one process marks reaches the other without a pull."""
    server, url = tls_server(tmp_path)
    stores = [RedisStore(url, pull_seconds=NEVER_SECONDS, start_timeout_seconds=SOON_SECONDS) for _ in range(2)]
    try:
        for number in range(20):
            cool(stores[number % 2], rest_seconds=500.0 + number)
            assert everywhere(stores, lambda record, number=number: record.limited_count == number + 1)
    finally:
        for store in stores:
            store.close()
        server.stop()


def test_setting_it_from_many_threads_ends_the_rest_and_closing_is_final(server: RedisServer) -> None:
    """Given threads that set it while it waits and after it was closed, then it returns, and nothing fails."""
    news = News(Server(server.url, "gateway:"), "me")
    for _ in range(50):
        threads = [threading.Thread(target=news.set) for _ in range(4)]
        for thread in threads:
            thread.start()
        news.wait(SOON_SECONDS)
        for thread in threads:
            thread.join(SOON_SECONDS)
        news.clear()
    news.close()
    news.close()
    news.set()
    news.clear()
    assert "is_connected=False" in repr(news)

"""Records with details on a Redis server: what crosses the wire, what is kept there, and what earlier gateways see."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from gateway.keys.key_record import NEVER_SEEN, Cause, Record
from gateway.keys.redis import exchange as redis_exchange
from gateway.keys.redis.exchange import Exchanges
from gateway.keys.redis.store import RedisStore
from gateway.keys.redis.wire import Server, ServerClock
from gateway.keys.replica import Told
from gateway.keys.subjects import DAY_SECONDS
from gateway.runtime.machine_clock import machine_time
from tests.harness import wait_until
from tests.stores import former_redis_scripts
from tests.stores.odd_redis import OddRedis
from tests.stores.redis_server import RedisServer

KEY, OTHER = "11" * 32, "22" * 32
SCOPE = f"{KEY}/messages/opus-5"
PATIENCE_SECONDS = 30.0
PULL_SECONDS = 0.02

Maker = Callable[..., RedisStore]


@pytest.fixture
def make(server: RedisServer, client: redis.Redis) -> Iterator[Maker]:
    made: list[RedisStore] = []

    def start(url: str = server.url, **options: object) -> RedisStore:
        store = RedisStore(url, **{"pull_seconds": PULL_SECONDS, "start_timeout_seconds": 10.0, **options})  # type: ignore[arg-type]
        made.append(store)
        return store

    yield start
    for store in made:
        store.close()


def cool(store: RedisStore, subject: str, cooldown_seconds: float = 50.0) -> None:
    now = machine_time()
    store.cool(subject, now + cooldown_seconds, 0, Cause("rate_limited", 429, now))


def known(store: RedisStore, subject: str) -> Record:
    return store.read([subject])[0]


def flushed(*stores: RedisStore) -> None:
    for store in stores:
        assert store.flush(PATIENCE_SECONDS)


class FormerGateway:
    """One that knows of no details, as far as its scripts go."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def names(self) -> list[str]:
        """All that it takes for names; it gives a warning for each that is none."""
        _, names = self._client.eval(former_redis_scripts.LOOK, 2, "gateway:clock", "gateway:keys")
        return list(names)

    def exchange(self, name: str, *told: object) -> list[str]:
        """Tell what it knows of a key, or nothing; the server's record."""
        keys = ["gateway:clock", "gateway:epoch", "gateway:keys", f"gateway:key:{name}", f"gateway:lease:{name}"]
        void_after = round((time.time() + 10) * 1e6)
        arguments = [void_after, secrets.token_hex(16), name, "", *(told or [""])]
        _, record = self._client.eval(former_redis_scripts.EXCHANGE, len(keys), *keys, *arguments)
        return list(record)

    def retire(self, name: str) -> None:
        marked_at = round(time.time() * 1e6)
        self.exchange(name, 0, 0, 0, 1, 0, marked_at, "unauthorized", 401, 0, 0, 0, 1)


def test_earlier_and_later_gateways_share_keys(client: redis.Redis, make: Maker) -> None:
    """Given an earlier gateway and two later ones over one server, then the marks of keys travel both ways and are
    joined, and the earlier one sees no name that it would warn of, nor is a detail lost by what it writes."""
    stores = [make(), make()]
    former = FormerGateway(client)
    cool(stores[0], KEY)
    cool(stores[0], SCOPE)
    flushed(*stores)
    name = stores[0]._name(KEY)
    assert former.names() == [name]
    assert former.exchange(name)[6:9] == ["rate_limited", "429", "1"]
    former.retire(name)
    former.retire(stores[0]._name(OTHER))
    for store in stores:
        assert wait_until(
            lambda store=store: all(record.is_retired for record in store.read([KEY, OTHER])), PATIENCE_SECONDS
        )
        assert (known(store, KEY).limited_count, known(store, KEY).refused_count) == (1, 1)
        assert wait_until(lambda store=store: known(store, SCOPE).limited_count == 1, PATIENCE_SECONDS)
    stores[1].enable(KEY)
    flushed(*stores)
    assert former.exchange(name)[0] == "1", "the generation"
    assert sorted(former.names()) == sorted([name, stores[0]._name(OTHER)])


def test_idle_pull_is_one_small_round_trip(server: RedisServer, client: redis.Redis, make: Maker) -> None:
    """Given 2,000 details and twenty keys that are known, then a pull asks one short question and hears a short answer,
    and after one change only that record crosses."""
    writer = make(pull_seconds=30.0)
    for number in range(20):
        cool(writer, f"{number:064x}")
    for number in range(2000):
        cool(writer, f"session/{number}")
    flushed(writer, writer)
    line = OddRedis(server.port)
    client.select(0)
    try:
        reader = make(line.url.removesuffix("/1") + "/0", pull_seconds=30.0)
        assert wait_until(lambda: len(reader.details("session")) == 2000, PATIENCE_SECONDS)
        flushed(reader)
        line.asked.clear()
        before = client.info("stats")
        flushed(*[reader] * 10)
        after = client.info("stats")
        assert set(line.asked) == {"LOOK"}
        assert len(line.asked) in (10, 11)
        assert after["total_net_output_bytes"] - before["total_net_output_bytes"] < 20_000
        assert after["total_net_input_bytes"] - before["total_net_input_bytes"] < 20_000
        before = reader.glance()
        cool(writer, "session/7", 90.0)
        flushed(writer)
        sent = client.info("stats")["total_net_output_bytes"]
        flushed(reader)
        assert client.info("stats")["total_net_output_bytes"] - sent < 20_000
        assert reader.glance() == before + 1
        assert known(reader, "session/7").limited_count == 2
    finally:
        for store in (writer, reader):
            store.close()
        line.close()


def test_records_with_details_expire_and_others_do_not(client: redis.Redis, make: Maker) -> None:
    """Given a key and details that cool down, cool down for long, and are permanent, then details expire a day after
    their cooldown, later with each new mark, and the permanent one and the key never."""
    store = make()
    for subject, cooldown_seconds in ((KEY, 50.0), (SCOPE, 50.0), (f"{KEY}/files", 10 * DAY_SECONDS)):
        cool(store, subject, cooldown_seconds)
    store.disable(f"{KEY}/skills", Cause("operator", 0, machine_time()))
    flushed(store)

    def left(subject: str) -> int:
        return int(client.ttl(f"gateway:key:{store._name(subject)}"))

    assert left(KEY) == -1
    assert left(f"{KEY}/skills") == -1
    assert left(SCOPE) == pytest.approx(DAY_SECONDS + 50, abs=PATIENCE_SECONDS)
    assert left(f"{KEY}/files") == pytest.approx(11 * DAY_SECONDS, abs=PATIENCE_SECONDS)
    client.expire(f"gateway:key:{store._name(SCOPE)}", 500)
    cool(store, SCOPE, 90.0)
    store.enable(f"{KEY}/skills")
    flushed(store)
    assert left(SCOPE) == pytest.approx(DAY_SECONDS + 90, abs=PATIENCE_SECONDS)
    assert left(f"{KEY}/skills") == pytest.approx(DAY_SECONDS, abs=PATIENCE_SECONDS)


def test_spent_record_is_not_told_again_and_its_name_leaves(client: redis.Redis, make: Maker) -> None:
    """Given a record that the server let go, then one that was spent is not told again by those who know it and its
    name leaves the set; one that was not spent is told again."""
    stores = [make(), make()]
    spent = f"{KEY}/spent"
    long_ago = machine_time() - 2 * DAY_SECONDS
    for store in stores:
        store.cool(spent, long_ago, 0, Cause("rate_limited", 429, long_ago))
        assert spent.partition("/")[2] in store.details(KEY)
    cool(stores[0], SCOPE)
    stores[0].enable(f"{KEY}/enabled")
    flushed(*stores)
    names = [stores[0]._name(subject) for subject in (spent, SCOPE, f"{KEY}/enabled")]
    client.zadd("gateway:details", {names[0]: 1})  # as if it had been told when it was new
    client.delete(*[f"gateway:key:{name}" for name in names])
    assert wait_until(lambda: client.exists(f"gateway:key:{names[1]}") == 1, PATIENCE_SECONDS)
    assert wait_until(lambda: client.zrange("gateway:details", 0, -1) == [names[1]], PATIENCE_SECONDS)
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # whoever connects tells all it knows
    assert wait_until(lambda: all(store.flush(1.0) for store in stores), PATIENCE_SECONDS)
    assert client.keys("gateway:key:*") == [f"gateway:key:{names[1]}"]
    for store in stores:
        assert "spent" not in store.details(KEY)


def test_flushed_server_is_told_the_details_again(client: redis.Redis, make: Maker) -> None:
    """Given a server that lost all, also where no key is known, then the details are back, and newcomers know them."""
    stores = [make(), make()]
    for number in range(1200):
        cool(stores[number % 2], f"session/{number}")
    flushed(*stores)
    assert wait_until(lambda: all(len(store.details("session")) == 1200 for store in stores), PATIENCE_SECONDS)
    client.flushall()
    assert wait_until(lambda: client.zcard("gateway:details") == 1200, PATIENCE_SECONDS)
    newcomer = make()
    assert len(newcomer.details("session")) == 1200
    assert {record.limited_count for record in newcomer.read([f"session/{number}" for number in range(1200)])} == {1}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda client: client.delete("gateway:version"),
        lambda client: client.delete("gateway:version", "gateway:details"),
        lambda client: client.set("gateway:version", "rubbish"),
        lambda client: (client.delete("gateway:version"), client.rpush("gateway:version", "rubbish")),
    ],
    ids=["gone", "gone with the names", "no number", "another type"],
)
def test_lost_version_loses_no_change(client: redis.Redis, make: Maker, spoil: Callable[[redis.Redis], object]) -> None:
    """Given a version that the server lost, or that became something else, then changes travel as before."""
    stores = [make(), make()]
    for number in range(10):
        cool(stores[0], f"session/{number}")
    flushed(*stores)
    spoil(client)
    cool(stores[0], SCOPE)
    flushed(stores[0])
    assert wait_until(lambda: known(stores[1], SCOPE).limited_count == 1, PATIENCE_SECONDS)
    cool(stores[1], SCOPE, 90.0)
    assert wait_until(lambda: known(stores[0], SCOPE).limited_count == 2, PATIENCE_SECONDS)


def test_details_that_no_gateway_wrote_are_passed_over(
    client: redis.Redis, make: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """Given odd members of the set of names with details, and something odd in a record's place, then each is told
    once, the others count, and the next mark of that detail makes it good."""
    caplog.set_level(logging.INFO)
    store = make()
    cool(store, KEY)
    flushed(store)
    place = f"gateway:key:{store._name(SCOPE)}"
    client.rpush(place, "x")
    odd = [f"{'ab' * 32}/a b", f"{'ab' * 32}/{'x' * 161}", f"{'ab' * 32}/", "note", "\x1b[2J/x"]
    for number, member in enumerate([*odd, store._name(SCOPE)], start=1):
        client.hset(f"gateway:key:{member}", "generation", 0) if member in odd else None
        client.zadd("gateway:details", {member: number})
    client.zadd("gateway:details", {"far/off": 1e300, "farther/off": "inf", "half/way": 0.5})
    client.set("gateway:version", 10)
    other = make()
    assert wait_until(lambda: len(caplog.records) >= len(odd) + 1, PATIENCE_SECONDS)
    cool(store, SCOPE)
    assert wait_until(lambda: known(other, SCOPE).limited_count == 1, PATIENCE_SECONDS)
    flushed(store, other)
    assert store.is_up
    assert other.is_up
    assert all("is passed over" in record.getMessage() for record in caplog.records), caplog.text
    told = [record.getMessage() for record in caplog.records]
    assert max(told.count(line) for line in told) <= 2, "once in each process"


def test_server_keeps_no_more_details_than_it_may(
    client: redis.Redis, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given more details than that, then those that were changed first go, with their records."""
    monkeypatch.setattr(redis_exchange, "MOST_DETAILED", 10)
    exchanges = Exchanges(Server(server.url, "gateway:"), ServerClock(), time.time)
    exchanges.connect()
    try:
        base = "ab" * 32
        for number in range(25):
            news = Told(Record(limited_count=1, marked_at=float(number + 1)), True, 0, 0, "")
            exchanges.exchange({f"{base}/{number}": news, f"{number:064x}": news})
        kept = [f"{base}/{number}" for number in range(15, 25)]
        assert client.zrange("gateway:details", 0, -1) == kept
        assert sorted(client.keys("gateway:key:*/*")) == sorted(f"gateway:key:{name}" for name in kept)
        assert client.scard("gateway:keys") == 25
    finally:
        exchanges.close()


def test_telling_what_is_there_already_changes_nothing(client: redis.Redis, make: Maker) -> None:
    """Given a process that connects again and tells all it knows, then nobody has anything to hear."""
    stores = [make(), make()]
    cool(stores[0], SCOPE)
    flushed(*stores, *stores)
    assert wait_until(lambda: known(stores[1], SCOPE) != NEVER_SEEN, PATIENCE_SECONDS)
    before = client.get("gateway:version")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert wait_until(lambda: all(store.flush(1.0) for store in stores), PATIENCE_SECONDS)
    assert int(client.get("gateway:version")) - int(before) <= 1

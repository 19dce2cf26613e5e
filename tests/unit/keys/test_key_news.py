"""What the log says of keys that change without a request of this worker's: the operator, others, and time."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from gateway.keys.key_news import KeyNews
from gateway.keys.places import Place
from gateway.keys.pool import BY_OPERATOR, Pool
from gateway.keys.store import MemoryStore
from gateway.keys.verdict import Concern
from gateway.runtime.chair import Chair
from tests.harness import wait_until
from tests.unit.fakes import FakeClock, keys_of

SCOPE = "messages/opus-4"


Events = list[tuple[str, str, float]]


class Scene:
    """Two processes with one store, each with a pool of its own; the log's lines are of the first."""

    def __init__(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.folder = folder
        self._caplog = caplog
        self.events: Events = []
        self.pool = self.another_pool()
        self.others = self.another_pool()
        self.news = self.news_of(self.pool)
        assert self.told() == []

    def another_pool(self, count: int = 2) -> Pool:
        return Pool(keys_of(count), self.store, self.clock)

    def news_of(self, pool: Pool, lock: str = "lock", others: str | None = "another gateway") -> KeyNews:
        return KeyNews(lambda: pool, self.folder / lock, others, self.clock, self.happened)

    def happened(self, what: str, key: str, ago_seconds: float) -> None:
        """What hears of events."""
        self.events.append((what, key, ago_seconds))

    def told(self, seconds: float = 1.0) -> list[str]:
        """What is told after so long, without the keys' hints."""
        self._caplog.clear()
        self.clock.advance(seconds)
        self.news.step()
        return [message.replace(f" ({key.hint})", "") for message in self._caplog.messages for key in keys_of(1)]

    def cool(self, pool: Pool, number: int, seconds: float, reason: str = "rate_limited", **more: Concern) -> bool:
        status = pool.statuses(SCOPE)[number]
        return pool.cool(status, seconds, reason, 0 if reason == BY_OPERATOR else 429, **more)


@pytest.fixture
def scene(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Scene:
    caplog.set_level(logging.INFO, "gateway.keys.key_news")
    return Scene(tmp_path, caplog)


def test_the_operators_hand_is_told(scene: Scene) -> None:
    """Given a command beside the gateway that disables, enables and cools a key, then a line each, once."""
    scene.others.disable(scene.pool.keys[0])
    assert scene.told() == ["key k0 is disabled by the operator: it gets no requests until it is enabled"]
    assert scene.told() == []
    scene.others.enable(scene.pool.keys[0])
    assert scene.told() == [
        "key k0 is enabled by the operator: what was held against it is forgotten, and it is used again"
    ]
    scene.cool(scene.others, 0, 91.0, BY_OPERATOR)
    assert scene.told() == [
        "key k0 is cooling down for 90.0 s, by the operator's command; then one request tries it",
    ]
    assert scene.told() == []
    scene.cool(scene.others, 0, 501.0, BY_OPERATOR)
    assert scene.told() == ["key k0 is cooling down for 500.0 s, by the operator's command; then one request tries it"]


def test_the_operators_hand_is_told_where_it_is_this_process_itself(scene: Scene) -> None:
    """Given an operator who uses this very worker, then the lines are the same."""
    scene.pool.disable(scene.pool.keys[0])
    assert len(scene.told()) == 1
    scene.pool.enable(scene.pool.keys[0])
    assert len(scene.told()) == 1
    scene.cool(scene.pool, 0, 91.0, BY_OPERATOR)
    assert len(scene.told()) == 1


def test_marks_of_others_are_told_with_their_origin(scene: Scene) -> None:
    """Given marks that another gateway has made, for a scope and of a whole key, then a line each that says so."""
    scene.cool(scene.others, 0, 41.0, concern=Concern.SCOPE)
    assert scene.told() == [
        f"key k0 is cooling down for 40.0 s for {SCOPE}: rate_limited (429), as another gateway found; then one "
        "request tries it"
    ]
    scene.others.retire(scene.others.statuses()[0], "unauthorized", 401)
    assert scene.told() == [
        "key k0 is retired: unauthorized (401), as another gateway found; it gets no requests until the upstream "
        "accepts it again or the operator enables it"
    ]
    scene.others.revive(scene.others.statuses()[0])
    assert scene.told() == ["key k0 is valid again, as another gateway found"]
    assert scene.told() == []


def test_marks_of_this_gateways_other_workers_are_told_by_them_alone(scene: Scene) -> None:
    """Given a gateway that shares its keys with no other, when another worker marks keys, which it tells itself, then
    only the end of a cooldown is told here."""
    scene.news = scene.news_of(scene.pool, "alone", others=None)
    assert scene.told() == []
    scene.others.retire(scene.others.statuses()[1], "unauthorized", 401)
    scene.cool(scene.others, 0, 41.0, concern=Concern.SCOPE)
    assert scene.told() == []
    scene.others.revive(scene.others.statuses()[1])
    assert scene.told() == []
    assert scene.told(40.0) == [f"key k0 is back for {SCOPE}: its cooldown is over; one request tries it first"]


def test_own_marks_are_left_to_the_observer(scene: Scene) -> None:
    """Given marks of this process, and a key that it found to be accepted again, then nothing is told twice."""
    scene.cool(scene.pool, 0, 41.0, concern=Concern.SCOPE)
    assert scene.told() == []
    scene.pool.retire(scene.pool.statuses()[0], "unauthorized", 401)
    assert scene.told() == []
    scene.pool.revive(scene.pool.statuses()[0])
    assert scene.told() == []


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("is_confirmed", [True, False])
def test_a_key_that_is_back_is_told(scene: Scene, is_own: bool, is_confirmed: bool) -> None:
    """Given a key whose cooldown ends, whoever had marked it, and whether or not a request was quicker to try it, then
    a line says for what it is back, once."""
    scene.cool(scene.pool if is_own else scene.others, 0, 41.0, concern=Concern.SCOPE)
    scene.told()
    assert scene.told(39.0) == []
    scene.clock.advance(1.0)
    if is_confirmed:
        scene.pool.confirm(scene.pool.statuses(SCOPE)[0], costs=True)
    assert scene.told(0.5) == [f"key k0 is back for {SCOPE}: its cooldown is over; one request tries it first"]
    assert scene.told() == []


def test_what_several_keys_share_is_told_once(scene: Scene) -> None:
    """Given an organisation without money, then one line, of its first key, and one when it is back."""
    for pool in (scene.pool, scene.others):
        for key in pool.keys:
            pool.learn(key, Place("org-a", "ws-1"))
    scene.told()
    scene.cool(scene.others, 1, 61.0, "out_of_credit", concern=Concern.ORGANISATION)
    (line,) = scene.told()
    assert line.startswith("key k0 is cooling down for 60.0 s with its organisation: out_of_credit")
    assert scene.told(60.0) == [
        "key k0 is back with its organisation: its cooldown is over; one request tries it first"
    ]


def test_what_goes_with_an_enabled_key_is_not_told_besides(scene: Scene) -> None:
    """Given a key that cools for a scope and with its organisation, when the operator enables it, then one line."""
    for pool in (scene.pool, scene.others):
        pool.learn(pool.keys[0], Place("org-a", "ws-1"))
    scene.told()
    scene.cool(scene.pool, 0, 600.0, concern=Concern.SCOPE)
    scene.cool(scene.pool, 0, 600.0, "out_of_credit", concern=Concern.ORGANISATION)
    scene.told()
    scene.others.enable(scene.pool.keys[0])
    (line,) = scene.told()
    assert "is enabled by the operator" in line
    assert scene.told() == []


def test_one_worker_tells_and_the_next_goes_on(scene: Scene) -> None:
    """Given two workers, then the one with the chair tells; when it has left, the other does, of what is new then."""
    first = Chair(scene.folder / "other")
    assert first.is_taken()
    scene.news = scene.news_of(scene.others, "other")
    assert scene.told() == []
    scene.others.disable(scene.pool.keys[0])
    assert scene.told() == []
    first.leave()
    scene.others.enable(scene.pool.keys[0])
    assert len(scene.told()) == 1


def test_keys_that_a_reload_brings_are_no_news(scene: Scene) -> None:
    """Given keys that are out of use already when a reload brings them, then nothing is told of that."""
    pool = scene.another_pool(3)
    pool.disable(pool.keys[2])
    pools = [scene.pool]
    scene.news = KeyNews(lambda: pools[-1], scene.folder / "other", "another gateway", scene.clock)
    assert scene.told() == []
    pools.append(pool)
    assert scene.told() == []
    pool.enable(pool.keys[2])
    assert len(scene.told()) == 1


def test_every_change_is_an_event_whoever_made_it(scene: Scene) -> None:
    """Given marks of this worker, of others and of the operator, and their ends, then each is an event with its age."""
    for pool, origin in ((scene.pool, 0), (scene.others, 1)):
        scene.cool(pool, origin, 30.0, concern=Concern.SCOPE)
    scene.told(1.0)
    assert scene.events == [
        (f"is cooling down for 30 s for {SCOPE}: rate limited (429)", f"k{number}", 1.0) for number in (0, 1)
    ]
    scene.told(30.0)
    assert scene.events[2:] == [(f"is back for {SCOPE}", f"k{number}", 0.0) for number in (0, 1)]
    scene.events.clear()
    status = scene.pool.statuses()[0]
    scene.pool.retire(status, "unauthorized", 401)
    scene.told(0.5)
    scene.pool.revive(scene.pool.statuses()[0])
    scene.told(1.0)
    scene.others.disable(scene.pool.keys[0])
    scene.told(1.0)
    scene.others.enable(scene.pool.keys[0])
    scene.told(1.0)
    scene.cool(scene.others, 0, 90.0, BY_OPERATOR)
    scene.told(1.0)
    assert scene.events == [
        ("was refused (401) and is retired", "k0", 0.5),
        ("is accepted again", "k0", 0.0),
        ("was disabled by the operator", "k0", 1.0),
        ("was enabled by the operator", "k0", 1.0),
        ("was put aside by the operator for 90 s", "k0", 1.0),
    ]


def test_key_that_was_enabled_and_refused_again_is_told(scene: Scene) -> None:
    """Given a retired key that is enabled, and refused before the next look, then the log and the events say so."""
    scene.pool.retire(scene.pool.statuses(SCOPE)[0], "unauthorized", 401)
    scene.told(1.0)
    scene.others.enable(scene.pool.keys[0])
    scene.pool.retire(scene.pool.statuses(SCOPE)[0], "unauthorized", 401)
    assert scene.told(1.0) == ["key k0 was enabled, or accepted by the upstream, and was refused again within a second"]
    assert scene.events[-1] == ("was valid for a moment, was refused (401) again and is retired", "k0", 1.0)
    assert scene.told() == []


def test_a_scope_that_was_answered_for_is_back_as_an_event(scene: Scene) -> None:
    """Given a cooldown whose end a request was quick to confirm, then it is an event of now."""
    scene.cool(scene.pool, 0, 30.0, concern=Concern.SCOPE)
    scene.told(1.0)
    scene.clock.advance(29.0)
    scene.pool.confirm(scene.pool.statuses(SCOPE)[0], costs=True)
    scene.told(1.0)
    assert scene.events[1:] == [(f"is back for {SCOPE}", "k0", 0.0)]


def test_a_second_aside_is_told_as_such(scene: Scene) -> None:
    """Given an operator who puts a key aside for a second, then the event says so."""
    scene.cool(scene.others, 0, 1.0, BY_OPERATOR)
    scene.told(0.5)
    assert scene.events == [("was put aside by the operator for 1 s", "k0", 0.5)]


def test_no_event_is_of_the_future(scene: Scene) -> None:
    """Given a mark of a process whose clock is ahead, then it is an event of now."""
    scene.clock.advance(5.0)
    scene.pool.retire(scene.pool.statuses()[0], "unauthorized", 401)
    scene.told(-3.0)
    assert scene.events == [("was refused (401) and is retired", "k0", 0.0)]


def test_what_was_known_when_a_key_came_is_no_news(scene: Scene) -> None:
    """Given a key that a reload brings, and that was disabled at the moment of the last look, then that is no news."""
    pool = scene.another_pool(3)
    pools = [scene.pool]
    scene.news = KeyNews(lambda: pools[-1], scene.folder / "other", None, scene.clock, scene.happened)
    scene.told(1.0)
    pool.disable(pool.keys[2])
    pools.append(pool)
    scene.told(1.0)
    assert scene.events == []


def test_news_are_looked_for_in_a_thread_until_it_is_stopped(scene: Scene) -> None:
    """Given news that are begun, then a thread looks; when they are stopped, another worker may take the chair."""
    looked = threading.Event()
    news = KeyNews(lambda: looked.set() or scene.pool, scene.folder / "thread", None, scene.clock)
    news.start()
    assert looked.wait(30)
    news.stop()
    assert wait_until(Chair(scene.folder / "thread").is_taken, 30)


def test_cooldown_that_is_over_before_anybody_looks_is_an_event(scene: Scene) -> None:
    """Given a cooldown of half a second, when it is looked for a second later, then it is told all the same."""
    scene.pool.cool(scene.pool.statuses()[0], 0.5, "rate_limited", 429)
    scene.told(1.0)
    assert scene.events == [("is cooling down for 0 s: rate limited (429)", "k0", 1.0)]


def test_new_key_that_is_refused_at_once_is_an_event(scene: Scene) -> None:
    """Given keys that a reload brings, one out of use since before, one refused by the first request with it, then the
    latter is an event."""
    pool = scene.another_pool(4)
    pool.disable(pool.keys[2])
    scene.told(1.0)
    pools = [scene.pool]
    scene.news = KeyNews(lambda: pools[-1], scene.folder / "other", None, scene.clock, scene.happened)
    scene.told(1.0)
    pools.append(pool)
    scene.clock.advance(0.5)
    pool.retire(pool.statuses()[3], "unauthorized", 401)
    scene.told(0.5)
    assert scene.events == [("was refused (401) and is retired", "k3", 0.5)]

"""Looks at keys: at those that were forbidden something, at retired ones, and at those whose place nobody knows."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from gateway.access.credential import AuthHeader, Key
from gateway.keys.looks import _MOST_SCOPES, Looks
from gateway.keys.places import Place
from gateway.keys.pool import Pool
from gateway.keys.standing import KeyState, KeyStatus
from gateway.keys.store import MemoryStore
from gateway.keys.verdict import Concern
from gateway.protocol.errors import UpstreamError
from gateway.runtime.chair import Chair
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import READABLE, Pause
from gateway.telemetry.metrics import Metrics
from gateway.upstream import Upstream
from gateway.upstream.watch import Watch
from tests.harness import samples_of, wait_until
from tests.unit.fakes import FakeClock, keys_of, retire

VALID, TEMPORARY, PERMANENT = KeyState.VALID, KeyState.TEMPORARY, KeyState.PERMANENT
SCOPE, OTHER_SCOPE = "messages/opus-4.x", "messages/sonnet-4.x"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
NAMED = (("anthropic-organization-id", "org-a"), ("anthropic-workspace-id", "ws-1"))
PAGE = b"<html>Blocked</html>"
CODED = b'{"type":"error","error":{"type":"permission_error","details":{"error_code":"odd"},"message":"no"}}'
DISABLED = b'{"type":"error","error":{"type":"invalid_request_error","message":"This organization has been disabled."}}'


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look whose upstream does not answer at once has waited long enough."""
    monkeypatch.setattr("gateway.keys.look._PATIENCE_SECONDS", 0.0)


@dataclass
class FakeReply:
    """An answer that is read at once."""

    status: int
    body: bytes = b"{}"
    headers: list[tuple[str, str]] = field(default_factory=list)
    is_discarded: bool = False

    def read_refusal(self, limit_bytes: int) -> Generator[Pause, None, tuple[bytes, bool]]:
        yield from ()
        return self.body, True

    def discard(self) -> None:
        self.is_discarded = True


Answer = FakeReply | Exception | None  # None: nothing comes


class FakeUpstream:
    """Answers each key as the test says, and remembers which keys were shown."""

    def __init__(self, answer: Callable[[], Answer]) -> None:
        self.answer = answer
        self.answers: dict[str, Callable[[], Answer]] = {}
        self.is_late = False  # it answers after a pause
        self.asked: list[str] = []
        self.targets: set[str] = set()
        self.replies: list[FakeReply] = []

    def exchange(
        self, call: object, credentials: Sequence[AuthHeader], watch: Watch
    ) -> Generator[Pause, None, FakeReply]:
        name = credentials[0].secret.reveal().removeprefix("sk-ant-unit-000").removesuffix("-planted")
        self.asked.append(f"k{name}")
        self.targets.add(f"{call.method} {call.target}")  # type: ignore[attr-defined]
        answer = self.answers.get(f"k{name}", self.answer)()
        if answer is None:
            yield watch.pause(((-1, READABLE),), math.inf)
        if self.is_late:
            pause = Pause(None, None)
            pause.until_at = 0.0
            yield pause
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None, "the look went on waiting"
        self.replies.append(answer)
        return answer


def accepted() -> FakeReply:
    return FakeReply(200, headers=list(NAMED))


def refused() -> FakeReply:
    return FakeReply(401)


class Scene:
    """Keys k0, k1, ... of one store, an upstream that accepts them unless it is told otherwise, and looks at them."""

    def __init__(self, folder: Path, count: int = 2, first_seconds: float = 300.0) -> None:
        self.folder = folder
        self.first_seconds = first_seconds
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.pool = Pool(keys_of(count), self.store, self.clock)
        self.upstream = FakeUpstream(accepted)
        self.metrics = Metrics()
        self.lifecycle = Lifecycle()
        self.looks = self.another()

    def another(self) -> Looks:
        """Those of another process, which has its own view of the same store; of another machine by its folder."""
        folder = self.folder / str(len(list(self.folder.iterdir())))
        folder.mkdir()
        return self.beside(folder, Pool(self.pool.keys, self.store, self.clock))

    def beside(self, folder: Path, pool: Pool) -> Looks:
        upstream = cast(Upstream, self.upstream)
        return Looks(
            lambda: (pool, upstream), self.lifecycle, self.metrics, self.first_seconds, folder / "lock", self.clock
        )

    @property
    def keys(self) -> tuple[Key, ...]:
        return self.pool.keys

    def states(self, scope: str | None = None) -> list[KeyState]:
        return [status.state for status in self.pool.statuses(scope)]

    def status(self, number: int, scope: str | None = None) -> KeyStatus:
        return self.pool.statuses(scope)[number]

    def forbid(self, *numbers: int, scope: str = SCOPE, was_answered: bool = False) -> None:
        """These keys were forbidden a request: what a walk does then."""
        statuses = [self.status(number, scope) for number in numbers]
        for status in statuses:
            self.pool.retire(status, "forbidden", 403)
        self.looks.look_into(statuses, scope, was_answered=was_answered)

    def run(self, looks: Looks | None = None) -> list[str]:
        """Have all that is due done; the keys that were looked at."""
        before = len(self.upstream.asked)
        for _ in range(100):
            if (looks or self.looks).step() != 0:
                return self.upstream.asked[before:]
        raise AssertionError("there is always something to do")

    def pass_seconds(self, seconds: float, step_seconds: float = 1.0) -> list[float]:
        """Let time pass, with a round each second; after how many of them a key was looked at."""
        moments = []
        for count in range(1, round(seconds / step_seconds) + 1):
            self.clock.advance(step_seconds)
            moments += [count * step_seconds] * len(self.run())
        return moments

    def counted(self, name: str, outcome: str) -> float:
        page = samples_of(self.metrics.render().decode())
        return page.get(("gateway_key_looks_total", frozenset({("key", name), ("outcome", outcome)})), 0.0)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# What is forbidden


def test_forbidden_key_that_is_accepted_cools_for_what_another_key_answered(scene: Scene) -> None:
    """Given a key that was forbidden what another key answered, when it is looked at and accepted, then it cools down
    an hour for that scope alone; and until then it was the last resort."""
    scene.forbid(0, was_answered=True)
    assert scene.states(SCOPE) == [PERMANENT, VALID]
    assert scene.status(0, SCOPE).is_last_resort
    assert scene.upstream.asked == []
    assert scene.run() == ["k0"]
    assert scene.upstream.targets == {"GET /v1/models?limit=1"}
    assert scene.states(SCOPE) == [TEMPORARY, VALID]
    assert scene.states(OTHER_SCOPE) == [VALID, VALID]
    cooling = scene.status(0, SCOPE)
    assert (cooling.concern, cooling.remaining_seconds) == (Concern.SCOPE, HOUR)
    assert (cooling.record.reason, cooling.record.status) == ("forbidden", 403)
    assert not scene.pool.is_forgiven(scene.keys[0])
    assert scene.counted("k0", "accepted") == 1


def test_forbidden_request_is_not_held_against_a_key_that_is_accepted(scene: Scene) -> None:
    """Given keys that were all forbidden a request, when they are looked at and accepted, then they are valid, and for
    ten minutes being forbidden something marks nothing."""
    scene.forbid(0, 1)
    assert scene.run() == ["k0", "k1"]
    assert scene.states() == [VALID, VALID]
    assert scene.states(SCOPE) == [VALID, VALID]
    assert all(scene.pool.is_forgiven(key) for key in scene.keys)
    scene.clock.advance(10 * MINUTE)
    assert not any(scene.pool.is_forgiven(key) for key in scene.keys)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(FakeReply(401), id="401"),
        pytest.param(FakeReply(403), id="an unexplained 403"),
        pytest.param(FakeReply(400, DISABLED), id="the organisation is disabled"),
    ],
)
def test_forbidden_key_that_is_refused_stays_retired(scene: Scene, answer: FakeReply) -> None:
    """Given a key that was forbidden something, when its look is refused, then it stays retired and is no last resort
    any more."""
    scene.upstream.answer = lambda: answer
    scene.forbid(0)
    assert scene.run() == ["k0"]
    assert scene.states() == [PERMANENT, VALID]
    assert not scene.status(0).is_last_resort
    assert scene.counted("k0", "refused") == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: UpstreamError("unreachable"), id="unreachable"),
        pytest.param(lambda: None, id="silent"),
        pytest.param(lambda: FakeReply(500), id="500"),
        pytest.param(lambda: FakeReply(529), id="529"),
        pytest.param(lambda: FakeReply(429), id="429"),
        pytest.param(lambda: FakeReply(401, PAGE), id="a page instead of a 401"),
        pytest.param(lambda: FakeReply(403, PAGE), id="a page instead of a 403"),
        pytest.param(lambda: FakeReply(403, CODED), id="a 403 that says why"),
    ],
)
def test_without_an_answer_nothing_is_known_of_a_forbidden_key(scene: Scene, answer: Callable[[], Answer]) -> None:
    """Given a key that was forbidden something, when nothing is learned of it, then it stays the last resort for a
    while; and the rounds bring it back when the upstream answers."""
    scene.upstream.answer = answer
    scene.forbid(0)
    assert scene.run() == ["k0"]
    assert scene.counted("k0", "no_answer") == 1
    assert scene.status(0).is_last_resort
    scene.clock.advance(2 * MINUTE)
    assert scene.run() == []
    assert scene.states() == [PERMANENT, VALID]
    assert not scene.status(0).is_last_resort
    scene.upstream.answer = accepted
    assert scene.pass_seconds(3 * MINUTE) == [3 * MINUTE]
    assert scene.states() == [VALID, VALID]


def test_key_is_looked_into_once_a_minute_by_one_process(scene: Scene) -> None:
    """Given a key that is forbidden requests by every process, when they look into it, then one look is made; and the
    next thing that it is forbidden within the minute waits until that is over, the key being the last resort."""
    other = scene.another()
    status = scene.status(0, SCOPE)
    scene.forbid(0, was_answered=True)
    scene.forbid(0, was_answered=True)
    other.look_into([status], SCOPE, was_answered=True)
    assert scene.run() + scene.run(other) == ["k0"]
    scene.forbid(0, scope=OTHER_SCOPE, was_answered=True)
    assert scene.pass_seconds(MINUTE - 1) == []
    assert scene.status(0, OTHER_SCOPE).is_last_resort
    assert scene.pass_seconds(1) == [1]
    assert scene.states(SCOPE) == scene.states(OTHER_SCOPE) == [TEMPORARY, VALID]
    assert scene.states("count_tokens") == [VALID, VALID]


def test_steady_forbidding_does_not_put_a_look_off(scene: Scene) -> None:
    """Given a key that is forbidden something again and again while nothing answers looks, then it is looked at every
    minute all the same."""
    scene.upstream.answer = refused
    scene.upstream.answers["k1"] = accepted
    scene.forbid(0)
    scene.run()
    for _ in range(5):
        scene.clock.advance(10)
        scene.forbid(0)
        assert scene.run() == []
    scene.clock.advance(10)
    assert scene.run() == ["k0"]


def test_what_the_operator_did_meanwhile_counts(scene: Scene) -> None:
    """Given keys that were forbidden something, when the operator enables one and disables another before they are
    looked at, then none is."""
    scene.forbid(0, 1)
    scene.pool.enable(scene.keys[0])
    scene.pool.disable(scene.keys[1])
    assert scene.run() == []
    assert scene.states() == [VALID, PERMANENT]


@pytest.mark.parametrize("was_answered", [True, False])
def test_key_disabled_during_its_look_stays_disabled(scene: Scene, was_answered: bool) -> None:
    """Given a look under way, when the operator disables the key meanwhile, then its success changes nothing."""

    def answer() -> FakeReply:
        scene.pool.disable(scene.keys[0])
        return accepted()

    scene.upstream.answer = answer
    scene.forbid(0, was_answered=was_answered)
    scene.run()
    assert scene.states() == [PERMANENT, VALID]
    assert scene.status(0).record.is_disabled


def test_key_that_a_reload_has_taken_out_is_not_looked_at(scene: Scene) -> None:
    """Given a key that was forbidden something, when a reload takes it out, then nobody looks at it."""
    scene.forbid(0)
    status = scene.status(0)
    without = scene.beside(scene.folder, Pool(scene.keys[1:], scene.store, scene.clock))
    without.look_into([status], SCOPE, was_answered=False)
    assert scene.run(without) == []


def test_looking_into_something_waits_for_nothing(scene: Scene) -> None:
    """Given an upstream that does not answer a look, when a key is forbidden something, then its request goes on while
    the look waits."""
    is_asked, may_answer = threading.Event(), threading.Event()

    def answer() -> FakeReply:
        is_asked.set()
        assert may_answer.wait(30)
        return accepted()

    scene.upstream.answer = answer
    scene.looks.start(looks_at_places=False)
    try:
        scene.forbid(0)
        assert is_asked.wait(30)
        scene.forbid(1)
        assert scene.states() == [PERMANENT, PERMANENT]
        may_answer.set()
        assert wait_until(lambda: scene.states() == [VALID, VALID], 30)
    finally:
        may_answer.set()
        scene.looks.stop()


# Rounds


def test_retired_key_is_looked_at_less_and_less_often(scene: Scene) -> None:
    """Given a key that stays refused while another serves, then it is looked at after 5, 15 and 60 minutes and then
    hourly; the disabled key never."""
    retire(scene.pool, 0)
    scene.upstream.answer = refused
    looked = scene.pass_seconds(4 * HOUR, 5.0)
    assert looked == [5 * MINUTE, 15 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR]
    assert set(scene.upstream.asked) == {"k0"}
    assert scene.states() == [PERMANENT, VALID]


def test_retired_key_that_is_accepted_comes_back(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Given a retired key, when its look is accepted, then it is valid, its place is known, and the log says so."""
    retire(scene.pool, 0)
    with caplog.at_level(logging.INFO, "gateway.looks"):
        assert scene.pass_seconds(5 * MINUTE) == [5 * MINUTE]
    assert scene.states() == [VALID, VALID]
    assert caplog.messages == [f"key k0 ({scene.keys[0].hint}) is valid again: the upstream accepts it (status 200)"]
    other = Pool(scene.keys, scene.store, scene.clock)
    assert other.statuses()[0].place == Place("org-a", "ws-1")
    assert scene.upstream.replies[0].is_discarded


def test_look_has_time_for_its_answer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an upstream that answers after a while, then the look waits for it, as long as it has patience."""
    monkeypatch.setattr("gateway.keys.look._PATIENCE_SECONDS", 60.0)
    scene.upstream.is_late = True
    retire(scene.pool, 0)
    assert scene.pass_seconds(5 * MINUTE, 60.0) == [5 * MINUTE]
    assert scene.states() == [VALID, VALID]


def test_while_no_key_is_usable_all_are_looked_at_often(scene: Scene) -> None:
    """Given keys that were all refused, then each is looked at every 15 seconds; and all come back once accepted."""
    retire(scene.pool, 0)
    retire(scene.pool, 1)
    scene.upstream.answer = refused
    assert scene.pass_seconds(MINUTE) == [15, 15, 30, 30, 45, 45, 60, 60]
    scene.upstream.answer = accepted
    assert scene.pass_seconds(30) == [15]  # with one key usable, the other one waits
    assert scene.states() == [VALID, PERMANENT]
    assert scene.pass_seconds(210) == [210]
    assert scene.states() == [VALID, VALID]


def test_key_that_cools_for_some_scope_is_usable(scene: Scene) -> None:
    """Given a retired key, and another that cools down for one scope, then there is no hurry; if it cools down as a
    whole, there is."""
    retire(scene.pool, 0)
    scene.upstream.answer = refused
    scene.pool.cool(scene.status(1, SCOPE), HOUR, "rate_limited", 429, Concern.SCOPE)
    assert scene.pass_seconds(MINUTE) == []
    scene.pool.cool(scene.status(1), HOUR, "operator", 0)
    assert scene.pass_seconds(20) == [1, 16]


def test_disabled_keys_are_never_looked_at(scene: Scene) -> None:
    """Given keys that the operator disabled, retired or not, then nobody looks at them, though no other key is left."""
    retire(scene.pool, 0)
    for key in scene.keys:
        scene.pool.disable(key)
    assert scene.pass_seconds(2 * HOUR, 5.0) == []
    scene.looks.start(looks_at_places=True)
    scene.looks.stop()
    assert scene.run() == []


def test_without_a_first_interval_retired_keys_are_not_looked_at(tmp_path: Path) -> None:
    """Given a first interval of 0, when all keys are retired, then nobody looks at them, and the thread waits; one that
    was forbidden something is retired as the others are."""
    scene = Scene(tmp_path, first_seconds=0)
    retire(scene.pool, 0)
    retire(scene.pool, 1)
    assert scene.pass_seconds(2 * HOUR, 5.0) == []
    assert scene.looks.step() is None
    scene.pool.enable(scene.keys[0])
    scene.forbid(0)
    assert scene.run() == []
    status = scene.pool.statuses()[0]
    assert (status.state, status.is_last_resort) == (KeyState.PERMANENT, False)


def test_restarted_process_goes_on_where_the_last_one_was(scene: Scene) -> None:
    """Given a retired key that was looked at after 5 minutes, when another process takes over, then its next look is
    the one after 15."""
    retire(scene.pool, 0)
    scene.upstream.answer = refused
    assert scene.pass_seconds(6 * MINUTE) == [5 * MINUTE]
    scene.looks = scene.another()
    assert scene.pass_seconds(20 * MINUTE) == [9 * MINUTE]


def test_one_process_of_all_does_the_rounds(scene: Scene) -> None:
    """Given processes of one machine and of another, when a key is due, then one of them looks at it; and of one
    machine only the one that has the lock, until it ends."""
    retire(scene.pool, 0)
    scene.upstream.answer = refused
    scene.run()
    elsewhere = scene.another()
    beside = scene.beside(scene.folder / "0", scene.pool)
    scene.clock.advance(5 * MINUTE)
    assert scene.run(beside) == []
    assert scene.run(elsewhere) == ["k0"]
    assert scene.run() == []
    scene.looks.start(looks_at_places=False)
    scene.looks.stop()
    scene.clock.advance(10 * MINUTE)
    assert wait_until(lambda: scene.run(beside) == ["k0"], 30)


def test_chair_is_one_s_until_it_leaves(tmp_path: Path) -> None:
    """Given two that want a chair, then the first has it, and the second has it when the first has left."""
    first, second = Chair(tmp_path / "chair"), Chair(tmp_path / "chair")
    assert first.is_taken()
    assert first.is_taken()
    assert not second.is_taken()
    first.leave()
    assert second.is_taken()
    second.leave()
    second.leave()


# Places


def begin_places(scene: Scene) -> None:
    """As at a start, but the test takes the steps."""
    scene.looks._looks_at_places = True
    scene.looks.look_at_places()


def test_keys_are_looked_at_whose_place_is_not_known(tmp_path: Path) -> None:
    """Given keys of which one's place was told today, one's two days ago, and one's never, then the last two are looked
    at, at most two a second, and their places are known to all processes; on the next day all but served ones again."""
    scene = Scene(tmp_path, 4)
    scene.pool.learn(scene.keys[1], Place("org-a", "ws-1"))
    scene.clock.advance(2 * DAY)
    scene.pool.learn(scene.keys[0], Place("org-a", "ws-1"))
    begin_places(scene)
    assert scene.pass_seconds(3, 0.25) == [0.25, 0.75, 1.25]
    assert scene.upstream.asked == ["k1", "k2", "k3"]
    other = Pool(scene.keys, scene.store, scene.clock)
    assert {status.place for status in other.statuses()} == {Place("org-a", "ws-1")}
    assert scene.looks.step() == 1.0
    begin_places(scene)
    assert scene.pass_seconds(3, 0.25) == []


def test_place_is_looked_at_by_one_process_of_all(scene: Scene) -> None:
    """Given an upstream that tells no place, when two machines start, then each key is looked at by one of them."""
    scene.upstream.answer = lambda: FakeReply(200)
    begin_places(scene)
    other = scene.another()
    other._looks_at_places = True
    other.look_at_places()
    for _ in range(5):
        scene.clock.advance(1)
        scene.run()
        scene.run(other)
    assert sorted(scene.upstream.asked) == ["k0", "k1"]


@pytest.mark.parametrize("status", [401, 403])
def test_key_that_is_refused_when_its_place_is_asked_is_retired(scene: Scene, status: int) -> None:
    """Given keys whose place is not known, when the upstream refuses one of them, then it is retired."""
    scene.upstream.answers["k0"] = lambda: FakeReply(status)
    begin_places(scene)
    scene.pass_seconds(2)
    assert scene.states() == [PERMANENT, VALID]
    assert scene.status(0).record.status == status
    assert not scene.status(0).is_last_resort


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(FakeReply(429), id="429"),
        pytest.param(FakeReply(500), id="500"),
        pytest.param(FakeReply(403, CODED), id="a 403 that says why"),
        pytest.param(FakeReply(403, PAGE), id="a page"),
        pytest.param(FakeReply(400, DISABLED), id="the organisation is disabled"),
        pytest.param(None, id="silent"),
    ],
)
def test_nothing_else_marks_a_key_whose_place_is_asked(scene: Scene, answer: Answer) -> None:
    """Given a key whose place is not known, when its look ends otherwise than by a refusal, then it stays valid."""
    scene.upstream.answer = lambda: answer
    begin_places(scene)
    scene.pass_seconds(2)
    assert scene.upstream.asked == ["k0", "k1"]
    assert scene.states() == [VALID, VALID]


def test_places_are_looked_at_if_the_operator_wants_it_only(scene: Scene) -> None:
    """Given looks that were told not to look at places, when there are new keys, then nobody does."""
    scene.looks.start(looks_at_places=False)
    scene.looks.stop()
    scene.looks.look_at_places()
    assert scene.pass_seconds(5) == []


# The thread


def test_thread_outlives_a_defect(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Given a look that fails by a defect, then the log says so without a secret, and later looks are made."""
    scene.upstream.answers["k0"] = lambda: ZeroDivisionError("a defect")
    scene.looks.start(looks_at_places=False)
    try:
        scene.forbid(0)
        assert wait_until(lambda: "the thread looks fails" in caplog.text, 30)
        scene.forbid(1)
        assert wait_until(lambda: scene.states()[1] is VALID, 30)
    finally:
        scene.looks.stop()
    assert "planted" not in caplog.text


def test_looks_stop(scene: Scene) -> None:
    """Given looks that were stopped, when a key is forbidden something, then nobody looks at it."""
    scene.looks.start(looks_at_places=True)
    scene.looks.stop()
    assert wait_until(lambda: "looks" not in {thread.name for thread in threading.enumerate()}, 30)
    before = list(scene.upstream.asked)
    scene.forbid(0)
    assert scene.upstream.asked == before


def test_no_secret_is_logged_or_shown(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Given looks of all kinds and endings, then no log line and no repr has a secret."""
    with caplog.at_level(logging.DEBUG):
        for answer in (accepted, refused, lambda: UpstreamError("unreachable"), lambda: FakeReply(403)):
            scene.upstream.answer = answer
            for was_answered in (True, False):
                scene.forbid(0, was_answered=was_answered)
                begin_places(scene)
                scene.pass_seconds(2 * MINUTE, 5.0)
                scene.pool.enable(scene.keys[0])
        assert "was looked at" in caplog.text
        assert "planted" not in caplog.text + repr(scene.looks)


def test_reload_during_a_step_is_not_missed(scene: Scene) -> None:
    """Given a step under way with the old pool, when a reload brings a new key, then the next steps look at it."""
    before = Pool(scene.keys[:1], scene.store, scene.clock)
    in_force = [before]

    def answer() -> FakeReply:
        if in_force == [before]:
            in_force[0] = scene.pool
            looks.look_at_places()
        return accepted()

    scene.upstream.answer = answer
    looks = Looks(
        lambda: (in_force[0], cast(Upstream, scene.upstream)),
        scene.lifecycle,
        scene.metrics,
        0,
        scene.folder / "lock",
        scene.clock,
    )
    looks._looks_at_places = True
    looks.look_at_places()
    for _ in range(5):
        looks.step()
        scene.clock.advance(1)
    assert scene.upstream.asked == ["k0", "k1"]


def test_log_names_the_request_that_a_key_was_forbidden(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Given keys that were forbidden a request, one with a name and one without, then the line about the first begins
    with the name, and the other's with the key."""
    caplog.set_level(logging.INFO, logger="gateway.looks")
    first, second = scene.status(0), scene.status(1)
    for status, request in ((first, "req_gw_7"), (second, "")):
        scene.pool.retire(status, "forbidden", 403)
        scene.looks.look_into([status], SCOPE, was_answered=False, request=request)
    scene.run()
    lines = [record.getMessage() for record in caplog.records if "is valid again" in record.getMessage()]
    assert [line.partition(" (")[0] for line in lines] == ["req_gw_7: key k0", "key k1"]


@pytest.mark.parametrize(
    ("answer", "was_answered", "level", "told"),
    [
        (FakeReply(401), False, "WARNING", "and the upstream refuses it (status 401): it stays retired"),
        (FakeReply(500), False, "WARNING", "does not say whether it accepts it (status 500): it stays retired for now"),
        (FakeReply(200), False, "INFO", "is valid again: the upstream accepts it, and no other key answered"),
        (FakeReply(200), True, "INFO", "is valid again, but cools down for 3600 s for messages/opus-4.x: the"),
    ],
    ids=["refused", "no-answer", "the-request's-fault", "a-right-that-it-lacks"],
)
def test_log_says_what_became_of_a_forbidden_key(
    scene: Scene, caplog: pytest.LogCaptureFixture, answer: FakeReply, was_answered: bool, level: str, told: str
) -> None:
    """Given a key that was forbidden a request, when it was looked at, then one line says what follows; a key that
    cools down for what it lacks a right to is counted as such."""
    caplog.set_level(logging.INFO, logger="gateway.looks")
    scene.upstream.answer = lambda: answer
    scene.forbid(0, was_answered=was_answered)
    scene.run()
    (record,) = caplog.records
    assert (record.levelname, told in record.getMessage()) == (level, True)
    page = samples_of(scene.metrics.render().decode())
    cooled = ("gateway_key_transitions_total", frozenset({("key", "k0"), ("state", "temporary")}))
    assert page.get(cooled, 0) == was_answered


def test_key_that_is_refused_when_its_place_is_asked_is_told_and_counted(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a key whose place is not known, when the upstream refuses it, then a line and the metric say so."""
    scene.upstream.answers["k0"] = refused
    begin_places(scene)
    scene.pass_seconds(2)
    assert caplog.messages == [f"key k0 ({scene.keys[0].hint}) is retired: the upstream refuses it (status 401)"]
    page = samples_of(scene.metrics.render().decode())
    assert page["gateway_key_transitions_total", frozenset({("key", "k0"), ("state", "permanent")})] == 1


def test_what_a_key_was_forbidden_is_bounded(scene: Scene) -> None:
    """Given a key that was forbidden more than is remembered, then it cools down for the first of it alone, and for
    what another key answered later."""
    scopes = [f"messages/model-{number}" for number in range(_MOST_SCOPES + 1)]
    for scope in scopes:
        scene.forbid(0, scope=scope, was_answered=scope != scopes[0])
    scene.forbid(0, scope=scopes[0], was_answered=True)
    scene.forbid(0, scope=scopes[1], was_answered=False)
    scene.run()
    assert [scene.states(scope)[0] for scope in scopes] == [TEMPORARY] * _MOST_SCOPES + [VALID]


def test_places_wait_for_the_chair(tmp_path: Path) -> None:
    """Given a machine on which another process does the rounds, when places are to be looked at, then this one asks
    again each second whether it may."""
    scene = Scene(tmp_path, first_seconds=0)
    chair = Chair(scene.folder / "0" / "lock")
    assert chair.is_taken()
    assert scene.looks.step() is None
    begin_places(scene)
    assert scene.looks.step() == 1.0
    chair.leave()
    assert scene.run() == ["k0"]


def test_a_key_that_is_known_by_now_is_looked_at_no_more(scene: Scene) -> None:
    """Given a key that was forbidden something, when the operator enables it before it is looked at, then it is not
    looked at, nor waited for."""
    scene.forbid(0)
    scene.pool.enable(scene.keys[0])
    scene.pool.end_suspicion(scene.keys[0])
    assert scene.run() == []
    assert "forbidden=0" in repr(scene.looks)


def test_rounds_of_less_than_a_second_are_rounds(tmp_path: Path) -> None:
    """Given retired keys that are looked at after half a second, then they are."""
    scene = Scene(tmp_path, count=2, first_seconds=0.5)
    retire(scene.pool, 0)
    scene.clock.advance(0.5)
    assert scene.run() == ["k0"]
    assert scene.states() == [VALID, VALID]

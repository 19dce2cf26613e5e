"""Sessions stay with the workspace that answered them while an earlier key was out; all others have no pin."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Generator

import pytest

from gateway.access.credential import Key, Secret
from gateway.config.settings import Settings
from gateway.keys.affinity import Affinity, PinSeconds
from gateway.keys.failover import Course, walk
from gateway.keys.key_record import Cause
from gateway.keys.places import Place
from gateway.keys.pool import Pool
from gateway.keys.store import MemoryStore
from gateway.keys.verdict import Verdict
from gateway.protocol.errors import RateLimited
from gateway.protocol.outcomes import Outcome
from gateway.web.app import create_app
from gateway.web.service import Gateway
from tests.unit.fakes import FakeAnswer, FakeClock, RecordingObserver, keys_of
from tests.unit.tiny_server import TinyServer, take_request

SCOPE = "messages/opus-4"
A1, A2, B1 = Place("orgA", "wrkspc_A1"), Place("orgA", "wrkspc_A2"), Place("orgB", "wrkspc_B1")
ORDINARY = PinSeconds(300.0, 3600.0)
MINUTES = 60.0
PLAIN = b'{"model": "claude-opus-4-8", "messages": [{"role": "user", "content": "hello"}]}'
THINKING = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}]}
REDACTED = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "eHh4"}]}
AN_HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


class CountingStore(MemoryStore):
    """Counts what is written, and keeps the names."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[str] = []

    def cool(self, fingerprint: str, until_at: float, generation: int, cause: Cause) -> bool:
        if fingerprint.startswith(("session/", "belonging/")):
            self.pinned.append(fingerprint)
        return super().cool(fingerprint, until_at, generation, cause)


class Scene:
    """Keys with these places, and walks of sessions over them; names of keys go in and come out."""

    def __init__(self, *places: Place | None, seconds: PinSeconds = ORDINARY) -> None:
        self.clock, self.store, self.seconds = FakeClock(), CountingStore(), seconds
        self.pool, self.affinity = Pool(keys_of(len(places)), self.store, self.clock), self.another_affinity()
        self.places = dict(zip(self.pool.keys, places, strict=True))
        for key, place in self.places.items():
            if place is not None:
                self.pool.learn(key, place)

    def another_affinity(self) -> Affinity:
        """As another process has it."""
        return Affinity(self.store, self.clock)

    def asks(
        self,
        session: str | None = "s1",
        *,
        client: str | None = "alice",
        body: bytes = PLAIN,
        told: Place | None = None,
        told_of: str | None = None,
        **limited: float,
    ) -> str:
        """One request; the key that answered. `limited` are keys that are refused, for so many seconds.

        `told` is what the answer says of its key's place, `told_of` a container that it tells of.
        """

        def attempt(key: Key) -> Generator[None, None, tuple[FakeAnswer, Verdict]]:
            yield
            if key.name in limited:
                return FakeAnswer(key), Verdict(Outcome.RATE_LIMITED, limited[key.name], 429)
            if told is not None:
                self.pool.learn(key, told)
            return FakeAnswer(key), Verdict(Outcome.OK, http_status=200)

        pins = self.affinity.of(self.pool, client, session, body, self.seconds)
        walking = walk(self.pool, attempt, RecordingObserver(), Course(SCOPE, session=pins))
        while True:
            try:
                next(walking)
            except StopIteration as stop:
                if told_of is not None:
                    pins.told_of(told_of)
                return stop.value.key.name

    def displaced(self, **given: object) -> None:
        """A session is answered by k1, because k0 cools down for a minute, which is over then."""
        assert self.asks(k0=60.0, **given) == "k1"
        self.clock.advance(60)
        # Others end the trial of k0, beginning with the first.
        assert self.asks("somebody else's") == "k0"

    @property
    def pin_count(self) -> int:
        return len(self.store.details("session")) + len(self.store.details("belonging"))


def body_with(*messages: object, **members: object) -> bytes:
    return json.dumps({"model": "claude-opus-4-8", "messages": list(messages), **members}).encode()


# Who is pinned


def test_session_whose_first_key_answers_has_no_pin():
    """Given keys that are all in use, then sessions leave nothing in the store, however often they ask."""
    scene = Scene(A1, B1)
    for _ in range(5):
        assert scene.asks() == "k0"
        scene.clock.advance(90)
    assert scene.pin_count == 0


def test_displaced_session_stays_although_the_earlier_key_has_come_back():
    """Given a session that was answered by another workspace's key, when the first key is in use again, then that
    session stays, and others go to the first key."""
    scene = Scene(A1, B1)
    scene.displaced()
    assert scene.asks("s1") == "k1"
    assert scene.asks("s2") == "k0"


def test_session_that_comes_while_the_earlier_key_cools_is_pinned_too():
    """Given a key that cools down already when a session first comes, then the session stays where it was answered."""
    scene = Scene(A1, B1)
    scene.asks("other", k0=60.0)
    assert scene.asks("s1") == "k1"
    scene.clock.advance(61)
    assert scene.asks("s2") == "k0"
    assert scene.asks("s1") == "k1"


def test_session_that_a_key_of_the_same_workspace_answered_is_not_displaced():
    """Given two keys of a workspace and one of another, all but the second out, then there is no pin: the prompt cache
    is the same."""
    scene = Scene(A1, A1, B1)
    assert scene.asks(k0=60.0, k2=60.0) == "k1"
    assert scene.pin_count == 0


def test_session_that_was_displaced_for_a_doubt_is_pinned():
    """Given a first key in doubt because one of its workspace cools, then a session that another workspace answers
    stays there."""
    scene = Scene(A1, B1, A1)
    with pytest.raises(RateLimited):
        scene.asks("other", k0=1.0, k1=1.0, k2=600.0)
    scene.clock.advance(2)
    assert scene.asks() == "k1", "k0 is in doubt"
    assert scene.pin_count == 1


def test_failed_answer_pins_nothing():
    """Given a displaced session whose answer is refused by the second key, too, then nothing is pinned."""
    scene = Scene(A1, B1)
    with pytest.raises(RateLimited):
        scene.asks(k0=60.0, k1=60.0)
    assert scene.pin_count == 0


def test_request_without_session_is_never_pinned():
    """Given displaced requests that name no session, then each goes to the first key that is in use."""
    scene = Scene(A1, B1)
    assert scene.asks(None, k0=60.0) == "k1"
    assert scene.pin_count == 0
    scene.clock.advance(60)
    assert scene.asks(None) == "k0"


def test_pins_are_of_one_client():
    """Given two clients whose sessions have the same name, then the one that was displaced alone stays."""
    scene = Scene(A1, B1)
    scene.displaced(client="alice")
    assert scene.asks(client="bob") == "k0"
    assert scene.asks(client=None) == "k0"
    assert scene.asks(client="alice") == "k1"


def test_zero_seconds_turn_it_off():
    """Given 0 seconds, then displaced sessions go back, and nothing is kept."""
    scene = Scene(A1, B1, seconds=PinSeconds(0, 3600.0))
    scene.displaced(body=body_with(THINKING))
    assert scene.asks(body=body_with(THINKING)) == "k0"
    assert scene.pin_count == 0


def test_place_that_this_very_answer_tells_counts():
    """Given keys whose places nobody knows, when a first answer to a displaced session tells one, then the session
    stays."""
    scene = Scene(None, None)
    scene.displaced(told=B1)
    assert scene.asks() == "k1"


# How long


def test_ordinary_session_stays_for_five_minutes_after_its_last_answer():
    """Given a displaced session, then it stays while its pauses are below five minutes, and a minute at most beyond."""
    scene = Scene(A1, B1)
    scene.displaced()
    assert scene.asks() == "k1"
    for _ in range(4):
        scene.clock.advance(5 * MINUTES - 1)
        assert scene.asks() == "k1"
        scene.clock.advance(30)
        assert scene.asks() == "k1"
    scene.clock.advance(6 * MINUTES)
    assert scene.asks() == "k0"
    assert scene.asks() == "k0", "and is pinned no more"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(body_with(THINKING), id="thinking"),
        pytest.param(body_with(REDACTED), id="redacted-thinking"),
        pytest.param(body_with(system=[{"type": "text", "text": "x", **AN_HOUR}]), id="hour-s-cache"),
        pytest.param(body_with(THINKING).replace(b": ", b":"), id="compact"),
    ],
)
def test_session_with_more_to_lose_stays_for_an_hour(body):
    """Given a displaced session with thoughts or an hour's cache, then it stays for an hour after its last answer."""
    scene = Scene(A1, B1)
    scene.displaced(body=body)
    scene.clock.advance(58 * MINUTES)
    assert scene.asks(body=body) == "k1"
    scene.clock.advance(61 * MINUTES)
    assert scene.asks(body=body) == "k0"


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "thinking"}',
        '"type":"thinking","ttl":"1h"',
        '\\"ttl\\": \\"1h\\"',
        json.dumps(json.dumps({"type": "redacted_thinking", "ttl": "1h"})),
        '\\\\"type":"thinking"',
    ],
)
def test_text_that_quotes_those_words_does_not_count(text):
    """Given a user's text with the words of a thought or of an hour's cache, then the session is an ordinary one."""
    scene = Scene(A1, B1)
    body = body_with({"role": "user", "content": text}, thinking={"type": "enabled", "budget_tokens": 1024})
    scene.displaced(body=body)
    scene.clock.advance(6 * MINUTES)
    assert scene.asks(body=body) == "k0"


@pytest.mark.parametrize("seconds", [2.0, 30.0, 90.0])
def test_short_stays_are_renewed_too(seconds):
    """Given short stays, then a session that goes on asking stays."""
    scene = Scene(A1, B1, seconds=PinSeconds(seconds, seconds))
    scene.asks("other", k0=1.0)
    assert scene.asks() == "k1"
    scene.clock.advance(1)
    for _ in range(10):
        assert scene.asks() == "k1"
        scene.clock.advance(seconds * 0.9)


@pytest.mark.parametrize(("seconds", "more_seconds"), [(2.0, 0.4), (300.0, 60.0), (3600.0, 60.0)])
def test_a_pin_lasts_longer_by_what_it_may_be_renewed_late(seconds, more_seconds):
    """Given a stay, then its pin lasts a fifth of it longer, a minute at most."""
    scene = Scene(A1, B1, seconds=PinSeconds(seconds, seconds))
    scene.asks(k0=1.0)
    (pin,) = scene.store.read(scene.store.pinned)
    assert pin.cooling_until_at == scene.clock() + seconds + more_seconds


def test_container_of_an_answer_from_an_unknown_place_is_not_pinned():
    """Given a key of which no place is known, when its answer tells of a container, then that stays nowhere."""
    scene = Scene(None, B1)
    assert scene.asks(told_of="container_abcd") == "k0"
    assert scene.pin_count == 0


def test_pin_is_written_at_most_once_a_minute():
    """Given a pinned session that asks every ten seconds, then its pin is written once a minute."""
    scene = Scene(A1, B1)
    scene.asks(k0=600.0)
    for _ in range(30):
        scene.clock.advance(10)
        assert scene.asks() == "k1"
    assert len(scene.store.pinned) == 1 + 5


def test_session_that_comes_to_have_more_to_lose_stays_longer_at_once():
    """Given a session pinned a moment ago, when it has thoughts, then it is pinned for an hour without a delay; an
    ordinary request after that does not shorten it."""
    scene = Scene(A1, B1)
    scene.displaced()
    body = body_with(THINKING)
    assert scene.asks(body=body) == "k1"
    assert scene.asks() == "k1"
    scene.clock.advance(59 * MINUTES)
    assert scene.asks(body=body) == "k1"


# Passed over


def test_pinned_key_that_is_out_is_passed_over_and_the_pin_stays():
    """Given a pinned session whose key is limited, then another one answers until that key is back."""
    scene = Scene(A1, B1)
    scene.displaced()
    assert scene.asks(k1=30.0) == "k0"
    assert scene.asks() == "k0"
    scene.clock.advance(31)
    assert scene.asks() == "k1"


def test_pinned_key_in_doubt_is_passed_over_and_the_pin_stays():
    """Given a pinned session and a cooling key of the same workspace, then a key without doubt answers meanwhile."""
    scene = Scene(A1, B1, B1)
    scene.displaced()
    with pytest.raises(RateLimited):
        scene.asks("other", k0=1.0, k1=1.0, k2=120.0)
    scene.clock.advance(2)
    assert scene.asks("s2") == "k0"
    assert scene.asks() == "k0", "k1 is in doubt while k2 cools"
    scene.clock.advance(119)
    assert scene.asks() in ("k1", "k2")


def test_pinned_session_takes_any_key_of_its_workspace():
    """Given a pinned session whose key the operator disabled, then another key of that workspace answers."""
    scene = Scene(A1, B1, B1)
    scene.displaced()
    scene.pool.disable(scene.pool.keys[1])
    assert scene.asks() == "k2"


# What a request names


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(body_with(container="container_011CPR5"), id="container"),
        pytest.param(body_with(container={"id": "container_011CPR5", "skills": []}), id="container-with-skills"),
        pytest.param(
            body_with(
                {
                    "role": "user",
                    "content": [{"type": "document", "source": {"type": "file", "file_id": "file_011CNha8"}}],
                }
            ),
            id="file",
        ),
    ],
)
@pytest.mark.parametrize("session", ["s1", None], ids=["session", "no-session"])
def test_request_that_names_what_was_seen_stays_with_its_workspace(body, session):
    """Given a file or container in a request that a key answered, then requests that name it go to its workspace, of
    whichever session, for days."""
    scene = Scene(A1, B1)
    assert scene.asks("s0", body=body, k0=60.0) == "k1"
    scene.clock.advance(86_400)
    assert scene.asks("s0") == "k0"
    assert scene.asks(session, body=body) == "k1"


def test_container_that_an_answer_told_of_is_known_from_then_on():
    """Given a container that an answer told of, then the first request that names it goes to that key's workspace; one
    that a client's own credential paid for, and so no key answered, is not kept."""
    scene = Scene(A1, B1)
    own = scene.affinity.of(scene.pool, "bob", "s9", PLAIN, ORDINARY)
    own.told_of("container_own")
    assert scene.asks("s0", k0=60.0, told_of="container_011CPR5") == "k1"
    scene.clock.advance(86_400)
    assert scene.asks("s2", body=body_with(container="container_011CPR5")) == "k1"
    assert scene.asks("s3", body=body_with(container="container_own")) == "k0"


def test_file_of_the_first_key_stays_when_the_session_is_elsewhere():
    """Given a session pinned to another workspace, when it names a file of the first one, then that one answers."""
    scene = Scene(A1, B1)
    body = body_with({"type": "file", "file_id": "file_011CNha8"})
    assert scene.asks("s0", body=body) == "k0"
    scene.displaced()
    assert scene.asks(body=body) == "k0"
    assert scene.asks() == "k1"


def test_text_that_quotes_a_file_id_does_not_count():
    """Given a user's text that quotes a file's id, then nothing is kept of it."""
    scene = Scene(A1, B1)
    assert scene.asks(None, body=body_with({"role": "user", "content": '{"file_id": "file_011CNha8"}'})) == "k0"
    assert scene.pin_count == 0


def test_names_in_one_request_are_bounded():
    """Given a request with very many files, then some are kept and no more."""
    scene = Scene(A1, B1)
    scene.asks(body=body_with(*({"file_id": f"file_{number:06}"} for number in range(1000))))
    assert 0 < scene.pin_count <= 16


# The store


def test_names_in_the_store_hold_neither_client_nor_session_nor_file():
    """Given pins, then no name in the store and no repr shows whom or what they are of."""
    scene = Scene(A1, B1)
    body = body_with(container="container_planted")
    scene.displaced(client="planted", session="planted-session", body=body)
    assert len(set(scene.store.pinned)) == 2
    assert not [name for name in scene.store.pinned if "planted" in name]
    pins = scene.affinity.of(scene.pool, "planted", "planted-session", body, ORDINARY)
    assert "planted" not in repr(pins)


def test_another_process_over_the_same_store_sees_the_pin():
    """Given a session that one process pinned, then another one over the same store keeps it where it is."""
    scene = Scene(A1, B1)
    scene.displaced()
    scene.pool, scene.affinity = Pool(scene.pool.keys, scene.store, scene.clock), scene.another_affinity()
    assert scene.asks() == "k1", "from its first request on"


def test_lost_pin_does_no_harm():
    """Given a store that has lost its pins, then the session goes to the first key, and is answered."""
    scene = Scene(A1, B1)
    scene.displaced()
    for name in set(scene.store.pinned):
        scene.store.enable(name)
    assert scene.asks() == "k0"


@pytest.mark.parametrize("places", [(A1, A1), (A1,), (None,)], ids=["one-workspace", "one-key", "one-unknown-key"])
def test_one_workspace_means_that_nothing_is_done(places):
    """Given keys that share their prompt caches, then no body is read, and nobody has pins."""
    scene = Scene(*places)
    unreadable: bytes = None  # type: ignore[assignment]  # reading it would fail
    assert scene.affinity.of(scene.pool, "alice", "s1", unreadable, ORDINARY) is None


def test_pin_says_no_more_than_the_workspace():
    """Given a pin, then its record has the workspace's group as its reason and counts as no limit of any key."""
    scene = Scene(A1, B1)
    scene.displaced()
    (record,) = scene.store.read(scene.store.pinned[-1:])
    assert record.reason == "wrkspc_B1"
    assert (record.limited_count, record.refused_count, record.is_permanent) == (0, 0, False)


# Through the application


def answers_by_key(seen: list[bytes], *, is_streamed: bool) -> Callable[[socket.socket], None]:
    """An upstream that limits k0 at first; k1's answers tell of a container, and all tell where they belong."""
    message = {"type": "message", "content": [], "container": {"id": "container_told"}, "usage": {}}
    start = {"type": "message_start", "message": {"usage": {}}}
    delta = {"type": "message_delta", "delta": {"container": {"id": "container_told"}}, "usage": {}}
    events = [start, delta, {"type": "message_stop"}]
    body = (
        "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        if is_streamed
        else json.dumps(message)
    )

    def answer(client: socket.socket) -> None:
        request = take_request(client)
        secret = re.search(rb"x-api-key: (\S+)", request)[1]
        is_limited = not seen
        seen.append(secret)
        status, kind, text = (
            ("429 Too Many Requests", "application/json", "{}")
            if is_limited
            else ("200 OK", "text/event-stream" if is_streamed else "application/json", body)
        )
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n"
        place = f"anthropic-organization-id: org\r\nanthropic-workspace-id: wrkspc_{secret.decode()}\r\n\r\n"
        client.sendall((head + place + text).encode())

    return answer


@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
def test_container_of_an_answer_is_followed_through_the_application(is_streamed):
    """Given an answer that tells of a container, when the earlier key is back, then a request that names the container
    goes to the key that told of it, and any other to the earlier one."""
    seen: list[bytes] = []
    with TinyServer(answers_by_key(seen, is_streamed=is_streamed)) as server:
        keys = (Key("k0", Secret("s0")), Key("k1", Secret("s1")))
        gateway = Gateway(Settings(keys=keys, upstream_url=server.url))
        client = create_app(gateway=gateway).test_client()

        def ask(body: bytes) -> bytes:
            document = json.loads(body) | {"stream": is_streamed}
            with client.post("/v1/messages", json=document) as answer:
                assert answer.status_code == 200
                assert answer.data
            return seen[-1]

        assert ask(PLAIN) == b"s1"
        gateway.configuration.pool.enable(keys[0])
        assert ask(PLAIN) == b"s0"
        assert ask(body_with(container="container_told")) == b"s1"
        assert ask(body_with(container="container_other")) == b"s0"


def test_a_pin_is_no_limit_of_the_upstream_s():
    """Given a pinned session, then its record has the workspace for a reason, and no status, and counts no limit."""
    scene = Scene(A1, B1)
    scene.displaced()
    (pin,) = scene.store.read(scene.store.pinned[-1:])
    assert (pin.reason, pin.status, pin.limited_count) == (B1.group, 0, 0)


def test_repr_of_pins_shows_no_record():
    """Given a request's pins, then their repr has neither the body nor the records that a walk has found."""
    scene = Scene(A1, B1)
    scene.displaced()
    pins = scene.affinity.of(scene.pool, "alice", "s1", PLAIN, scene.seconds)
    assert pins.group == B1.group
    assert repr(pins) == (
        f"Pins(_seconds={scene.seconds!r}, _session={scene.store.pinned[-1]!r}, _belongings=[], _group='')"
    )

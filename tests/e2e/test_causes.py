"""Why a key is refused, end to end: codes, wordings, scopes, workspaces, organisations, sessions.

Each kind is shown on one gateway: what the client gets, which keys the upstream saw, how every key stands afterwards,
and what is still served. The statuses, pings and first events that decide nothing new are in test_failover.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
from anthropic import _error_classes

from gateway.simulator import Key, Limit, Organisation, Workspace
from tests.e2e.clients import Received, ask, message_body
from tests.e2e.rig import Rig
from tests.harness import wait_until

VALID, TEMPORARY, PERMANENT = "valid", "temporary", "permanent"
DEFAULT_SECONDS, MONEY_SECONDS, WORKSPACE_SECONDS = 33, 3600, 300
BETA = "context-1m-2025-08-07"
KINDS = {400: "invalid_request_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error"}
KINDS |= {413: "request_too_large", 429: "rate_limit_error", 529: "overloaded_error"}


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(default_cooldown_seconds=DEFAULT_SECONDS) as rig:
        yield rig


@dataclass(frozen=True)
class Route:
    """A way to ask."""

    path: str
    body: bytes = b""

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"

    def ask(self, rig: Rig, *headers: str) -> Received:
        answer = ask(rig.gateway.url, self.body, method=self.method, path=self.path, headers=headers)
        assert answer.is_complete
        return answer


def message(is_streamed: bool, model: str = "claude-opus-4-8", **members: object) -> Route:
    return Route("/v1/messages", message_body(is_streamed, model=model, **members))


COUNT = Route("/v1/messages/count_tokens", message_body(False, model="claude-opus-4-8"))
ROUTES = {
    "streamed": message(True),
    "whole": message(False),
    "count_tokens": COUNT,
    "models": Route("/v1/models"),
    "model": Route("/v1/models/claude-opus-4-8"),
}
every_route = pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
both_modes = pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])


def _assert_upstreams(answer: Received, rig: Rig, route: Route, *headers: str) -> None:
    """The answer is what the last key that was asked has said, byte for byte, with what clients act on."""
    seen = rig.simulator.requests[-1]
    lines = [f"x-api-key: {seen.key}", *headers]
    direct = ask(rig.simulator.url, route.body, method=route.method, path=route.path, headers=lines)
    assert answer.status == direct.status
    own_id = rig.simulator.requests[-1].request_id
    assert answer.body == direct.body.replace(own_id.encode(), seen.request_id.encode())
    for name in ("content-type", "x-should-retry", "retry-after"):
        assert answer.header(name) == direct.header(name)
    if answer.header("content-type") == "application/json":
        assert answer.header("request-id") == seen.request_id


# Codes (1)

SPEAK_OF_MORE = {
    (400, "claude_code_key_creator_not_member"): PERMANENT,
    (400, "organization_on_hold"): PERMANENT,
    (400, "cmek_key_disabled"): TEMPORARY,
    (400, "cmek_key_network_blocked"): TEMPORARY,
    (429, "ramp_limit_exceeded"): TEMPORARY,
    (429, "enforced_spend_limit_reached"): TEMPORARY,
    (429, "contract_spend_limit_reached"): TEMPORARY,
    (400, "organization_not_enrolled_in_beta"): VALID,
    (400, "storage_quota_exceeded"): VALID,
}
OF_THE_REQUEST = sorted(
    (status, code)
    for status, code in _error_classes.ERROR_CLASSES
    if code is not None and (status, code) not in SPEAK_OF_MORE
)
COOLDOWN_SECONDS = {
    "cmek": WORKSPACE_SECONDS,
    "ramp": DEFAULT_SECONDS,
    "enforced": MONEY_SECONDS,
    "contract": MONEY_SECONDS,
}


def _coded(status: int, code: str) -> str:
    return f"status:code={status},type={KINDS.get(status, 'api_error')},error-code={code}"


@every_route
@pytest.mark.parametrize("status", sorted({status for status, _ in OF_THE_REQUEST}))
def test_code_about_the_request_is_the_client_s(rig: Rig, status: int, route: Route) -> None:
    """Given any code that speaks of the request, then the client gets that answer, no other key is asked, none is
    marked, and the next request is served."""
    rig.keys("ok", "ok")
    codes = [code for known, code in OF_THE_REQUEST if known == status]
    each = codes if route.path == "/v1/messages" else codes[::5]
    for code in [*each, "something_new_in_the_api"] if status in (400, 402, 403) else each:
        rig.script(_coded(status, code))
        answer = route.ask(rig)
        assert rig.calls == [0], code
        assert answer.status == status
        assert answer.json()["error"]["details"]["error_code"] == code
    _assert_upstreams(answer, rig, route)
    assert rig.states == [VALID, VALID]
    rig.script("ok")
    assert route.ask(rig).status == 200
    assert rig.calls == [0]


@pytest.mark.parametrize("route", [ROUTES["streamed"], ROUTES["whole"], COUNT], ids=["streamed", "whole", "count"])
@pytest.mark.parametrize(("known", "state"), SPEAK_OF_MORE.items(), ids=[code for _, code in SPEAK_OF_MORE])
def test_code_about_more_than_the_request_lets_another_key_answer(
    rig: Rig, known: tuple[int, str], state: str, route: Route
) -> None:
    """Given a code that speaks of the key, its workspace or its organisation, then another key answers, and that one
    stands as the code says; a rate limit is of its scope alone."""
    rig.keys(f"{_coded(*known)} then ok", "ok")
    assert route.ask(rig).status == 200
    assert rig.calls == [0, 1]
    assert rig.states == [state, VALID]
    if state == TEMPORARY:
        seconds = COOLDOWN_SECONDS[known[1].partition("_")[0]]
        assert seconds - 20 < rig.cooldown_seconds(0) <= seconds
    rig.simulator.clear_requests()
    assert message(False, model="claude-sonnet-5").ask(rig).status == 200
    is_of_the_key = state == PERMANENT or ("ramp" not in known[1] and state == TEMPORARY)
    assert rig.calls == [1 if is_of_the_key else 0]


@both_modes
@pytest.mark.parametrize("code", ["organization_not_enrolled_in_beta", "storage_quota_exceeded"])
def test_code_about_the_organisation_s_rights_is_the_client_s_in_the_end(
    rig: Rig, code: str, is_streamed: bool
) -> None:
    """Given that no organisation may do it, then the client gets the last refusal as it came, and no key is marked."""
    rig.keys(_coded(400, code), _coded(400, code))
    answer = message(is_streamed).ask(rig)
    assert rig.calls == [0, 1]
    _assert_upstreams(answer, rig, message(is_streamed))
    assert rig.states == [VALID, VALID]


# Wordings (2), and pages (9)

DISABLED = "This organization has been disabled because of its owner's request."
WORDINGS = {
    "credit": ("out_of_credit", TEMPORARY, MONEY_SECONDS),
    "402": ("status:code=402,type=billing_error", TEMPORARY, MONEY_SECONDS),
    "spend": ("spend_limited:regain=600", TEMPORARY, 600),
    "spend_far_off": ("spend_limited", TEMPORARY, MONEY_SECONDS),
    "workspace_spend": ("spend_limited:workspace=true,regain=600", TEMPORARY, 600),
    "disabled_400": (f"bad_request:message={DISABLED}", PERMANENT, 0),
    "disabled_403": (f"forbidden:message={DISABLED}", PERMANENT, 0),
}


@both_modes
@pytest.mark.parametrize(("script", "state", "seconds"), WORDINGS.values(), ids=WORDINGS)
def test_wording_lets_another_key_answer(rig: Rig, script: str, state: str, seconds: float, is_streamed: bool) -> None:
    """Given a refusal that has no code and is known by its words, then another key answers, and that one cools down."""
    rig.keys(script, "ok")
    assert message(is_streamed).ask(rig).status == 200
    assert rig.calls == [0, 1]
    assert rig.states == [state, VALID]
    if seconds:
        assert seconds - 80 < rig.cooldown_seconds(0) <= seconds  # access comes back at a whole minute
    rig.simulator.clear_requests()
    assert COUNT.ask(rig).status == 200
    assert rig.calls == [1]


@every_route
@pytest.mark.parametrize(
    "script",
    [
        "bad_request:message=messages.0: 'Your credit balance is too low' is no text",
        "out_of_credit:error-code=something_new",
        "out_of_credit:bytes=70000",
        "status:code=404,message=Your credit balance is too low",
        "status:code=402,type=billing_error,html=true",
        "unauthorized:html=true",
        "forbidden:html=true",
    ],
    ids=["further-in", "with-a-code", "too-large", "404", "page-402", "page-401", "page-403"],
)
def test_what_only_looks_like_a_cause_is_the_client_s(rig: Rig, script: str, route: Route) -> None:
    """Given a client's own words, or a page of the edge's, then the client gets the answer, and no key is marked."""
    rig.keys(script, "ok")
    answer = route.ask(rig)
    assert rig.calls == [0]
    _assert_upstreams(answer, rig, route)
    assert rig.states == [VALID, VALID]


# Scopes (4)

SCOPES = {
    "opus": message(False),
    "opus_streamed": message(True, model="claude-opus-4-5-20251101"),
    "opus_fast": message(False, speed="fast"),
    "sonnet": message(False, model="claude-sonnet-5"),
    "sonnet_streamed": message(True, model="claude-sonnet-5"),
    "count_tokens": COUNT,
    "models": ROUTES["models"],
    "model": ROUTES["model"],
}
SHARED = [{"opus", "opus_streamed"}, {"sonnet", "sonnet_streamed"}, {"models", "model"}]


@pytest.mark.parametrize("limited", SCOPES)
def test_limit_of_one_scope_leaves_the_key_to_all_others(rig: Rig, limited: str) -> None:
    """Given a 429 for one class of models or kind of request, then all of that scope are refused without asking, and
    everything else is served by the same key."""
    rig.keys("rate_limited:retry-after=41 then ok")
    refused = SCOPES[limited].ask(rig)
    assert (refused.status, refused.header("retry-after")) == (429, "41")
    assert rig.states == [TEMPORARY]
    shared = next((group for group in SHARED if limited in group), {limited})
    for name, route in SCOPES.items():
        rig.simulator.clear_requests()
        answer = route.ask(rig)
        if name in shared:
            assert (answer.status, rig.calls) == (429, []), name
            assert 1 <= int(answer.header("retry-after") or 0) <= 41
        else:
            assert (answer.status, rig.calls) == (200, [0]), name


@every_route
def test_cooldowns_that_are_over_before_the_last_key_answers_are_a_429_too(rig: Rig, route: Route) -> None:
    """Given limits that end at once, then the client is told to come back, and not that the keys are refused."""
    rig.keys(*["rate_limited:retry-after-ms=1 then ok"] * 3)
    answer = route.ask(rig)
    assert (answer.status, answer.header("retry-after"), rig.calls) == (429, "1", [0, 1, 2])
    assert route.ask(rig).status == 200


# Worlds: what an organisation lacks (3), money of an organisation (2), workspaces (5), sessions (11)

_worlds = count()
WARM = message(False, model="claude-warm")


class Scene:
    """Keys that were never used, in these workspaces: `a1` is the first of organisation `a`. The pool knows where."""

    def __init__(self, rig: Rig, *workspaces: str) -> None:
        self.rig, self.world, self._number = rig, rig.simulator.world, next(_worlds)
        rig.replace_keys(len(workspaces))
        for name in dict.fromkeys(workspaces):
            self.world.put(Organisation(self.id(name[0])))
            self.world.put(Workspace(self.id(name), self.id(name[0])))
        for secret, name in zip(rig.secrets, workspaces, strict=True):
            self.world.put(Key(secret, self.id(name)))
            rig.simulator.script(secret, "rate_limited:retry-after-ms=1 then ok")
        assert self.ask(WARM) == (429, list(range(len(workspaces))))  # a 429 says whose key it is
        assert wait_until(lambda: set(rig.states) == {VALID}, 30)

    def id(self, name: str) -> str:
        return f"{name}-{self._number}"

    def ask(self, route: Route, *headers: str) -> tuple[int, list[int]]:
        """The client's status, and the keys that were asked."""
        self.rig.simulator.clear_requests()
        answer = route.ask(self.rig, *headers)
        return answer.status, self.rig.calls

    def exhaust(self, organisation: str, scope: str = "messages/opus-4") -> None:
        """From now on its limit for a scope allows one request, and that in an hour."""
        self.world.change(self.id(organisation), limits={scope: Limit(1, 3600)})


@both_modes
def test_what_an_organisation_lacks_is_asked_of_others(rig: Rig, is_streamed: bool) -> None:
    """Given a beta that an organisation may not use, then another organisation's key answers; when none may, the client
    gets the refusal and is not to retry; a plain request is served by the first key all along."""
    scene, route = Scene(rig, "a1", "a2", "b1"), message(is_streamed)
    header = f"anthropic-beta: {BETA}"
    scene.world.change(scene.id("a"), lacks_betas=frozenset({BETA}))
    assert scene.ask(route, header) == (200, [0, 2])
    assert scene.ask(route) == (200, [0])
    scene.world.change(scene.id("b"), lacks_betas=frozenset({BETA}))
    rig.simulator.clear_requests()
    answer = route.ask(rig, header)
    assert rig.calls == [0, 2]
    assert (answer.status, answer.header("x-should-retry"), answer.header("retry-after")) == (429, "false", None)
    _assert_upstreams(answer, rig, route, header)
    assert rig.states == [VALID] * 3
    assert scene.ask(route) == (200, [0])


@both_modes
@pytest.mark.parametrize(
    ("member", "settings", "calls", "states"),
    [
        ("a", {"credit": 0}, [0, 3], [TEMPORARY] * 3 + [VALID]),
        ("a", {"spend_limited": True}, [0, 3], [TEMPORARY] * 3 + [VALID]),
        ("a1", {"spend_limited": True}, [0, 2], [TEMPORARY, TEMPORARY, VALID, VALID]),
        ("a1", {"unusable": True}, [0, 2], [TEMPORARY, TEMPORARY, VALID, VALID]),
        ("a", {"disabled": True}, [0, 3], [PERMANENT, VALID, VALID, VALID]),
    ],
    ids=["credit", "spend", "workspace-spend", "workspace-key", "disabled"],
)
def test_trouble_of_many_keys_costs_one_attempt(
    rig: Rig, member: str, settings: dict[str, object], calls: list[int], states: list[str], is_streamed: bool
) -> None:
    """Given trouble of an organisation or a workspace, then one of its keys is asked, once, and those who share it are
    passed over from then on; nobody else is touched."""
    scene = Scene(rig, "a1", "a1", "a2", "b1")
    scene.world.change(scene.id(member), **settings)
    assert scene.ask(message(is_streamed)) == (200, calls)
    assert rig.states == states
    assert scene.ask(message(is_streamed)) == (200, calls[1:])
    scene.world.change(scene.id("b"), disabled=True)
    if settings == {"disabled": True}:
        assert scene.ask(message(is_streamed))[1] == [3, 1, 2], "in doubt is not out"


@both_modes
def test_two_of_a_workspace_speak_for_the_rest(rig: Rig, is_streamed: bool) -> None:
    """Given three keys of a limited workspace and one of another organisation, then the first is asked and the other
    organisation's; later one more of the workspace, and then nobody."""
    scene, route = Scene(rig, "a1", "a1", "a1", "b1"), message(is_streamed)
    scene.exhaust("a")
    scene.exhaust("b")
    assert scene.ask(route) == (200, [0])
    assert scene.ask(route) == (200, [0, 3])
    assert rig.states == [TEMPORARY, VALID, VALID, VALID]
    assert scene.ask(route) == (429, [3, 1])
    assert scene.ask(route) == (429, [])
    assert rig.states == [TEMPORARY] * 4
    assert scene.ask(message(is_streamed, model="claude-sonnet-5")) == (200, [0])


# First events (7, 8)

FIRST_EVENTS = {
    "rate_limit": ("type=rate_limit_error", TEMPORARY),
    "billing": ("type=billing_error", TEMPORARY),
    "credit": ("type=invalid_request_error,message=Your credit balance is too low to access it.", TEMPORARY),
    "authentication": ("type=authentication_error", PERMANENT),
    "disabled": (f"type=invalid_request_error,message={DISABLED}", PERMANENT),
}


@pytest.mark.parametrize("behind", ["", ",pings=2", ",pings=2,first=2.5"], ids=["first", "behind-pings", "late"])
@pytest.mark.parametrize(("options", "state"), FIRST_EVENTS.values(), ids=FIRST_EVENTS)
def test_first_event_is_judged_like_a_status(rig: Rig, options: str, state: str, behind: str) -> None:
    """Given a stream whose first event but for pings refuses the key, then another key answers in its place."""
    rig.keys(f"error_event:{options}{behind}", "ok")
    answer = message(True).ask(rig)
    assert rig.calls == [0, 1]
    assert answer.status == 200
    names = [name for name, _ in answer.events if name != "ping"]
    assert (names[0], names[-1], "error" in names) == ("message_start", "message_stop", False)
    assert rig.states == [state, VALID]


# Sessions (11)

SESSION = "X-Claude-Code-Session-Id: 0f4e8a52-0000-4000-8000-{:012}"
COMES_AND_GOES = "rate_limited:retry-after-ms=1 then ok then "
ROUNDS = 4
_sessions = count()


class Session:
    """A conversation that grows, and what its answers said of the prompt cache. Without a number it has no name."""

    def __init__(self, scene: Scene, is_streamed: bool, *, is_named: bool = True) -> None:
        self._scene, self._is_streamed = scene, is_streamed
        self._headers = [SESSION.format(next(_sessions))] if is_named else []
        self._messages: list[dict[str, str]] = [{"role": "user", "content": f"{next(_sessions)} " * 400}]
        self.written = 0

    def ask(self) -> list[int]:
        """One more turn; the keys that were asked."""
        simulator = self._scene.rig.simulator
        simulator.clear_requests()
        route = message(self._is_streamed, messages=self._messages)
        answer = route.ask(self._scene.rig, *self._headers)
        assert answer.status == 200
        document = answer.events[0][1]["message"] if self._is_streamed else answer.json()
        self.written += document["usage"]["cache_creation_input_tokens"]
        self._messages += [{"role": "assistant", "content": "word " * 40}, {"role": "user", "content": "go on"}]
        return self._scene.rig.calls


def _alternating(rig: Rig) -> Scene:
    """Two workspaces; the first one's limit is hit, is over in a moment, and is hit again."""
    scene = Scene(rig, "a1", "b1")
    scene.world.caches_all = True
    rig.simulator.script(rig.secrets[0], COMES_AND_GOES * ROUNDS + "ok")
    return scene


def _turns(scene: Scene, session: Session) -> list[list[int]]:
    """What a conversation asks while the first key comes and goes, and is back whenever it asks."""
    asked = []
    for _ in range(2 * ROUNDS):
        assert wait_until(lambda: scene.rig.states == [VALID, VALID], 30)
        asked.append(session.ask())
    return asked


@pytest.fixture(scope="module")
def unpinned_rig() -> Iterator[Rig]:
    with Rig(session_pin_seconds=0) as rig:
        yield rig


@both_modes
def test_displaced_session_stays_and_pays_once(rig: Rig, unpinned_rig: Rig, is_streamed: bool) -> None:
    """Given a session whose first key comes and goes, then it stays with the workspace that it was displaced to, and
    less is written to caches than if it went back and forth."""
    scene = _alternating(rig)
    session = Session(scene, is_streamed)
    assert _turns(scene, session) == [[0, 1]] + [[1]] * (2 * ROUNDS - 1)

    other = _alternating(unpinned_rig)
    wanderer = Session(other, is_streamed)
    assert _turns(other, wanderer) == [[0, 1], [0]] * ROUNDS

    assert 0 < session.written < 0.7 * wanderer.written
    for each, where in ((session, scene), (wanderer, other)):
        assert each.written == sum(where.world.cached(where.id(name)).written for name in ("a1", "b1"))


@both_modes
def test_session_that_was_not_displaced_and_one_without_a_name_stay_nowhere(rig: Rig, is_streamed: bool) -> None:
    """Given a key that was out for a while, then a session that was not displaced by that, and requests that name none,
    ask it again; the displaced one does not, and passes over its own workspace while that one is out."""
    scene = Scene(rig, "a1", "b1")
    settled, displaced, nameless = (Session(scene, is_streamed, is_named=named) for named in (True, True, False))
    assert settled.ask() == [0]
    rig.simulator.script(rig.secrets[0], "rate_limited:retry-after-ms=1*2 then ok")
    assert displaced.ask() == [0, 1]
    assert wait_until(lambda: rig.states == [VALID, VALID], 30)
    assert nameless.ask() == [0, 1]
    assert wait_until(lambda: rig.states == [VALID, VALID], 30)
    assert [each.ask() for each in (nameless, settled, displaced)] == [[0], [0], [1]]

    rig.simulator.script(rig.secrets[1], "rate_limited:retry-after-ms=1 then ok")
    assert displaced.ask() == [1, 0]
    assert wait_until(lambda: rig.states == [VALID, VALID], 30)
    assert displaced.ask() == [1], "the pin stays"

"""Failover, end to end: the first table of the design, on every route, over plain HTTP and TLS to the upstream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.clients import Received, ask, message_body
from tests.e2e.rig import Rig
from tests.harness import wait_until

VALID, TEMPORARY, PERMANENT = "valid", "temporary", "permanent"
SHORT_COOLDOWN = "retry-after-ms=1"  # but no shorter than the way to the next request
LIMITED = "all configured keys are rate-limited"
REFUSED = "all configured keys failed authentication"


@pytest.fixture(scope="module", params=["http", "tls"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Rig(is_tls=request.param == "tls", default_cooldown_seconds=33) as rig:
        yield rig


@dataclass(frozen=True)
class Route:
    """A way to ask."""

    method: str
    path: str
    body: bytes = b""

    def ask(self, rig: Rig, *headers: str) -> Received:
        return ask(rig.gateway.url, self.body, method=self.method, path=self.path, headers=headers)


STREAMED = Route("POST", "/v1/messages", message_body(is_streamed=True))
WHOLE = Route("POST", "/v1/messages", message_body(is_streamed=False))
ROUTES = {
    "streamed": STREAMED,
    "whole": WHOLE,
    "count_tokens": Route("POST", "/v1/messages/count_tokens", message_body(is_streamed=False)),
    "models": Route("GET", "/v1/models"),
    "model": Route("GET", "/v1/models/claude-simulated"),
}
every_route = pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
plain_only = pytest.mark.parametrize("rig", ["http"], indirect=True)
both_modes = pytest.mark.parametrize("route", [STREAMED, WHOLE], ids=["streamed", "whole"])


@dataclass(frozen=True)
class Row:
    """A row of the table: the keys' scripts; what the last of `asked` requests meets.

    `error` is type and message of an error of the gateway's own; an error of the upstream's has none here.
    """

    scripts: tuple[str, ...]
    calls: tuple[int, ...]
    status: int
    states: tuple[str, ...]
    error: tuple[str, str] | None = None
    retry_after: str | None = None
    asked: int = 1


ROWS = {
    "one_valid_key": Row(("ok",), (0,), 200, (VALID,)),
    "k0_429": Row(("rate_limited:retry-after=5", "ok"), (0, 1), 200, (TEMPORARY, VALID)),
    "k0_401": Row(("unauthorized", "ok"), (0, 1), 200, (PERMANENT, VALID)),
    "k0_403": Row(("forbidden", "ok"), (0, 1), 200, (PERMANENT, VALID)),
    "all_429": Row(
        ("rate_limited:retry-after=5", "rate_limited:retry-after=3", "rate_limited:retry-after=10"),
        (0, 1, 2),
        429,
        (TEMPORARY,) * 3,
        error=("rate_limit_error", LIMITED),
        retry_after="3",
    ),
    "both_401": Row(
        ("unauthorized", "unauthorized"), (0, 1), 502, (PERMANENT, PERMANENT), error=("api_error", REFUSED)
    ),
    "401_and_403": Row(
        ("unauthorized", "forbidden"), (0, 1), 502, (PERMANENT, PERMANENT), error=("api_error", REFUSED)
    ),
    "k0_500": Row(("server_error", "ok"), (0,), 500, (VALID, VALID)),
    "k0_503": Row(("unavailable", "ok"), (0,), 503, (VALID, VALID)),
    "k0_529": Row(("overloaded", "ok"), (0,), 529, (VALID, VALID)),
    "k0_400": Row(("bad_request", "ok"), (0,), 400, (VALID, VALID)),
    "k0_404": Row(("not_found", "ok"), (0,), 404, (VALID, VALID)),
    "k0_413": Row(("too_large", "ok"), (0,), 413, (VALID, VALID)),
    "k0_cut_in_the_answer": Row(("cut_at:byte=0", "ok"), (0,), 502, (VALID, VALID)),
    "some_permanent_the_rest_cooling": Row(
        ("unauthorized", "rate_limited:retry-after=9", "rate_limited:retry-after=4"),
        (0, 1, 2),
        429,
        (PERMANENT, TEMPORARY, TEMPORARY),
        error=("rate_limit_error", LIMITED),
        retry_after="4",
    ),
    "some_permanent_the_rest_cooling_already": Row(
        ("forbidden", "rate_limited:retry-after=600"),
        (),
        429,
        (PERMANENT, TEMPORARY),
        error=("rate_limit_error", LIMITED),
        retry_after="600",
        asked=2,
    ),
    "all_retired_already": Row(
        ("unauthorized", "forbidden"), (), 502, (PERMANENT, PERMANENT), error=("api_error", REFUSED), asked=2
    ),
    "k0_cooling_from_an_earlier_request": Row(
        ("rate_limited:retry-after=60 then ok", "ok"), (1,), 200, (TEMPORARY, VALID), asked=2
    ),
    "k0_retired_by_an_earlier_request": Row(("unauthorized then ok", "ok"), (1,), 200, (PERMANENT, VALID), asked=2),
    "k0_recovered_from_an_earlier_request": Row(
        (f"rate_limited:{SHORT_COOLDOWN} then ok", "ok"), (0,), 200, (VALID, VALID), asked=2
    ),
    "two_fail_over_to_the_third": Row(
        ("rate_limited", "unauthorized", "ok"), (0, 1, 2), 200, (TEMPORARY, PERMANENT, VALID)
    ),
}


@every_route
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_pool_is_walked_as_the_design_says(rig: Rig, row: Row, route: Route) -> None:
    """Given these keys, when a client asks, then these keys are called in order and the client gets that answer."""
    rig.keys(*row.scripts)
    for _ in range(row.asked - 1):
        route.ask(rig)
    if SHORT_COOLDOWN in row.scripts[0]:
        assert wait_until(lambda: rig.states[0] == VALID, 30)
    rig.simulator.clear_requests()

    answer = route.ask(rig)

    assert tuple(rig.calls) == row.calls
    assert answer.status == row.status
    assert answer.is_complete
    assert answer.header("retry-after") == row.retry_after
    assert tuple(rig.states) == row.states
    if row.error is not None:
        _assert_own_error(answer, *row.error)
    elif row.status == 200:
        _assert_identical(answer, route, rig, row.calls[-1])


def _assert_own_error(answer: Received, kind: str, message: str) -> None:
    assert answer.header("content-type") == "application/json"
    request_id = answer.header("request-id")
    assert request_id
    document = answer.json()
    told = document["error"].pop("message")
    assert document == {"type": "error", "error": {"type": kind}, "request_id": request_id}
    assert told.startswith(f"{message}: ")


def _assert_identical(answer: Received, route: Route, rig: Rig, position: int) -> None:
    headers = [f"x-api-key: {rig.secrets[position]}"]
    ca_file = rig.simulator.ca_file
    direct = ask(rig.simulator.url, route.body, method=route.method, path=route.path, headers=headers, ca_file=ca_file)
    assert answer.body == direct.body
    assert answer.header("content-type") == direct.header("content-type")


ERRORS = ["server_error", "unavailable", "overloaded", "bad_request", "not_found", "too_large", "status:code=418"]


@every_route
@pytest.mark.parametrize("script", ERRORS)
def test_an_upstream_error_is_relayed_in_its_own_words(rig: Rig, script: str, route: Route) -> None:
    """Given an error that says nothing about the key, then status, body and headers are the upstream's."""
    rig.keys(f"{script}:message=in its own words" if ":" not in script else script, "ok")
    answer = route.ask(rig)
    seen = rig.simulator.requests[0]
    assert rig.calls == [0]
    assert answer.json()["request_id"] == seen.request_id == answer.header("request-id")
    assert answer.json()["error"]["message"] == ("Simulated" if ":" in script else "in its own words")
    assert answer.header("x-should-retry") == ("true" if answer.status >= 500 else "false")


COOLDOWNS = {
    "retry_after": ("retry-after=5", 5),
    "retry_after_fraction": ("retry-after=7.5", 7.5),
    "retry_after_date": ("retry-after-date=40", 40),
    "retry_after_ms": ("retry-after-ms=12500", 12.5),
    "unified_reset": ("unified-reset=90", 90),
    "ms_before_seconds": ("retry-after=50,retry-after-ms=8000", 8),
    "seconds_before_unified": ("retry-after=20,unified-reset=500", 20),
    "none": ("", 33),
    "garbage": ("raw=soon", 33),
    "not_finite": ("raw=inf", 33),
    "zero": ("raw=0", 33),
    "negative": ("raw=-7", 33),
    "date_in_the_past": ("retry-after-date=-100", 33),
    "unified_in_the_past": ("unified-reset=-100", 33),
    "longer_than_a_day": ("raw=9999999", 24 * 3600),
}


@plain_only
@pytest.mark.parametrize("named", COOLDOWNS.values(), ids=COOLDOWNS)
def test_a_limited_key_cools_as_long_as_the_upstream_says(rig: Rig, named: tuple[str, float]) -> None:
    """Given a 429 with these headers, then the key's cooldown is what they name, else the default."""
    options, seconds = named
    rig.keys(f"rate_limited:{options}".rstrip(":"), "ok")
    assert STREAMED.ask(rig).status == 200
    left = rig.cooldown_seconds(0)
    # A header in whole epoch seconds or an HTTP-date loses up to one second; the cooldown is the test's own time.
    assert seconds - 3 < left <= seconds


def test_retry_after_is_rounded_up_and_at_least_one(rig: Rig) -> None:
    """Given a cooldown of 400 ms, when the only key is limited, then the client is told to wait one second."""
    rig.keys("rate_limited:retry-after-ms=400")
    assert STREAMED.ask(rig).header("retry-after") == "1"


# Errors inside a 200.


LIMIT_EVENT = "error_event:type=rate_limit_error"
DRESSES = ["", ",eol=crlf", ",eol=cr", ",bom=true", ",comments=true", ",multiline=true", ",gzip=true", ",framing=close"]


@pytest.mark.parametrize("dress", DRESSES)
def test_a_first_event_that_says_limited_counts_as_429(rig: Rig, dress: str) -> None:
    """Given a stream whose first event is a rate_limit_error, then the next key answers and nothing of it shows."""
    rig.keys(LIMIT_EVENT + dress, "ok")
    answer = STREAMED.ask(rig)
    assert rig.calls == [0, 1]
    assert rig.states == [TEMPORARY, VALID]
    _assert_identical(answer, STREAMED, rig, 1)
    assert answer.header("request-id") == rig.simulator.requests[1].request_id


def test_the_stream_of_the_next_key_runs_to_its_end_however_long(rig: Rig) -> None:
    """Given a first key that is limited in its first event, then the second's slow stream arrives to its end."""
    rig.keys(LIMIT_EVENT, "ok:events=3,delay=0.2")
    answer = STREAMED.ask(rig)
    assert rig.calls == [0, 1]
    assert answer.events[-1][0] == "message_stop"
    rig.simulator.script(rig.secrets[1], "ok:events=3")
    _assert_identical(answer, STREAMED, rig, 1)


def test_a_late_first_event_that_says_limited_counts_as_429(rig: Rig) -> None:
    """Given the head has gone out before the rate_limit_error came, then the next key answers under that head."""
    rig.keys(f"{LIMIT_EVENT},first=2.5", "ok:events=3,delay=0.2")
    answer = STREAMED.ask(rig)
    assert answer.status == 200
    assert answer.arrivals[0][0] - answer.head_at > 0.2
    assert rig.calls == [0, 1]
    assert rig.states == [TEMPORARY, VALID]
    rig.simulator.script(rig.secrets[1], "ok:events=3")
    _assert_identical(answer, STREAMED, rig, 1)


def test_all_keys_limited_in_their_first_event_is_a_429(rig: Rig) -> None:
    """Given that every key's stream begins with a rate_limit_error, then the client gets a 429 with a JSON body."""
    rig.keys(LIMIT_EVENT, f"{LIMIT_EVENT},gzip=true")
    answer = STREAMED.ask(rig)
    assert answer.status == 429
    _assert_own_error(answer, "rate_limit_error", LIMITED)
    assert answer.header("retry-after") == "33"
    assert rig.states == [TEMPORARY, TEMPORARY]


LATE_ENDS = {
    "429": ("rate_limited:retry-after=5", "rate_limit_error", LIMITED, TEMPORARY),
    "limit_event": (LIMIT_EVENT, "rate_limit_error", LIMITED, TEMPORARY),
    "500": ("server_error:message=in its own words", "api_error", "in its own words", VALID),
    "529": ("overloaded", "overloaded_error", "Overloaded", VALID),
    "cut": ("cut_at:byte=0", "api_error", None, VALID),
    "empty": ("empty", "api_error", None, VALID),
    "html": ("html", "api_error", None, VALID),
}


@plain_only
@pytest.mark.parametrize("case", LATE_ENDS.values(), ids=LATE_ENDS)
def test_a_failure_after_the_head_is_one_error_event(rig: Rig, case: tuple[str, str, str | None, str]) -> None:
    """Given the head has gone out for a key that was then limited, and the next fails: one `event: error`."""
    script, kind, message, state = case
    rig.keys(f"{LIMIT_EVENT},first=2.5", script)
    answer = STREAMED.ask(rig)
    assert answer.status == 200
    assert answer.is_complete
    [(name, document)] = answer.events
    assert name == "error"
    assert document["type"] == "error"
    assert document["error"]["type"] == kind
    assert message is None or document["error"]["message"].partition(": ")[0] == message
    assert rig.calls == [0, 1]
    assert rig.states == [TEMPORARY, state]


def test_once_an_event_was_relayed_there_is_no_failover(rig: Rig) -> None:
    """Given a rate_limit_error behind other events, then it is relayed as it came and marks nothing."""
    rig.keys(f"{LIMIT_EVENT},after=2", "ok")
    answer = STREAMED.ask(rig)
    assert [name for name, _ in answer.events] == ["message_start", "content_block_start", "error"]
    assert answer.events[-1][1]["error"]["type"] == "rate_limit_error"
    assert rig.calls == [0]
    assert rig.states == [VALID, VALID]


FIRST_ERRORS = {
    "invalid_request_error": 400,
    "not_found_error": 404,
    "request_too_large": 413,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    "something_new_error": 500,
}


@pytest.mark.parametrize("behind", ["", ",pings=2"], ids=["first", "behind-pings"])
@pytest.mark.parametrize(("kind", "status"), FIRST_ERRORS.items(), ids=FIRST_ERRORS)
def test_a_first_event_of_another_error_is_a_status(rig: Rig, kind: str, status: int, behind: str) -> None:
    """Given a stream that begins with an error about no key, then it is an HTTP error with the upstream's own body."""
    rig.keys(f"error_event:type={kind}{behind}", "ok")
    answer = STREAMED.ask(rig)
    assert answer.status == status
    assert answer.header("content-type") == "application/json"
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == kind
    assert answer.header("request-id") == rig.simulator.requests[0].request_id
    assert rig.calls == [0]
    assert rig.states == [VALID, VALID]


def test_a_ping_is_no_answer(rig: Rig) -> None:
    """Given pings and then a rate_limit_error, then the next key answers and nothing of the first one shows."""
    rig.keys(f"{LIMIT_EVENT},pings=2", "ok")
    answer = STREAMED.ask(rig)
    assert rig.calls == [0, 1]
    assert rig.states == [TEMPORARY, VALID]
    _assert_identical(answer, STREAMED, rig, 1)


# Refusals for causes.


@every_route
@pytest.mark.parametrize("script", ["out_of_credit", "spend_limited", "spend_limited:workspace=true",
    "status:code=402,type=billing_error", "rate_limited:error-code=enforced_spend_limit_reached",
    "bad_request:error-code=cmek_key_disabled"])  # fmt: skip
def test_a_key_that_nobody_pays_for_cools_and_another_answers(rig: Rig, script: str, route: Route) -> None:
    """Given a first key that is refused for money or for its workspace, then the next key answers; that one cools
    down."""
    rig.keys(script, "ok")
    answer = route.ask(rig)
    assert rig.calls == [0, 1]
    assert rig.states == [TEMPORARY, VALID]
    _assert_identical(answer, route, rig, 1)
    seconds = rig.cooldown_seconds(0)
    longest = 300 if "cmek" in script else 3600
    assert longest - 30 < seconds <= longest


@every_route
def test_the_last_refusal_for_money_is_the_client_s(rig: Rig, route: Route) -> None:
    """Given keys of which none is paid for, then the client gets the last refusal, and is told not to retry."""
    rig.keys("out_of_credit", "spend_limited:regain=600")
    answer = route.ask(rig)
    assert rig.calls == [0, 1]
    assert answer.status == 400
    assert answer.json()["error"]["message"].startswith("You have reached your specified API usage limits")
    assert answer.header("x-should-retry") == "false"
    assert rig.states == [TEMPORARY, TEMPORARY]
    assert 500 < rig.cooldown_seconds(1) <= 600

    rig.simulator.clear_requests()
    again = route.ask(rig)
    assert rig.calls == []
    assert again.status == 402
    _assert_own_error(again, "billing_error", "all configured keys are out of money")
    assert again.header("x-should-retry") == "false"


@every_route
def test_a_request_that_an_organisation_may_not_make_marks_no_key(rig: Rig, route: Route) -> None:
    """Given a 429 that no waiting mends, then other keys are tried and none is marked; else it is the client's."""
    rig.keys("not_entitled then ok", "not_entitled then ok")
    answer = route.ask(rig)
    assert rig.calls == [0, 1]
    assert answer.status == 429
    assert answer.header("x-should-retry") == "false"
    assert answer.json()["error"]["message"] == "Extra usage is required for long context requests."
    assert rig.states == [VALID, VALID]

    rig.simulator.clear_requests()
    assert route.ask(rig).status == 200
    assert rig.calls == [0]


REQUEST_REFUSALS = {
    "profile": "forbidden:error-code=user_profile_not_billable",
    "linked": "status:code=402,type=billing_error,error-code=linked_organization_spend_limit_reached",
    "scope": "forbidden:error-code=api_key_scope_missing",
    "cors": "unauthorized:message=CORS requests are not allowed for this Organization because of its settings",
    "page_401": "unauthorized:html=true",
    "page_403": "forbidden:html=true",
    "unknown_code": "forbidden:error-code=something_new",
}


@every_route
@pytest.mark.parametrize("script", REQUEST_REFUSALS.values(), ids=REQUEST_REFUSALS)
def test_a_refusal_of_the_request_judges_no_key(rig: Rig, script: str, route: Route) -> None:
    """Given a refusal that speaks of the request or of our address, then the client gets it; no key is marked."""
    rig.keys(script, "ok")
    answer = route.ask(rig)
    direct = rig.direct(route.body, path=route.path, method=route.method)
    assert rig.calls == [0, 0]  # the gateway's, and this test's own
    assert answer.status == direct.status
    assert answer.header("content-type") == direct.header("content-type")
    assert len(answer.body) == len(direct.body)
    assert rig.states == [VALID, VALID]


# The client's own credential.


BYOK_HEADERS = {
    "x_api_key": ("x-api-key", "sk-ant-own-{}"),
    "bearer": ("authorization", "Bearer sk-ant-oat-{}"),
}


@every_route
@pytest.mark.parametrize("header", BYOK_HEADERS.values(), ids=BYOK_HEADERS)
@pytest.mark.parametrize(
    ("script", "status"),
    [("ok", 200), ("rate_limited:retry-after=5", 429), ("unauthorized", 401), ("forbidden", 403)],
    ids=["ok", "429", "401", "403"],
)
def test_the_clients_own_key_gets_one_attempt_and_its_answer(
    rig: Rig, script: str, status: int, header: tuple[str, str], route: Route
) -> None:
    """Given a client with its own key, then that key alone is called, once, and the upstream's answer is relayed."""
    rig.keys("ok")
    name, value = header[0], header[1].format(rig.names[0])
    own = value.removeprefix("Bearer ")
    rig.simulator.script(own, script)

    answer = route.ask(rig, f"{name}: {value}")

    [seen] = rig.simulator.requests
    assert seen.header(name) == value
    assert [seen.header(other) for other in ("x-api-key", "authorization") if other != name] == [""]
    assert answer.status == status
    assert rig.states == [VALID]
    if status == 429:
        assert answer.header("retry-after") == "5"
    if status != 200:
        assert answer.json()["request_id"] == seen.request_id


def test_the_clients_own_key_is_not_failed_over_within_a_stream(rig: Rig) -> None:
    """Given a client's own key whose stream begins with a rate_limit_error, then the client gets it as a 429."""
    rig.keys("ok")
    own = f"sk-ant-own-{rig.names[0]}"
    rig.simulator.script(own, LIMIT_EVENT)
    answer = STREAMED.ask(rig, f"x-api-key: {own}")
    assert (answer.status, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert rig.simulator.keys_seen == [own]
    assert rig.states == [VALID]


# The failed attempt's connection.


@both_modes
def test_a_failed_attempts_connection_is_used_again(rig: Rig, route: Route) -> None:
    """Given a 429 that can be read to its end, then the next key's call goes over the same connection."""
    rig.keys("rate_limited", "unauthorized", "ok")
    before = rig.simulator.opened_connections
    assert route.ask(rig).status == 200
    assert rig.calls == [0, 1, 2]
    assert rig.simulator.opened_connections <= before + 1


@both_modes
@pytest.mark.parametrize(
    "script", ["rate_limited:hang=true,bytes=2000", "unauthorized:bytes=3000000"], ids=["hanging", "endless"]
)
def test_a_failed_attempt_that_cannot_be_drained_holds_up_nobody(rig: Rig, script: str, route: Route) -> None:
    """Given a refusal whose body does not end soon, then its connection is closed and the next key answers."""
    rig.keys(script, "ok")
    before = rig.simulator.opened_connections
    assert route.ask(rig).status == 200
    assert rig.calls == [0, 1]
    assert rig.simulator.opened_connections >= before + 1
    assert rig.simulator.wait_until(lambda: rig.simulator.open_connections <= 1, 6)


def test_failover_is_counted(rig: Rig) -> None:
    """Given two keys that fail over to a third, then attempts, failovers and transitions are on `/metrics`."""
    rig.keys("rate_limited", "forbidden", "ok")
    counted: list[tuple[str, dict[str, str]]] = [
        ("key_attempts_total", {"key": "k0", "outcome": "rate_limited"}),
        ("key_attempts_total", {"key": "k1", "outcome": "forbidden"}),
        ("key_attempts_total", {"key": "k2", "outcome": "ok"}),
        ("key_failovers_total", {"key": "k0", "reason": "rate_limited"}),
        ("key_failovers_total", {"key": "k1", "reason": "forbidden"}),
        ("key_transitions_total", {"key": "k0", "state": "temporary"}),
        ("key_transitions_total", {"key": "k1", "state": "permanent"}),
        ("failover_attempts_count", {}),
    ]
    before = [rig.gateway.counted(name, **labels) for name, labels in counted]
    exhaustions = rig.gateway.counted("pool_exhaustions_total", outcome="rate_limited")
    assert STREAMED.ask(rig).status == 200
    assert [rig.gateway.counted(name, **labels) for name, labels in counted] == [value + 1 for value in before]
    assert rig.gateway.counted("pool_exhaustions_total", outcome="rate_limited") == exhaustions

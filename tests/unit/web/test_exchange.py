"""The book-keeping of a request: whatever becomes of its record, its client has an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from gateway.access.authentication import ClientToken
from gateway.access.credential import Key, Secret
from gateway.config.limit_rules import Limited, LimitRules, Limits
from gateway.config.settings import Settings
from gateway.limits.limiter import Used
from gateway.limits.no_limits import NO_LIMITS
from gateway.protocol.errors import GatewayError, LimitReached, Overloaded, SpendLimitReached
from gateway.records.interception_record import InterceptionRecord
from gateway.web.app import create_app
from gateway.web.service import Gateway
from tests.unit.telemetry.test_metrics import value
from tests.unit.tiny_server import Recorder, TinyServer


class CountingLimiter:
    """Lets everybody in, or refuses everybody, and keeps what it was told."""

    def __init__(self, refuses_with: GatewayError | None = None, *, is_broken: bool = False) -> None:
        self.entered: list[tuple[list[str], bool, bool]] = []
        self.settled: list[tuple[int, int]] = []
        self._refuses_with = refuses_with
        self._is_broken = is_broken

    def enter(self, limited: Sequence[Limited], *, costs: bool, is_own: bool) -> CountingLimiter:
        self.entered.append(([each.subject for each in limited], costs, is_own))
        if self._refuses_with is not None:
            raise self._refuses_with
        return self

    def settle(self, tokens: int, picodollars: int) -> None:
        self.settled.append((tokens, picodollars))
        if self._is_broken:
            raise RuntimeError("a bug")

    def used(self, everybody: Sequence[Limited]) -> list[Used]:
        return []

    def close(self) -> None: ...


class Sink:
    """Keeps records, or fails as nobody foresaw."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.records: list[InterceptionRecord] = []
        self._is_broken = is_broken

    def put(self, record: InterceptionRecord) -> None:
        if self._is_broken:
            raise RuntimeError("a bug")
        self.records.append(record)

    def close(self) -> None: ...


def ask(sink: Sink) -> tuple[int, str]:
    """A request to a gateway whose upstream is not there; status and request id of the answer."""
    gateway = Gateway(Settings(upstream_url="http://127.0.0.1:1", keys=(Key("a", Secret("sk-a")),)))
    gateway.recorder = sink
    body = {"model": "m", "metadata": {"user_id": '{"session_id":"in-the-body"}'}}
    response = create_app(gateway).test_client().post("/v1/messages", json=body, headers={"User-Agent": "curl/8.5.0"})
    assert gateway.admission.taken == 0
    return response.status_code, response.headers["request-id"]


def test_a_request_leaves_one_record() -> None:
    """Given a request that fails upstream; then its record has what the client saw, and who it was."""
    sink = Sink()
    status, request_id = ask(sink)
    [record] = sink.records
    assert (record.status, record.request_id, record.outcome) == (status, request_id, "upstream_failed")
    assert (record.client, record.session, record.model) == ("curl", "in-the-body", "m")
    assert [(attempt.key, attempt.outcome) for attempt in record.attempts] == [("a", "transport_error")]


def test_a_request_is_in_flight_until_its_record_is_handed_on() -> None:
    """Given a request that ends; then it counts as in flight while its record is taken, and no longer after it."""
    seen: list[float] = []
    gateway = Gateway(Settings(upstream_url="http://127.0.0.1:1", keys=(Key("a", Secret("sk-a")),)))

    class Looking(Sink):
        def put(self, record: InterceptionRecord) -> None:
            seen.append(value(gateway.metrics, "gateway_requests_inflight", route="messages"))

    gateway.recorder = Looking()
    create_app(gateway).test_client().post("/v1/messages", json={"model": "m"})
    seen.append(value(gateway.metrics, "gateway_requests_inflight", route="messages"))
    assert seen == [1.0, 0.0]


def test_a_recorder_that_fails_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """Given a bug in the recorder; then the client has the answer that it has otherwise, and the log has the bug."""
    assert ask(Sink(is_broken=True))[0] == ask(Sink())[0] == 502
    assert "its record is lost" in caplog.text


TOKEN, OWN = "gwt_anns", "sk-ant-of-anns-own"
RULES = LimitRules(groups={"research": Limits(concurrent=9)}, default=Limits(concurrent=4))
ANN = ClientToken("ann", Secret(TOKEN).fingerprint, False, "research")
USAGE = b'"input_tokens":100,"output_tokens":10,"cache_creation_input_tokens":20,"cache_read_input_tokens":1000'
ANSWER = b'{"type":"message","model":"claude-opus-5","content":[],"usage":{%s}}' % USAGE
GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER
# 100 input tokens at 5 dollars a million, 20 written at 6.25, 1000 read at 0.5, 10 of output at 25.
COST = 100 * 5_000_000 + 20 * 6_250_000 + 1000 * 500_000 + 10 * 25_000_000


def limited_gateway(limiter: CountingLimiter, tmp_path: Path, url: str, rules: LimitRules = RULES) -> Gateway:
    """A gateway with these limits, that only ann may use."""
    (tmp_path / "tokens").write_text(f"{ANN.line}\n")
    settings = Settings(
        upstream_url=url,
        keys=(Key("a", Secret("sk-a")),),
        limits=rules,
        client_tokens_file=str(tmp_path / "tokens"),
        tokens=(ANN,),
    )
    gateway = Gateway(settings)
    gateway.begin_limits(lambda: limiter)
    return gateway


def limited_ask(gateway: Gateway, path: str = "/v1/messages", **headers: str) -> TestResponse:
    """A request of ann's."""
    client = create_app(gateway).test_client()
    headers = {"X-Gateway-Token": TOKEN} | {name.replace("_", "-"): value for name, value in headers.items()}
    is_get = path.startswith("/v1/models")
    answer = client.open(
        path, method="GET" if is_get else "POST", json=None if is_get else {"model": "claude-opus-5"}, headers=headers
    )
    answer.get_data()
    answer.close()
    gateway.configuration.upstream.close()
    return answer


def test_what_a_request_has_used_is_settled_once(tmp_path: Path) -> None:
    """Given a request of a token with limits; then its tokens, but those read from the cache, and its cost count."""
    limiter = CountingLimiter()
    with TinyServer(Recorder(GOOD)) as server:
        assert limited_ask(limited_gateway(limiter, tmp_path, server.url)).status_code == 200
    assert limiter.entered == [(["group/research", "token/ann"], True, False)]
    assert limiter.settled == [(130, COST)]


@pytest.mark.parametrize(
    ("path", "own", "costs", "is_own"),
    [
        ("/v1/messages", False, True, False),
        ("/v1/messages", True, True, True),
        ("/v1/messages/count_tokens", False, False, False),
        ("/v1/models", False, False, False),
        ("/v1/models/claude-opus-5", True, False, True),
    ],
)
def test_what_fails_upstream_is_settled_too(tmp_path: Path, path: str, own: bool, costs: bool, is_own: bool) -> None:
    """Given a request that no upstream answers; then it is held to limits as its route and its credential are, and has
    ended for them."""
    limiter = CountingLimiter()
    gateway = limited_gateway(limiter, tmp_path, "http://127.0.0.1:1")
    answer = limited_ask(gateway, path, **({"x_api_key": OWN} if own else {}))
    assert answer.status_code == 502
    assert limiter.entered == [(["group/research", "token/ann"], costs, is_own)]
    assert limiter.settled == [(0, 0)]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            LimitReached("slowly", retry_after_seconds=7, limit="concurrent", holder_kind="group", holder="research"),
            "rate_limit_error",
        ),
        (
            SpendLimitReached("spend limit reached", limit="dollars_per_day", holder_kind="token", holder="ann"),
            "billing_error",
        ),
        (Overloaded("the shared store is out of reach", retry_after_seconds=1), "overloaded_error"),
    ],
)
def test_refused_request_gives_its_place_back(tmp_path: Path, error: GatewayError, kind: str) -> None:
    """Given a limit that refuses; then nothing goes upstream, nothing is settled or recorded, and the slot is free."""
    limiter, sink = CountingLimiter(error), Sink()
    gateway = limited_gateway(limiter, tmp_path, "http://127.0.0.1:1")
    gateway.recorder = sink
    answer = limited_ask(gateway)
    assert (answer.status_code, answer.get_json()["error"]) == (error.status, {"type": kind, "message": error.message})
    assert answer.headers.get("x-should-retry") == (None if error.may_pass else "false")
    assert (limiter.settled, sink.records, gateway.admission.taken) == ([], [], 0)
    page = gateway.metrics.render().decode()
    assert f'gateway_requests_total{{credential="none",route="messages",status="{error.status}"}} 1.0' in page
    assert f'gateway_rejections_total{{reason="{kind}"}} 1.0' in page
    if isinstance(error, LimitReached):
        labels = f'kind="{error.holder_kind}",limit="{error.limit}",name="{error.holder}"'
        assert f"gateway_limit_refusals_total{{{labels}}} 1.0" in page


def test_refused_requests_line_says_who_and_which_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Given a limit that refuses, and an access log; then the line names the token, the limit, and whose it is."""
    error = LimitReached("slowly", limit="concurrent", holder_kind="group", holder="research")
    with caplog.at_level("INFO", logger="gateway.access"):
        limited_ask(limited_gateway(CountingLimiter(error), tmp_path, "http://127.0.0.1:1"))
    [line] = [record.__dict__["fields"] for record in caplog.records if record.name == "gateway.access"]
    told = {name: line.get(name) for name in ("status", "outcome", "error", "token", "limit", "limit_of")}
    assert list(told.values()) == [429, "rejected", "rate_limit_error", "ann", "concurrent", "group/research"]


def fail(*_: object) -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("what", ["record", "settle"])
def test_bug_in_the_books_leaves_nothing_running(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Given a record that cannot be made, or counts that cannot be; then the request has ended, and has its answer."""
    limiter = CountingLimiter(is_broken=what == "settle")
    gateway = limited_gateway(limiter, tmp_path, "http://127.0.0.1:1")
    if what == "record":
        monkeypatch.setattr("gateway.records.record_builder.RecordBuilder.finished", fail)
    assert limited_ask(gateway).status_code == 502
    assert (limiter.settled, gateway.admission.taken) == ([(0, 0)], 0)
    assert ("its record is lost" in caplog.text) == (what == "record")
    assert ("is not counted" in caplog.text) == (what == "settle")


def test_limiter_is_made_once_there_are_limits(tmp_path: Path) -> None:
    """Given a gateway without limits; then it has no limiter until a reload brings some, and one from then on."""
    made: list[CountingLimiter] = []

    def open_limiter() -> CountingLimiter:
        made.append(CountingLimiter())
        return made[-1]

    gateway = limited_gateway(CountingLimiter(), tmp_path, "http://127.0.0.1:1", LimitRules())
    gateway.begin_limits(open_limiter)
    limited_ask(gateway)
    assert (made, gateway.limiter) == ([], NO_LIMITS)
    for _ in range(2):
        gateway.reload(replace(gateway.configuration.settings, limits=RULES))
        limited_ask(gateway)
    assert len(made) == 1
    assert [subjects for subjects, _, _ in made[0].entered] == [["group/research", "token/ann"]] * 2


def test_who_has_no_limits_is_not_looked_at(tmp_path: Path) -> None:
    """Given limits for others; then the limiter hears nothing of the request."""
    limiter = CountingLimiter()
    limited_ask(limited_gateway(limiter, tmp_path, "http://127.0.0.1:1", LimitRules(tokens={"bob": Limits(1)})))
    assert (limiter.entered, limiter.settled) == ([], [])


@pytest.mark.parametrize(("own", "dollars"), [({}, COST / 10**12), ({"x_api_key": OWN}, None)], ids=["pool", "own"])
def test_what_a_request_costs_is_counted_once(tmp_path: Path, own: dict[str, str], dollars: float | None) -> None:
    """Given an answer with usage; then its cost is counted by model, token and group, unless the client pays itself."""
    with TinyServer(Recorder(GOOD)) as server:
        gateway = limited_gateway(CountingLimiter(), tmp_path, server.url)
        assert limited_ask(gateway, **own).status_code == 200
    assert value(gateway.metrics, "gateway_cost_dollars_total", model="claude-opus-5") == dollars
    assert value(gateway.metrics, "gateway_token_cost_dollars_total", token="ann", group="research") == dollars


def test_access_line_has_cost_and_group(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Given an answer with usage, and an access log; then the line has dollars to the microdollar, and the group."""
    with TinyServer(Recorder(GOOD)) as server, caplog.at_level("INFO", logger="gateway.access"):
        limited_ask(limited_gateway(CountingLimiter(), tmp_path, server.url))
    [line] = [record.__dict__["fields"] for record in caplog.records if record.name == "gateway.access"]
    assert (line["token"], line["group"], line["cost"]) == ("ann", "research", round(COST / 10**12, 6))
    assert "cost_estimated" not in line

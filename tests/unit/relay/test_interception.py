"""A message's way from the first byte in to the last byte out, when something nobody foresaw happens on it."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import cast

import pytest

from gateway.access.credential import Key, Secret
from gateway.config.settings import Settings
from gateway.protocol.errors import UpstreamError
from gateway.protocol.messages import Tally
from gateway.relay.conversation import OneTurn
from gateway.relay.interception import Interception
from gateway.relay.pace import Head, Output, Pace
from gateway.relay.turn import Turn, TurnMaker
from gateway.telemetry.metrics import Metrics
from gateway.upstream import Call, Reply
from gateway.upstream.event_stream import EventStream
from gateway.web.app import create_app
from gateway.web.service import Gateway
from tests.unit.fakes import FakeClock, builder_of
from tests.unit.loop_rig import FakeToolbox, Refusal, Rig, Streamed
from tests.unit.messages_api import Answer, tool_use
from tests.unit.tiny_server import Recorder, TinyServer

PLACES = 2
FIRST = b'event: message_start\ndata: {"type":"message_start","message":{"model":"m"}}\n\n'
LAST = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%s" % (
    len(FIRST + LAST),
    FIRST + LAST,
)
LOCAL = {"host": "localhost"}
BUG = RuntimeError("a bug")


class FakeReply:
    """An answer whose stream gives these pieces, and raises exceptions among them."""

    status = 200
    read_idle_seconds = 600.0
    headers = (("content-type", "text/event-stream"),)

    def __init__(self, *pieces: object) -> None:
        self.pieces = list(pieces)
        self.closed = 0

    def receive(self) -> bytes | None:
        piece = self.pieces.pop(0)
        if isinstance(piece, BaseException):
            raise piece
        return cast("bytes | None", piece)

    def pause_if_drained(self, until_at: float) -> None:
        """There may always be more."""

    def close(self) -> None:
        self.closed += 1


class FakeTurnMaker:
    """Gives one turn; what comes before it is yielded to the client, or raised."""

    def __init__(self, reply: FakeReply, *before: object) -> None:
        self._reply = reply
        self._before = before

    def obtain(self, call: Call, pace: Pace) -> Generator[Output, None, Turn]:
        for step in self._before:
            if isinstance(step, BaseException):
                raise step
            yield pace.signal(cast(Reply, self._reply))
        return Turn(cast(Reply, self._reply), Tally(), stream=EventStream(cast(Reply, self._reply)), opening=FIRST)

    def ended(self, turn: Turn) -> None:
        """Nobody needs to know."""


def interception_of(turns: FakeTurnMaker, metrics: Metrics) -> Interception:
    clock = FakeClock(0.0)
    call = Call("POST", "/v1/messages", [], b"{}", may_stream=True)
    pace = Pace("req_gw_1", 10.0, clock)
    return Interception(OneTurn(call), cast(TurnMaker, turns), pace, metrics, builder_of(), 0.0, clock)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def outcomes(metrics: Metrics) -> dict[str, float]:
    """Streams ended, by those outcomes that there were."""
    return {
        sample.labels["outcome"]: sample.value
        for family in metrics.streams_ended.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


@pytest.mark.parametrize(
    ("before", "pieces"),
    [
        pytest.param(["ping", BUG], [], id="while-the-next-key-is-tried"),
        pytest.param([], [BUG], id="behind-the-first-event"),
        pytest.param(["ping"], [FIRST, BUG], id="later"),
    ],
)
def test_bug_in_mid_stream_ends_it_with_an_error_event(
    metrics: Metrics, caplog: pytest.LogCaptureFixture, before: list[object], pieces: list[object]
) -> None:
    """Given a stream that has begun, when something unforeseen is raised, then `event: error`, counted as truncated."""
    reply = FakeReply(*pieces)
    head, *sent = interception_of(FakeTurnMaker(reply, *before), metrics).run()
    assert isinstance(head, Head)
    last = sent[-1]
    assert isinstance(last, bytes)
    name, _, data = last.partition(b"\n")
    error = json.loads(data.removeprefix(b"data: "))
    assert (name, error["error"]["type"], error["request_id"]) == (b"event: error", "api_error", "req_gw_1")
    assert "a bug" not in last.decode()
    assert outcomes(metrics) == {"truncated": 1}
    assert "a bug" in caplog.text
    assert reply.closed == (0 if BUG in before else 1)


def test_bug_before_the_head_is_the_caller_s(metrics: Metrics) -> None:
    """Given nothing was sent yet, when something unforeseen is raised, then it goes up and no stream is counted."""
    with pytest.raises(RuntimeError, match="a bug"):
        next(interception_of(FakeTurnMaker(FakeReply(), BUG), metrics).run())
    assert outcomes(metrics) == {}


@pytest.fixture
def upstream() -> Iterator[TinyServer]:
    """An upstream that gives a stream to the first connection's requests."""
    with TinyServer(Recorder(STREAM)) as upstream:
        yield upstream


def gateway_of(url: str) -> Gateway:
    keys = (Key("a", Secret("sk-ant-unit-planted")),)
    return Gateway(Settings(upstream_url=url, keys=keys, threads=PLACES + 1, reserved_threads=1))


@pytest.fixture
def gateway(upstream: TinyServer) -> Iterator[Gateway]:
    gateway = gateway_of(upstream.url)
    yield gateway
    gateway.configuration.upstream.close()
    gateway.lifecycle.close()


def counted(gateway: Gateway) -> dict[tuple[str, str, str], float]:
    """Requests, by route, credential and status."""
    return {
        (sample.labels["route"], sample.labels["credential"], sample.labels["status"]): sample.value
        for family in gateway.metrics.requests.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def inflight(gateway: Gateway) -> float:
    return sum(sample.value for family in gateway.metrics.requests_inflight.collect() for sample in family.samples)


def broken(*_: object, **__: object) -> object:
    raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("target", "path", "route", "credential"),
    [
        pytest.param("gateway.web.routes.authenticate", "/v1/messages", "messages", "none", id="before-admission"),
        pytest.param("gateway.web.routes.read_body", "/v1/messages", "messages", "pooled", id="reading-the-body"),
        pytest.param("gateway.web.routes.read_request", "/v1/messages", "messages", "pooled", id="reading-the-request"),
        pytest.param("gateway.web.routes.for_upstream", "/v1/messages", "messages", "pooled", id="making-the-headers"),
        pytest.param("gateway.relay.turn.walk", "/v1/messages", "messages", "pooled", id="choosing-a-key"),
        pytest.param("gateway.upstream.client.Upstream.exchange", "/v1/messages", "messages", "pooled", id="sending"),
        pytest.param("gateway.relay.pace.Pace.begin", "/v1/messages", "messages", "pooled", id="making-the-head"),
        pytest.param("gateway.web.responses._Relaying._head", "/v1/messages", "messages", "pooled", id="handing-over"),
        pytest.param(
            "gateway.web.routes.relay_whole", "/v1/messages/count_tokens", "count_tokens", "pooled", id="count-tokens"
        ),
        pytest.param("gateway.web.routes.json_response", "/", "root", "none", id="root"),
    ],
)
def test_request_that_fails_inside_is_counted_once(
    gateway: Gateway,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    path: str,
    route: str,
    credential: str,
) -> None:
    """Given a bug at any step, when requests meet it, then each is a 500, counted once and logged; no place is lost."""
    monkeypatch.setattr(target, broken)
    client = create_app(gateway=gateway).test_client()
    times = PLACES + 1
    for _ in range(times):
        method = "GET" if path == "/" else "POST"
        answer = client.open(path, method=method, headers=LOCAL, json={"model": "m", "stream": True})
        assert answer.status_code == 500
        assert answer.get_json()["error"]["type"] == "api_error"
        assert "a bug" not in answer.get_data(as_text=True)
    assert counted(gateway) == {(route, credential, "500"): times}
    assert (gateway.admission.taken, inflight(gateway)) == (0, 0)
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == times


@pytest.mark.parametrize("answer", [WHOLE, STREAM], ids=["whole", "streamed"])
def test_head_that_the_server_refuses_gives_its_place_back(answer: bytes) -> None:
    """Given a server that refuses every head, when that happens more often than there are places, then none is lost."""
    recorder = Recorder(answer)

    def start_response(*_: object) -> object:
        raise ValueError("not this head")

    with TinyServer(recorder) as upstream:
        gateway = gateway_of(upstream.url)
        app = create_app(gateway=gateway)
        builder = app.test_client()
        for _ in range(PLACES + 1):
            body = {"model": "m", "stream": answer is STREAM}
            environ = builder.application.test_request_context(
                "/v1/messages", method="POST", headers=LOCAL, json=body
            ).request.environ
            body = app.wsgi_app(environ, start_response)
            with closing(body), pytest.raises(ValueError, match="not this head"):
                list(body)
            assert (gateway.admission.taken, inflight(gateway)) == (0, 0)
        gateway.configuration.upstream.close()
        gateway.lifecycle.close()
    assert counted(gateway) == {("messages", "pooled", "200"): PLACES + 1}
    assert len(recorder.requests) == PLACES + 1


def test_stream_that_the_server_closes_unread_gives_its_place_back(gateway: Gateway) -> None:
    """Given a stream whose head was taken, when the server closes it without reading any, then its slot is free."""
    answer = (
        create_app(gateway=gateway)
        .test_client()
        .post("/v1/messages", headers=LOCAL, json={"model": "m", "stream": True}, buffered=False)
    )
    assert gateway.admission.taken == 1
    answer.close()
    assert (gateway.admission.taken, inflight(gateway)) == (0, 0)


@pytest.mark.parametrize("is_streaming", [True, False])
def test_every_line_about_a_request_begins_with_its_own_id(
    caplog: pytest.LogCaptureFixture, is_streaming: bool
) -> None:
    """Given attempts, a tool's call and an answer that breaks off, then each line begins with the gateway's id, and has
    the upstream's for the answer that it is about."""
    call = Answer([tool_use("bmcp_box_now", "t1")], "tool_use")
    broken = Streamed([FIRST]) if is_streaming else b"not JSON"
    rig = Rig([Refusal(429, "rate_limit_error"), call, broken], FakeToolbox("now"), count=2)
    with caplog.at_level(logging.DEBUG, "gateway"):
        if is_streaming:
            assert rig.run(is_streaming).stream.count(b'"request_id":"req_2"') == 1, "the client was told this one"
        else:
            with pytest.raises(UpstreamError):
                rig.run(is_streaming)
    named = [tuple(line.partition(": ")[::2]) for line in caplog.messages]
    assert [(name, words.split(" (sk-")[0].split(":")[0]) for name, words in named] == [
        ("req_gw_1 (upstream req_1)", "key k0"),
        ("req_gw_1 (upstream req_1)", "key k0"),
        ("req_gw_1 (upstream req_2)", "key k1"),
        ("req_gw_1 (upstream req_2)", "tool now of box"),
        ("req_gw_1 (upstream req_3)", "key k1"),
        *[("req_gw_1 (upstream req_3)", "stream ended")] * is_streaming,
    ]

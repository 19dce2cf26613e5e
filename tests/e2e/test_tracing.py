"""Traces over OTLP, end to end: a client's trace goes on through the gateway to the upstream, and arrives whole."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import ask, message_body
from tests.e2e.otlp_receiver import OtlpReceiver, ReceivedSpan
from tests.e2e.rig import Rig
from tests.harness import GatewayProcess, wait_until

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
STREAMED, WHOLE = message_body(is_streamed=True), message_body(is_streamed=False)
SOON_SECONDS = 30.0


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as started:
        yield started


@pytest.fixture
def collecting(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> OtlpReceiver:
    """The receiver, and gateways started from here on that export to it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    return receiver


def traceparents(rig: Rig) -> list[str]:
    """What the upstream was told, call by call."""
    return [dict(seen.headers).get("traceparent", "") for seen in rig.simulator.requests]


def above(span: ReceivedSpan, spans: list[ReceivedSpan]) -> str:
    """The name of a span's parent; empty for one that is not among them."""
    return next((other.name for other in spans if other.span_id == span.parent_id), "")


@pytest.mark.parametrize("body", [STREAMED, WHOLE], ids=["streamed", "whole"])
def test_a_clients_trace_arrives_whole_with_a_failover_in_it(collecting: OtlpReceiver, body: bytes) -> None:
    """Given a traceparent and a limited first key, then the receiver gets interception, walk and both attempts under
    the client's trace id, and each upstream call has carried its attempt's span.
    """
    trace_id = TRACE_ID[:-1] + ("d" if body is STREAMED else "e")
    with Rig(tracing="otlp") as rig:
        rig.keys("rate_limited:retry-after=7", "ok")
        answer = ask(
            rig.gateway.url, body, headers=[f"traceparent: 00-{trace_id}-{SPAN_ID}-01", "tracestate: vendor=x"]
        )
        assert answer.status == 200
        spans = collecting.trace(trace_id, 4)
        sent = traceparents(rig)
        states = [dict(seen.headers).get("tracestate") for seen in rig.simulator.requests]
    root, walk, limited, good = spans
    assert [span.name for span in spans] == ["POST /v1/messages", "walk", *["chat claude-simulated"] * 2]
    assert [span.kind for span in spans] == ["SERVER", "INTERNAL", "CLIENT", "CLIENT"]
    assert root.parent_id == SPAN_ID
    assert [above(span, spans) for span in spans] == ["", "POST /v1/messages", "walk", "walk"]
    assert sent == [f"00-{trace_id}-{span.span_id}-01" for span in (limited, good)]
    assert states == ["vendor=x", "vendor=x"]
    assert [event for event in walk.events if event[0] == "failover"] == [
        (
            "failover",
            {
                "gateway.key.name": "k0",
                "gateway.failover.reason": "rate_limited",
                "gateway.key.cooldown_seconds": 7.0,
            },
        )
    ]
    assert (limited.attributes["gateway.key.name"], good.attributes["gateway.key.name"]) == ("k0", "k1")
    assert (limited.attributes["http.response.status_code"], limited.is_error) == (429, True)
    assert (good.attributes["http.response.status_code"], good.is_error) == (200, False)
    assert good.attributes["gen_ai.usage.output_tokens"] > 0
    assert good.attributes["gen_ai.response.model"] == "claude-simulated"
    assert (root.attributes["gateway.outcome"], root.attributes["gateway.attempts"]) == ("completed", 2)
    assert root.attributes["gateway.client_request_id"] == answer.header("request-id")
    assert root.attributes["gateway.cost_dollars"] > 0
    assert root.attributes["gateway.cost_estimated"] is True  # the simulated model has no price
    assert root.resource["service.name"] == "messages-gateway"
    assert root.resource["deployment.environment.name"] == "test"
    assert root.resource["service.version"]
    assert root.started_ns <= walk.started_ns <= limited.started_ns <= good.started_ns
    assert good.ended_ns <= walk.ended_ns <= root.ended_ns


def test_spans_tell_how_streams_ended(collecting: OtlpReceiver) -> None:
    """Given a stream that is cut, one with an error in it, and exhaustion, then the spans are in error and say why."""
    expected = {
        "cut:after=2": (200, "truncated", "truncated"),
        "error_event:after=2": (200, "upstream_error", "upstream_error"),
        "unauthorized": (502, "exhausted", "502"),
    }
    with Rig(tracing="otlp") as rig:
        for number, (script, (status, outcome, error_type)) in enumerate(expected.items()):
            trace_id = f"{number:x}" * 32 if number else "a" * 32
            rig.keys(script)
            ask(rig.gateway.url, STREAMED, headers=[f"traceparent: 00-{trace_id}-{SPAN_ID}-01"])
            root = collecting.trace(trace_id, 3)[0]
            assert root.attributes["http.response.status_code"] == status
            assert (root.attributes["gateway.outcome"], root.attributes["error.type"]) == (outcome, error_type)
            assert root.is_error


def test_the_ids_of_log_and_trace_lead_to_each_other(collecting: OtlpReceiver) -> None:
    """Given a client without a trace, then the access line has the id of the gateway's own, whose first span has the
    line's request id; and the upstream's id stands in line, span and answer alike.
    """
    with Rig(tracing="otlp", log_format="json") as rig:
        rig.keys("ok")
        answer = ask(rig.gateway.url, WHOLE)
        assert wait_until(lambda: "gateway.access" in rig.gateway.log, SOON_SECONDS)
        (line,) = [json.loads(line) for line in rig.gateway.log.splitlines() if "gateway.access" in line]
        root, _, attempt = collecting.trace(line["trace_id"], 3)
    assert root.attributes["gateway.request_id"] == line["request_id"]
    assert attempt.attributes["http.response.header.request-id"] == [line["upstream_request_id"]]
    assert line["upstream_request_id"] == answer.header("request-id")


def test_all_spans_are_delivered_when_the_gateway_stops(
    collecting: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a batch that waits for a minute, when the gateway is stopped, then its spans arrive all the same, from
    every worker.
    """
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    trace_id = "b" * 32
    with Rig(tracing="otlp", workers=2) as rig:
        rig.keys("ok")
        for _ in range(20):
            assert ask(rig.gateway.url, WHOLE, headers=[f"traceparent: 00-{trace_id}-{SPAN_ID}-01"]).status == 200
        assert [span for span in collecting.spans if span.trace_id == trace_id] == []
    spans = collecting.trace(trace_id, 60)
    assert len(spans) == len({span.span_id for span in spans}) == 60


def test_off_nothing_is_exported_and_the_header_passes_untouched(collecting: OtlpReceiver) -> None:
    """Given tracing that is off, then the client's headers go upstream as they came, even one that is no context, and
    the receiver hears nothing.
    """
    heard = len(collecting.bodies)
    with Rig() as rig:
        rig.keys("ok")
        for value in (TRACEPARENT, "not a context"):
            assert ask(rig.gateway.url, STREAMED, headers=[f"traceparent: {value}"]).status == 200
        assert ask(rig.gateway.url, STREAMED).status == 200
        assert traceparents(rig) == [TRACEPARENT, "not a context", ""]
    assert len(collecting.bodies) == heard


def test_a_receiver_that_is_down_harms_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given nobody at the endpoint, then every request is served, the log says so once, and the stop is not held up."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20CollectorSecret")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with Rig(tracing="otlp") as rig:
        rig.keys("ok")
        assert [ask(rig.gateway.url, STREAMED).status for _ in range(50)] == [200] * 50
        rig.gateway.wait_for_log("opentelemetry.exporter", SOON_SECONDS)
        assert [ask(rig.gateway.url, WHOLE).status for _ in range(50)] == [200] * 50
        log = rig.gateway.stop()
    assert len(re.findall(r"opentelemetry\.exporter", log)) == 1
    assert "CollectorSecret" not in log
    assert "Traceback" not in log


def test_a_receiver_that_refuses_harms_no_request(collecting: OtlpReceiver) -> None:
    """Given a receiver that answers 503, then requests are served meanwhile; once it takes spans again, they arrive."""
    collecting.status = 503
    with Rig(tracing="otlp") as rig:
        rig.keys("ok")
        heard = len(collecting.bodies)
        assert [ask(rig.gateway.url, WHOLE).status for _ in range(20)] == [200] * 20
        assert wait_until(lambda: len(collecting.bodies) > heard, SOON_SECONDS)
        collecting.status = 200
        trace_id = "c" * 32
        assert ask(rig.gateway.url, WHOLE, headers=[f"traceparent: 00-{trace_id}-{SPAN_ID}-01"]).status == 200
        assert len(collecting.trace(trace_id, 3)) == 3


def test_without_the_extra_the_start_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Given an installation without the SDK, then a gateway that is to trace says in one line what to install."""
    hidden = "import sys\nsys.modules.update({'opentelemetry.sdk': None, 'opentelemetry.exporter': None})\n"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = GatewayProcess("http://127.0.0.1:9", ["sk-a"], must_start=False, tracing="otlp")
    try:
        assert process.wait(20) != 0
    finally:
        log = process.stop()
    assert log.strip().splitlines() == [
        "gateway: GATEWAY_TRACING: otlp needs the extra `otel`: pip install 'messages-gateway[otel]'"
    ]
    untraced = GatewayProcess("http://127.0.0.1:9", ["sk-a"])
    untraced.stop()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL: the gateway exports over http/protobuf"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1", "GATEWAY_TRACING: the OTEL_* variables cannot be used"),
    ],
)
def test_variables_that_cannot_be_used_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    """Given an exporter's variable with a fault, then the gateway does not start, and says which in a line."""
    monkeypatch.setenv(name, value)
    process = GatewayProcess("http://127.0.0.1:9", ["sk-a"], must_start=False, tracing="otlp")
    try:
        assert process.wait(20) != 0
    finally:
        log = process.stop()
    assert said in log
    assert "Traceback" not in log

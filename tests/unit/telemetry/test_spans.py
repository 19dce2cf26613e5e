"""One request's spans: how they hang together, what they say, how they end, and what goes upstream with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from msgspec import structs
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from gateway.keys.verdict import Verdict
from gateway.protocol.errors import ClientGone, Stopping, UpstreamError, UpstreamTimedOut
from gateway.protocol.messages import Tally
from gateway.protocol.outcomes import Outcome, ToolOutcome
from gateway.records.interception_record import Attempt, InterceptionRecord
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Observer
from gateway.telemetry.spans import NOT_TRACED, RequestTrace
from gateway.telemetry.tracing import SpanTracing, Tracing
from gateway.upstream import Call
from tests.unit.fakes import builder_of, keys_of
from tests.unit.loop_rig import FakeToolbox, Rig, said
from tests.unit.messages_api import Answer, text, tool_use

UPSTREAM = "https://api.example.com/base"
CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CLIENTS_TRACE, CLIENTS_SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
ADDRESS = "198.51.100.7"
ROUTE = "/v1/messages"
CALL = Call("POST", "/v1/messages?beta=true", [("traceparent", CLIENTS), ("x-odd", "kept")], b"{}", may_stream=True)
OK = Verdict(Outcome.OK, http_status=200)
LIMITED = Verdict(Outcome.RATE_LIMITED, 5.0, 429)
REFUSED = Verdict(Outcome.UNAUTHORIZED, http_status=401)
USED = {"input_tokens": 10, "output_tokens": 7, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3}
TOOL_OUTCOMES = {"add": ToolOutcome.OK, "fail": ToolOutcome.ERROR}
RECORD = InterceptionRecord(
    id="req_gw_1",
    route="messages",
    started_at=1_800_000_000.0,
    day="2027-01-15",
    duration_seconds=1.0,
    outcome="completed",
    status=200,
    request_id="req_up_9",
    credential="pooled",
    token="alice",
    key="k1",
    model="claude-x",
    is_streamed=True,
    first_event_seconds=0.25,
    attempts=(Attempt(0, "k1", "ok", 200, 0.0, 0.0, 0.1, "req_up_9"),),
)


@dataclass
class FakeRule:
    """What a route matches."""

    rule: str


@dataclass
class FakeRequest:
    """A request, as far as its beginning looks at it."""

    url_rule: FakeRule
    method: str = "POST"
    scheme: str = "http"


ASKED: Any = FakeRequest(FakeRule(ROUTE))


REQUEST_ID = "req_up_9"


@dataclass
class Bench:
    """A tracing whose spans stay here."""

    exporter: InMemorySpanExporter
    tracing: SpanTracing

    def begin(self, **headers: str) -> RequestTrace:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        trace = self.tracing.begin(ASKED, named, ADDRESS, UPSTREAM)
        assert isinstance(trace, RequestTrace)
        trace.asks("claude-x", True)
        return trace

    def span(self, name: str, place: int = 0) -> ReadableSpan:
        return [span for span in self.exporter.get_finished_spans() if span.name == name][place]

    @property
    def names(self) -> list[str]:
        """The spans in the order in which they ended."""
        return [span.name for span in self.exporter.get_finished_spans()]


def bench_of(sampler: Any = None) -> Bench:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Bench(exporter, SpanTracing(provider))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = bench_of()
    yield made
    made.tracing.close()


def answered(trace: RequestTrace, tally: Tally | None = None, key_name: str | None = "k1") -> Tally:
    """An attempt that gets the answer, streamed."""
    tally = tally or Tally()
    trace.attempt_began(CALL, key_name)
    trace.attempt_ended(OK, REQUEST_ID, tally, True)
    return tally


def headers_of(call: Call) -> dict[str, str]:
    assert len(call.headers) == len(dict(call.headers))
    return dict(call.headers)


def context_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def test_a_failover_is_one_walk_with_an_attempt_for_each_key(bench: Bench) -> None:
    """Given a limited key and one that answers, then both attempts hang under the walk, and it tells the failover."""
    trace = bench.begin(traceparent=CLIENTS)
    trace.turn_began(has_walk=True)
    trace.attempt_began(CALL, "k0")
    trace.attempt_ended(LIMITED, REQUEST_ID, Tally(), False)
    tally = answered(trace)
    tally.usage.take(USED)
    tally.model, tally.has_stopped = "claude-x-1", True
    trace.ended(RECORD)
    assert bench.names == ["chat claude-x", "chat claude-x", "walk", "POST /v1/messages"]
    limited, good, walk, root = bench.exporter.get_finished_spans()
    assert {span.get_span_context().trace_id for span in (limited, good, walk, root)} == {CLIENTS_TRACE}  # type: ignore[union-attr]
    assert parent_id(root) == CLIENTS_SPAN
    assert parent_id(walk) == id_of(root)
    assert parent_id(limited) == parent_id(good) == id_of(walk)
    assert (root.kind, walk.kind, limited.kind) == (SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT)
    (event,) = walk.events
    assert event.name == "failover"
    assert dict(event.attributes or {}) == {
        "gateway.key.name": "k0",
        "gateway.failover.reason": "rate_limited",
        "gateway.key.cooldown_seconds": 5.0,
    }


def test_an_attempt_says_what_the_conventions_want(bench: Bench) -> None:
    """Given an answer with usage, then its span has the names of HTTP and of generative AI, and the key's name."""
    trace = bench.begin()
    trace.turn_began(has_walk=True)
    tally = answered(trace)
    tally.usage.take(USED)
    tally.model, tally.has_stopped = "claude-x-1", True
    trace.ended(RECORD)
    attributes = dict(bench.span("chat claude-x").attributes or {})
    assert attributes.pop("gen_ai.response.time_to_first_chunk") >= 0  # type: ignore[operator]
    assert attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.response.header.request-id": (REQUEST_ID,),
        "url.full": "https://api.example.com/base/v1/messages",
        "server.address": "api.example.com",
        "server.port": 443,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-x",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "claude-x-1",
        "gen_ai.usage.input_tokens": 18,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.cache_creation.input_tokens": 3,
        "gateway.key.name": "k1",
        "gateway.credential": "pooled",
        "gateway.attempt.outcome": "ok",
    }
    assert [event.name for event in bench.span("chat claude-x").events] == ["first_event"]
    assert bench.span("chat claude-x").status.status_code is StatusCode.UNSET


def test_the_interception_says_who_asked_and_how_it_ended(bench: Bench) -> None:
    """Given a request that ends well, then its span has the route, the ids, the counts, and no error."""
    trace = bench.begin()
    trace.turn_began(has_walk=True)
    answered(trace).has_stopped = True
    trace.ended(structs.replace(RECORD, client="claude-code", client_version="2.1.0"))
    root = bench.span("POST /v1/messages")
    assert dict(root.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/messages",
        "http.response.status_code": 200,
        "url.path": "/v1/messages",
        "url.scheme": "http",
        "client.address": "198.51.100.7",
        "user_agent.name": "claude-code",
        "user_agent.version": "2.1.0",
        "gen_ai.request.model": "claude-x",
        "gateway.request_id": "req_gw_1",
        "gateway.client_request_id": "req_up_9",
        "gateway.token.name": "alice",
        "gateway.credential": "pooled",
        "gateway.key.name": "k1",
        "gateway.mode": "streamed",
        "gateway.outcome": "completed",
        "gateway.attempts": 1,
        "gateway.turns": 1,
        "gateway.time_to_first_event_seconds": 0.25,
    }
    assert root.status.status_code is StatusCode.UNSET


def test_the_attempts_context_goes_upstream_in_place_of_the_clients(bench: Bench) -> None:
    """Given a client's context and state, then the upstream gets the same trace, the attempt's span, and the state."""
    trace = bench.begin(traceparent=CLIENTS, tracestate="rojo=1,congo=2")
    trace.turn_began(has_walk=True)
    call = trace.attempt_began(replace(CALL, headers=[*CALL.headers, ("tracestate", "rojo=1,congo=2")]), "k0")
    trace.attempt_failed(UpstreamError("broken"))
    trace.ended(RECORD)
    sent = headers_of(call)
    assert sent == {
        "x-odd": "kept",
        "traceparent": context_of(bench.span("chat claude-x")),
        "tracestate": "rojo=1,congo=2",
    }
    assert trace.trace_id == f"{CLIENTS_TRACE:032x}"


@pytest.mark.parametrize(
    "garbage", ["", "00-zz", "00-" + "0" * 32 + "-b7ad6b7169203331-01", f"{CLIENTS},{CLIENTS}", f"{CLIENTS}-more"]
)
def test_a_context_that_is_none_begins_a_new_trace_and_goes_no_further(bench: Bench, garbage: str) -> None:
    """Given a malformed traceparent, then the trace is the gateway's own, and so is what the upstream gets."""
    trace = bench.begin(traceparent=garbage)
    trace.turn_began(has_walk=False)
    call = trace.attempt_began(replace(CALL, headers=[("traceparent", garbage)]), None)
    trace.attempt_failed(ClientGone())
    trace.ended(RECORD)
    assert bench.span("POST /v1/messages").parent is None
    assert headers_of(call)["traceparent"] == context_of(bench.span("chat claude-x"))


def test_a_client_that_does_not_sample_is_not_exported_and_its_trace_goes_on(bench: Bench) -> None:
    """Given a traceparent with the sampled flag off, then nothing is exported and the upstream sees the same trace."""
    trace = bench.begin(traceparent=CLIENTS[:-1] + "0")
    trace.turn_began(has_walk=True)
    call = trace.attempt_began(CALL, "k0")
    trace.attempt_ended(OK, REQUEST_ID, Tally(), True)
    trace.ended(RECORD)
    assert bench.names == []
    version, trace_id, _, flags = headers_of(call)["traceparent"].split("-")
    assert (version, int(trace_id, 16), flags) == ("00", CLIENTS_TRACE, "00")


def test_a_sampler_that_takes_none_costs_no_request_anything() -> None:
    """Given a sampler that is always off, then all is told as ever, and nothing is exported."""
    bench = bench_of(ALWAYS_OFF)
    trace = bench.begin()
    trace.turn_began(has_walk=True)
    answered(trace)
    with_tool = trace.tool_call("math", "add")
    with_tool.end(ToolOutcome.OK)
    trace.ended(RECORD)
    assert bench.names == []


def test_with_a_clients_own_credential_there_is_no_walk(bench: Bench) -> None:
    """Given byok, then the attempt hangs under the interception, without a key's name; a 429 is not failed over."""
    trace = bench.begin()
    trace.turn_began(has_walk=False)
    trace.attempt_began(CALL, None)
    trace.attempt_ended(LIMITED, REQUEST_ID, Tally(), False)
    trace.ended(structs.replace(RECORD, credential="byok", status=429, outcome="upstream_error"))
    attempt, root = bench.span("chat claude-x"), bench.span("POST /v1/messages")
    assert bench.names == ["chat claude-x", "POST /v1/messages"]
    assert parent_id(attempt) == id_of(root)
    assert attempt.attributes is not None
    assert "gateway.key.name" not in attempt.attributes
    assert attempt.attributes["gateway.credential"] == "byok"
    assert attempt.attributes["error.type"] == "429"
    assert root.status.status_code is StatusCode.UNSET  # a 4xx is no error of the server's


def error_of(span: ReadableSpan) -> object:
    """The error's type, if the span is in error; both must say so."""
    assert span.attributes is not None
    is_error = span.status.status_code is StatusCode.ERROR
    assert is_error == ("error.type" in span.attributes)
    return span.attributes.get("error.type")


def test_exhaustion_marks_the_walk(bench: Bench) -> None:
    """Given keys that are all limited or refused, then every attempt, the walk and (502) the request are in error."""
    trace = bench.begin()
    trace.turn_began(has_walk=True)
    for key_name, verdict in (("k0", LIMITED), ("k1", REFUSED)):
        trace.attempt_began(CALL, key_name)
        trace.attempt_ended(verdict, REQUEST_ID, Tally(), False)
    trace.ended(structs.replace(RECORD, status=502, outcome="auth_failed", error="api_error: all keys failed"))
    assert [error_of(bench.span("chat claude-x", place)) for place in (0, 1)] == ["429", "401"]
    assert error_of(bench.span("walk")) == "auth_failed"
    assert error_of(bench.span("POST /v1/messages")) == "502"
    assert bench.span("POST /v1/messages").status.description == "api_error: all keys failed"


@pytest.mark.parametrize(
    ("outcome", "has_stopped", "error_kind", "attempts_error", "requests_error"),
    [
        ("completed", True, None, None, None),
        ("upstream_error", False, "overloaded_error", "overloaded_error", "upstream_error"),
        ("truncated", False, None, "truncated", "truncated"),
        ("idle_timeout", False, None, "idle_timeout", "idle_timeout"),
        ("client_disconnected", False, None, None, None),
        ("drained", False, None, None, None),
    ],
)
def test_spans_tell_how_a_stream_ended(
    bench: Bench,
    outcome: str,
    has_stopped: bool,
    error_kind: str | None,
    attempts_error: str | None,
    requests_error: str | None,
) -> None:
    """Given each way in which a stream can end, then the attempt and the interception say it, errors as errors."""
    trace = bench.begin()
    trace.turn_began(has_walk=True)
    tally = answered(trace)
    tally.has_stopped, tally.error_kind = has_stopped, error_kind
    trace.ended(structs.replace(RECORD, outcome=outcome))
    attempt, walk, root = bench.span("chat claude-x"), bench.span("walk"), bench.span("POST /v1/messages")
    assert (error_of(attempt), error_of(walk), error_of(root)) == (attempts_error, None, requests_error)
    assert root.attributes is not None
    assert root.attributes["gateway.outcome"] == outcome


@pytest.mark.parametrize(
    ("error", "outcome", "error_type"),
    [
        (UpstreamTimedOut("late"), "transport_error", "UpstreamTimedOut"),
        (UpstreamError("broken"), "transport_error", "UpstreamError"),
        (RuntimeError("a bug"), "transport_error", "RuntimeError"),
        (ClientGone(), "client_disconnected", None),
        (GeneratorExit(), "client_disconnected", None),
        (Stopping("bye"), "drained", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_attempt_without_an_answer_says_why(
    bench: Bench, error: BaseException, outcome: str, error_type: str | None
) -> None:
    """Given what can end an attempt early, then its span ends at once; nobody's leaving is an error."""
    trace = bench.begin()
    trace.turn_began(has_walk=True)
    trace.attempt_began(CALL, "k0")
    trace.attempt_failed(error)
    attempt = bench.span("chat claude-x")
    assert attempt.attributes is not None
    assert attempt.attributes["gateway.attempt.outcome"] == outcome
    assert error_of(attempt) == error_type


def test_tool_calls_hang_under_the_interception_between_the_turns(bench: Bench) -> None:
    """Given a turn, two tools and a turn, then the first turn ends before the tools begin, each in its own span."""
    trace = bench.begin(traceparent=CLIENTS)
    trace.turn_began(has_walk=True)
    answered(trace).has_stopped = True
    add, fail = trace.tool_call("math", "add"), trace.tool_call("math", "fail")
    assert bench.names == ["chat claude-x", "walk"]
    add.end(ToolOutcome.OK)
    fail.end(ToolOutcome.ERROR)
    trace.turn_began(has_walk=True)
    answered(trace).has_stopped = True
    trace.ended(RECORD)
    root, called, failed = bench.span("POST /v1/messages"), bench.span("tools/call add"), bench.span("tools/call fail")
    assert parent_id(called) == parent_id(failed) == id_of(root)
    assert dict(called.attributes or {}) == {
        "mcp.method.name": "tools/call",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "add",
        "gateway.mcp.server": "math",
        "gateway.tool.outcome": "ok",
    }
    assert (error_of(called), error_of(failed)) == (None, "tool_error")
    assert dict(add.headers) == {"traceparent": context_of(called)}
    assert [span.attributes["gateway.turn"] for span in map(bench.span, ["walk"] * 2, [0, 1]) if span.attributes] == [
        1,
        2,
    ]
    assert root.attributes is not None
    assert root.attributes["gateway.turns"] == 2


@pytest.mark.parametrize("outcome", [outcome for outcome in ToolOutcome if outcome.value not in ("ok", "cancelled")])
def test_a_failed_tool_call_is_an_error(bench: Bench, outcome: ToolOutcome) -> None:
    """Given any way in which a call fails, then its span is in error, and a cancelled one is not."""
    trace = bench.begin()
    trace.tool_call("math", "add").end(outcome)
    trace.tool_call("math", "add").end(ToolOutcome.CANCELLED)
    assert error_of(bench.span("tools/call add")) is not None
    assert error_of(bench.span("tools/call add", 1)) is None


def test_everything_that_began_has_ended_with_the_request(bench: Bench) -> None:
    """Given a request that ends in the middle of an attempt, then no span is left open."""
    trace = bench.begin()
    trace.turn_began(has_walk=True)
    trace.attempt_began(CALL, "k0")
    trace.ended(structs.replace(RECORD, status=499, outcome="client_disconnected"))
    assert sorted(bench.names) == ["POST /v1/messages", "chat claude-x", "walk"]


@pytest.mark.parametrize("is_streaming", [False, True], ids=["whole", "streamed"])
def test_the_loop_traces_turns_and_tools_and_hands_their_context_on(bench: Bench, is_streaming: bool) -> None:
    """Given the real loop over a turn with two calls and one with the answer, then there are two walks with an attempt
    each, two calls between them, and each tool was handed its call's context.
    """
    calls = [tool_use("bmcp_box_add", "t1", a=1), tool_use("bmcp_box_fail", "t2")]
    toolbox = FakeToolbox("add", "fail", run=lambda name, _: said("x", TOOL_OUTCOMES[name]))
    trace = bench.begin(traceparent=CLIENTS)
    trace.asks("claude-x", is_streaming)
    rig = Rig([Answer(calls, "tool_use"), Answer([text("done")])], toolbox, trace=trace)
    rig.run(is_streaming)
    trace.ended(RECORD)
    called, failed = bench.span("tools/call add"), bench.span("tools/call fail")
    assert sorted(bench.names) == [
        "POST /v1/messages",
        *["chat claude-x"] * 2,
        "tools/call add",
        "tools/call fail",
        *["walk"] * 2,
    ]
    assert [dict(context) for context in toolbox.contexts] == [
        {"traceparent": context_of(called)},
        {"traceparent": context_of(failed)},
    ]
    assert (error_of(called), error_of(failed)) == (None, "tool_error")
    first, second = bench.span("chat claude-x"), bench.span("chat claude-x", 1)
    assert first.end_time is not None
    assert called.start_time is not None
    assert second.start_time is not None
    assert called.end_time is not None
    assert first.end_time <= called.start_time <= called.end_time <= second.start_time
    assert first.attributes is not None
    assert first.attributes["gen_ai.request.stream"] is is_streaming


def test_a_route_without_a_model_is_named_by_its_method(bench: Bench) -> None:
    """Given `GET /v1/models`, then the attempt is an HTTP call and no operation of generative AI."""
    asked = FakeRequest(FakeRule("/v1/models/<model_id>"), "GET")
    trace = bench.tracing.begin(cast("Any", asked), {}, ADDRESS, "http://[::1]:9")
    trace.turn_began(has_walk=True)
    trace.attempt_began(Call("GET", "/v1/models/claude-x", []), "k0")
    trace.attempt_failed(ClientGone())
    trace.ended(structs.replace(RECORD, route="model"))
    attempt, root = bench.span("GET"), bench.span("GET /v1/models/{model_id}")
    assert attempt.attributes is not None
    assert "gen_ai.operation.name" not in attempt.attributes
    assert (attempt.attributes["server.address"], attempt.attributes["server.port"]) == ("::1", 9)
    assert root.attributes is not None
    assert "url.path" not in root.attributes


def test_what_others_wrote_is_taken_in_words_alone(bench: Bench) -> None:
    """Given a model, a tool, an upstream's id and error that are no names, then none of them stands in a span."""
    odd = "PLANTED words\n" * 1000
    trace = bench.begin(user_agent="u" * 10_000)
    trace.asks(odd, True)
    observer, (key,) = Observer(Metrics(), builder_of(), trace), keys_of(1)
    observer.turn_began("messages/any")
    observer.attempt_began(CALL, key)
    observer.answered(key, 200, {"request-id": odd})
    observer.attempt_ended(key, OK, Tally(model=odd, error_kind=odd), is_stream=True)
    trace.tool_call("math", odd).end(ToolOutcome.OK)
    trace.ended(RECORD)
    assert len(bench.names) == 4
    for span in bench.exporter.get_finished_spans():
        assert "PLANTED" not in span.to_json()
        assert len(span.to_json()) < 3000


def test_off_means_that_nothing_is_touched() -> None:
    """Given tracing that is off, then the call goes on as the object it was, and a tool gets no context."""
    trace = Tracing().begin(ASKED, {"traceparent": CLIENTS}, ADDRESS, UPSTREAM)
    assert trace is NOT_TRACED
    assert trace.trace_id is None
    assert trace.attempt_began(CALL, "k0") is CALL
    assert dict(trace.tool_call("math", "add").headers) == {}

"""One request's trace: a span for the interception, one for each walk, attempt and tool call.

Owns: which spans there are, how they hang together, their names and attributes. A Trace belongs to
whoever runs the request. Uses OpenTelemetry's API alone, and never its implicit current context: a generator that is
resumed elsewhere would take it along. When tracing is off a request has NOT_TRACED, whose methods do nothing.

    POST /v1/messages          SERVER    the interception
      walk                     INTERNAL  one a turn; none when the client's own credential pays
        chat claude-...        CLIENT    one a key tried; that of the answer lasts to the answer's end
      tools/call add           CLIENT    one a call of an injected tool

Attributes follow the conventions (https://opentelemetry.io/docs/specs/semconv/: http/http-spans, gen-ai/anthropic,
gen-ai/mcp); what these have no name for begins with `gateway.`. They are names, counts and states: no prompt,
argument, answer or secret.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.keys.verdict import Next, Verdict
from gateway.protocol.errors import ClientGone, Stopping
from gateway.protocol.headers import Headers
from gateway.protocol.messages import Tally
from gateway.protocol.outcomes import NO_FAILURES, Ending, Outcome, ToolOutcome
from gateway.records.interception_record import InterceptionRecord
from gateway.records.record_words import word
from gateway.telemetry.span_values import Attributes, asking, failover, refused, told, usage
from gateway.upstream import Call

W3C = TraceContextTextMapPropagator()
_CONTEXT_HEADERS = ("traceparent", "tracestate")

# How a request may end without anybody's error.
_NO_ERRORS = frozenset(ending.value for ending in NO_FAILURES)


class ToolSpan:
    """A tool call under way, traced by nobody. `headers` are the W3C context to hand on to the tool."""

    headers: Mapping[str, str] = MappingProxyType({})

    def end(self, outcome: ToolOutcome) -> None:
        """The call has ended."""


class Trace:
    """What a request tells whoever traces it. This one is nobody."""

    trace_id: str | None = None

    def asks(self, model: str, is_streaming: bool | None) -> None:
        """What the client wants, on routes that have a model; `is_streaming` is None if it is not a message."""

    def turn_began(self, has_walk: bool) -> None:
        """An answer is sought; what belongs to an earlier turn has ended."""

    def attempt_began(self, call: Call, key_name: str | None) -> Call:
        """A key is tried, or the client's own credential (None); returns the call as it goes upstream."""
        return call

    def attempt_ended(self, verdict: Verdict, request_id: str | None, tally: Tally, is_stream: bool) -> None:
        """The attempt has its verdict; if `is_stream`, with the first event. `request_id` is the upstream's."""

    def attempt_failed(self, error: BaseException) -> None:
        """The attempt has ended without a verdict."""

    def tool_call(self, server: str, tool: str) -> ToolSpan:
        """A tool is called; the turn that asked for it has ended. Whoever calls this ends the span."""
        return NO_TOOL_SPAN

    def ended(self, record: InterceptionRecord) -> None:
        """The last byte is out, or nobody is there to take it."""


NOT_TRACED = Trace()
NO_TOOL_SPAN = ToolSpan()


@dataclass(slots=True)
class _Attempt:
    """One attempt under way. `tally` is there once the attempt has the turn's answer."""

    span: Span
    key_name: str | None
    began_at: float
    tally: Tally | None = None


class RequestTrace(Trace):
    """A request that is traced. `root` is its first span, and ends with it; `server` are the upstream's attributes."""

    def __init__(self, tracer: Tracer, server: Attributes, root: Span) -> None:
        self.trace_id = format_trace_id(root.get_span_context().trace_id)
        self._tracer = tracer
        self._server = server
        self._root = root
        self._walk: Span | None = None
        self._attempt: _Attempt | None = None
        self._refusal: tuple[str, Verdict] | None = None  # the last attempt's, if another key may be tried
        self._model: str | None = None
        self._is_streaming: bool | None = None
        self._turns = 0

    def asks(self, model: str, is_streaming: bool | None) -> None:
        self._model = word(model)
        self._is_streaming = is_streaming

    def turn_began(self, has_walk: bool) -> None:
        self._end_turn(None)
        self._turns += 1
        if has_walk:
            above = set_span_in_context(self._root)
            self._walk = self._tracer.start_span("walk", above, attributes={"gateway.turn": self._turns})

    def attempt_began(self, call: Call, key_name: str | None) -> Call:
        if self._walk is not None and self._refusal is not None:
            self._walk.add_event("failover", failover(*self._refusal))
        self._refusal = None
        name = call.method if self._is_streaming is None else f"chat {self._model}"
        above = set_span_in_context(self._walk or self._root)
        attributes = asking(call, self._server, key_name, self._model, self._is_streaming)
        span = self._tracer.start_span(name, above, SpanKind.CLIENT, attributes)
        self._attempt = _Attempt(span, key_name, time.monotonic())
        return replace(call, headers=_carrying(call.headers, set_span_in_context(span)))

    def attempt_ended(self, verdict: Verdict, request_id: str | None, tally: Tally, is_stream: bool) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        span = attempt.span
        span.set_attribute("gateway.attempt.outcome", verdict.outcome.value)
        span.set_attribute("http.response.status_code", verdict.http_status)
        if request_id is not None:
            span.set_attribute("http.response.header.request-id", [request_id])
        if verdict.outcome is not Outcome.OK:
            _fail(span, refused(verdict))
        if verdict.next is not Next.NONE and attempt.key_name is not None:
            if verdict.cools:
                span.set_attribute("gateway.key.cooldown_seconds", verdict.cooldown_seconds)
            self._refusal = (attempt.key_name, verdict)
            self._attempt = None
            span.end()
            return
        if is_stream:
            span.add_event("first_event")
            span.set_attribute("gen_ai.response.time_to_first_chunk", time.monotonic() - attempt.began_at)
        attempt.tally = tally

    def attempt_failed(self, error: BaseException) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        if isinstance(error, ClientGone | GeneratorExit):
            attempt.span.set_attribute("gateway.attempt.outcome", Ending.CLIENT_DISCONNECTED.value)
        elif isinstance(error, Stopping):
            attempt.span.set_attribute("gateway.attempt.outcome", Ending.DRAINED.value)
        else:
            attempt.span.set_attribute("gateway.attempt.outcome", Outcome.TRANSPORT_ERROR.value)
            _fail(attempt.span, type(error).__name__)
        attempt.span.end()

    def tool_call(self, server: str, tool: str) -> ToolSpan:
        self._end_turn(None)
        attributes = {
            "mcp.method.name": "tools/call",
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": word(tool),
            "gateway.mcp.server": server,
        }
        above = set_span_in_context(self._root)
        return _LiveToolSpan(self._tracer.start_span(f"tools/call {word(tool)}", above, SpanKind.CLIENT, attributes))

    def ended(self, record: InterceptionRecord) -> None:
        self._end_turn(record)
        root = self._root
        root.set_attributes(told(record, self._turns))
        if record.status >= 500:
            _fail(root, str(record.status), record.error)
        elif record.status == 200 and record.outcome not in _NO_ERRORS:
            _fail(root, record.outcome, record.error)
        root.end()

    def _end_turn(self, record: InterceptionRecord | None) -> None:
        """What is open of an earlier turn ends now; `record` if the request ends with it."""
        attempt, self._attempt, self._refusal = self._attempt, None, None
        if attempt is not None:
            if attempt.tally is not None:
                _complete(attempt.span, attempt.tally, record)
            attempt.span.end()
        walk, self._walk = self._walk, None
        if walk is not None:
            if attempt is None and record is not None and record.outcome not in _NO_ERRORS:
                _fail(walk, record.outcome)
            walk.end()


class _LiveToolSpan(ToolSpan):
    def __init__(self, span: Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        W3C.inject(carrier, set_span_in_context(span))
        self.headers = carrier

    def end(self, outcome: ToolOutcome) -> None:
        self._span.set_attribute("gateway.tool.outcome", outcome.value)
        if outcome not in (ToolOutcome.OK, ToolOutcome.CANCELLED):
            _fail(self._span, "tool_error" if outcome is ToolOutcome.ERROR else outcome.value)
        self._span.end()


def _complete(span: Span, tally: Tally, record: InterceptionRecord | None) -> None:
    """The answer is over, well or not: what it has said of itself, and how it ended."""
    span.set_attributes(usage(tally))
    if tally.error_kind is not None:
        _fail(span, word(tally.error_kind))
    elif record is not None and record.status == 200 and not tally.has_stopped:
        span.set_attribute("gateway.stream.outcome", record.outcome)
        if record.outcome not in _NO_ERRORS:
            _fail(span, record.outcome)


def _fail(span: Span, error_type: str, message: str | None = None) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, message))


def _carrying(headers: Headers, context: Context) -> Headers:
    """The headers with this context in the place of any other."""
    carrier: dict[str, str] = {}
    W3C.inject(carrier, context)
    return [item for item in headers if item[0] not in _CONTEXT_HEADERS] + list(carrier.items())

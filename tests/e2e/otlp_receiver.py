"""A receiver of traces over OTLP/HTTP with protobuf: what a collector is to the gateway, its spans in reach of a test.

Owns: the protocol's server side (https://opentelemetry.io/docs/specs/otlp/#otlphttp), by the official messages.
Nothing here knows the gateway.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.harness import wait_until

KINDS = {number: name.removeprefix("SPAN_KIND_") for name, number in WireSpan.SpanKind.items()}


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it arrived; ids in hex, `parent_id` empty for a trace's first span, `events` by name."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, Any]
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    is_error: bool
    message: str
    started_ns: int
    ended_ns: int
    resource: Mapping[str, Any]


class OtlpReceiver:
    """Listens on a free port of this machine. `status` is what it answers with; 200 takes the spans."""

    def __init__(self) -> None:
        self.status = 200
        self._lock = threading.Lock()  # guards _spans and _bodies
        self._spans: list[ReceivedSpan] = []
        self._bodies: list[bytes] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                is_good = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
                status = receiver._take(body) if is_good else 404
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> OtlpReceiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans so far, by the time at which they began."""
        with self._lock:
            return sorted(self._spans, key=lambda span: span.started_ns)

    @property
    def bodies(self) -> list[bytes]:
        """Every request's body as it came, refused ones included."""
        with self._lock:
            return list(self._bodies)

    def trace(self, trace_id: str, count: int, timeout_seconds: float = 15.0) -> list[ReceivedSpan]:
        """The spans of one trace, once there are so many of them."""

        def found() -> list[ReceivedSpan]:
            return [span for span in self.spans if span.trace_id == trace_id]

        assert wait_until(lambda: len(found()) >= count, timeout_seconds), found()
        return found()

    def _take(self, body: bytes) -> int:
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self._bodies.append(body)
            if self.status == 200:
                self._spans.extend(
                    _received(span, _mapping(traced.resource.attributes))
                    for traced in request.resource_spans
                    for scope in traced.scope_spans
                    for span in scope.spans
                )
            return self.status


def _received(span: WireSpan, resource: Mapping[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=KINDS[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_mapping(span.attributes),
        events=tuple((event.name, _mapping(event.attributes)) for event in span.events),
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        message=span.status.message,
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        resource=resource,
    )


def _mapping(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind is not None else None

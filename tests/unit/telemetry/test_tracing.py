"""Whether there is tracing, what it says it is, and that its end is bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from gateway import __version__
from gateway.config.settings import Settings, SettingsError
from gateway.telemetry import tracing
from gateway.telemetry.tracing import SpanTracing, Tracing, check, open_tracing, provider_of_environment

ON = Settings(tracing="otlp")


class StuckExporter(SpanExporter):
    """A collector that neither takes nor refuses spans, until it is released."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.released = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.has_begun.set()
        self.released.wait(60)
        return SpanExportResult.FAILURE


def test_off_needs_no_sdk_and_makes_nothing() -> None:
    """Given the setting `off`, then nothing is checked or made."""
    check(Settings())
    assert type(open_tracing(Settings())) is Tracing


def test_opentelemetrys_own_switch_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given OTEL_SDK_DISABLED, then there is no tracing, whatever the setting says; headers stay the clients'."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert type(open_tracing(ON)) is Tracing


@pytest.mark.parametrize(
    ("environ", "name", "is_ours"),
    [
        ({}, "messages-gateway", True),
        ({"OTEL_SERVICE_NAME": "edge"}, "edge", True),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=edge,service.version=7"}, "edge", False),
    ],
)
def test_the_resource_is_named_by_the_gateway_unless_the_environment_does(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], name: str, is_ours: bool
) -> None:
    """Given OpenTelemetry's variables, then they win over the gateway's name and version."""
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    made = provider_of_environment()
    try:
        attributes = made.resource.attributes
        assert attributes["service.name"] == name
        assert attributes["service.version"] == (__version__ if is_ours else "7")
    finally:
        made.shutdown()


def test_a_protocol_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the variable that asks for gRPC, then the complaint names it; without tracing it is nobody's concern."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_PROTOCOL"):
        check(ON)
    check(Settings())


def test_a_check_leaves_no_thread_behind() -> None:
    """Given a check in the master, then no thread of the exporter's is alive when it forks."""
    before = set(threading.enumerate())
    check(ON)
    assert set(threading.enumerate()) <= before


def test_the_end_waits_for_a_stuck_collector_but_not_for_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a collector that hangs with a batch in hand, when tracing ends, then it does in its time, and says so."""
    monkeypatch.setattr(tracing, "_LAST_WORDS_SECONDS", 0.1)
    exporter = StuckExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1))
    made = SpanTracing(provider)
    provider.get_tracer("test").start_span("stuck").end()
    assert exporter.has_begun.wait(30)
    began_at = time.monotonic()
    try:
        made.close()
        assert time.monotonic() - began_at < 30
    finally:
        exporter.released.set()
    assert "are lost" in caplog.text

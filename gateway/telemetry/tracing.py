"""Whether requests are traced, and where their spans go.

Owns: OpenTelemetry's SDK, which is an extra and so imported only when tracing is on; a trace's beginning.
A provider has a thread and so is made after the fork, one a worker; `begin` may be called by any thread.

Endpoint, headers, sampler, batch sizes and resource come from OpenTelemetry's own variables
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and .../protocol/exporter/).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flask import Request
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Tracer

from gateway import __version__
from gateway.config.settings import Settings, SettingsError
from gateway.telemetry.span_values import server_of
from gateway.telemetry.spans import NOT_TRACED, W3C, RequestTrace, Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"
# How long the end of a worker waits for a collector to take the last spans.
_LAST_WORDS_SECONDS = 3.0


class Tracing:
    """Tracing that is off."""

    def begin(self, request: Request, headers: Mapping[str, str], address: str, upstream_url: str) -> Trace:
        """A request has come from the client at this address; `headers` have lower-case names.

        Nothing is read of `request`, where every look costs a microsecond, unless there is tracing.
        """
        return NOT_TRACED

    def close(self) -> None:
        """Deliver what is left, within a few seconds."""


class SpanTracing(Tracing):
    """Tracing by a provider of OpenTelemetry's SDK, which this closes."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("gateway", __version__)

    def begin(self, request: Request, headers: Mapping[str, str], address: str, upstream_url: str) -> Trace:
        rule = request.url_rule.rule if request.url_rule is not None else request.path
        route = rule.replace("<", "{").replace(">", "}")
        attributes = {
            "http.request.method": request.method,
            "http.route": route,
            "url.scheme": request.scheme,
            "client.address": address,
        }
        if route == rule:
            attributes["url.path"] = route
        parent = W3C.extract(headers, Context())
        root = self._tracer.start_span(f"{request.method} {route}", parent, SpanKind.SERVER, attributes)
        return RequestTrace(self._tracer, server_of(upstream_url), root)

    def close(self) -> None:
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-shutdown", daemon=True)
        closing.start()
        closing.join(_LAST_WORDS_SECONDS)
        if closing.is_alive():
            log.warning("spans that the collector has not taken within %g s are lost", _LAST_WORDS_SECONDS)


def check(settings: Settings) -> None:
    """Raise SettingsError if tracing is asked for and cannot be had: before the fork, and before any request."""
    if settings.tracing == "off":
        return
    for name in _PROTOCOLS:
        if os.environ.get(name, _HTTP) != _HTTP:
            raise SettingsError([f"{name}: the gateway exports over {_HTTP} alone"])
    try:
        provider_of_environment().shutdown()  # its thread has ended then: none is left for the fork to lose
    except ImportError as error:
        missing = "GATEWAY_TRACING: otlp needs the extra `otel`: pip install 'messages-gateway[otel]'"
        raise SettingsError([missing]) from error
    except (ValueError, OSError) as error:
        raise SettingsError([f"GATEWAY_TRACING: the OTEL_* variables cannot be used: {error}"]) from error


def open_tracing(settings: Settings) -> Tracing:
    """This process's tracing; after the fork."""
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return Tracing() if is_disabled or settings.tracing == "off" else SpanTracing(provider_of_environment())


def provider_of_environment() -> TracerProvider:
    """A provider as the `OTEL_*` variables say. Raises ImportError without the extra; ValueError and OSError."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    said = OTELResourceDetector().detect().attributes
    ours = {"service.name": "messages-gateway", "service.version": __version__}
    resource = Resource.create({name: value for name, value in ours.items() if name not in said})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider

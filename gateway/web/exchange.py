"""The book-keeping of a request, from its admission to its last byte.

Owns: giving a slot back, counting, recording and logging a request, once, whichever way it ends. An
Exchange belongs to whoever runs the request.
"""

from __future__ import annotations

import logging

from gateway.access.authentication import Caller
from gateway.access.client_address import Origin
from gateway.access.client_info import Client
from gateway.limits.limiter import Admitted
from gateway.limits.no_limits import NO_LIMITS
from gateway.protocol.errors import ClientGone, GatewayError
from gateway.records.interception_record import InterceptionRecord, TurnUsage
from gateway.records.record_builder import RecordBuilder
from gateway.runtime.request_ids import new_request_id
from gateway.telemetry import access_log
from gateway.telemetry.spans import Trace
from gateway.web.service import Configuration, Gateway

log = logging.getLogger(__name__)

CLIENT_GONE_STATUS = 499  # as nginx counts it; nobody is there to see it


class Exchange:
    """One admitted request: the configuration it began under, who calls, its slot and its limits."""

    def __init__(
        self,
        gateway: Gateway,
        configuration: Configuration,
        caller: Caller,
        origin: Origin,
        client: Client,
        route: str,
        started_at: float,
        trace: Trace,
        admitted: Admitted,
    ) -> None:
        self.gateway = gateway
        self.configuration = configuration
        self.caller = caller
        self.started_at = started_at
        self.mode = "whole"
        self.request_id = new_request_id(origin.request_id)
        settings = configuration.settings
        self.builder = RecordBuilder(
            self.request_id, route, caller, client, gateway.clock, gateway.wall_clock, settings.prices
        )
        self.trace = trace
        self._address = origin.address
        self._client = f"{caller.token_name or 'somebody'} at {origin.address}"
        self._route = route
        self._admitted = admitted
        self._is_settled = False
        self._is_finished = False
        gateway.metrics.requests_admitted.inc()
        self._inflight = gateway.metrics.requests_inflight.labels(route)
        self._inflight.inc()

    def failed(self, error: Exception) -> GatewayError | None:
        """The request ends without an answer of the upstream's. What the client is told; None if it is gone."""
        if isinstance(error, GatewayError):
            if error.is_rejection:
                self.gateway.metrics.rejections.labels(error.kind).inc()
            else:
                log.warning(
                    "%s: %s for %s answered %d: %s",
                    self.builder.name,
                    self._route,
                    self._client,
                    error.status,
                    error.message,
                )
        elif isinstance(error, ClientGone):
            log.debug("%s: the client is gone", self.builder.name)
            self.builder.failed(error)
            self.finish(CLIENT_GONE_STATUS)
            return None
        else:
            log.error("%s: %s failed inside the gateway", self.builder.name, self._route, exc_info=error)
            error = GatewayError("the gateway failed to serve this request; its log says why")
        error.request_id = self.request_id
        self.builder.failed(error)
        self.finish(error.status)
        return error

    def finish(self, status: int) -> None:
        """Give the slot back, count the request and hand its record on; may be called again."""
        if self._is_finished:
            return
        self._is_finished = True
        gateway = self.gateway
        gateway.admission.leave()
        self.settle()
        record = self._finished_record(status)
        gateway.metrics.requests.labels(self._route, self.caller.credential.value, status).inc()
        duration = gateway.clock() - self.started_at
        gateway.metrics.request_duration.labels(self._route, self.mode).observe(duration)
        if record is not None:
            gateway.metrics.usage.count(record)
            self._record(record)
        # Last: with nothing in flight, everything is counted, and with the recorder.
        self._inflight.dec()

    def _finished_record(self, status: int) -> InterceptionRecord | None:
        try:
            return self.builder.finished(status)
        except Exception:
            log.exception("%s: its record is lost", self.builder.name)
            return None

    def settle(self) -> None:
        """The upstream has said its last: count for the client's limits what the request has used. Again: nothing."""
        if self._is_settled:
            return
        self._is_settled = True
        if self._admitted is NO_LIMITS:
            return
        tokens = picodollars = 0
        try:
            for used in self.builder.settled():
                tokens += _limited_tokens(used)
                picodollars += used.cost_picodollars or 0
        except Exception:
            log.exception("%s: what it has used is not known", self.builder.name)
        try:
            self._admitted.settle(tokens, picodollars)
        except Exception:
            log.exception("%s: what it has used of its limits is not counted", self.builder.name)

    def _record(self, record: InterceptionRecord) -> None:
        """Hand the record on; no request fails for it."""
        try:
            self.gateway.recorder.put(record)
            self.trace.ended(record)
            access_log.ended(record, self._address)
        except Exception:
            log.exception("%s: its record is lost", self.builder.name)


def _limited_tokens(used: TurnUsage) -> int:
    """What an inference counts for limits of tokens: all but what was read from the cache."""
    return used.input_tokens + used.cache_write_tokens + used.guessed_output_tokens

"""What hears of a request's turns, attempts and tools: it writes the log's lines, counts, and tells record and trace.

Owns: the words, and who is told what. Belongs to whoever runs the request. Turns and walks tell each moment once, here,
and neither log nor count. Logs carry names and hints; never a secret, a prompt or an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from gateway.access.credential import Key
from gateway.keys.overview import ALL_SCOPES
from gateway.keys.standing import KeyState, KeyStatus
from gateway.keys.verdict import Concern, Verdict
from gateway.protocol.errors import GatewayError, UpstreamError
from gateway.protocol.messages import Tally
from gateway.protocol.outcomes import Outcome, ToolOutcome, exhaustion_of
from gateway.records.record_builder import RecordBuilder
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import NOT_TRACED, Trace
from gateway.tools.toolbox import InjectedTool
from gateway.upstream import Call

log = logging.getLogger("gateway.narrator")

# What is not the key's fault nor the client's: somebody has to be told which key it came by.
_TROUBLE = (Outcome.OVERLOADED, Outcome.SERVER_ERROR, Outcome.TRANSPORT_ERROR)
_WITH = {Concern.WORKSPACE: " with its workspace", Concern.ORGANISATION: " with its organisation"}
_FAILED = Verdict(Outcome.TRANSPORT_ERROR)
_TOOL_TROUBLE = (ToolOutcome.FAILED, ToolOutcome.TIMED_OUT)


class Observer:
    """Hears of the request that `builder` and `trace` are of. A key is None where the client's own credential pays."""

    def __init__(self, metrics: Metrics, builder: RecordBuilder, trace: Trace = NOT_TRACED) -> None:
        self.builder = builder
        self.trace = trace
        self._metrics = metrics
        self._scope = ALL_SCOPES

    def turn_began(self, scope: str | None) -> None:
        """An answer is sought; by a walk for this scope, if there is one."""
        self.trace.turn_began(has_walk=scope is not None)
        if scope is not None:
            self._scope = scope
            self._metrics.note_asked(scope)

    def attempt_began(self, call: Call, key: Key | None) -> Call:
        """A request goes upstream; returns the call as it does."""
        self.builder.attempt_began(key)
        return self.trace.attempt_began(call, key.name if key is not None else None)

    def answered(self, key: Key | None, status: int, headers: Mapping[str, str]) -> None:
        """An answer has come; its headers say how much is left of the key's limits."""
        self.builder.answered(status, headers.get("request-id"))
        if key is not None:
            self._metrics.note_rate_limits(key.name, self._scope, headers)

    def passed_over(self, status: KeyStatus, *, is_barred: bool, is_elsewhere: bool) -> None:
        """A key is not tried."""
        self.builder.passed_over(status, is_barred=is_barred, is_elsewhere=is_elsewhere)

    def attempt_ended(self, key: Key | None, verdict: Verdict, tally: Tally, *, is_stream: bool) -> None:
        """An attempt has its verdict; if `is_stream`, with the answer's first event. `tally` grows with the answer."""
        self.builder.attempt_ended(verdict)
        self.trace.attempt_ended(verdict, self.builder.upstream_id, tally, is_stream)
        if key is not None:
            self._attempted(key, verdict)

    def attempt_failed(self, key: Key | None, error: BaseException, *, was_sent: bool) -> None:
        """An attempt has ended without a verdict; `was_sent`: the upstream had the whole request by then."""
        self.trace.attempt_failed(error)
        if not was_sent:
            self.builder.not_sent()
        if isinstance(error, UpstreamError):
            self.builder.attempt_ended(_FAILED)
            if key is not None:
                self._attempted(key, _FAILED)

    def turn_obtained(self, tally: Tally) -> None:
        """A turn has its answer; `tally` goes on growing with it."""
        self.builder.turn_obtained(tally)

    def _attempted(self, key: Key, verdict: Verdict) -> None:
        level = logging.WARNING if verdict.outcome in _TROUBLE else logging.DEBUG
        if log.isEnabledFor(level):
            log.log(
                level,
                "%s: key %s (%s): %s%s",
                self.builder.name,
                key.name,
                key.hint,
                verdict.outcome.value,
                f" (status {verdict.http_status})" if verdict.http_status else "",
            )
        self._metrics.key_attempts.labels(key.name, verdict.outcome.value).inc()

    def transitioned(self, key: Key, state: KeyState, verdict: Verdict) -> None:
        """A mark changed a key's state."""
        status = f" ({verdict.http_status})" if verdict.http_status else ""
        reason = f"{verdict.outcome.value}{status}"
        if state is KeyState.TEMPORARY:
            log.info(
                "%s: key %s (%s) is cooling down for %.1f s%s: %s; then one request tries it",
                self.builder.name,
                key.name,
                key.hint,
                verdict.cooldown_seconds,
                f" for {self._scope}" if verdict.concern is Concern.SCOPE else _WITH.get(verdict.concern, ""),
                reason,
            )
        else:
            siblings = ", its organisation's other keys are in doubt" if verdict.concern is Concern.ORGANISATION else ""
            log.warning(
                "%s: key %s (%s) is retired%s: %s; it gets no requests until the upstream accepts it again or the "
                "operator enables it",
                *(self.builder.name, key.name, key.hint, siblings, reason),
            )
        self._metrics.key_transitions.labels(key.name, state.value).inc()

    def failed_over(self, key: Key, verdict: Verdict) -> None:
        """Another key is tried instead."""
        self._metrics.key_failovers.labels(key.name, verdict.outcome.value).inc()

    def walked(self, attempts: int) -> None:
        """A walk has its answer."""
        self._metrics.failover_attempts.observe(attempts)

    def exhausted(self, error: GatewayError, attempts: int) -> None:
        """A walk found no usable key."""
        log.warning("%s: %s (attempts: %d)", self.builder.name, error.message, attempts)
        self._metrics.count_exhaustion(exhaustion_of(error))
        self._metrics.failover_attempts.observe(attempts)

    def tool_called(
        self,
        call_id: str,
        tool: InjectedTool | None,
        outcome: ToolOutcome,
        seconds: float | None = None,
        result_bytes: int | None = None,
    ) -> None:
        """The call of a `tool_use` block has ended after so long, or was never made; None: there is no such tool."""
        server, name = (tool.server, tool.tool) if tool is not None else ("unknown", "unknown")
        level = logging.WARNING if outcome in _TOOL_TROUBLE else logging.DEBUG
        log.log(level, "%s: tool %s of %s: %s", self.builder.name, name, server, outcome.value)
        self._metrics.count_tool_call(server, name, outcome, seconds)
        self.builder.tool_called(call_id, outcome.value, result_bytes, seconds)

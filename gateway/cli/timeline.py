"""The timeline of one interception, told in plain words out of its record.

Owns: the words. Pure; any thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from gateway.pricing.money import dollars
from gateway.protocol.outcomes import ABANDONED, Ending, Outcome, ToolOutcome
from gateway.protocol.safe_text import safe_text
from gateway.protocol.usage import LOST
from gateway.records.interception_record import Attempt, InterceptionRecord, PassedOver, ToolCall, TurnUsage

_LONGEST_LINE = 1000

_ROUTES = {
    "messages": "POST /v1/messages",
    "count_tokens": "POST /v1/messages/count_tokens",
    "models": "GET /v1/models",
    "model": "GET /v1/models/{id}",
}
_ENDINGS = {
    Ending.COMPLETED.value: "the answer was delivered completely",
    Ending.UPSTREAM_ERROR.value: "the upstream answered with an error, which was passed on",
    Ending.UPSTREAM_FAILED.value: "the upstream could not be reached, or its answer could not be used",
    Ending.TIMED_OUT.value: "the upstream did not answer in time",
    Ending.IDLE_TIMEOUT.value: "the upstream sent nothing more in the middle of the stream",
    Ending.TRUNCATED.value: "the upstream's stream broke off",
    Ending.CLIENT_DISCONNECTED.value: "the client hung up before the end",
    Ending.DRAINED.value: "the gateway was stopped before the end",
    Ending.EXHAUSTED.value: "no key was left to try",
    Ending.TURN_LIMIT.value: "the model kept calling the gateway's tools",
    Ending.REJECTED.value: "the gateway refused the request",
    Ending.GATEWAY_ERROR.value: "the gateway itself failed; its log says how",
}
_OUTCOMES = {
    Outcome.OK.value: "answered",
    Outcome.RATE_LIMITED.value: "rate limited",
    Outcome.UNAUTHORIZED.value: "refused as unauthorized",
    Outcome.FORBIDDEN.value: "refused as forbidden",
    Outcome.NOT_ENTITLED.value: "may not make this request",
    Outcome.SPEND_LIMITED.value: "over its spending limit",
    Outcome.OUT_OF_CREDIT.value: "out of credit",
    Outcome.WORKSPACE_UNUSABLE.value: "its workspace cannot be used",
    Outcome.REQUEST.value: "refused the request itself",
    Outcome.OVERLOADED.value: "overloaded",
    Outcome.SERVER_ERROR.value: "failed on the upstream's side",
    Outcome.CLIENT_ERROR.value: "refused the request",
    Outcome.TRANSPORT_ERROR.value: "no usable answer came",
    ABANDONED: "given up before an answer came",
}
_CONCERNS = {
    "scope": " for requests of this kind",
    "workspace": " with its workspace",
    "organisation": " with its organisation",
    "siblings": " with others of its workspace",
}
_STATES = {
    "temporary": "cooling down",
    "permanent": "retired",
    "disabled": "taken out of use by the operator",
    "on_trial": "on trial, and another request was trying it",
    "doubtful_workspace": "in doubt: a key of its workspace was cooling down for requests of this kind",
    "doubtful_organisation": "in doubt: a key of its organisation was cooling down or had been refused",
    "pinned_elsewhere": "valid, but the session stays with another workspace for its prompt cache",
    "not_entitled": "valid, but its organisation may not make this request",
}
_CERTAINTIES = {
    "exact": "final counts",
    "partial": "the answer broke off: at least this many",
    "estimated": "the answer broke off before its output was counted",
}
# The names of rows of the price table that are no model's.
_PRICES = {
    "default": "the default price, because the model has none",
    "free": "free: the model declined",
}
# The kinds of inferences (`BilledUsage.kind`), where it is not the plain one.
_KINDS = {
    "message": "",
    "compaction": " of the compaction",
    "fallback_message": " of the fallback",
    "advisor_message": " of the advisor",
    LOST: "",
    "other": " of another kind",
}


def tell(record: InterceptionRecord) -> str:
    """All of it, a line for each thing that happened, in order; nothing in the record makes a line of its own."""
    return "\n".join(safe_text(line, _LONGEST_LINE) for line in _lines(record))


def _lines(record: InterceptionRecord) -> Iterator[str]:
    yield record.request_id if record.request_id == record.id else f"{record.request_id} (in the gateway: {record.id})"
    yield f"  when     {_moment(record.started_at)}, for {_seconds(record.duration_seconds)}"
    yield f"  what     {_what(record)}"
    yield f"  who      {_who(record)}"
    yield f"  paid by  {_payer(record)}"
    if record.usage and record.credential != "byok":
        yield f"  cost     {_cost(record.cost_picodollars, is_estimate=record.is_cost_estimated)}"
    if record.trace_id is not None:
        yield f"  trace    {record.trace_id}"
    turns = {skipped.turn for skipped in record.passed_over} | {attempt.turn for attempt in record.attempts}
    for turn in sorted(turns):
        yield f"Turn {turn + 1}" if len(turns) > 1 else "What happened"
        yield from _turn(record, turn)
    yield "How it ended"
    if record.first_event_seconds is not None:
        yield f"  {_at(record.first_event_seconds)}  the first event went to the client"
    error = f" ({record.error})" if record.error is not None else ""
    ending = _ENDINGS.get(record.outcome, record.outcome)
    yield f"  {_at(record.duration_seconds)}  {ending}{error}; status {record.status}"


def _turn(record: InterceptionRecord, turn: int) -> Iterator[str]:
    for skipped in (each for each in record.passed_over if each.turn == turn):
        yield f"  {'':9}  key {skipped.key} was skipped: {_why_skipped(skipped)}"
    for attempt in (each for each in record.attempts if each.turn == turn):
        yield f"  {_at(attempt.after_seconds)}  {_tried(attempt)}"
    for usage in (each for each in record.usage if each.turn == turn):
        yield f"  {'':9}  usage{_KINDS.get(usage.kind, f' of {usage.kind}')}: {_spent(usage)}"
    for call in (each for each in record.tool_calls if each.turn == turn):
        yield f"  {'':9}  {_called(call)}"


def _what(record: InterceptionRecord) -> str:
    model = f", {record.model}" if record.model is not None else ""
    return f"{_ROUTES.get(record.route, record.route)}{model}, {'streamed' if record.is_streamed else 'whole'}"


def _who(record: InterceptionRecord) -> str:
    who = f"token {record.token}" if record.token is not None else "no token (an open gateway)"
    group = f" of group {record.token_group}" if record.token_group is not None else ""
    program = " ".join(word for word in (record.client, record.client_version) if word is not None)
    session = f", session {record.session}" if record.session is not None else ""
    return f"{who}{group}, with {program or 'an unknown program'}{session}"


def _payer(record: InterceptionRecord) -> str:
    hint = f" ({record.hint})" if record.hint is not None else ""
    if record.credential == "byok":
        return f"the client's own credential{hint}"
    return f"key {record.key}{hint}" if record.key is not None else "no one: no key was tried"


def _why_skipped(skipped: PassedOver) -> str:
    state = _STATES.get(skipped.state, skipped.state)
    if skipped.state == "temporary":
        state = f"{state}{_CONCERNS.get(skipped.concern, '')} for another {_seconds(skipped.remaining_seconds)}"
    if not skipped.reason or skipped.state not in ("temporary", "permanent"):
        return state
    why = _OUTCOMES.get(skipped.reason, skipped.reason)
    who = "it" if skipped.concern in ("", "key", "scope") else "they"
    return f"{state}; {who} had been {why}{f' ({skipped.status})' if skipped.status else ''}"


def _tried(attempt: Attempt) -> str:
    who = f"key {attempt.key}" if attempt.key is not None else "the client's own credential"
    status = f" ({attempt.status})" if attempt.status else ""
    cooldown = f", and cools down for {_seconds(attempt.cooldown_seconds)}" if attempt.cooldown_seconds else ""
    request_id = f" [{attempt.request_id}]" if attempt.request_id is not None else ""
    outcome = _OUTCOMES.get(attempt.outcome, attempt.outcome)
    return f"{who}: {outcome}{status} after {_seconds(attempt.duration_seconds)}{cooldown}{request_id}"


def _spent(usage: TurnUsage) -> str:
    if usage.kind == LOST:
        return f"nobody waited for the answer: what its prompt may cost, by its size{_priced(usage)}"
    counts = f"{usage.input_tokens} input, {usage.cache_read_tokens} read from cache, {_written(usage)}"
    words = f"{counts}, {usage.output_tokens} output tokens"
    if usage.certainty == "estimated":
        words += f" (about {usage.guessed_output_tokens}, estimated from what was relayed)"
    for name, count in json.loads(usage.server_tools).items():
        words += f", {count} {name}"
    for name, value in (("tier", usage.service_tier), ("speed", usage.speed), ("geo", usage.inference_geo)):
        words += f", {name} {value}" if value is not None else ""
    model = f"{usage.model}, " if usage.model is not None else ""
    return f"{model}{words}; {_CERTAINTIES.get(usage.certainty, usage.certainty)}{_priced(usage)}"


def _priced(usage: TurnUsage) -> str:
    if usage.cost_picodollars is None:
        return ""
    cost = _cost(usage.cost_picodollars, is_estimate=usage.is_cost_estimated)
    return f"; {cost} ({_PRICES.get(usage.price or '', f'price {usage.price}')})"


def _cost(picodollars: int | None, *, is_estimate: bool) -> str:
    if picodollars is None:
        return "not known: recorded before there were prices"
    return f"{dollars(picodollars)} dollars{', an estimate' if is_estimate else ''}"


def _written(usage: TurnUsage) -> str:
    lifetimes = {"5 min": usage.cache_write_5m_tokens, "1 h": usage.cache_write_1h_tokens}
    told = ", ".join(f"{count} for {lifetime}" for lifetime, count in lifetimes.items() if count)
    return f"{usage.cache_write_tokens} written to it" + (f" ({told})" if told else "")


def _called(call: ToolCall) -> str:
    if not call.is_injected:
        return f"the client was asked to call {call.name} ({call.input_bytes} bytes of input)"
    took = f" in {_seconds(call.duration_seconds)}" if call.duration_seconds is not None else ""
    result = f", {call.result_bytes} bytes of result" if call.result_bytes is not None else ""
    outcome = (call.outcome or ToolOutcome.UNKNOWN.value).replace("_", " ")
    return f"the gateway's tool {call.name} was called ({call.input_bytes} bytes of input): {outcome}{took}{result}"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _at(seconds: float) -> str:
    return f"{seconds:7.3f} s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:.0f} s"

"""What spans say: the gateway's values under the names of the conventions.

Owns: the names of attributes; telemetry/spans.py owns which span has them and when. Values only. Of what clients and
upstreams write, words alone are taken (`record_words.word`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from gateway.keys.verdict import Verdict
from gateway.pricing.money import microdollars
from gateway.protocol.messages import Tally
from gateway.records.interception_record import InterceptionRecord
from gateway.records.record_words import word
from gateway.upstream import Call

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]
_Building = dict[str, str | int | float | bool | Sequence[str]]

_DEFAULT_PORTS = {"https": 443, "http": 80}


def server_of(upstream_url: str) -> Attributes:
    """The upstream: `url.full` is where its paths are added."""
    parts = urlsplit(upstream_url)
    return {
        "url.full": upstream_url,
        "server.address": parts.hostname or "",
        "server.port": parts.port or _DEFAULT_PORTS[parts.scheme],
    }


def asking(
    call: Call, server: Attributes, key_name: str | None, model: str | None, is_streaming: bool | None
) -> Attributes:
    """An attempt, before its answer; the query stays out, which a client may have put anything into."""
    attributes: _Building = {
        **server,
        "http.request.method": call.method,
        "url.full": f"{server['url.full']}{call.target.partition('?')[0]}",
        "gen_ai.provider.name": "anthropic",
        "gateway.credential": "byok" if key_name is None else "pooled",
    }
    if key_name is not None:
        attributes["gateway.key.name"] = key_name
    if model is not None:
        attributes["gen_ai.request.model"] = model
    if is_streaming is not None:
        attributes["gen_ai.operation.name"] = "chat"
        attributes["gen_ai.request.stream"] = is_streaming
    return attributes


def refused(verdict: Verdict) -> str:
    """The error type of an answer that is none: its status; a stream that opens with an error has no status for it."""
    return str(verdict.http_status) if verdict.http_status != 200 else verdict.outcome.value


def failover(key_name: str, verdict: Verdict) -> Attributes:
    """A key's answer that is thrown away for another key's."""
    attributes: _Building = {"gateway.key.name": key_name, "gateway.failover.reason": verdict.outcome.value}
    if verdict.cools:
        attributes["gateway.key.cooldown_seconds"] = verdict.cooldown_seconds
    return attributes


def usage(tally: Tally) -> Attributes:
    """What an answer has said of itself. Anthropic's own input count leaves out what a cache had or took; the
    convention's does not.
    """
    attributes: _Building = {}
    if tally.model is not None:
        attributes["gen_ai.response.model"] = word(tally.model)
    said = tally.usage
    if said.is_said:
        attributes["gen_ai.usage.input_tokens"] = said.input_tokens + said.cache_read_tokens + said.cache_write_tokens
        attributes["gen_ai.usage.output_tokens"] = said.output_tokens
        attributes["gen_ai.usage.cache_read.input_tokens"] = said.cache_read_tokens
        attributes["gen_ai.usage.cache_creation.input_tokens"] = said.cache_write_tokens
    return attributes


def told(record: InterceptionRecord, turns: int) -> Attributes:
    """A request that has ended."""
    attributes: _Building = {
        "http.response.status_code": record.status,
        "gateway.request_id": record.id,
        "gateway.client_request_id": record.request_id,
        "gateway.credential": record.credential,
        "gateway.outcome": record.outcome,
        "gateway.mode": "streamed" if record.is_streamed else "whole",
        "gateway.attempts": len(record.attempts),
        "gateway.turns": turns,
    }
    for name, value in (
        ("gateway.token.name", record.token),
        ("gateway.token.group", record.token_group),
        ("gateway.key.name", record.key),
        ("gateway.time_to_first_event_seconds", record.first_event_seconds),
        ("gen_ai.request.model", record.model),
        ("gen_ai.conversation.id", record.session),
        ("user_agent.name", record.client),
        ("user_agent.version", record.client_version),
    ):
        if value is not None:
            attributes[name] = value
    cost = record.cost_picodollars
    if cost is not None:
        attributes["gateway.cost_dollars"] = microdollars(cost) / 10**6
        attributes["gateway.cost_estimated"] = record.is_cost_estimated
    return attributes

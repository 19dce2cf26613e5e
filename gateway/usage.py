"""What an answer says of its cost, as finely as the Messages API says it.

Owns: the reading of `usage` objects, and the guess at what a broken answer has not said. Pure; a Usage belongs to
one answer and so to one thread. The counts are the upstream's own words and nothing else
(https://docs.claude.com/en/api/messages): within one answer they are cumulative, so later ones replace earlier ones.

What is billed are inferences. An answer is one of them, or says in `usage.iterations` of which it was made: then each
of these is billed at its own model, and the answer's own counts, which leave some of them out, are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec

from gateway.counts import count_or_none

# The usage object's members to the names that they are kept under.
_COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}
_LIFETIMES = {
    "ephemeral_5m_input_tokens": "cache_write_5m_tokens",
    "ephemeral_1h_input_tokens": "cache_write_1h_tokens",
}
_KEPT = (*_COUNTS.values(), *_LIFETIMES.values())
_MOST_SERVER_TOOLS = 20
_MOST_ITERATIONS = 1000

MESSAGE = "message"
_COMPACTION = "compaction"
_FALLBACK = "fallback_message"
_ADVISOR = "advisor_message"
_KINDS = (MESSAGE, _COMPACTION, _FALLBACK, _ADVISOR)
OTHER_KIND = "other"  # an iteration of a kind that is not known yet: billed, and marked as an estimate

# What a `content_block_delta` event is beside its text, in bytes, and how many bytes of text make a token, roughly.
_DELTA_NAME = b"content_block_delta"
_DELTA_ENVELOPE_BYTES = 128
_BYTES_PER_TOKEN = 4


class Certainty(Enum):
    """How far the counts of an answer can be trusted."""

    EXACT = "exact"  # the answer came to its end: these are its final counts
    PARTIAL = "partial"  # it broke off after the upstream had counted its output once: at least so much
    ESTIMATED = "estimated"  # it broke off before that: the output is the gateway's guess, kept apart from the counts


class BilledUsage(msgspec.Struct, frozen=True):
    """One inference: its counts as the upstream said them, and what its price depends on.

    `cache_write_tokens` are all that were written to the cache, the two lifetimes' tokens those of them of which it
    was said for how long. `billed_output_tokens` is the guess where a broken answer has not been counted.
    `is_exact` tells whether the counts are final, and of a kind whose price is known; `is_free`, that the model has
    declined without a word, which costs nothing.
    """

    kind: str = MESSAGE
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    billed_output_tokens: int = 0
    server_tools: Mapping[str, int] = {}
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    is_exact: bool = True
    is_free: bool = False

    @property
    def billed_write_5m_tokens(self) -> int:
        """Tokens written for five minutes; those of which no lifetime was said count as such."""
        return max(self.cache_write_5m_tokens, self.cache_write_tokens - self.cache_write_1h_tokens)


@dataclass(frozen=True, slots=True)
class _Iteration:
    """An entry of `usage.iterations`: its kind, its model if it names one, its counts by their kept names."""

    kind: str
    model: str | None
    counts: Mapping[str, int]


@dataclass(slots=True)
class Usage:
    """The counts of one answer so far. `is_said` tells whether the upstream has said anything at all.

    `has_counted_output` tells whether a `message_delta` or a whole answer has counted the output: what
    `message_start` says of it is a placeholder.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    server_tools: dict[str, int] = field(default_factory=dict)
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    is_said: bool = False
    has_counted_output: bool = False
    _iterations: tuple[_Iteration, ...] = ()
    _deltas: int = 0
    _delta_bytes: int = 0

    def take(self, said: Mapping[str, Any]) -> None:
        """Take in one `usage` object; members that are no counts are passed over."""
        self.is_said = True
        for kept, count in _counts_in(said):
            setattr(self, kept, count)
        tools = said.get("server_tool_use")
        if isinstance(tools, dict):
            for name, said_count in list(tools.items())[:_MOST_SERVER_TOOLS]:
                count_of_tool = count_or_none(said_count)
                if count_of_tool is not None and (
                    name in self.server_tools or len(self.server_tools) < _MOST_SERVER_TOOLS
                ):
                    self.server_tools[name] = count_of_tool
        for name in ("service_tier", "inference_geo", "speed"):
            word = said.get(name)
            if isinstance(word, str):
                setattr(self, name, word)
        if iterations := said.get("iterations"):
            self._iterations = _iterations_in(iterations)

    def billed(
        self, asked_model: str | None, model: str | None, *, has_ended: bool, is_refused: bool
    ) -> list[BilledUsage]:
        """The inferences that this answer is billed for; none if the upstream has said nothing.

        `asked_model` is the request's, `model` the answer's; `is_refused` tells whether the model declined.
        """
        if not self.is_said:
            return []
        certainty = self.certainty(has_ended)
        if not self._iterations:
            return [self._whole(model, certainty)]
        inferences = []
        for position, iteration in enumerate(self._iterations):
            counts = dict.fromkeys(_KEPT, 0) | dict(iteration.counts)
            inferences.append(
                BilledUsage(
                    kind=iteration.kind,
                    model=self._model_of(iteration, asked_model, model),
                    **counts,
                    billed_output_tokens=counts["output_tokens"],
                    server_tools=dict(self.server_tools) if position == 0 else {},
                    is_exact=certainty is Certainty.EXACT and iteration.kind != OTHER_KIND,
                    service_tier=self.service_tier,
                    inference_geo=self.inference_geo,
                    speed=self.speed,
                    is_free=_is_declined(iteration, self._iterations[position + 1 :], is_refused=is_refused),
                )
            )
        return inferences

    def _whole(self, model: str | None, certainty: Certainty) -> BilledUsage:
        """The answer as one inference."""
        output = self.guessed_output_tokens if certainty is Certainty.ESTIMATED else self.output_tokens
        return BilledUsage(
            MESSAGE,
            model,
            self.input_tokens,
            self.output_tokens,
            self.cache_read_tokens,
            self.cache_write_tokens,
            self.cache_write_5m_tokens,
            self.cache_write_1h_tokens,
            output,
            self.server_tools,
            self.service_tier,
            self.inference_geo,
            self.speed,
            certainty is Certainty.EXACT,
        )

    def _model_of(self, iteration: _Iteration, asked_model: str | None, model: str | None) -> str | None:
        """A compaction is the requested model's work. So may a message be that names none, if another took over."""
        if iteration.kind == _COMPACTION:
            return asked_model or model
        if iteration.model is not None:
            return iteration.model
        has_fallen_back = any(other.kind == _FALLBACK for other in self._iterations)
        return asked_model if has_fallen_back and iteration.kind == MESSAGE else model

    def passed(self, raw: bytes) -> None:
        """Note events that were relayed unread, for the guess."""
        deltas = raw.count(_DELTA_NAME)
        if deltas:
            self._deltas += deltas
            self._delta_bytes += len(raw)

    def certainty(self, has_ended: bool) -> Certainty:
        """How good the counts are, given whether the answer came to its proper end."""
        if has_ended:
            return Certainty.EXACT
        return Certainty.PARTIAL if self.has_counted_output else Certainty.ESTIMATED

    @property
    def guessed_output_tokens(self) -> int:
        """The output by the bytes that were relayed, never less than what the upstream has said."""
        events = self._deltas / 2  # each names itself twice
        text_bytes = self._delta_bytes - events * _DELTA_ENVELOPE_BYTES
        return max(self.output_tokens, math.ceil(max(0.0, text_bytes) / _BYTES_PER_TOKEN))


def _counts_in(said: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The counts of a usage object, or of an iteration, by the names that they are kept under."""
    for name, kept in _COUNTS.items():
        count = count_or_none(said.get(name))
        if count is not None:
            yield kept, count
    lifetimes = said.get("cache_creation")
    if isinstance(lifetimes, dict):
        for name, kept in _LIFETIMES.items():
            count = count_or_none(lifetimes.get(name))
            if count is not None:
                yield kept, count


def _iterations_in(said: object) -> tuple[_Iteration, ...]:
    """The entries; none if it is no list of objects, for then the answer's own counts say more."""
    if not isinstance(said, list) or len(said) > _MOST_ITERATIONS or not all(isinstance(entry, dict) for entry in said):
        return ()
    return tuple(map(_iteration, said))


def _iteration(entry: Mapping[str, Any]) -> _Iteration:
    kind, model = entry.get("type"), entry.get("model")
    return _Iteration(
        kind if kind in _KINDS else OTHER_KIND, model if isinstance(model, str) else None, dict(_counts_in(entry))
    )


def _is_declined(iteration: _Iteration, later: Sequence[_Iteration], *, is_refused: bool) -> bool:
    """Whether a model has declined without a word: that is free. Another model goes on, or the answer is a refusal."""
    if iteration.kind != MESSAGE or iteration.counts.get("output_tokens"):
        return False
    went_on = any(
        other.kind == _FALLBACK or (other.kind == MESSAGE and other.model != iteration.model) for other in later
    )
    return went_on or is_refused

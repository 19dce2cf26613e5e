"""What an answer says of its cost, as finely as the Messages API says it.

Owns: the reading of `usage` objects, and the guess at what a broken answer has not said. Pure; a Usage belongs to
one answer, and so to whoever runs the request. The counts are the upstream's own words and nothing else
(https://docs.claude.com/en/api/messages): within one answer they are cumulative, so later ones replace earlier ones.

What is billed are inferences. An answer is one of them, or says in `usage.iterations` of which it was made: then each
of these is billed at its own model, and the answer's own counts, which leave some of them out, are not. Nothing is
free by accident: what those counts say beyond the iterations is billed as well, and marked as an estimate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec

from gateway.protocol.counts import count_or_none
from gateway.protocol.iterations import (
    MESSAGE,
    OTHER_KIND,
    Iteration,
    counts_in,
    is_declined,
    iterations_in,
    with_lifetimes,
    with_models,
)
from gateway.protocol.token_kinds import FIELDS, LIFETIME_FIELDS

WEB_SEARCH = "web_search_requests"
_MOST_SERVER_TOOLS = 20
_SAID_ONCE = ("service_tier", "inference_geo", "speed")

# What a `content_block_delta` event is beside its text, in bytes, and how many bytes of text make a token, roughly.
_DELTA_NAME = b"content_block_delta"
_DELTA_ENVELOPE_BYTES = 128
_BYTES_PER_TOKEN = 4
# A large image (https://docs.claude.com/en/docs/build-with-claude/vision), and how one stands in a request.
_TOKENS_OF_AN_IMAGE = 1600
_FILE = re.compile(rb"[A-Za-z0-9+/=]{2000,}")
LOST = "lost"  # an answer of which nothing came


class Certainty(Enum):
    """How far the counts of an answer can be trusted."""

    EXACT = "exact"  # the answer came to its end: these are its final counts
    PARTIAL = "partial"  # it broke off after the upstream had counted its output once: at least so much
    ESTIMATED = "estimated"  # its output was not counted: that is the gateway's guess, kept apart from the counts


class BilledUsage(msgspec.Struct, frozen=True):
    """One inference: its counts as the upstream said them, and what its price depends on.

    `cache_write_tokens` are all that were written to the cache, the two lifetimes' tokens those of them of which it
    was said for how long. `billed_output_tokens` is the guess where a broken answer has not been counted, and
    `guessed_input_tokens` that for an answer that never came.
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
    guessed_input_tokens: int = 0


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
    _at_end: dict[str, int] = field(default_factory=dict)  # what was said behind `message_start`
    _has_fallen: bool = False  # a cumulative count did: the larger one is kept
    _is_doubtful: bool = False
    _iterations: tuple[Iteration, ...] = ()
    _guessed_input_tokens: int = 0
    _deltas: int = 0
    _delta_bytes: int = 0

    def take(self, said: Mapping[str, Any], *, is_at_end: bool = False) -> None:
        """Take in one `usage` object; members that are no counts are passed over.

        `is_at_end`: it counts what was put out, as all do but that of `message_start`.
        """
        counts = counts_in(said)
        if is_at_end:
            self._at_end |= counts
            if "output_tokens" in counts and not self.has_counted_output:
                self.has_counted_output, self.output_tokens = True, 0
        for kept, count in counts.items():
            if not self.is_said or count >= getattr(self, kept):
                setattr(self, kept, count)
            else:
                self._has_fallen = True
        self.is_said = True
        if tools := said.get("server_tool_use"):
            self._take_tools(tools)
        for name in _SAID_ONCE:
            if name in said and isinstance(said[name], str):
                setattr(self, name, said[name])
        if iterations := said.get("iterations"):
            read = iterations_in(iterations)
            self._iterations = read or self._iterations
            self._is_doubtful |= not read
        if (credit := said.get("fallback_credit")) is not None:
            self._is_doubtful |= _is_repriced(credit)

    def _take_tools(self, tools: object) -> None:
        if not isinstance(tools, dict):
            return
        for name in (WEB_SEARCH, *list(tools)[:_MOST_SERVER_TOOLS]):
            count = count_or_none(tools.get(name))
            is_kept = name == WEB_SEARCH or name in self.server_tools or len(self.server_tools) < _MOST_SERVER_TOOLS
            if count is not None and is_kept:
                self.server_tools[name] = max(count, self.server_tools.get(name, 0))

    def billed(
        self, asked_model: str | None, model: str | None, *, has_ended: bool, is_refused: bool
    ) -> list[BilledUsage]:
        """The inferences that this answer is billed for; none if nothing has come of it.

        `asked_model` is the request's, `model` the answer's; `is_refused` tells whether the model declined.
        """
        if self._guessed_input_tokens:
            return [BilledUsage(LOST, model, is_exact=False, guessed_input_tokens=self._guessed_input_tokens)]
        if not self.is_said and not self._delta_bytes:
            return []
        certainty = self.certainty(has_ended)
        output = self.guessed_output_tokens if certainty is Certainty.ESTIMATED else self.output_tokens
        is_exact = certainty is Certainty.EXACT and not self._is_doubtful
        if not self._iterations:
            is_free = is_refused and self.has_counted_output and output == 0
            return [self._whole(model, output, is_exact and not self._has_fallen, is_free)]
        entries = with_lifetimes(with_models(self._iterations, asked_model, model), self.cache_write_1h_tokens)
        inferences = [
            self._inference(
                entry.kind,
                entry.model,
                entry.counts,
                entry.counts.get("output_tokens", 0),
                is_exact and entry.kind != OTHER_KIND,
                is_declined(entry, entries[position:], is_refused=is_refused),
                has_tools=position == 1,
            )
            for position, entry in enumerate(entries, start=1)
        ]
        left_out = self._left_out(entries, output)
        if any(left_out.values()):
            guess = left_out["output_tokens"]
            inferences.append(self._inference(OTHER_KIND, model, left_out, guess, False, False, has_tools=False))
        return inferences

    def _whole(self, model: str | None, billed_output_tokens: int, is_exact: bool, is_free: bool) -> BilledUsage:
        """The answer as one inference, as most are."""
        of_lifetimes = self.cache_write_5m_tokens + self.cache_write_1h_tokens
        return BilledUsage(
            MESSAGE,
            model,
            self.input_tokens,
            self.output_tokens,
            self.cache_read_tokens,
            max(self.cache_write_tokens, of_lifetimes),
            self.cache_write_5m_tokens,
            self.cache_write_1h_tokens,
            billed_output_tokens,
            self.server_tools,
            self.service_tier,
            self.inference_geo,
            self.speed,
            is_exact,
            is_free,
        )

    def _inference(
        self,
        kind: str,
        model: str | None,
        counts: Mapping[str, int],
        billed_output_tokens: int,
        is_exact: bool,
        is_free: bool,
        *,
        has_tools: bool,
    ) -> BilledUsage:
        """One of the answer's; the uses of server tools stand with the first."""
        input_tokens, output_tokens, read_tokens, written_tokens = (counts.get(kept, 0) for kept in FIELDS)
        short_lived, long_lived = (counts.get(kept, 0) for kept in LIFETIME_FIELDS)
        return BilledUsage(
            kind,
            model,
            input_tokens,
            output_tokens,
            read_tokens,
            max(written_tokens, short_lived + long_lived),
            short_lived,
            long_lived,
            billed_output_tokens,
            self.server_tools if has_tools else {},
            self.service_tier,
            self.inference_geo,
            self.speed,
            is_exact,
            is_free,
        )

    def _left_out(self, entries: list[Iteration], output: int) -> dict[str, int]:
        """What the answer's last words on itself have beyond its iterations."""
        own = self._at_end | {"output_tokens": output}
        return {
            kept: max(0, own.get(kept, 0) - sum(entry.counts.get(kept, 0) for entry in entries if entry.is_in_sum))
            for kept in FIELDS
        }

    def guess_prompt(self, request_body: bytes) -> None:
        """Nothing of the answer came: guess its input by the request. Images and files count as one image each."""
        text, files = _FILE.subn(b"", request_body)
        self._guessed_input_tokens = math.ceil(len(text) / _BYTES_PER_TOKEN) + files * _TOKENS_OF_AN_IMAGE

    def passed(self, raw: bytes) -> None:
        """Note events that were relayed unread, for the guess."""
        deltas = raw.count(_DELTA_NAME)
        if deltas:
            self._deltas += deltas
            self._delta_bytes += len(raw)

    def passed_whole(self, body: bytes) -> None:
        """Note a whole answer whose output was not counted, for the guess."""
        self._delta_bytes += len(body)

    def certainty(self, has_ended: bool) -> Certainty:
        """How good the counts are, given whether the answer came to its proper end."""
        if not self.has_counted_output:
            return Certainty.ESTIMATED
        return Certainty.EXACT if has_ended else Certainty.PARTIAL

    @property
    def guessed_output_tokens(self) -> int:
        """The output by the bytes that were relayed, never less than what the upstream has said."""
        events = self._deltas / 2  # each names itself twice
        text_bytes = self._delta_bytes - events * _DELTA_ENVELOPE_BYTES
        return max(self.output_tokens, math.ceil(max(0.0, text_bytes) / _BYTES_PER_TOKEN))


def _is_repriced(credit: object) -> bool:
    """Whether a `fallback_credit` may have made the answer cheaper: cache writes at the price of reads."""
    status = credit.get("status") if isinstance(credit, dict) else None
    return not (isinstance(status, dict) and status.get("type") == "not_applied")

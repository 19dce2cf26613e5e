"""What an answer says of its cost, as finely as the Messages API says it.

Owns: the reading of `usage` objects, and the guess at what a broken answer has not said. Pure; a Usage belongs to
one answer and so to one thread. The counts are the upstream's own words and nothing else
(https://docs.claude.com/en/api/messages): within one answer they are cumulative, so later ones replace earlier ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

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
_MOST_SERVER_TOOLS = 20

# What a `content_block_delta` event is beside its text, in bytes, and how many bytes of text make a token, roughly.
_DELTA_NAME = b"content_block_delta"
_DELTA_ENVELOPE_BYTES = 128
_BYTES_PER_TOKEN = 4


class Certainty(Enum):
    """How far the counts of an answer can be trusted."""

    EXACT = "exact"  # the answer came to its end: these are its final counts
    PARTIAL = "partial"  # it broke off after the upstream had counted its output once: at least so much
    ESTIMATED = "estimated"  # it broke off before that: the output is the gateway's guess, kept apart from the counts


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
    is_said: bool = False
    has_counted_output: bool = False
    _deltas: int = 0
    _delta_bytes: int = 0

    def take(self, said: Mapping[str, Any]) -> None:
        """Take in one `usage` object; members that are no counts are passed over."""
        self.is_said = True
        for name, kept in _COUNTS.items():
            self._set(kept, said.get(name))
        lifetimes = said.get("cache_creation")
        if isinstance(lifetimes, dict):
            for name, kept in _LIFETIMES.items():
                self._set(kept, lifetimes.get(name))
        tools = said.get("server_tool_use")
        if isinstance(tools, dict):
            for name, said_count in list(tools.items())[:_MOST_SERVER_TOOLS]:
                count = count_or_none(said_count)
                if count is not None and (name in self.server_tools or len(self.server_tools) < _MOST_SERVER_TOOLS):
                    self.server_tools[name] = count
        tier = said.get("service_tier")
        if isinstance(tier, str):
            self.service_tier = tier

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

    def _set(self, kept: str, said: object) -> None:
        count = count_or_none(said)
        if count is not None:
            setattr(self, kept, count)

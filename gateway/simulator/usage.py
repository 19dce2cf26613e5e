"""What an answer says of its use of tokens, in the three forms that the API has for it. Pure.

A whole answer says all. A stream says in `message_start` what is known at its beginning (there alone: for how long the
cache was written, tier, place and speed) and in `message_delta` the sums at its end, with iterations and server tools.
The shapes are those of the SDK's `BetaUsage` and `BetaMessageDeltaUsage`: https://docs.claude.com/en/api/messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

MESSAGE, FALLBACK, COMPACTION, ADVISOR = "message", "fallback_message", "compaction", "advisor_message"
_KINDS = (MESSAGE, FALLBACK, COMPACTION, ADVISOR)
_NAMING_A_MODEL = (FALLBACK, ADVISOR)
_OF_THE_ANSWER = (MESSAGE, FALLBACK)  # the answer's own counts leave the others out


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one inference; `cache_write` are those written for five minutes."""

    input: int = 0
    cache_write: int = 0
    cache_read: int = 0
    output: int = 0
    cache_write_1h: int = 0

    @property
    def prompt(self) -> int:
        """All of its input."""
        return self.input + self.cache_write + self.cache_write_1h + self.cache_read

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def document(self) -> Json:
        return {
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.cache_write + self.cache_write_1h,
            "cache_read_input_tokens": self.cache_read,
            "output_tokens": self.output,
        }

    def lifetimes(self) -> Json:
        return {
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.cache_write,
                "ephemeral_1h_input_tokens": self.cache_write_1h,
            }
        }


@dataclass(frozen=True, slots=True)
class Iteration:
    """One entry of `usage.iterations`; `model` is "" when it names none."""

    kind: str
    model: str
    counts: Counts
    said: Mapping[str, Any]

    def document(self) -> Json:
        return {"type": self.kind, **self.counts.document(), **self.said}


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer has used. With iterations, `counts` are not its own but theirs."""

    counts: Counts
    iterations: tuple[Iteration, ...] = ()
    server_tools: Mapping[str, int] | None = None
    tier: str = "standard"
    geo: str = ""
    speed: str = ""
    has_lifetimes: bool = True

    def whole(self) -> Json:
        """Of an answer that did not stream."""
        totals = self._totals()
        return {**totals.document(), **self._told_once(totals), **self._told_late()}

    def at_start(self) -> Json:
        """Of `message_start`; the output there is a placeholder."""
        of_answer = self._of_answer()
        first = of_answer[0].counts if of_answer else self._totals()
        return {**first.document(), **self._told_once(first), "output_tokens": 1}

    def at_end(self) -> Json:
        """Of `message_delta`."""
        return {**self._totals().document(), **self._told_late()}

    def _of_answer(self) -> list[Iteration]:
        return [iteration for iteration in self.iterations if iteration.kind in _OF_THE_ANSWER]

    def _totals(self) -> Counts:
        if not self.iterations:
            return self.counts
        return sum((iteration.counts for iteration in self._of_answer()), Counts())

    def _told_once(self, counts: Counts) -> Json:
        words = {"service_tier": self.tier, "inference_geo": self.geo, "speed": self.speed}
        lifetimes = counts.lifetimes() if self.has_lifetimes else {}
        return {**lifetimes, **{name: word for name, word in words.items() if word}}

    def _told_late(self) -> Json:
        late: Json = {"server_tool_use": dict(self.server_tools)} if self.server_tools else {}
        return {**late, "iterations": [each.document() for each in self.iterations]} if self.iterations else late


def read_iterations(text: str) -> tuple[Iteration, ...]:
    """The entries of a JSON list, as the API would say them; counts that are left out are 0.

    Raises: ValueError.
    """
    entries = json.loads(text)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("wants a JSON list of objects, the entries of `usage.iterations`")
    return tuple(map(_iteration, entries))


def iteration_list(text: str) -> str:
    """A JSON list of such entries, kept as text: what an option is read by."""
    read_iterations(text)
    return text


def _iteration(entry: Mapping[str, Any]) -> Iteration:
    kind, model = entry.get("type"), entry.get("model", "")
    if kind not in _KINDS:
        raise ValueError(f"wants iterations whose type is one of {', '.join(_KINDS)}")
    if not isinstance(model, str) or (kind in _NAMING_A_MODEL and not model):
        raise ValueError(f"wants a model in each {kind}")
    lifetimes = entry.get("cache_creation", {})
    hour, minutes = _count(lifetimes, "ephemeral_1h_input_tokens"), _count(lifetimes, "ephemeral_5m_input_tokens")
    written = _count(entry, "cache_creation_input_tokens", hour + minutes)
    counts = Counts(
        _count(entry, "input_tokens"),
        written - hour,
        _count(entry, "cache_read_input_tokens"),
        _count(entry, "output_tokens"),
        hour,
    )
    return Iteration(kind, model, counts, entry)


def _count(holder: object, name: str, otherwise: int = 0) -> int:
    value = holder.get(name, otherwise) if isinstance(holder, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"wants a whole number, 0 or more, for {name}")
    return value

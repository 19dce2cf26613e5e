"""The inferences of which an answer says that it was made: `usage.iterations`.

Owns: reading counts and entries, and which entry costs nothing. Pure; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.protocol.counts import MOST, count_or_none
from gateway.protocol.token_kinds import (
    API_COUNTS,
    API_CREATION,
    API_LIFETIMES,
    CACHE_WRITE,
    CACHE_WRITE_1H,
    FIELDS,
    LIFETIME_FIELDS,
    field_of,
)

# The usage object's members to the names that they are kept under.
_COUNTS = dict(zip(API_COUNTS, FIELDS, strict=True))
_LIFETIMES = dict(zip(API_LIFETIMES, LIFETIME_FIELDS, strict=True))
_WRITTEN, _HOUR = field_of(CACHE_WRITE), field_of(CACHE_WRITE_1H)
_MOST_ITERATIONS = 1000

MESSAGE = "message"
COMPACTION = "compaction"
FALLBACK = "fallback_message"
_ADVISOR = "advisor_message"
_KINDS = (MESSAGE, COMPACTION, FALLBACK, _ADVISOR)
OTHER_KIND = "other"  # of a kind that is not known: billed, and marked as an estimate


@dataclass(frozen=True, slots=True)
class Iteration:
    """An entry: its kind, its model if one is known, its counts by their kept names."""

    kind: str
    model: str | None
    counts: Mapping[str, int]

    @property
    def is_of_answer(self) -> bool:
        """Whether it has made a part of the answer."""
        return self.kind in (MESSAGE, FALLBACK)

    @property
    def is_in_sum(self) -> bool:
        """Whether the answer's own counts hold it; what is not known is taken to be held."""
        return self.is_of_answer or self.kind == OTHER_KIND


def counts_in(said: Mapping[str, Any]) -> dict[str, int]:
    """The counts of a usage object, or of an entry, by the names that they are kept under."""
    counts = {}
    for name, count in said.items():  # not by name: most members are counts
        if name in _COUNTS and count_or_none(count) is not None:
            counts[_COUNTS[name]] = count
        elif name == API_CREATION and isinstance(count, dict):
            for lifetime, kept in _LIFETIMES.items():
                tokens = count_or_none(count.get(lifetime))
                if tokens is not None:
                    counts[kept] = tokens
    return counts


def iterations_in(said: object) -> tuple[Iteration, ...]:
    """The entries of a list; none if it is no list. What comes after the first thousand is added up as one."""
    if not isinstance(said, list):
        return ()
    entries = [_iteration(entry) for entry in said[:_MOST_ITERATIONS]]
    if rest := said[_MOST_ITERATIONS:]:
        entries.append(_sum_of(map(_iteration, rest)))
    return tuple(entries)


def _iteration(entry: object) -> Iteration:
    if not isinstance(entry, dict):
        return Iteration(OTHER_KIND, None, {})
    kind, model = entry.get("type"), entry.get("model")
    return Iteration(
        kind if kind in _KINDS else OTHER_KIND, model if isinstance(model, str) else None, counts_in(entry)
    )


def _sum_of(entries: Iterator[Iteration]) -> Iteration:
    counts = dict.fromkeys((*FIELDS, *LIFETIME_FIELDS), 0)
    for entry in entries:
        for kept, count in entry.counts.items():
            counts[kept] = min(counts[kept] + count, MOST)
    return Iteration(OTHER_KIND, None, counts)


def with_models(entries: Sequence[Iteration], asked_model: str | None, model: str | None) -> list[Iteration]:
    """Each with its model. A compaction is the requested model's work. So may a message be, if another took over."""
    has_fallen_back = any(entry.kind == FALLBACK for entry in entries)

    def model_of(entry: Iteration) -> str | None:
        if entry.kind == COMPACTION:
            return asked_model or model
        if entry.model is not None:
            return entry.model
        return asked_model if has_fallen_back and entry.kind == MESSAGE else model

    return [replace(entry, model=model_of(entry)) for entry in entries]


def with_lifetimes(entries: Sequence[Iteration], hour_tokens: int) -> list[Iteration]:
    """Those that do not say for how long they have written to the cache have the answer's own word on it.

    `hour_tokens` are all that the answer has written for an hour. The last entries come first: an earlier one may have
    declined, which is free.
    """
    left = hour_tokens - sum(entry.counts.get(_HOUR, 0) for entry in entries)
    dealt = list(entries)
    for index in reversed(range(len(dealt))):
        entry = dealt[index]
        if left > 0 and entry.is_of_answer and not any(kept in entry.counts for kept in LIFETIME_FIELDS):
            hours = min(left, entry.counts.get(_WRITTEN, 0))
            left -= hours
            dealt[index] = replace(entry, counts={**entry.counts, _HOUR: hours})
    return dealt


def is_declined(entry: Iteration, later: Sequence[Iteration], *, is_refused: bool) -> bool:
    """Whether a model has declined without a word: that is free. Another model goes on, or the answer is a refusal.

    The entries have their models. An output that was not counted is not taken for none.
    """
    if not entry.is_of_answer or entry.counts.get("output_tokens") != 0:
        return False
    others = [other for other in later if other.is_of_answer]
    return any(other.model != entry.model for other in others) or (is_refused and not others)

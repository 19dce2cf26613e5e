"""Prompt caches, one for each workspace: which beginnings of prompts it has read in the last five minutes.

A prompt is a chain of prefixes: model, system and tools first, then each message but the last. What an earlier request
wrote is read; the rest is written. As in the API, use renews an entry, and it does not matter to what matches where the
`cache_control` marks stand: https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching. Pure: the caller says
what time it is, and guards caches that threads share.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.simulator.message import to_json

LIFETIME_SECONDS = 300.0
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a prompt, and how many tokens it has."""

    digest: bytes
    tokens: int


@dataclass(frozen=True, slots=True)
class Cached:
    """Tokens of one prompt that were read from the cache and written to it."""

    read: int = 0
    written: int = 0


def prefixes_of(document: Mapping[str, object]) -> tuple[Prefix, ...]:
    """The prefixes of a request's prompt, the shortest first."""
    messages = document.get("messages")
    earlier = messages[:-1] if isinstance(messages, list) else []
    digest = hashlib.sha256()
    size_bytes = 0
    prefixes = []
    beginning = {"model": document.get("model"), "tools": document.get("tools"), "content": document.get("system")}
    for part in (beginning, *earlier):
        data = to_json({"part": _unmarked(_as_blocks(part))})
        digest.update(data)
        size_bytes += len(data)
        prefixes.append(Prefix(digest.digest(), size_bytes // _BYTES_PER_TOKEN))
    return tuple(prefixes)


def is_marked(value: object) -> bool:
    """Whether there is a `cache_control` anywhere in it."""
    if isinstance(value, dict):
        return bool(value.get("cache_control")) or any(map(is_marked, value.values()))
    return isinstance(value, list) and any(map(is_marked, value))


class PromptCaches:
    """The caches of all workspaces. Times are seconds by any one clock."""

    def __init__(self) -> None:
        # The end of each entry's life; all live equally long, so the first to end is the first in order.
        self._ends_at: OrderedDict[tuple[str, bytes], float] = OrderedDict()

    def use(self, workspace_id: str, prefixes: tuple[Prefix, ...], now: float) -> Cached:
        """Reads what is there, writes what is not."""
        while self._ends_at and next(iter(self._ends_at.values())) <= now:
            self._ends_at.popitem(last=False)
        known = [prefix.tokens for prefix in prefixes if (workspace_id, prefix.digest) in self._ends_at]
        for prefix in prefixes:
            self._ends_at[workspace_id, prefix.digest] = now + LIFETIME_SECONDS
            self._ends_at.move_to_end((workspace_id, prefix.digest))
        read = max(known, default=0)
        return Cached(read, prefixes[-1].tokens - read) if prefixes else Cached()


def _as_blocks(part: object) -> object:
    """The part with its text in a block, as the API reads a `content` (or `system`) that is a plain text."""
    if isinstance(part, dict) and isinstance(part.get("content"), str):
        return part | {"content": [{"type": "text", "text": part["content"]}]}
    return part


def _unmarked(value: object) -> object:
    if isinstance(value, dict):
        return {name: _unmarked(inner) for name, inner in value.items() if name != "cache_control"}
    return [_unmarked(inner) for inner in value] if isinstance(value, list) else value

"""Where a key belongs: its organisation and its workspace, as the upstream's answers name them.

Owns: reading them, and the form in which the store keeps them. Pure. Answers carry `anthropic-organization-id` and,
since August 2026, `anthropic-workspace-id`; a 401 carries neither (https://docs.claude.com/en/api/overview).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NO_WORD = re.compile(r"[^A-Za-z0-9_]")
_DETAIL = "of"
_UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Place:
    """A key's organisation and workspace; empty where that is not known."""

    organisation: str = ""
    workspace: str = ""

    @property
    def group(self) -> str:
        """What shares prompt caches, as far as is known: the workspace, else the organisation; empty if neither is.

        Letters, digits and underscores alone: it is kept as the reason of a record.
        """
        return _word(self.workspace or self.organisation)

    @property
    def detail(self) -> str:
        """How the store names this knowledge of a key."""
        return f"{_DETAIL}/{self.organisation or _UNKNOWN}/{self.workspace or _UNKNOWN}"

    def completed(self, older: Place) -> Place:
        """This, with what an older one knew of the same organisation."""
        if self.organisation != older.organisation or self.workspace:
            return self
        return older


NOWHERE = Place()


def place_of(headers: Mapping[str, str]) -> Place:
    """What an answer says of its key's place. `headers` have lower-case names."""
    return Place(_id(headers.get("anthropic-organization-id")), _id(headers.get("anthropic-workspace-id")))


def place_from(detail: str) -> Place | None:
    """The place that a detail names; None if it speaks of something else."""
    kind, _, rest = detail.partition("/")
    organisation, _, workspace = rest.partition("/")
    if kind != _DETAIL or not organisation or not workspace:
        return None
    return Place(organisation if organisation != _UNKNOWN else "", workspace if workspace != _UNKNOWN else "")


@lru_cache(maxsize=1024)
def _word(text: str) -> str:
    return _NO_WORD.sub("_", text)


def _id(text: str | None) -> str:
    return text if text is not None and _ID.fullmatch(text) else ""

"""What a rate limit is about: a class of models, or another kind of request.

Owns: the names of scopes, and the class of a model (`models.toml`). Pure, but for reading that file once. Limits are
told per class of models (https://docs.claude.com/en/api/rate-limits); fast mode, counting tokens and the list of
models have their own. A scope goes to the store, to metrics and to logs: so its characters are few, and it is short.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

COUNT_TOKENS = "count_tokens"
MODELS = "models"
_MESSAGES = "messages"
_FAST = "+fast"

_LONGEST_CLASS = 64
_OTHER = "other"
# What else stands there is no name of a model: somebody's words, which belong in no store and no metric.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}")
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
# `claude-opus-4-8-20260801`, `claude-opus-4-8@20260801`, `claude-opus-4-8-latest`, `claude-opus-4-8[1m]`
_VARIANT = re.compile(r"(?:[-@]\d{8}|-latest)?(?:-v\d+(?::\d+)?)?(?:\[[^\]]*\])?$")
# `anthropic/claude-...`, `us.anthropic.claude-...`
_VENDOR = re.compile(r"^.*(?=claude-)")


class ModelClasses:
    """The classes of models, by the API's names of models. Equal if they say the same."""

    def __init__(self, classes: Mapping[str, str]) -> None:
        self._classes = dict(classes)
        self._known: dict[str, str] = {}  # a cache, bounded; races write the same value

    @classmethod
    def read(cls, text: str) -> ModelClasses:
        """From the form of `models.toml`. Raises ValueError that says what is wrong."""
        rows = tomllib.loads(text).get("model", [])
        return cls(dict(_row(row, number) for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1)))

    def with_overrides(self, other: ModelClasses) -> ModelClasses:
        """These, but as the other says where it says anything."""
        return ModelClasses(self._classes | other._classes)

    def class_of(self, model: str) -> str:
        """The class whose limits a model shares; a model that nobody knows is a class of its own."""
        found = self._known.get(model)
        if found is None:
            if len(self._known) > 1000:
                self._known.clear()
            found = self._known[model] = self._found(model)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelClasses) and self._classes == other._classes

    __hash__ = None  # type: ignore[assignment]  # nothing is looked up by them

    def _found(self, model: str) -> str:
        plain = plain_model(model)
        named = self._classes.get(model) or self._classes.get(plain)
        if named is None:
            named = plain.removeprefix("claude-") if _MODEL.fullmatch(model) else _OTHER
        return _ODD.sub("_", named)[:_LONGEST_CLASS]


def plain_model(model: str) -> str:
    """The API's name of a model, without a vendor's prefix, a date, a version or a variant."""
    return _VARIANT.sub("", _VENDOR.sub("", model, count=1), count=1)


@cache
def known_classes() -> ModelClasses:
    """Those of the package."""
    return ModelClasses.read(resources.files("gateway.models").joinpath("models.toml").read_text("utf-8"))


def messages_scope(model_class: str, *, is_fast: bool) -> str:
    """The scope of a message of this class."""
    return f"{_MESSAGES}/{model_class}{_FAST if is_fast else ''}"


def is_scope(detail: str) -> bool:
    """Whether a detail of a key's is a scope."""
    return detail in (COUNT_TOKENS, MODELS) or detail.startswith(f"{_MESSAGES}/")


def _row(row: Any, number: int) -> tuple[str, str]:
    named = (row.get("id"), row.get("class")) if isinstance(row, dict) else (None, None)
    if not all(isinstance(text, str) and text for text in named):
        raise ValueError(f"[[model]] {number}: `id` and `class` were expected, both texts")
    return str(named[0]), str(named[1])

"""What a request counts as: its route, its model's class for rate limits, fast mode, betas. Pure.

Models that share limits: https://docs.anthropic.com/en/api/rate-limits; any other model is a class of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.simulator.routes import Route, route_of
from gateway.simulator.seen import SeenRequest

_SHARED_CLASSES = {
    "fable-5": ("fable-5-1", "fable-5-2"),
    "mythos-5": ("mythos-5-1", "mythos-5-2"),
    "opus-4": ("opus-4-5", "opus-4-6", "opus-4-7", "opus-4-8"),
    "sonnet-4": ("sonnet-4-5", "sonnet-4-6"),
}
_CLASSES = {model: name for name, models in _SHARED_CLASSES.items() for model in models}
_VARIANT = re.compile(r"-(\d{8}|latest)$")


def name_of(model: str) -> str:
    """A model without what varies: `opus-4-5` for `claude-opus-4-5-20251101`."""
    return _VARIANT.sub("", model).removeprefix("claude-")


def class_of(model: str) -> str:
    """The class of a model, dated or not: `opus-4` for `claude-opus-4-5-20251101`."""
    name = name_of(model)
    return _CLASSES.get(name, name)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, as far as a limit or a right may depend on it."""

    route: Route = Route.MESSAGES
    model: str = ""
    is_fast: bool = False
    betas: frozenset[str] = frozenset()

    @property
    def costs_money(self) -> bool:
        """Only messages cost."""
        return self.route is Route.MESSAGES

    @property
    def scope(self) -> str:
        """The name of its limit: `messages/opus-4`, `messages/opus-5+fast`, `count_tokens`, `models`."""
        if self.route is Route.MESSAGES:
            return f"messages/{class_of(self.model)}{'+fast' * self.is_fast}"
        return "count_tokens" if self.route is Route.COUNT_TOKENS else "models"


def is_scope(name: str) -> bool:
    """Whether a limit may have that name."""
    return name in ("count_tokens", "models") or name.removeprefix("messages/") not in ("", name)


def asked_of(request: SeenRequest, document: Mapping[str, object]) -> Asked:
    """What a request on a known route with that body asks for."""
    headers = [value for name, value in request.headers if name.lower() == "anthropic-beta"]
    betas = frozenset(beta.strip() for value in headers for beta in value.split(","))
    return Asked(
        route_of(request.path) or Route.MESSAGES,
        str(document.get("model", "")),
        document.get("speed") == "fast",
        betas,
    )

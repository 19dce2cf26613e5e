"""Who may spend how much: the limits of a configuration, and which of them hold for a request.

Owns: reading `[limits]` of the TOML file, and whose limits a token has. Pure; immutable; any thread. Money is whole
picodollars (`pricing.money`).

    [limits.groups.research]           one pool of all the group's tokens
    dollars_per_day = 50
    [limits.groups.research.each]      one token's share
    concurrent = 4
    [limits.tokens.alice]              instead of her share, or of the default
    requests_per_minute = 60
    [limits.default]                   of each token that has neither
    dollars_per_month = 100
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gateway import setting_values as values
from gateway.access import ClientToken
from gateway.pricing.money import PICODOLLARS, exact_decimal, scaled

_MOST = 10**9
_TABLES = ("groups", "tokens", "default")
_COUNTS = ("requests_per_minute", "tokens_per_minute", "concurrent")
_MONEY = {"dollars_per_day": "picodollars_per_day", "dollars_per_month": "picodollars_per_month"}
EACH = "each"


@dataclass(frozen=True, slots=True)
class Limits:
    """One table. None: there is no such limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    picodollars_per_day: int | None = None
    picodollars_per_month: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it limits nothing."""
        return all(getattr(self, item.name) is None for item in fields(self))


@dataclass(frozen=True, slots=True)
class Limited:
    """Who has limits: a group with all its tokens, or one token. `name` is empty for the clients of an open gateway."""

    kind: str  # "group" or "token"
    name: str
    limits: Limits

    @property
    def subject(self) -> str:
        """What it is counted under: `group/research`."""
        return f"{self.kind}/{self.name}"

    def __str__(self) -> str:
        if not self.name:
            return "the clients of this gateway"
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class LimitRules:
    """All limits of a configuration, by the names of groups and tokens. `shares` are groups' `each` tables."""

    groups: Mapping[str, Limits] = field(default_factory=dict)
    shares: Mapping[str, Limits] = field(default_factory=dict)
    tokens: Mapping[str, Limits] = field(default_factory=dict)
    default: Limits = field(default_factory=Limits)

    @property
    def are_any(self) -> bool:
        """Whether anything is limited."""
        return bool(self.groups or self.shares or self.tokens or not self.default.is_empty)

    def of(self, token_name: str | None, group: str | None) -> tuple[Limited, ...]:
        """Whose limits hold for a request with this token: the group's first, then the token's own."""
        found = []
        if group is not None and group in self.groups:
            found.append(Limited("group", group, self.groups[group]))
        own = self.default
        if token_name is not None and token_name in self.tokens:
            own = self.tokens[token_name]
        elif group is not None and group in self.shares:
            own = self.shares[group]
        found.append(Limited("token", token_name or "", own))
        return tuple(limited for limited in found if not limited.limits.is_empty)

    def everybody(self, tokens: Iterable[ClientToken] | None) -> list[Limited]:
        """Everybody who has limits, once each: groups and tokens, by name. `tokens` is None on an open gateway."""
        callers = [(None, None)] if tokens is None else [(token.name, token.group) for token in tokens]
        found = {limited.subject: limited for name, group in callers for limited in self.of(name, group)}
        for name, limits in self.groups.items():
            found.setdefault(f"group/{name}", Limited("group", name, limits))
        return [found[subject] for subject in sorted(found) if not found[subject].limits.is_empty]

    def doubts(self, tokens: Iterable[ClientToken] | None) -> list[str]:
        """A line for each table that limits nobody."""
        known = tuple(tokens or ())
        names, groups = {token.name for token in known}, {token.group for token in known}
        lines = [
            f"limits.groups.{name}: no token belongs to this group"
            for name in sorted({*self.groups, *self.shares} - groups)
        ]
        return lines + [
            f"limits.tokens.{name}: there is no token of this name" for name in sorted(self.tokens.keys() - names)
        ]


def limit_rules(value: object) -> LimitRules:
    """The setting `limits`. Raises BadValue, with a line for each fault."""
    if not isinstance(value, dict):
        raise values.BadValue("expected tables in the TOML file: [limits.groups.NAME], [limits.tokens.NAME]")
    faults: list[str] = []
    faults += [f"{name}: expected one of {', '.join(_TABLES)}" for name in value if name not in _TABLES]
    groups: dict[str, Limits] = {}
    shares: dict[str, Limits] = {}
    for name, table in _named(value, "groups", faults):
        share = table.pop(EACH, None)
        groups[name] = _limits(table, f"groups.{name}", faults)
        if share is not None:
            shares[name] = _limits(share, f"groups.{name}.{EACH}", faults)
    tokens = {name: _limits(table, f"tokens.{name}", faults) for name, table in _named(value, "tokens", faults)}
    default = _limits(value.get("default", {}), "default", faults)
    if faults:
        raise values.BadValue(*faults)
    return LimitRules(groups, shares, tokens, default)


def _named(value: Mapping[str, Any], kind: str, faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    tables = value.get(kind, {})
    if not isinstance(tables, dict):
        faults.append(f"{kind}: expected tables, [limits.{kind}.NAME]")
        return
    for name, table in tables.items():
        if isinstance(table, dict):
            yield name, dict(table)
        else:
            faults.append(f"{kind}.{name}: expected a table, [limits.{kind}.{name}]")


def _limits(table: object, label: str, faults: list[str]) -> Limits:
    if not isinstance(table, dict):
        faults.append(f"{label}: expected a table")
        return Limits()
    read: dict[str, int | None] = {}
    for name, given in table.items():
        if name in _COUNTS:
            read[name] = _count(given, f"{label}.{name}", faults)
        elif name in _MONEY:
            read[_MONEY[name]] = _money(given, f"{label}.{name}", faults)
        else:
            faults.append(f"{label}.{name}: expected one of {', '.join((*_COUNTS, *_MONEY))}")
    return Limits(**read)


def _count(given: object, label: str, faults: list[str]) -> int | None:
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= _MOST:
        return given
    faults.append(f"{label}: expected a whole number from 1 to {_MOST}")
    return None


def _money(given: object, label: str, faults: list[str]) -> int | None:
    """Dollars as picodollars; 0 allows nothing that costs."""
    number = exact_decimal(given)
    amount = scaled(number, PICODOLLARS) if number is not None and 0 <= number <= _MOST else None
    if amount is None:
        faults.append(f"{label}: expected a number of dollars from 0 to 9000000, with 12 decimals at most")
    return amount

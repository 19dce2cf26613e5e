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

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.access.authentication import ClientToken
from gateway.config import values
from gateway.pricing.money import PICODOLLARS, dollars, exact_decimal, scaled

_MOST = 10**9
_TABLES = ("groups", "tokens", "default")
_NAME = re.compile(r"[A-Za-z0-9._@-]+")  # as names stand in the token file
_COUNTS = ("requests_per_minute", "tokens_per_minute", "concurrent")
_MONEY = {"dollars_per_day": "picodollars_per_day", "dollars_per_month": "picodollars_per_month"}
LIMITS = (*_COUNTS, *_MONEY)  # by the names of their settings
_WORDS = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "concurrent": "requests at once",
    "dollars_per_day": "dollars a day",
    "dollars_per_month": "dollars a month",
}
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
        return self == _NONE

    def bounds(self) -> Bounds:
        """All five: where there is no limit, a number that is never reached."""
        of_pace = (self.concurrent, self.requests_per_minute, self.tokens_per_minute)
        of_money = (self.picodollars_per_day, self.picodollars_per_month)
        running, requests, tokens, a_day, a_month = (
            _NO_END if most is None else most for most in (*of_pace, *of_money)
        )
        return running, requests, tokens, a_day, a_month

    def each(self) -> Iterator[tuple[str, int]]:
        """The limits that there are: the name of its setting, and the most that is allowed."""
        for name in LIMITS:
            most = getattr(self, _MONEY.get(name, name))
            if most is not None:
                yield name, most

    def __str__(self) -> str:
        return ", ".join(f"{shown(name, most)} {limit_words(name)}" for name, most in self.each()) or "no limits"


_NONE = Limits()
FIRST_TOLD_PERCENT = 75  # of a budget
_NO_END = 2**80  # more than all machines can count together

# The most that is allowed: running requests, requests and tokens a minute, picodollars a day and a month.
Bounds = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Limited:
    """Who has limits: a group with all its tokens, or one token. `name` is empty for the clients of an open gateway."""

    kind: str  # "group" or "token"
    name: str
    limits: Limits
    subject: str = field(init=False)  # what it is counted under: `group/research`
    # What every request needs of the limits: the bounds, and the picodollars of a day and of a month that are told
    # first.
    bounds: Bounds = field(init=False, repr=False, compare=False)
    first_told: tuple[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "subject", f"{self.kind}/{self.name}")
        bounds = self.limits.bounds()
        object.__setattr__(self, "bounds", bounds)
        object.__setattr__(self, "first_told", tuple(-(-FIRST_TOLD_PERCENT * most // 100) for most in bounds[3:]))

    def __str__(self) -> str:
        if not self.name:
            return "the clients of this gateway"
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class LimitUse:
    """How much of one limit is used now: requests, tokens, or whole picodollars, of at most `most`.

    `resets_in_seconds` is the time until all of it is free again if nothing more is used; None for what is free as soon
    as the requests that hold it have ended.
    """

    limited: Limited
    limit: str
    used: int
    most: int
    resets_in_seconds: float | None

    @property
    def ratio(self) -> float:
        """The share that is used: 1 where nothing is left, also if nothing is allowed."""
        return self.used / self.most if self.most else 1.0

    @property
    def percent(self) -> int:
        """The share that is used, from 0 to 100; 100 only where nothing is left."""
        return min(100, 100 * self.used // self.most) if self.most else 100

    @property
    def left(self) -> int:
        """What may still be used."""
        return max(0, self.most - self.used)

    @property
    def is_reached(self) -> bool:
        """Whether the next request is refused."""
        return self.used >= self.most


def limit_words(limit: str) -> str:
    """A limit in words: `requests a minute`."""
    return _WORDS[limit]


def is_money(limit: str) -> bool:
    """Whether a limit is one of money."""
    return limit in _MONEY


def shown(limit: str, amount: int) -> str:
    """So much of a limit, as it is told: a count, or dollars with cents, and finer if that is not all of it."""
    if limit not in _MONEY:
        return str(amount)
    whole, _, rest = dollars(amount).partition(".")
    return f"{whole}.{rest.rstrip('0').ljust(2, '0')}"


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
        """A line for each table that limits nobody, or nothing."""
        known = tuple(tokens or ())
        names, groups = {token.name for token in known}, {token.group for token in known}
        unknown = sorted(self.groups.keys() - groups)
        empty = sorted(name for name in self.groups if self.groups[name].is_empty and name not in self.shares)
        return [
            *(f"limits.groups.{name}: no token belongs to this group" for name in unknown),
            *(f"limits.groups.{name}: this table limits nothing" for name in empty),
            *(f"limits.tokens.{name}: no token has this name" for name in sorted(self.tokens.keys() - names)),
        ]

    def words(self) -> list[str]:
        """A line for each table: whose limits these are, and which."""
        lines = []
        for name, limits in sorted(self.groups.items()):
            if not limits.is_empty or name not in self.shares:
                lines.append(f"group {name}: {limits}")
            if name in self.shares:
                lines.append(f"each token of group {name}: {self.shares[name]}")
        lines += [f"token {name}: {limits}" for name, limits in sorted(self.tokens.items())]
        if not self.default.is_empty:
            lines.append(f"each token without limits of its own: {self.default}")
        return lines


def limit_rules(value: object) -> LimitRules:
    """The setting `limits`. Raises BadValue, with a line for each fault."""
    if not isinstance(value, dict):
        raise values.BadValue(
            "limits belong in the TOML file, as tables: [limits.groups.NAME], [limits.tokens.NAME], [limits.default]"
        )
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
        if not _NAME.fullmatch(name):
            faults.append(
                f"{kind}: {name!r} is not a valid name of a {kind[:-1]}: letters, digits and `._@-` were expected"
            )
        elif isinstance(table, dict):
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
        elif isinstance(given, dict):
            faults.append(f"{label}.{name}: a table is not allowed here; put a name that has a dot in quotes")
        else:
            faults.append(f"{label}.{name}: expected one of {', '.join(LIMITS)}")
    return Limits(**read)


def _count(given: object, label: str, faults: list[str]) -> int | None:
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= _MOST:
        return given
    faults.append(f"{label}: expected a whole number from 1 to {_MOST}")
    return None


def _money(given: object, label: str, faults: list[str]) -> int | None:
    """Dollars as picodollars; 0 allows nothing that costs."""
    number = exact_decimal(given)
    amount = scaled(number, PICODOLLARS) if number is not None and number >= 0 else None
    if amount is None:
        faults.append(f"{label}: expected a number of dollars from 0 to 9000000, with 12 decimals at most")
    return amount

"""What a token costs: a dated table by model, the package's own and over it the operator's.

Owns: the form of `prices.toml`, and which row holds for an inference. Pure, but for reading that file once; any thread.
The rules are those of https://docs.claude.com/en/about-claude/pricing.

A model's rows hold from their date on; before the first, the first holds. Of rows of one date, that one holds whose
`above_prompt_tokens` is the largest below the prompt's tokens, for the whole request. Whoever gives a model's price
in a file of their own replaces all of the package's rows for it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib import resources
from typing import Any

from gateway.models.scopes import plain_model
from gateway.pricing.money import exact_decimal, scaled
from gateway.protocol.token_kinds import PRICED

DEFAULT = "default"
_ROW = {*PRICED, "model", "from", "above_prompt_tokens", "fast_factor", "us_factor", "source"}
_FACTORS = ("fast_factor", "us_factor")
_TABLES = {"price", "default", "tools"}
# Picodollars a token are a millionth of those a million tokens cost.
_PICODOLLARS_A_TOKEN = 10**6
_PICODOLLARS_A_CALL = 10**12
_MOST_KNOWN = 1000


class PriceError(ValueError):
    """The file of prices cannot be used; the message says which row and why."""


@dataclass(frozen=True, slots=True)
class Price:
    """One row. The five rates are picodollars a token, the factors percents of them.

    `fast_percent` is None where the model has no price for fast mode. `since` is a date, 2026-11-29.
    """

    model: str
    since: str
    source: str
    input: int
    cache_write_5m: int
    cache_write_1h: int
    cache_read: int
    output: int
    above_prompt_tokens: int
    fast_percent: int | None
    us_percent: int

    # Which row it is, `claude-opus-5 from 2026-08-22` or `default`; and whether it stands for models without a price.
    name: str = field(init=False)
    is_default: bool = field(init=False)

    def __post_init__(self) -> None:
        above = f" above {self.above_prompt_tokens}" if self.above_prompt_tokens else ""
        is_default = self.model == DEFAULT
        object.__setattr__(self, "name", DEFAULT if is_default else f"{self.model} from {self.since}{above}")
        object.__setattr__(self, "is_default", is_default)


class PriceList:
    """Prices by model. Equal if they say the same."""

    def __init__(self, prices: Iterable[Price], default: Price, web_search: int, tools_source: str) -> None:
        self.default = default
        self.web_search = web_search  # picodollars a call
        self.tools_source = tools_source
        self._rows: dict[str, list[Price]] = {}
        for price in prices:
            self._rows.setdefault(price.model, []).append(price)
        for rows in self._rows.values():  # the one that holds comes first
            rows.sort(key=lambda row: (row.since, row.above_prompt_tokens), reverse=True)
        self._known: dict[str, list[Price]] = {}  # a cache, bounded; races write the same value

    @property
    def rows(self) -> list[Price]:
        """All rows, by model, the newest first, the longest prompts first."""
        return [row for model in sorted(self._rows) for row in self._rows[model]]

    def price_of(self, model: str | None, day: str, prompt_tokens: int) -> Price:
        """The row that holds for an inference on that UTC day (2026-11-29); the default for a model that has none."""
        rows = self._rows_of(model) if model is not None else ()
        since = rows[-1].since if rows else ""
        for row in rows:
            is_long_enough = prompt_tokens > row.above_prompt_tokens or not row.above_prompt_tokens
            if is_long_enough and (row.since <= day or row.since == since):
                return row
        return self.default

    def in_force(self, model: str, day: str) -> list[Price]:
        """The rows that may hold for a model on that day: for short prompts, and for longer ones."""
        holds = self.price_of(model, day, 0)
        return [row for row in self._rows_of(model) if row.since == holds.since] or [holds]

    def _rows_of(self, model: str) -> Sequence[Price]:
        rows = self._known.get(model)
        if rows is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            rows = self._rows.get(model) or self._rows.get(plain_model(model), [])
            self._known[model] = rows
        return rows

    def _told(self) -> tuple[object, ...]:
        return self.rows, self.default, self.web_search, self.tools_source

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PriceList):
            return NotImplemented
        return self._told() == other._told()

    __hash__ = None  # type: ignore[assignment]  # nothing is looked up by them

    def __repr__(self) -> str:
        return f"<PriceList of {len(self._rows)} models>"


@cache
def known_prices() -> PriceList:
    """Those of the package."""
    return read_prices(resources.files("gateway.pricing").joinpath("prices.toml").read_text("utf-8"))


def read_prices(text: str, base: PriceList | None = None) -> PriceList:
    """Prices in the form of `prices.toml`, over those of `base`. Raises PriceError.

    Without a base there must be a `[default]` and `[tools]`.
    """
    try:
        document = tomllib.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise PriceError(f"not valid TOML: {error}") from error
    except InvalidOperation as error:
        raise PriceError("not valid TOML: a number that is too large or too small for any use") from error
    if unknown := sorted(document.keys() - _TABLES):
        raise PriceError(f"{unknown[0]}: expected `[[price]]`, `[default]` or `[tools]`")
    tables = document.get("price", [])
    if not isinstance(tables, list):
        raise PriceError("price: expected `[[price]]` tables")
    rows = [_row(table, f"[[price]] {number}") for number, table in enumerate(tables, start=1)]
    _refuse_doubles(rows)
    _refuse_gaps(rows)
    named = {row.model for row in rows}
    inherited = [] if base is None else [row for row in base.rows if row.model not in named]
    if "default" in document:
        default = _default(document["default"])
    elif base is not None:
        default = base.default
    else:
        raise PriceError("[default]: it is missing")
    if base is not None and "tools" not in document:
        web_search, tools_source = base.web_search, base.tools_source
    else:
        web_search, tools_source = _tools(document.get("tools", {}))
    return PriceList([*inherited, *rows], default, web_search, tools_source)


def _row(table: object, label: str) -> Price:
    if not isinstance(table, dict):
        raise PriceError(f"{label}: expected a table")
    model, since = table.get("model"), table.get("from")
    if not isinstance(model, str) or not model or model == DEFAULT:
        raise PriceError(f"{label}: model: expected the name of a model")
    label = f"{label} ({model[:64]})"
    if isinstance(since, datetime) or not isinstance(since, date):
        raise PriceError(f"{label}: from: expected a date like 2026-11-29")
    above = table.get("above_prompt_tokens", 0)
    if isinstance(above, bool) or not isinstance(above, int) or above < 0:
        raise PriceError(f"{label}: above_prompt_tokens: expected a whole number, 0 or more")
    return _priced(table, label, model=model, since=since.isoformat(), above_prompt_tokens=above)


def _default(table: object) -> Price:
    if not isinstance(table, dict):
        raise PriceError("[default]: expected a table")
    for name in ("model", "from", "above_prompt_tokens"):
        if name in table:
            raise PriceError(f"[default]: {name}: a default holds for all models, dates and prompts")
    return _priced(table, "[default]", model=DEFAULT, since="", above_prompt_tokens=0)


def _priced(table: Mapping[str, Any], label: str, **known: Any) -> Price:
    if unknown := sorted(table.keys() - _ROW):
        raise PriceError(f"{label}: {unknown[0]}: this member does not exist")
    rates = {name: _amount(table.get(name), f"{label}: {name}", _PICODOLLARS_A_TOKEN) for name in PRICED}
    fast, us = (_percent(table, name, label) for name in _FACTORS)
    members: dict[str, Any] = {**known, **rates, "source": _source(table, label)}
    return Price(**members, fast_percent=fast, us_percent=us if us is not None else 100)


def _amount(value: object, label: str, unit: int) -> int:
    """Dollars as picodollars. Raises PriceError for what is missing, negative or finer than that."""
    number = exact_decimal(value)
    if number is None:
        raise PriceError(f"{label}: expected a number of dollars")
    if number < 0:
        raise PriceError(f"{label}: a price cannot be negative")
    picodollars = scaled(number, unit)
    if picodollars is None:
        raise PriceError(f"{label}: the price is too large, or has too many decimals")
    return picodollars


def _percent(table: Mapping[str, Any], name: str, label: str) -> int | None:
    if name not in table:
        return None
    number = exact_decimal(table[name])
    percent = scaled(number, 100) if number is not None else None
    if percent is None or percent <= 0:
        raise PriceError(f"{label}: {name}: expected a number above 0 with two decimals at most")
    return percent


def _tools(table: object) -> tuple[int, str]:
    if not isinstance(table, dict):
        raise PriceError("[tools]: expected a table")
    if unknown := sorted(table.keys() - {"web_search", "source"}):
        raise PriceError(f"[tools]: {unknown[0]}: this member does not exist")
    web_search = _amount(table.get("web_search"), "[tools]: web_search", _PICODOLLARS_A_CALL)
    return web_search, _source(table, "[tools]")


def _source(table: Mapping[str, Any], label: str) -> str:
    source = table.get("source", "")
    if not isinstance(source, str):
        raise PriceError(f"{label}: source: expected a text")
    return source


def _refuse_doubles(rows: list[Price]) -> None:
    seen = set()
    for row in rows:
        place = (row.model, row.since, row.above_prompt_tokens)
        if place in seen:
            raise PriceError(f"{row.name}: this price is given twice")
        seen.add(place)


def _refuse_gaps(rows: list[Price]) -> None:
    """Each date of a model needs a row for short prompts, too."""
    for row in rows:
        if not any(
            other.model == row.model and other.since == row.since and not other.above_prompt_tokens for other in rows
        ):
            raise PriceError(f"{row.name}: a row without above_prompt_tokens is missing for this date")

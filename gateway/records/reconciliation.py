"""What the API's own reports say, beside what the gateway has recorded.

Owns: reading exports of the API's usage and cost reports, and the comparison by UTC day and model. Pure; any thread.
Usage and costs come in two forms: buckets of time that hold `results` (`/v1/organizations/usage_report/messages`,
`/v1/organizations/cost_report`), and rows that have a time and a `group` each (`/v1/organizations/analytics/usage` and
`.../cost`): https://platform.claude.com/docs/en/manage-claude/usage-cost-analytics-api

Amounts are picodollars, and the API's are cents. Models are compared by their plain names, without a date.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from gateway.models.scopes import plain_model
from gateway.pricing.money import dollars
from gateway.protocol.counts import count_or_none
from gateway.protocol.token_kinds import API_CREATION, API_LIFETIMES, CACHE_READ, INPUT, LIFETIMES, OUTPUT

# What is compared, in the words of `gateway report`, and where the API's reports have it.
WEB_SEARCHES = "web_searches"
_COUNTS = {
    INPUT: ("uncached_input_tokens",),
    CACHE_READ: ("cache_read_input_tokens",),
    **{kind: (API_CREATION, member) for kind, member in zip(LIFETIMES, API_LIFETIMES, strict=True)},
    OUTPUT: ("output_tokens",),
    WEB_SEARCHES: ("server_tool_use", "web_search_requests"),
}
COST = "cost"
_MEASURES = (*_COUNTS, COST)

_PICODOLLARS_OF_A_CENT = 10**10
_MOST_CENTS = 10**12
# The API says nothing of how it rounds its rows.
_SMALLEST_DIFFERENCE = _PICODOLLARS_OF_A_CENT
_WEB_SEARCH = "(web search)"  # in the place of a model, where the report has it apart

_BLANK = re.compile(r"[\s\ufeff]*")

_Place = tuple[str, str | None, str]  # a day, a model, a measure


class ExportError(ValueError):
    """The file is no export of a report; the message says why."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What the pool's keys have used of one model on one UTC day, as it is billed.

    `counts` are by the names of the measures; `uncosted` is the number of inferences without a cost.
    """

    day: str
    model: str | None
    counts: Mapping[str, int]
    picodollars: int
    uncosted: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One measure of a day and model: the API's figure and the gateway's; of the cost in picodollars."""

    day: str
    model: str | None
    measure: str
    api: int
    gateway: int

    @property
    def is_cost(self) -> bool:
        """Whether the figures are money."""
        return self.measure == COST

    @property
    def differs(self) -> bool:
        """Whether the two say different things: counts at all, costs by a cent or more."""
        return abs(self.api - self.gateway) >= (_SMALLEST_DIFFERENCE if self.is_cost else 1)

    def told(self) -> tuple[str, str, str]:
        """The API's figure, the gateway's, and by how much the gateway's is larger; a cost in dollars."""
        return self._told(self.api), self._told(self.gateway), self._told(self.gateway - self.api)

    def _told(self, amount: int) -> str:
        if not self.is_cost:
            return str(amount)
        return f"-{dollars(-amount)}" if amount < 0 else dollars(amount)


class Export:
    """The API's side: the figures of a file, and the time from `since` to `until` (epoch seconds) that they cover.

    `is_whole` is False if no page in it is a report's last. Raises ExportError for a text that is no export.
    """

    def __init__(self, text: str) -> None:
        self._figures: Counter[_Place] = Counter()
        self._said: set[str] = set()
        self._by_model: set[str] = set()
        self._times: list[datetime] = []
        has_more: list[bool] = []
        for document in _documents(text):
            if "data" in document:
                has_more.append(bool(document.get("has_more")))
            for item in _objects(document["data"], "data") if "data" in document else [document]:
                self._take(item)
        if not self._times:
            raise ExportError("it holds neither a usage report nor a cost report of the API")
        self.is_whole = not has_more or not all(has_more)
        self.since, self.until = min(self._times).timestamp(), max(self._times).timestamp()

    def compared(self, spent: Iterable[Spent], web_search: int) -> list[Line]:
        """Both sides, by day, model and measure; a web search costs `web_search` picodollars."""
        ours: Counter[_Place] = Counter()
        for row in spent:
            for measure, amount in row.counts.items():
                ours[self._place(row, measure)] += amount
            apart = row.counts["web_searches"] * web_search if self._has_web_search_apart else 0
            ours[row.day, _WEB_SEARCH, COST] += apart
            ours[self._place(row, COST)] += row.picodollars - apart
        places = {place for place in self._figures.keys() | ours.keys() if place[2] in self._said}
        lines = [Line(*place, self._figures[place], ours[place]) for place in sorted(places, key=_order)]
        return [line for line in lines if line.api or line.gateway]

    @property
    def _has_web_search_apart(self) -> bool:
        return any(model == _WEB_SEARCH for _, model, _ in self._figures)

    def _place(self, row: Spent, measure: str) -> _Place:
        model = plain_model(row.model) if row.model is not None and measure in self._by_model else None
        return row.day, model, measure

    def _take(self, item: Mapping[str, Any]) -> None:
        """A bucket with its results, or a row with a group."""
        begins_at, ends_at = _moment(item, "starting_at"), _moment(item, "ending_at")
        if ends_at <= begins_at or (ends_at - timedelta(microseconds=1)).date() != begins_at.date():
            raise ExportError("a row is not of one UTC day: ask for buckets of a day (1d) or less")
        self._times += (begins_at, ends_at)
        day = begins_at.date().isoformat()
        if "results" in item:
            for result in _objects(item["results"], "results"):
                self._add(day, result, result)
        elif isinstance(item.get("group"), dict):
            said = item["cost"] if isinstance(item.get("cost"), dict) else item.get("usage")
            self._add(day, item["group"], said if isinstance(said, dict) else {})
        else:
            raise ExportError("a row has neither `results` nor a `group`")

    def _add(self, day: str, group: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        model = group.get("model")
        if model is not None and not isinstance(model, str):
            raise ExportError("a row's model is not a text")
        if "amount" in said:
            figures = {COST: _picodollars(said)}
        elif "uncached_input_tokens" in said:
            figures = {measure: _count(said, path) for measure, path in _COUNTS.items()}
        else:
            raise ExportError("a row has neither an `amount` nor `uncached_input_tokens`")
        kind = group.get("cost_type")
        if model is not None:
            self._by_model.update(figures)
            model = plain_model(model)
        elif isinstance(kind, str) and kind != "tokens":
            model = f"({kind.replace('_', ' ')})"
        self._said.update(figures)
        for measure, amount in figures.items():
            self._figures[day, model, measure] += amount


def totals(lines: Iterable[Line]) -> list[Line]:
    """The sums of each measure, all days and models together."""
    api: Counter[str] = Counter()
    gateway: Counter[str] = Counter()
    for line in lines:
        api[line.measure] += line.api
        gateway[line.measure] += line.gateway
    return [Line("total", None, measure, api[measure], gateway[measure]) for measure in _MEASURES if measure in api]


def _order(place: _Place) -> tuple[str, str, int]:
    day, model, measure = place
    return day, model or "", _MEASURES.index(measure)


def _documents(text: str) -> Iterator[Mapping[str, Any]]:
    """The objects in a file: one after the other, or in lists."""
    decoder = json.JSONDecoder(parse_float=Decimal)
    at = _next(text, 0)
    while at < len(text):
        try:
            document, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise ExportError(f"it is not JSON: {error}") from error
        at = _next(text, end)
        yield from _objects(document if isinstance(document, list) else [document], "the file")


def _next(text: str, at: int) -> int:
    """Where the next document begins."""
    blank = _BLANK.match(text, at)
    return blank.end() if blank is not None else at


def _objects(found: object, label: str) -> list[Mapping[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ExportError(f"{label}: a list of objects was expected")
    return found


def _moment(item: Mapping[str, Any], name: str) -> datetime:
    try:
        at = datetime.fromisoformat(item[name])
    except (KeyError, TypeError, ValueError):
        raise ExportError(f"it is not a report of the API: a row has no time in `{name}`") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)


def _count(said: Mapping[str, Any], path: tuple[str, ...]) -> int:
    """A count; what is not there is none."""
    found: Any = said
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    count = 0 if found is None else count_or_none(found)
    if count is None:
        raise ExportError(f"{'.'.join(path)}: a count was expected")
    return count


def _picodollars(said: Mapping[str, Any]) -> int:
    if said.get("currency", "USD") != "USD":
        raise ExportError("currency: only USD is understood")
    try:
        cents = Decimal(said["amount"])
    except (InvalidOperation, TypeError, ValueError):
        raise ExportError("amount: a decimal number of cents was expected") from None
    if not cents.is_finite() or abs(cents) > _MOST_CENTS:
        raise ExportError("amount: a decimal number of cents was expected")
    return round(cents * _PICODOLLARS_OF_A_CENT)

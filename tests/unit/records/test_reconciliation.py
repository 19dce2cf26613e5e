"""The API's own reports beside the gateway's records: how their forms are read, and what counts as a difference."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.records.reconciliation import Export, ExportError, Line, Spent, totals

DAY = "2026-11-28"
TIME = {"starting_at": f"{DAY}T00:00:00Z", "ending_at": "2026-11-29T00:00:00Z"}
MODEL, DATED = "claude-opus-5", "claude-opus-5-20260822"
USED = {
    "uncached_input_tokens": 100,
    "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 40},
    "cache_read_input_tokens": 20,
    "output_tokens": 50,
    "server_tool_use": {"web_search_requests": 2},
}
COUNTS = {
    **{"input": 100, "cache_read": 20, "cache_write_5m": 30, "cache_write_1h": 40, "output": 50, "web_searches": 2},
}
DOLLAR = 10**12
WEB_SEARCH = DOLLAR // 100


def page(*items: dict[str, Any], has_more: bool = False) -> dict[str, Any]:
    return {"data": list(items), "has_more": has_more, "next_page": "page_x" if has_more else None}


def bucket(*results: dict[str, Any], **time: str) -> dict[str, Any]:
    """One of `/v1/organizations/usage_report/messages` or `/v1/organizations/cost_report`."""
    return {**TIME, **time, "results": list(results)}


def grouped(group: dict[str, Any], **said: dict[str, Any]) -> dict[str, Any]:
    """A row of `/v1/organizations/analytics/usage` or `.../cost`."""
    return {**TIME, "group": group, **said}


def costs(amount: str, **group: str | None) -> dict[str, Any]:
    return {"amount": amount, "currency": "USD", **group}


def spent(model: str | None = DATED, day: str = DAY, dollars: int = 0, **counts: int) -> Spent:
    return Spent(day, model, {**dict.fromkeys(COUNTS, 0), **counts}, dollars)


def compared(export: Export, *rows: Spent) -> list[tuple[str, str | None, str, int, int]]:
    lines = export.compared(rows, WEB_SEARCH)
    return [(line.day, line.model, line.measure, line.api, line.gateway) for line in lines]


USAGE_PAGES = [page(bucket({**USED, "model": DATED}))]
GROUPED_USAGE = [page(grouped({"model": MODEL}, usage=USED))]


@pytest.mark.parametrize("pages", [USAGE_PAGES, GROUPED_USAGE], ids=["buckets", "grouped"])
@pytest.mark.parametrize(
    "written",
    [
        json.dumps,
        lambda pages: json.dumps(pages[0], indent=2),
        lambda pages: "\n".join(map(json.dumps, pages)) + "\n\n",
        lambda pages: "".join(json.dumps(item, indent=1) for item in pages[0]["data"]),
        lambda pages: "\ufeff" + json.dumps(pages[0]["data"]),
    ],
    ids=["list of pages", "page", "lines", "rows alone", "list of rows"],
)
def test_every_form_of_a_usage_report_is_read(pages: list[Any], written: Callable[[Any], str]) -> None:
    """Given both generations of the report, as pages or rows, alone, in lists or one after the other; then all counts
    are read, under the model's plain name.
    """
    export = Export(written(pages))
    assert export.is_whole
    assert compared(export, spent(**COUNTS)) == [(DAY, MODEL, name, n, n) for name, n in COUNTS.items()]


@pytest.mark.parametrize(
    "items",
    [
        [bucket(costs("100.5", model=DATED, cost_type="tokens"), costs("23", model=MODEL, cost_type="tokens"))],
        [
            grouped({"model": MODEL}, cost={"amount": "100.5", "list_amount": "200", "currency": "USD"}),
            grouped({"model": MODEL}, cost={"amount": "23.000", "list_amount": "46", "currency": "USD"}),
        ],
    ],
    ids=["buckets", "grouped"],
)
def test_amounts_are_cents_and_add_up(items: list[Any]) -> None:
    """Given cost reports, whose amounts are texts of cents; then a model's are summed, and no tokens are compared."""
    export = Export(json.dumps(page(*items)))
    [line] = export.compared([spent(dollars=DOLLAR, **COUNTS)], WEB_SEARCH)
    assert (line.model, line.measure, line.differs) == (MODEL, "cost", True)
    assert line.told() == ("1.235000", "1.000000", "-0.235000")


def test_a_report_that_names_no_models_is_compared_by_day() -> None:
    """Given a report that was not grouped; then all of the gateway's models stand against its sum."""
    export = Export(json.dumps(page(bucket({**USED, "model": None}))))
    rows = [spent("claude-a", input=60), spent(None, input=40)]
    assert (DAY, None, "input", 100, 100) in compared(export, *rows)


def test_a_web_search_is_held_against_where_the_report_has_it() -> None:
    """Given a cost report that has web searches apart, as one by description has; then so has the gateway's side."""
    apart = Export(json.dumps(page(bucket(costs("100", model=MODEL), costs("2", model=None, cost_type="web_search")))))
    row = spent(dollars=DOLLAR + 2 * WEB_SEARCH, **COUNTS)
    assert compared(apart, row) == [
        (DAY, "(web search)", "cost", 2 * WEB_SEARCH, 2 * WEB_SEARCH),
        (DAY, MODEL, "cost", DOLLAR, DOLLAR),
    ]
    together = Export(json.dumps(page(bucket(costs("102", model=MODEL)))))
    assert compared(together, row) == [(DAY, MODEL, "cost", DOLLAR + 2 * WEB_SEARCH, DOLLAR + 2 * WEB_SEARCH)]
    by_kind = Export(json.dumps(page(bucket(costs("100", cost_type="tokens"), costs("2", cost_type="web_search")))))
    assert [line.differs for line in by_kind.compared([row], WEB_SEARCH)] == [False, False]


def test_what_only_one_side_has_differs() -> None:
    """Given a model and a day that only one of the two knows; then each has a line, and the totals add up."""
    items = [
        bucket({**USED, "model": MODEL}),
        bucket(starting_at="2026-11-29T00:00:00Z", ending_at="2026-11-30T00:00:00Z"),
    ]
    export = Export(json.dumps(page(*items)))
    lines = export.compared([spent("claude-other", day="2026-11-29", input=7)], WEB_SEARCH)
    assert (export.until - export.since, export.since) == (2 * 86_400, 1_795_824_000.0)
    assert all(line.differs for line in lines)
    assert lines[-1] == Line("2026-11-29", "claude-other", "input", 0, 7)
    assert totals(lines)[0] == Line("total", None, "input", 100, 7)


def test_usage_and_costs_may_stand_in_one_file() -> None:
    """Given pages of both reports, of hours; then tokens are compared by model, and costs as their report has them."""
    hour = {"starting_at": f"{DAY}T05:00:00Z", "ending_at": f"{DAY}T06:00:00+00:00"}
    export = Export(json.dumps(page(bucket({**USED, "model": MODEL}, **hour))) + json.dumps(page(bucket(costs("1")))))
    assert compared(export, spent(dollars=WEB_SEARCH, **COUNTS)) == [
        (DAY, None, "cost", WEB_SEARCH, WEB_SEARCH),
        *((DAY, MODEL, name, n, n) for name, n in COUNTS.items()),
    ]


@pytest.mark.parametrize(
    ("gateway", "differs"), [(DOLLAR + DOLLAR // 100 - 1, False), (DOLLAR + DOLLAR // 100, True), (0, True)]
)
def test_costs_differ_from_a_cent_on(gateway: int, differs: bool) -> None:
    """Given costs that are close; then a difference below a cent is none."""
    assert Line(DAY, MODEL, "cost", DOLLAR, gateway).differs is differs
    assert Line(DAY, MODEL, "input", 1, 2).differs


def test_pages_without_the_last_are_incomplete() -> None:
    """Given pages that all promise more; then the export says that it is not whole."""
    first, last = page(bucket({**USED, "model": MODEL}), has_more=True), page(bucket({**USED, "model": MODEL}))
    assert not Export(json.dumps(first)).is_whole
    assert Export(json.dumps([first, last])).is_whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "neither a usage report nor a cost report"),
        ("[]", "neither a usage report nor a cost report"),
        ('{"data": []}', "neither a usage report nor a cost report"),
        ("rubbish", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"data": [', "not JSON"),
        ("7", "a list of objects was expected"),
        ('{"data": {}}', "data: a list of objects was expected"),
        ('{"data": [1]}', "data: a list of objects was expected"),
        ('{"type": "error", "error": {"type": "authentication_error"}}', "no time in `starting_at`"),
        (json.dumps(page({"starting_at": "soon", "ending_at": "later"})), "no time in `starting_at`"),
        (json.dumps(page(TIME)), "neither `results` nor a `group`"),
        (json.dumps(page(bucket({}))), "neither an `amount` nor"),
        (json.dumps(page(bucket({**USED, "model": 7}))), "model is not a text"),
        (json.dumps(page(bucket({**USED, "output_tokens": -1}))), "output_tokens: a count"),
        (json.dumps(page(bucket({**USED, "output_tokens": 1.5}))), "output_tokens: a count"),
        (json.dumps(page(bucket(costs("much")))), "amount: a decimal number of cents"),
        (json.dumps(page(bucket(costs("NaN")))), "amount: a decimal number of cents"),
        (json.dumps(page(bucket(costs("1e999999")))), "amount: a decimal number of cents"),
        (json.dumps(page(bucket({"amount": "1", "currency": "EUR"}))), "only USD"),
        (json.dumps(page(bucket(costs("1"), ending_at="2026-11-30T00:00:00Z"))), "buckets of a day"),
        (
            json.dumps(page(bucket(costs("1"), starting_at=f"{DAY}T12:00:00Z", ending_at=f"{DAY}T12:00:00Z"))),
            "of a day",
        ),
    ],
)
def test_what_is_no_export_is_told(text: str, expected: str) -> None:
    """Given a file that is no report, or one with a row that cannot be read; then the words say why."""
    with pytest.raises(ExportError, match=expected):
        Export(text)

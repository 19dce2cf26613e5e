"""`gateway prices`: what is in force, the package's prices and over them those of GATEWAY_PRICES_FILE.

Owns: a table in words, CSV or JSON. Amounts are dollars per million tokens, exactly as they are charged.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from datetime import UTC, datetime
from decimal import Decimal

from gateway.cli.columns import say_columns
from gateway.cli.output import complain, say
from gateway.config.settings import Settings, SettingsError
from gateway.pricing.prices import Price, known_prices
from gateway.protocol.safe_text import safe_text
from gateway.protocol.token_kinds import PRICED
from gateway.web import configured

_COLUMNS = (
    *("model", "from", "above_prompt_tokens"),
    *PRICED,
    *("fast_factor", "us_factor", "source"),
)
_AMOUNTS = _COLUMNS[2:-1]
_PICODOLLARS_A_MILLION = 10**6  # a dollar per million tokens is so many picodollars a token
_PICODOLLARS = 10**12
_NONE = "-"


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--model", metavar="NAME", help="only the price that holds today (UTC) for this model; any of its names will do"
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")


def run(arguments: argparse.Namespace) -> int:
    """Print the prices; 1, with the faults on standard error, if the configuration is bad."""
    try:
        settings = configured.read_settings()
    except SettingsError as error:
        return complain(*error.complaints)
    prices = settings.prices
    if arguments.model is None:
        rows = [*prices.rows, prices.default]
    else:
        rows = prices.in_force(arguments.model, datetime.now(UTC).date().isoformat())
        if rows == [prices.default]:
            complain(f"{arguments.model!r} has no price: it costs the default, and the cost is marked as an estimate")
    _PRINTERS[arguments.format](settings, [_cells(row, settings) for row in rows])
    return 0


def _cells(row: Price, settings: Settings) -> dict[str, str]:
    """A row's texts by column; empty where it has none."""
    return {
        "model": row.model,
        "from": row.since,
        "above_prompt_tokens": str(row.above_prompt_tokens or ""),
        **{kind: _plain(getattr(row, kind), _PICODOLLARS_A_MILLION) for kind in PRICED},
        "fast_factor": _plain(row.fast_percent, 100) if row.fast_percent is not None else "",
        "us_factor": _plain(row.us_percent, 100),
        "source": _source(row.source, row in (*known_prices().rows, known_prices().default), settings),
    }


def _source(told: str, is_of_package: bool, settings: Settings) -> str:
    """Where a price comes from; of the operator's own, first the file."""
    if is_of_package:
        return told
    return f"{settings.prices_file}: {told}" if told else str(settings.prices_file)


def _plain(amount: int, unit: int) -> str:
    """So many parts of a unit, without an exponent and without zeros behind the point's last digit."""
    text = f"{Decimal(amount) / unit:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _web_search(settings: Settings) -> tuple[str, str]:
    """Dollars a call, and the source."""
    prices, known = settings.prices, known_prices()
    is_of_package = (prices.web_search, prices.tools_source) == (known.web_search, known.tools_source)
    return _plain(prices.web_search, _PICODOLLARS), _source(prices.tools_source, is_of_package, settings)


def _print_table(settings: Settings, rows: list[dict[str, str]]) -> None:
    source = len(_COLUMNS) - 1
    lines = [list(_COLUMNS), *([safe_text(row[name] or _NONE) for name in _COLUMNS] for row in rows)]
    widest = max(len(line[source]) for line in lines)
    say_columns([[*line[:source], line[source].ljust(widest)] for line in lines], 2)
    dollars, told = _web_search(settings)
    say(
        "",
        "dollars per million tokens; a model without a price costs the default price",
        f"web search: {dollars} a call; {told}",
    )


def _print_csv(settings: Settings, rows: list[dict[str, str]]) -> None:
    """The prices of models; those of tools have other columns, and stand in the other formats."""
    writer = csv.writer(sys.stdout)
    writer.writerow(_COLUMNS)
    for row in rows:
        writer.writerow([safe_text(row[name]) for name in _COLUMNS])


def _print_json(settings: Settings, rows: list[dict[str, str]]) -> None:
    dollars, told = _web_search(settings)
    document = {
        "unit": "dollars per million tokens",
        "prices": [{name: _number(text) if name in _AMOUNTS else text for name, text in row.items()} for row in rows],
        "tools": {"web_search": _number(dollars), "source": told},
    }
    say(*json.dumps(document, indent=2).split("\n"))


def _number(text: str) -> int | float | None:
    if not text:
        return None
    return float(text) if "." in text else int(text)


_PRINTERS = {"table": _print_table, "csv": _print_csv, "json": _print_json}

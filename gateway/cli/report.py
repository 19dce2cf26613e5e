"""`gateway report`: who used how much of what, and what that cost.

Owns: a table in words, CSV or JSON. It reads the database of records, whether the gateway runs or not.
`reconcile` holds the records against the API's own reports.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime

from gateway.cli.columns import say_columns
from gateway.cli.output import complain, say
from gateway.cli.reconcile import NOT_COMPARED, reconcile
from gateway.config.settings import Settings, SettingsError
from gateway.protocol.safe_text import safe_text
from gateway.records.forwarder import DatabaseUnavailable
from gateway.records.spool import waiting_records
from gateway.records.usage_report import DIMENSIONS, MEASURES, UsageRow
from gateway.runtime.data_folder import spool_folder
from gateway.web import configured

_RELATIVE = re.compile(r"(\d{1,5})([dhm])")
_UNIT_SECONDS = {"d": 86_400, "h": 3_600, "m": 60}
_NOBODY = "-"


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--by", type=_dimensions, help=f"one or more of {', '.join(DIMENSIONS)}, comma-separated (default: day)"
    )
    when = "a UTC date or time (2026-11-25, 2026-11-25T12:00), or how long ago (7d, 12h, 30m)"
    parser.add_argument("--since", type=_moment, metavar="WHEN", help=f"only requests that began then or later: {when}")
    parser.add_argument(
        "--until", type=_moment, metavar="WHEN", help="only requests that began before then; the same forms"
    )
    parser.add_argument(
        "--reconcile",
        metavar="FILE",
        help="compare with an export of the API's own usage or cost report, by UTC day and model; "
        "the exit status is 0 if both say the same, 1 if they differ, 2 if they cannot be compared",
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 1, with a line on standard error, if the records cannot be read."""
    try:
        settings = configured.read_settings()
    except SettingsError as error:
        status = complain(*error.complaints)
        return status if arguments.reconcile is None else NOT_COMPARED
    return _compare(settings, arguments) if arguments.reconcile is not None else _report(settings, arguments)


def _report(settings: Settings, arguments: argparse.Namespace) -> int:
    by = arguments.by or ["day"]
    try:
        with closing(configured.open_reader(settings)) as reader:
            groups, total = reader.usage(by, arguments.since, arguments.until)
    except ValueError as error:
        return complain(str(error))
    except DatabaseUnavailable as error:
        complain(str(error))
        _tell_what_waits(settings.data_dir, even_nothing=True)
        return 1
    place = configured.open_database(settings).place
    if not groups:
        complain(f"{place} has no records{_span(arguments)}")
    _PRINTERS[arguments.format](by, groups, total)
    if groups and arguments.format == "table":
        say(f"from the records in {place}")
    _tell_what_waits(settings.data_dir)
    return 0


def _compare(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.by or arguments.since is not None or arguments.until is not None:
        complain("--reconcile takes its time and its columns from the file: leave out --by, --since and --until")
        return NOT_COMPARED
    status = reconcile(settings, arguments.reconcile, arguments.format)
    if status != NOT_COMPARED:
        _tell_what_waits(settings.data_dir)
    return status


def _span(arguments: argparse.Namespace) -> str:
    is_bounded = arguments.since is not None or arguments.until is not None
    return " of the time that was asked for" if is_bounded else ""


def _tell_what_waits(data_dir: str, *, even_nothing: bool = False) -> None:
    """What this machine has not brought to the database yet; on another machine there is no spool."""
    spool = spool_folder(data_dir)
    try:
        waiting = sum(1 for _ in waiting_records(spool, _tell_odd))
    except OSError as error:
        complain(f"the spool cannot be read ({error.strerror}); records that wait in it are not in this report")
        return
    if waiting:
        complain(f"records that wait in the spool, and are not in this report yet: {waiting}")
    elif even_nothing:
        complain(f"no records wait in the spool in {spool} either")


def _tell_odd(name: str, why: str) -> None:
    complain(f"{name!r} in the spool is skipped: {why}; records that wait in it are not in this report")


def _print_table(by: list[str], rows: list[UsageRow], total: UsageRow) -> None:
    lines = [[*by, *MEASURES]]
    lines += [[*(safe_text(value or _NOBODY) for value in row.group), *_numbers(row)] for row in rows]
    lines.append(["total", *[""] * (len(by) - 1), *_numbers(total)])
    say_columns(lines, len(by))


def _print_csv(by: list[str], rows: list[UsageRow], total: UsageRow) -> None:
    """Without the total: spreadsheets add up what their filters leave."""
    writer = csv.writer(sys.stdout)
    writer.writerow([*by, *MEASURES])
    for row in rows:
        writer.writerow([*(safe_text(value or "") for value in row.group), *_numbers(row)])


def _print_json(by: list[str], rows: list[UsageRow], total: UsageRow) -> None:
    documents = [{**dict(zip(by, row.group, strict=True)), **row.told()} for row in rows]
    say(*json.dumps({"by": by, "rows": documents, "total": total.told()}, indent=2).split("\n"))


_PRINTERS = {"table": _print_table, "csv": _print_csv, "json": _print_json}


def _numbers(row: UsageRow) -> Iterable[str]:
    return map(str, row.told().values())


def _dimensions(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in DIMENSIONS]
    if unknown or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"each of {', '.join(DIMENSIONS)} at most once was expected, not {text!r}")
    return names


def _moment(text: str) -> float:
    """Epoch seconds. A time without an offset is UTC, as the days of the report are."""
    if relative := _RELATIVE.fullmatch(text):
        return time.time() - int(relative[1]) * _UNIT_SECONDS[relative[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a date, a time or so long ago was expected, not {text!r}") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()

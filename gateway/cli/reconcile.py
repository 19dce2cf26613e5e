"""`gateway report --reconcile FILE`: where the records and the API's own reports differ.

Owns: the comparison in words, CSV or JSON, and its exit status: 0 if both say the same, 1 if they differ, 2 if they
could not be compared, as with `diff`.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from gateway.cli.columns import say_columns
from gateway.cli.output import complain, say
from gateway.config.settings import Settings
from gateway.protocol.safe_text import safe_text
from gateway.records.forwarder import DatabaseUnavailable
from gateway.records.reconciliation import Export, ExportError, Line, totals
from gateway.web import configured

_COLUMNS = ("day", "model", "measure", "api", "gateway", "difference")
_DIFFERS = "differs"
NOT_COMPARED = 2


def reconcile(settings: Settings, path: str, form: str) -> int:
    """Print the comparison; the exit status."""
    try:
        export = Export(Path(path).read_text("utf-8"))
        with closing(configured.open_reader(settings)) as reader:
            spent = reader.spent(export.since, export.until)
    except OSError as error:
        return _cannot(f"{path} cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        return _cannot(f"{path} is not UTF-8 text")
    except ExportError as error:
        return _cannot(f"{path}: {error}")
    except (DatabaseUnavailable, ValueError) as error:
        return _cannot(str(error))
    lines = export.compared(spent, settings.prices.web_search)
    _PRINTERS[form](lines)
    if not export.is_whole:
        complain(f"{path}: the report's last page is missing (each says `has_more`), so the API's side is incomplete")
    uncosted = sum(row.uncosted for row in spent)
    if uncosted:
        complain(f"{uncosted} answers of that time have no cost, because an earlier version recorded them")
    return 1 if any(line.differs for line in lines) else 0


def _cannot(why: str) -> int:
    complain(why)
    return NOT_COMPARED


def _print_table(lines: Sequence[Line]) -> None:
    rows = [[*_names(line, "-"), *line.told(), _DIFFERS if line.differs else ""] for line in (*lines, *totals(lines))]
    say_columns([[*_COLUMNS, ""], *rows], 3)


def _print_csv(lines: Sequence[Line]) -> None:
    """Without the totals, as the report is."""
    writer = csv.writer(sys.stdout)
    writer.writerow([*_COLUMNS, _DIFFERS])
    for line in lines:
        writer.writerow([*_names(line, ""), *line.told(), str(line.differs).lower()])


def _print_json(lines: Sequence[Line]) -> None:
    document = {"rows": list(map(_document, lines)), "total": list(map(_document, totals(lines)))}
    say(*json.dumps(document, indent=2).split("\n"))


_PRINTERS = {"table": _print_table, "csv": _print_csv, "json": _print_json}


def _names(line: Line, nobody: str) -> tuple[str, str, str]:
    return line.day, safe_text(line.model or nobody), line.measure


def _document(line: Line) -> dict[str, object]:
    figures: Sequence[str | int] = line.told()
    if not line.is_cost:
        figures = list(map(int, figures))
    values = (line.day, line.model, line.measure, *figures, line.differs)
    return dict(zip((*_COLUMNS, _DIFFERS), values, strict=True))

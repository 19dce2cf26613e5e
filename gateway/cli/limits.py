"""`gateway limits`: every limit, how much of it is used, how much is left, and when it is free again.

Owns: a table in words, or JSON. It reads this machine's counts, and the other machines' where they share a
store, whether the gateway runs or not; it changes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path

from gateway.cli.columns import say_columns
from gateway.cli.output import complain, say
from gateway.config.limit_rules import LimitUse, is_money, limit_words, shown
from gateway.config.settings import SettingsError
from gateway.limits.machine_file import FILE_NAME
from gateway.limits.uses import limit_uses
from gateway.pricing.money import microdollars
from gateway.web import configured

_COLUMNS = ("whose", "limit", "used", "of", "left", "%", "free again")
_NAMES = 2


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--format", choices=("table", "json"), default="table")


def run(arguments: argparse.Namespace) -> int:
    """Print the limits, the nearest to its end first; 1, with a line on standard error, if they cannot be read.

    If the shared store is out of reach, or nothing was ever counted, a line on standard error says so, and what this
    machine knows is printed.
    """
    try:
        settings = configured.read_settings()
        used, trouble = configured.read_limits(settings)
    except SettingsError as error:
        return complain(*error.complaints)
    except OSError as error:
        return complain(f"the counts of limits cannot be read: {error.strerror or error}")
    uses = limit_uses(used)
    if trouble:
        complain(f"{trouble}: what other machines have used may be old or missing here")
    elif uses and not _has_counts(Path(settings.data_dir)):
        unused = configured.unused_state(settings)
        if unused is not None:
            trouble = f"nothing has been counted: {unused}"
            complain(trouble)
    if arguments.format == "json":
        say(*json.dumps([_described(use) for use in uses], indent=2).split("\n"))
    elif uses:
        say_columns([_COLUMNS, *map(_row, uses)], _NAMES)
    else:
        say("there are no limits")
    return 1 if trouble else 0


def _has_counts(folder: Path) -> bool:
    """Whether a gateway has run with this data folder, or has left its counts there."""
    return (folder / "lock").exists() or (folder / FILE_NAME).exists()


def _row(use: LimitUse) -> tuple[str, ...]:
    amounts = (shown(use.limit, amount) for amount in (use.used, use.most, use.left))
    return (str(use.limited), limit_words(use.limit), *amounts, str(use.percent), _free_again(use))


def _free_again(use: LimitUse) -> str:
    if not use.used:
        return "-"
    if use.resets_in_seconds is None:
        return "as requests end"
    if not is_money(use.limit):
        return "within a minute"
    return f"{_reset_at(use.resets_in_seconds):%Y-%m-%d %H:%M} UTC"


def _described(use: LimitUse) -> dict[str, object]:
    """Amounts are requests, tokens or dollars."""
    resets = use.resets_in_seconds
    return {
        "kind": use.limited.kind,
        "name": use.limited.name,
        "limit": use.limit,
        "used": _number(use.limit, use.used),
        "most": _number(use.limit, use.most),
        "left": _number(use.limit, use.left),
        "ratio": round(use.ratio, 6),
        "is_reached": use.is_reached,
        "resets_in_seconds": None if resets is None else round(resets),
        "resets_at": _reset_at(resets).isoformat() if resets is not None and is_money(use.limit) else None,
    }


def _number(limit: str, amount: int) -> int | float:
    return microdollars(amount) / 10**6 if is_money(limit) else amount


def _reset_at(seconds: float) -> datetime:
    """The full minute nearest to the time in so many seconds: days and months begin on one."""
    return datetime.fromtimestamp(60 * math.floor((time.time() + seconds) / 60 + 0.5), UTC)

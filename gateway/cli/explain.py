"""`gateway explain ID`: what became of one request.

Owns: finding its record, in the database or still in a spool. The id is the `request-id` that the client
saw: the upstream's when its answer was relayed, the gateway's own otherwise; both are found, always, and by a proxy's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from gateway.cli.output import complain, say
from gateway.cli.timeline import tell
from gateway.config.settings import Settings, SettingsError
from gateway.records.forwarder import DatabaseUnavailable
from gateway.records.interception_record import InterceptionRecord
from gateway.records.spool import waiting_records
from gateway.runtime.data_folder import spool_folder
from gateway.runtime.request_ids import is_called
from gateway.web import configured


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "id",
        metavar="ID",
        help="the `request-id` that the client saw, or that of an attempt at the upstream, or of a proxy",
    )


def run(arguments: argparse.Namespace) -> int:
    """Tell the timeline; 1, with a line on standard error, if there is none."""
    try:
        settings = configured.read_settings()
    except SettingsError as error:
        return complain(*error.complaints)
    spool = spool_folder(settings.data_dir)
    waiting, troubles = _waiting(spool, arguments.id)
    stored, complaints = _stored(settings, arguments.id)
    found = {record.id: record for record in (*stored, *waiting)}
    for line in (*troubles, *complaints):
        complain(line)
    if not found:
        if complaints:  # nobody can tell
            complain(f"the spool in {spool} was searched, too: it has nothing about {arguments.id}")
        else:
            where = " in what could be read" if troubles else ""
            complain(
                f"no record of {arguments.id}{where}: searched {configured.open_database(settings).place} and the "
                f"spool in {spool}; records are kept for {settings.record_retention_days} days. What was refused "
                "for its token, for a limit or for want of room has none: see the access log"
            )
        return 1
    timelines = (tell(record) for record in sorted(found.values(), key=lambda record: record.started_at))
    say(*"\n\n".join(timelines).split("\n"))
    return 0


def _stored(settings: Settings, request_id: str) -> tuple[Iterable[InterceptionRecord], Sequence[str]]:
    """What the database has, and what is wrong if it cannot be asked: the spools may have it all the same."""
    try:
        with closing(configured.open_reader(settings)) as reader:
            return reader.find(request_id), ()
    except (DatabaseUnavailable, ValueError) as error:
        return (), [str(error)]


def _waiting(folder: Path, request_id: str) -> tuple[list[InterceptionRecord], Sequence[str]]:
    """What the spools have, and what in them cannot be read: the database may have it all the same."""
    troubles: list[str] = []
    found: list[InterceptionRecord] = []
    try:
        for record in waiting_records(
            folder, lambda name, why: troubles.append(f"{name!r} in the spool is skipped: {why}")
        ):
            if _is_of(record, request_id):
                found.append(record)
    except OSError as error:
        troubles.append(f"the spool cannot be read: {error.strerror}")
    return found, troubles


def _is_of(record: InterceptionRecord, request_id: str) -> bool:
    return is_called(record.id, request_id) or any(attempt.request_id == request_id for attempt in record.attempts)

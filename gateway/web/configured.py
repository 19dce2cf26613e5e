"""What is configured: the settings, read and checked, and the stores that they name, opened.

A running gateway and the commands both begin here. Nothing is kept here, and what most configurations do not need is
imported where it is needed.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config.capacity import Capacity
from gateway.config.loader import ReadFile, load_settings
from gateway.config.settings import Settings, SettingsError
from gateway.keys.file_store import FileStore
from gateway.keys.store import Store
from gateway.limits.limiter import Used
from gateway.limits.reading import read_used
from gateway.records.forwarder import DatabaseUnavailable
from gateway.runtime.machine_limits import memory_bytes, most_descriptors
from gateway.runtime.whole_file import read_now

if TYPE_CHECKING:
    from gateway.records.database import Database, Reader


def read_settings(read_file: ReadFile = read_now) -> Settings:
    """Read the configuration anew: the environment as it was at the start, the files as they are now.

    Who decides that it is to be in force reads with `read_whole`, which waits for files that are being written.
    """
    found = load_settings(
        os.environ, read_file, len(os.sched_getaffinity(0)), Capacity(most_descriptors(), memory_bytes())
    )
    _check_state_url(found)
    _check_record_url(found)
    _check_tracing(found)
    _check_upstream_ca(found)
    return found


def _check_tracing(found: Settings) -> None:
    if found.tracing != "off":
        from gateway.telemetry import tracing

        tracing.check(found)


def _check_upstream_ca(found: Settings) -> None:
    if found.upstream_ca_pem is None:
        return  # to load the authorities of everybody takes 20 ms, which is most of a reload, and shows nothing
    from gateway.upstream.tls import tls_context

    try:
        tls_context(found.upstream_ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError([f"GATEWAY_UPSTREAM_CA_FILE: {found.upstream_ca_file} holds no certificate"]) from error


def _check_state_url(found: Settings) -> None:
    if found.state_url is not None:
        from gateway.keys.redis.wire import Server  # most gateways have no Redis, and need not load its client

        try:
            Server(found.state_url, prefix="")
        except ValueError as error:
            raise SettingsError([f"GATEWAY_STATE_URL: {error}"]) from error


def _check_record_url(found: Settings) -> None:
    if found.record_url not in (None, "none"):
        try:
            open_database(found)
        except ValueError as error:
            raise SettingsError([f"GATEWAY_RECORD_URL: {error}"]) from error


def open_database(settings: Settings) -> Database:
    """The database of records; nothing is connected to yet. Raises ValueError for a URL that cannot be used."""
    from gateway.records.database import Database  # a gateway that records nothing need not load SQLAlchemy

    return Database(settings.record_url) if settings.record_url else Database.in_folder(Path(settings.data_dir))


def open_reader(settings: Settings) -> Reader:
    """The records, for reading; whoever opens them closes them.

    Raises ValueError and DatabaseUnavailable, with words for the operator.
    """
    if settings.record_url == "none":
        raise ValueError("this gateway records nothing: GATEWAY_RECORD_URL is none")
    from gateway.records.database import Reader  # as above

    database = open_database(settings)
    try:
        database.prepare_to_read()
    except DatabaseUnavailable:
        database.close()
        raise
    return Reader(database)


def open_store(settings: Settings) -> Store:
    """The shared state of the keys, for this process; after the fork."""
    if settings.state_url is not None:
        from gateway.keys.redis.store import RedisStore  # most gateways have no Redis, and need not load its client

        return RedisStore(settings.state_url)
    return FileStore(Path(settings.data_dir))


def unused_state(settings: Settings) -> str | None:
    """What to say if no gateway has kept the keys' state where this configuration has it; None if one has.

    Changes nothing. Raises ValueError if the state server's URL is none.
    """
    if settings.state_url is not None:
        from gateway.keys.redis.store import RedisStore  # as above
        from gateway.keys.redis.wire import Server

        if RedisStore.exists(settings.state_url):
            return None
        place = Server(settings.state_url, prefix="").place
        return (
            f"no gateway has been seen at the state server {place} yet: set GATEWAY_STATE_URL to the gateway's own "
            "server and database, or start the gateway first"
        )
    if FileStore.exists(Path(settings.data_dir)):
        return None
    return (
        f"no gateway has been seen in the data folder {settings.data_dir} yet: set GATEWAY_DATA_DIR to the gateway's "
        "own folder, or start the gateway first"
    )


def read_limits(settings: Settings) -> tuple[list[Used], str]:
    """What everybody who has limits has used, and what is wrong if the other machines' part is not known.

    Raises OSError.
    """
    return read_used(Path(settings.data_dir), settings.limits.everybody(settings.tokens), settings.state_url)

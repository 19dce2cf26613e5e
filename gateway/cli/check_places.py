"""What `gateway check` says of the places that a gateway needs: data folder, address, state server, database.

Owns: trying each of them as a start would, at once and within seconds. Nothing stays of it: a file without a
name in the data folder (or in the one that it would be made in), an address that is bound and not listened at, and
with a state server an entry that ends after a second.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.cli.bounded import begun
from gateway.config.settings import Settings
from gateway.config.values import exposure, is_local_address
from gateway.records.forwarder import DatabaseUnavailable
from gateway.web import configured

_PATIENCE_SECONDS = 6.0  # more than the connection to a database takes to be given up
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
_TRY_WRITING = "return redis.call('SET', KEYS[1], '1', 'PX', 1000)"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong, where, and what to do. A fault, or else a doubt."""

    words: str
    is_fault: bool = True


def troubles_of_places(settings: Settings) -> list[Trouble]:
    """What is wrong with each place, in order."""
    looks: list[tuple[str, Callable[[], list[Trouble]]]] = [
        (f"GATEWAY_DATA_DIR: the data folder {settings.data_dir}", lambda: list(_of_folder(settings))),
        (f"GATEWAY_BIND: {settings.bind}", lambda: list(_of_address(settings))),
    ]
    if settings.state_url is not None:
        looks.append(("GATEWAY_STATE_URL: the state server", lambda: list(_of_state(settings))))
    if settings.record_url != "none":
        looks.append(("GATEWAY_RECORD_URL: the database of records", lambda: list(_of_records(settings))))
    ends_at = time.monotonic() + _PATIENCE_SECONDS
    pending = [(what, begun(look)) for what, look in looks]
    troubles: list[Trouble] = []
    for what, result in pending:
        try:
            troubles += result.result(max(0.0, ends_at - time.monotonic()))
        except TimeoutError:
            words = f"{what} has not answered within {_PATIENCE_SECONDS:g} s: is it running, and not overloaded?"
            troubles.append(Trouble(words))
    return troubles


def _of_folder(settings: Settings) -> Iterator[Trouble]:
    folder = Path(settings.data_dir)
    try:
        _try_writing(folder)
        odd = _unusable_in(folder)
    except OSError as error:
        yield Trouble(
            f"GATEWAY_DATA_DIR: the data folder {folder} cannot be used: {error.strerror or error}; name a folder that "
            f"{_user()} may write to"
        )
        return
    if odd is not None:
        yield Trouble(
            f"GATEWAY_DATA_DIR: {odd} cannot be read and written by {_user()}: give it to the user that the gateway "
            "runs as"
        )
    if settings.limits.are_any:
        try:
            configured.read_limits(replace(settings, state_url=None))
        except OSError as error:
            yield Trouble(f"GATEWAY_DATA_DIR: the counts of limits cannot be read: {error.strerror or error}")


def _try_writing(folder: Path) -> None:
    """Raise OSError if nothing can be written there; where there is no folder, in the nearest one above."""
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder") from error
        if error.errno not in _NO_UNNAMED_FILES:
            raise
        os.rmdir(tempfile.mkdtemp(prefix=".gateway-check-", dir=folder))


def _unusable_in(folder: Path) -> Path | None:
    """A file of the folder's that this user may not use, as after a start by another one."""
    if not folder.exists():
        return None
    entries = sorted(Path(entry.path) for entry in os.scandir(folder))
    return next((path for path in entries if not os.access(path, os.R_OK | os.W_OK, effective_ids=True)), None)


def _of_address(settings: Settings) -> Iterator[Trouble]:
    is_running = _is_held(Path(settings.data_dir))
    trouble = _trouble_of_unix(settings.bind) if settings.bind.startswith("unix:") else _trouble_of_port(settings)
    if trouble is None:
        if is_running:
            yield Trouble(
                f"GATEWAY_BIND: a gateway is running with the data folder {settings.data_dir}, but does not listen at "
                f"{settings.bind}: a new address needs a restart, and a second gateway a data folder of its own "
                "(GATEWAY_DATA_DIR)",
                is_fault=False,
            )
    elif trouble[0] != errno.EADDRINUSE:
        yield Trouble(f"GATEWAY_BIND: {trouble[1]}")
    elif not is_running:  # else it is this gateway itself that listens
        yield Trouble(
            f"GATEWAY_BIND: {settings.bind} is taken: another program listens there; stop it, or name another address"
        )


def _trouble_of_port(settings: Settings) -> tuple[int, str] | None:
    """An error number and words."""
    host, _, port = settings.bind.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, int(port)))
            address = listener.getsockname()
    except OSError as error:
        return error.errno or 0, (
            f"{_user()} cannot listen at {settings.bind}: {error.strerror or error}; name an address of this machine, "
            "and a port that this user may listen at"
        )
    if settings.is_open and not is_local_address(f"{address[0]}:0"):
        return 0, exposure(settings.bind)
    return None


def _trouble_of_unix(bind: str) -> tuple[int, str] | None:
    path = Path(bind.removeprefix("unix:"))
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        return 0, f"{_user()} cannot make a socket in {path.parent}: name a folder that exists and may be written to"
    if path.exists() and not path.is_socket():
        return 0, f"{path} exists, and is not a socket: remove it, or name another path"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):  # nobody listens: a start removes what is left of it
            return None
        except OSError as error:
            return error.errno or 0, f"{path} cannot be used: {error.strerror or error}; name another path"
    return errno.EADDRINUSE, ""


def _is_held(folder: Path) -> bool:
    """Whether a gateway runs with this data folder."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return False


def _of_state(settings: Settings) -> Iterator[Trouble]:
    from gateway.keys.redis.wire import (  # most gateways have no Redis, and need not load its client
        SERVER_ERRORS,
        Server,
    )

    assert settings.state_url is not None
    server = Server(settings.state_url, "gateway:")
    try:
        connection = server.connect()
        with closing(connection):
            connection.script(_TRY_WRITING, [server.key("check")])
    except SERVER_ERRORS as error:
        words = (
            f"GATEWAY_STATE_URL: the state server {server.place} cannot be used ({error}): start it, or correct its "
            "address, login and rights. Until then each machine uses what it knows about the keys"
        )
        if settings.limits.are_any:
            what = "are refused" if settings.needs_store else "are limited by what this machine knows"
            words += f", and requests that have limits {what}"
        yield Trouble(words)


def _of_records(settings: Settings) -> Iterator[Trouble]:
    try:
        with closing(configured.open_database(settings)) as database:
            database.try_out(Path(settings.data_dir))
    except DatabaseUnavailable as error:
        where = "GATEWAY_RECORD_URL" if settings.record_url else "GATEWAY_DATA_DIR"
        yield Trouble(
            f"{where}: the database of records cannot be used: {error}; start it, or correct its address, login and "
            "rights. Until then records wait in the data folder"
        )


def _user() -> str:
    """Who runs this command, and is to run the gateway."""
    try:
        return f"the user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"the user {os.geteuid()}"

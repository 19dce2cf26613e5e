"""gunicorn's master process, as a gateway needs it: the hooks that gunicorn.conf.py names.

Owns: the checks before the first fork, and SIGHUP. Web layer; runs in the master's only thread. gunicorn's own reload
starts new workers from whatever the files hold, which halts the master when they are broken and loses the state of
the keys; here the master checks the files, and only then are the running workers told to read them.
"""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from types import MethodType
from typing import Any, NoReturn

import lmdb

from gateway import launch
from gateway.data_folder import DataFolder, DataFolderError
from gateway.embedded_store import EmbeddedStore
from gateway.setting_values import is_local_address
from gateway.settings import Settings, SettingsError, settle
from gateway.whole_file import read_whole

log = logging.getLogger(__name__)


class Hangups:
    """SIGHUPs that came, so that those which come while the files are waited for cost one more reading together."""

    def __init__(self) -> None:
        self._came = self._handled = self._answered = 0

    def note(self) -> None:
        """One has come; called by the signal's handler."""
        self._came += 1

    def wants_reading(self) -> bool:
        """Whether the next in turn came after the last reading began: if so, one begins, for all that came so far."""
        self._handled += 1
        if self._handled <= self._answered:
            return False
        self._answered = self._came
        return True


_data_folder: DataFolder | None = None  # held until this process ends
_hangups = Hangups()

# Several gateways of one machine, as in containers, see the same processors: not all of them begin with the first.
_first_processor = random.randrange(1 << 16)

# Idle connections count against this too, so it is far above the threads.
_CONNECTIONS_BESIDE_THREADS = 1000
_DESCRIPTORS_BESIDE_CONNECTIONS = 200


def worker_connections(settings: Settings) -> int:
    """How many connections, idle ones included, one worker holds."""
    return settings.threads + _CONNECTIONS_BESIDE_THREADS


def graceful_timeout(settings: Settings) -> int:
    """How long gunicorn waits for a stopping worker, in seconds: what the drain time leaves has to be told so."""
    return int(settings.drain_seconds) + 10


def on_starting(server: Any) -> None:
    """Before anything is bound: the command line must not undo what the settings promise; the data folder is ours."""
    settings = launch.settings()
    for option, configured, wanted in _promised(server.cfg, settings):
        if configured != wanted:
            _refuse(f"{option} is {configured!r} and must be {wanted!r}: leave it to gunicorn.conf.py and GATEWAY_*")
    if server.cfg.worker_class_str != "gateway.worker.GatewayWorker":
        _refuse("--worker-class: only gateway.worker.GatewayWorker keeps the gateway's promises")
    if server.cfg.is_ssl:
        _refuse("--certfile, --keyfile: end TLS in the proxy in front; its deadlines are not kept here")
    _raise_descriptor_limit(settings)
    _take_data_folder(settings)
    launch.reload_board.publish(settings.digest)
    server.handle_hup = MethodType(_handle_hup, server)
    server.signal = MethodType(_note_signal, server)
    server.stop = MethodType(_stop, server)


def _promised(cfg: Any, settings: Settings) -> Iterator[tuple[str, object, object]]:
    """What the command line or GUNICORN_CMD_ARGS may not change: option, what it is, what it must be."""
    yield "--threads (set GATEWAY_THREADS)", cfg.threads, settings.threads
    yield "--workers (set GATEWAY_WORKERS)", cfg.workers, settings.workers
    yield "--worker-connections", cfg.worker_connections, worker_connections(settings)
    yield "--graceful-timeout (set GATEWAY_DRAIN_SECONDS)", cfg.graceful_timeout, graceful_timeout(settings)
    yield "--max-requests", cfg.max_requests, 0
    yield "--preload", cfg.preload_app, False
    yield "--reload", cfg.reload, False
    yield "--reuse-port", cfg.reuse_port, False
    yield "--http2-cleartext", cfg.http2_cleartext, "off"


def when_ready(server: Any) -> None:
    """The sockets are bound: an open gateway must not be reachable from elsewhere, wherever they came from."""
    try:
        _refuse_exposure(server, launch.settings())
    except SettingsError as error:
        _refuse(str(error))


def _refuse_exposure(server: Any, settings: Settings) -> None:
    """Raise SettingsError if these settings would open the gateway on an address that others reach."""
    if not settings.is_open:
        return
    for listener in server.LISTENERS:
        address = listener.sock.getsockname()
        if listener.sock.family in (socket.AF_INET, socket.AF_INET6) and not is_local_address(f"{address[0]}:0"):
            why = (
                f"{address[0]}:{address[1]} is not a loopback address, and without "
                "GATEWAY_CLIENT_TOKENS_FILE anybody who reaches it would spend your keys"
            )
            raise SettingsError([why])


def _note_signal(server: Any, number: int, frame: Any) -> None:
    """A signal has come; gunicorn queues it."""
    if number == signal.SIGHUP:
        _hangups.note()
    type(server).signal(server, number, frame)


def _handle_hup(server: Any) -> None:
    """Check the configuration; if it is good, keep it for future workers and tell the running ones."""
    if not _hangups.wants_reading():
        return
    try:
        found = launch.read_settings(read_whole)
        settled = settle(launch.settings(), found)
        _refuse_exposure(server, settled)
    except Exception as error:  # whatever is wrong with the files, the gateway serves on
        if isinstance(error, SettingsError):
            launch.complain(error)
        else:
            log.exception("the configuration cannot be read")
        log.error("reload refused: nothing has changed")
        launch.reload_board.publish(None)
        return
    for name in found.changed_needing_restart(launch.settings()):
        log.warning("%s has changed; that needs a restart", name)
    launch.adopt(settled)
    launch.reload_board.publish(settled.digest)
    server.kill_workers(signal.SIGHUP)


def _stop(server: Any, graceful: bool = True) -> None:
    """Stop; a worker that is only just forked, and misses the signal, finds it said."""
    launch.stop_board.publish()
    type(server).stop(server, graceful)


def pre_fork(server: Any, worker: Any) -> None:
    """A worker is about to begin: it keeps to the processor that the fewest others have."""
    worker.processor = None
    if launch.settings().pin_workers:
        processors = sorted(os.sched_getaffinity(0))
        first = _first_processor % len(processors)
        taken = Counter(other.processor for other in server.WORKERS.values())
        worker.processor = min(processors[first:] + processors[:first], key=taken.__getitem__)


def child_exit(server: Any, worker: Any) -> None:
    """A worker has ended, however: its counts are kept, its gauges of the moment are not."""
    from prometheus_client.multiprocess import mark_process_dead  # chooses its ways when it is first imported

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # it has no annotations
    launch.places_board.note(worker.age, 0)


def _take_data_folder(settings: Settings) -> None:
    """Hold the data folder for as long as any process of this gateway lives, and begin a new start in it."""
    global _data_folder
    try:
        _data_folder = DataFolder(settings.data_dir)
        _data_folder.begin()
        if settings.state_url is None:
            store = EmbeddedStore(_data_folder.path, settings.threads)
            store.start_anew(time.time())
            store.close()
    except DataFolderError as error:
        _refuse(str(error))
    except (OSError, lmdb.Error) as error:
        _refuse(f"the data folder {settings.data_dir} cannot be used: {error}")


def _raise_descriptor_limit(settings: Settings) -> None:
    wanted = 2 * settings.threads + worker_connections(settings) + _DESCRIPTORS_BESIDE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        granted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
        if granted < wanted:
            log.warning("%d open files are allowed; %d threads may need %d", granted, settings.threads, wanted)


def _refuse(why: str) -> NoReturn:
    raise SystemExit(f"gateway: {why}")

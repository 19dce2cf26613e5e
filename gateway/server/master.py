"""gunicorn's master process, as a gateway needs it: the hooks that gunicorn.conf.py names.

Owns: the checks before the first fork, SIGHUP, and the starting and missing of workers. Runs in the master's
only thread. gunicorn's own reload starts new workers from whatever the files hold, which halts the master when they are
broken and loses the state of the keys; here the master checks the files, and only then are the running workers told to
read them.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import MethodType
from typing import Any, NoReturn

from gunicorn.errors import HaltServer

from gateway.config.capacity import IDLE_CONNECTIONS
from gateway.config.settings import Settings, SettingsError, settle
from gateway.keys import former_keys_file
from gateway.keys.file_store import FileStore
from gateway.runtime.counts_folder import CountsFolder, counts_folder
from gateway.runtime.data_folder import DataFolder, DataFolderError, DataFolderTaken
from gateway.runtime.machine_clock import machine_time
from gateway.runtime.whole_file import read_whole
from gateway.server import descriptors, listening, reload_answer
from gateway.server.reload_answer import ReloadAnswer
from gateway.web import configured, launch
from gateway.web.admission import MOST_WORKERS
from gateway.web.starts import Patience

log = logging.getLogger(__name__)

_WORKER_CLASS = "gateway.server.worker.GatewayWorker"


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
_counts_folder: CountsFolder | None = None  # None: each worker keeps its counts to itself
_patience = Patience()
_hangups = Hangups()

# Several gateways of one machine, as in containers, see the same processors: not all of them begin with the first.
_first_processor = random.randrange(1 << 16)

_NO_EXIT_STATUS = 256  # they have eight bits


def worker_connections(settings: Settings) -> int:
    """How many connections, idle ones included, one worker holds."""
    return settings.max_requests + IDLE_CONNECTIONS


def graceful_timeout(settings: Settings) -> int:
    """How long gunicorn waits for a stopping worker, in seconds: what the drain time leaves has to be told so."""
    return int(settings.drain_seconds) + 10


def on_starting(server: Any) -> None:
    """Before anything is bound: the command line must not undo what the settings promise; the data folder is ours."""
    settings = launch.settings()
    for option, given, wanted in _promised(server.cfg, settings):
        if given != wanted:
            _refuse(f"{option} is {given!r} and must be {wanted!r}: leave it to gunicorn.conf.py and GATEWAY_*")
    if server.cfg.worker_class_str != _WORKER_CLASS:
        _refuse(f"--worker-class: only {_WORKER_CLASS} keeps the gateway's promises")
    if server.cfg.is_ssl:
        _refuse("--certfile, --keyfile: end TLS in the proxy in front; its deadlines are not kept here")
    descriptors.raise_limit(settings.max_requests)
    _take_data_folder(settings)
    try:
        listening.refuse_taken_addresses(server.cfg.address)
    except SettingsError as error:
        _refuse(str(error))
    _find_room_for_counts(settings)
    launch.tell_doubts(settings)
    launch.reload_board.publish(settings.digest)
    server.handle_hup = MethodType(_handle_hup, server)
    server.signal = MethodType(_note_signal, server)
    server.stop = MethodType(_stop, server)
    server.murder_workers = MethodType(_look_around, server)
    server.spawn_workers = MethodType(_spawn_workers, server)
    server.reap_workers = MethodType(_reap_workers, server)


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
    settings = launch.settings()
    try:
        listening.refuse_exposure(server.LISTENERS, settings)
    except SettingsError as error:
        _refuse(str(error))
    listening.tell_start(server.LISTENERS, settings)
    if _data_folder is not None:
        _data_folder.name_master()  # not before gunicorn has its handlers of signals
    gc.freeze()  # what is loaded stays: workers share its memory with the master, and none looks for garbage in it


def _note_signal(server: Any, number: int, frame: Any) -> None:
    """A signal has come; gunicorn queues it."""
    if number == signal.SIGHUP:
        _hangups.note()
    type(server).signal(server, number, frame)


def _handle_hup(server: Any) -> None:
    """Check the configuration; if it is good, keep it for future workers and tell the running ones."""
    if not _hangups.wants_reading():
        return
    began_at = machine_time()
    try:
        found = configured.read_settings(read_whole)
        settled = settle(launch.settings(), found)
        listening.refuse_exposure(server.LISTENERS, settled)
    except Exception as error:  # whatever is wrong with the files, the gateway serves on
        if isinstance(error, SettingsError):
            launch.complain(error)
            complaints = error.complaints
        else:
            log.exception("the configuration cannot be read")
            complaints = ["the configuration cannot be read: the gateway's log says why"]
        log.error("reload refused: nothing has changed")
        launch.reload_board.publish(None)
        _leave_answer(ReloadAnswer(began_at, complaints, []))
        return
    needing_restart = found.changed_needing_restart(launch.settings())
    for name in needing_restart:
        log.warning("%s has changed; that needs a restart", name)
    launch.tell_doubts(settled)
    launch.adopt(settled)
    launch.reload_board.publish(settled.digest, {worker.row for worker in server.WORKERS.values()})
    server.kill_workers(signal.SIGHUP)
    _leave_answer(ReloadAnswer(began_at, [], needing_restart))


def _leave_answer(answer: ReloadAnswer) -> None:
    """Tell `gateway reload`, if it is what sent the signal."""
    if _data_folder is None:
        return
    try:
        reload_answer.leave(_data_folder.path, answer)
    except OSError as error:
        log.warning("`gateway reload` gets no answer: the data folder cannot be written to (%s)", error)


def _stop(server: Any, graceful: bool = True) -> None:
    """Stop; a worker that is only just forked, and misses the signal, finds it said."""
    launch.stop_board.publish()
    type(server).stop(server, graceful)


def _look_around(server: Any) -> None:
    """In every round of the master's loop, once a second or more often: whether workers live, and the data folder."""
    if _data_folder is not None:
        try:
            _data_folder.keep()
        except DataFolderTaken as error:
            log.error("the data folder was removed, and %s; this gateway stops", error)
            raise HaltServer("another gateway uses the data folder", 1) from error
    type(server).murder_workers(server)


def pre_fork(server: Any, worker: Any) -> None:
    """A worker is about to begin: it has a row of its own, a processor that few others have, and time to start."""
    others = server.WORKERS.values()
    worker.row = min(set(range(MOST_WORKERS)) - {other.row for other in others}, default=worker.age % MOST_WORKERS)
    worker.processor = None
    if launch.settings().pin_workers:
        processors = sorted(os.sched_getaffinity(0))
        first = _first_processor % len(processors)
        taken = Counter(other.processor for other in others)
        worker.processor = min(processors[first:] + processors[:first], key=taken.__getitem__)
    # Without a first beat nobody would miss the second. A start that waits for MCP servers has not stopped.
    beat_at = time.monotonic() + launch.settings().mcp_start_seconds
    os.utime(worker.tmp.fileno(), (beat_at, beat_at))


def _spawn_workers(server: Any) -> None:
    """Start the workers that are missing, unless the last one that was tried failed only just now."""
    if not _patience.may_start():
        return
    try:
        type(server).spawn_workers(server)
    except (OSError, RuntimeError) as error:  # no process, no descriptor, no room for the file of its heartbeat
        if os.getpid() != server.pid:
            os._exit(server.WORKER_BOOT_ERROR)
        _could_not_start(server.worker_age, f"could not be forked: {error}")


def _reap_workers(server: Any) -> None:
    """Take note of workers that have ended. gunicorn ends with one that could not start; that is right for a first
    start, which shows what is wrong to whoever looks on, but not where others serve or will serve again.
    """
    if launch.start_board.latest:
        server.WORKER_BOOT_ERROR = server.APP_LOAD_ERROR = _NO_EXIT_STATUS
    type(server).reap_workers(server)


def child_exit(server: Any, worker: Any) -> None:
    """A worker has ended, however: its counts are kept, its gauges of the moment and its slots are not."""
    if _counts_folder is not None:
        try:
            _counts_folder.forget_moment(worker.row)
        except OSError as error:  # whatever has become of the folder, the master goes on
            log.warning("what worker %d showed of the moment stays in /metrics: %s", worker.age, error)
    launch.slots_board.note(worker.row, 0)
    if not launch.start_board.has_served(worker.row, worker.age) and not launch.stop_board.says_so():
        _could_not_start(worker.age, "ended before it served")


def _could_not_start(number: int, how: str) -> None:
    pause_seconds = _patience.failed(number, launch.start_board.latest)
    if pause_seconds is not None:
        log.error("worker %d %s; the next is started in %.1f s", number, how, pause_seconds)


def on_exit(server: Any) -> None:
    """All workers have ended: nobody asks for their counts any more."""
    if _counts_folder is not None:
        _counts_folder.end()


def _find_room_for_counts(settings: Settings) -> None:
    """Workers count for each other in memory that is theirs beforehand; a disk that is full would kill them."""
    global _counts_folder
    path = counts_folder(Path(settings.data_dir))
    try:
        _counts_folder = CountsFolder(path, settings.workers)
    except OSError as error:
        log.warning("there is no room in %s (%s): /metrics shows the counts of the worker that answers", path, error)
    else:
        launch.share_counts(path)


def _take_data_folder(settings: Settings) -> None:
    """Hold the data folder for as long as any process of this gateway lives, and begin a new start in it."""
    global _data_folder
    try:
        _data_folder = DataFolder(settings.data_dir)
        reload_answer.forget(_data_folder.path)
        if settings.state_url is None:
            _begin_keys(_data_folder.path)
    except DataFolderError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"the data folder {settings.data_dir} cannot be used: {error}")


def _begin_keys(folder: Path) -> None:
    """Begin a new start in what is known of the keys.

    A full disk, or a process that was stopped with the folder's lock in its hand, keeps nobody from starting: it keeps
    nobody from serving either. The log says so.
    """
    store = FileStore(folder)
    try:
        store.start_anew(machine_time(), former_keys_file.read(folder))
        if store.is_up:
            former_keys_file.remove(folder)
    finally:
        store.close()


def _refuse(why: str) -> NoReturn:
    raise SystemExit(f"gateway: {why}")

"""gunicorn's gthread worker, as a gateway needs it.

Owns: the life of connections before and after a request, and the signals of a worker process. The main
loop's thread. What its threads do is `serving`'s. What gunicorn's own worker does otherwise, and why that will not do
here:

- It gives a new connection a thread before the client has sent a byte, and reads a request's head there, without a
  deadline; here connections wait in the poller until a head is whole (`waiting_room`), so that neither silent nor slow
  ones hold a thread.
- It waits for a refused client to hang up in the main loop, where meanwhile nobody is accepted; here that is the
  poller's affair, too.
- It accepts as many connections as it is told, whether or not there are descriptors for them, or any left for the
  upstream; here a reserve is kept (`descriptors`), and who has waited longest makes room for who comes.
- It spins when it is out of descriptors; here it waits a second.
- On SIGTERM it keeps its listening sockets open to the end, so that new connections hang in their queue; here they
  are closed at once, after what already queued was accepted.
- A client that takes nothing keeps it to the end of its grace, when it is killed; here such clients are cut off before.
- On SIGQUIT it waits for its threads; here streams are told the end, and the process ends.
- SIGHUP kills it; here it reloads the configuration in place.
- It misses a signal that comes right behind its fork, and the master then waits for it; here it looks whether to stop.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from typing import Any, ClassVar

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER

from gateway.config.capacity import IDLE_CONNECTIONS
from gateway.config.settings import SettingsError
from gateway.runtime.client_socket import ClientSocket
from gateway.runtime.process_tuning import keep_to, spare_memory
from gateway.server import descriptors
from gateway.server.clients_at_hand import ClientsAtHand
from gateway.server.connection import Connection, Progress
from gateway.server.head_collector import HeadRules
from gateway.server.lingering_close import LingeringCloses
from gateway.server.parking import Parking
from gateway.server.request_head import KnownLines, read_once
from gateway.server.serving import ServingWorker
from gateway.server.thread_pool import ThreadPool
from gateway.server.waiting_room import WaitingRoom
from gateway.web import configured, launch

log = logging.getLogger("gateway.worker")

_OUT_OF_DESCRIPTORS_SECONDS = 1.0
_QUIT_SECONDS = 1.0
_HEARTBEAT_SECONDS = 0.5
# How long clients may take, past the drain time, to take the end of their answers; the rest of the grace is `flush`'s.
_LAST_WORDS_SECONDS = 3.0
# Requests leave next to no cycles behind, so the youngest objects need not be looked at after every 700 (gc's default).
_COLLECT_AFTER = 5_000
_SHARE_OF_ROOM = 16  # one in so many connections makes room at a time


class GatewayWorker(ServingWorker):
    """A gthread worker with deadlines, a prompt stop and a reload in place."""

    # The base class resets its signals to their defaults first, and the default of SIGHUP is to die.
    SIGNALS: ClassVar = [number for number in ServingWorker.SIGNALS if number != signal.SIGHUP]

    processor: int | None = None  # the one to keep to; the master sets it

    def prepare(self) -> None:
        if self.processor is not None:
            keep_to(self.processor)
        spare_memory()
        read_once(self.cfg)
        self._head_rules = HeadRules(KnownLines(self.cfg), self.cfg)
        requests = self.cfg.worker_connections - IDLE_CONNECTIONS
        self.worker_connections = descriptors.most_connections(self.cfg.worker_connections, requests)
        self.max_keepalived = max(self.worker_connections - requests, self.worker_connections // 2)
        self._has_stopped_listening = False
        self._accepts_again_at = 0.0
        self._beats_again_at = 0.0
        self._has_told_full = False
        self._at_hand = ClientsAtHand()
        self._cuts_off_at: float | None = None

    def get_thread_pool(self) -> ThreadPool:
        """The threads that serve requests."""
        return ThreadPool(self.cfg.threads)

    def init_signals(self) -> None:
        signal.signal(signal.SIGHUP, self._handle_hup)
        signal.siginterrupt(signal.SIGHUP, False)
        super().init_signals()

    def run(self) -> None:
        """Serve until told to stop; a reload that came before the signal was handled here is caught up on."""
        self._lingering = LingeringCloses(self.poller)
        self._waiting = WaitingRoom(self.poller, self.enqueue_req, self._let_go, self._head_seconds)
        self._parking = Parking(self.go_on, self.tpool.submit, self._gateway.lifecycle)
        self._parking.start()
        gc.freeze()  # what is loaded stays: a collection that walks through all of it would stop every stream
        gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
        if not launch.reload_board.expects(self._gateway.configuration.settings.digest):
            self.method_queue.defer(self._reload)
        try:
            super().run()
        finally:
            self._gateway.flush()

    def notify(self) -> None:
        """Called by the main loop in every round: once a second at least, and whenever a connection has something."""
        if self._accepting and not self._wants_connections:  # the loop itself asks only what is new to it
            self._accept(False)
        now = time.monotonic()
        if now >= self._beats_again_at:
            self._beats_again_at = now + _HEARTBEAT_SECONDS
            self._gateway.admission.beat()
            super().notify()
        self._lingering.sweep()
        self._at_hand.sweep(now, self._gateway.configuration.settings.write_timeout_seconds)
        self._make_room()
        if self._gateway.lifecycle.is_over:
            self._cut_off_late()
        self._gateway.tick()

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop at once: what runs is told so, and has a moment to say it."""
        if self.booted:
            self.method_queue.defer(self._quit)
        self.handle_exit(sig, frame)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Besides: leave new connections to workers that have slots left, or until there are descriptors; and once
        stopping, take what has queued and close the listening sockets for good.
        """
        self._accept(enabled and self.alive and self._wants_connections)
        if not self.alive and not self._has_stopped_listening:
            self._has_stopped_listening = True
            for listener in self.sockets:
                self._accept_queued(listener)
                listener.close()
            self._gateway.drain()

    def _accept(self, is_accepting: bool) -> None:
        """Have the main loop accept connections or not, and the other workers know it."""
        super().set_accept_enabled(is_accepting)
        self._gateway.admission.announce(is_accepting)

    def accept(self, listener: Any) -> None:
        """Accept a connection and let it wait in the poller for its first byte."""
        if self.nr_conns >= self.worker_connections or (self.alive and not self._wants_connections):
            return  # it has become so since the loop last asked
        try:
            accepted, address = listener.accept()
            client = ClientSocket.adopt(accepted)
            connection = Connection(
                self._head_rules, self._lingering.begin, self.cfg, client, address, client.getsockname()
            )
            self._waiting.welcome(connection)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("a connection could not be accepted: %s; the next are accepted in a second", error)
            self._accepts_again_at = time.monotonic() + _OUT_OF_DESCRIPTORS_SECONDS
            return
        self.nr_conns += 1

    def finish_request(self, conn: Connection, is_kept: bool) -> None:
        """A thread has served the connection: wait for its next request, if it is not there already."""
        try:
            if not is_kept:
                self._let_go(conn, graceful=True)
            elif conn.collect_read_ahead() is Progress.READY:
                self.enqueue_req(conn)
            else:
                self._waiting.keep(conn, self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER)
        except OSError as error:
            log.debug("a connection could not be kept: %s", error)
            self._let_go(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Besides: not beyond a deadline of a connection that waits."""
        super().wait_for_and_dispatch_events(min(timeout, self._waiting.left_seconds))

    def murder_keepalived(self, force: bool = False) -> None:
        """End waits that are over; all of them, if the worker ends."""
        if force:
            self._waiting.close()
        else:
            self._waiting.expire()

    def _cap_keepalive(self, deadline: float) -> None:
        self._waiting.hurry(deadline)

    def _let_go(self, conn: Connection, graceful: bool = False) -> None:
        self.nr_conns -= 1
        conn.close(graceful)

    def _head_seconds(self) -> float:
        seconds = self._gateway.configuration.settings.head_timeout_seconds
        return seconds if self.alive else min(seconds, STOP_KEEPALIVE_LINGER)

    def _make_room(self) -> None:
        """If no more connections are taken, have who has waited longest make room; tell when this begins."""
        is_full = self.nr_conns >= self.worker_connections
        if is_full:
            if not self._has_told_full:
                log.warning(
                    "%d connections are open, as many as this worker takes; those that have waited longest are closed "
                    "for new ones",
                    self.nr_conns,
                )
            self._waiting.make_room(max(1, self.worker_connections // _SHARE_OF_ROOM))
        if is_full or self.nr_conns < self.worker_connections // 2:
            self._has_told_full = is_full

    @property
    def _wants_connections(self) -> bool:
        is_full = self._gateway.admission.should_yield(len(self._at_hand))
        return not is_full and time.monotonic() >= self._accepts_again_at

    def _cut_off_late(self) -> None:
        """Wake threads whose clients take nothing, so that their requests are counted and recorded."""
        if self._cuts_off_at is None:
            self._cuts_off_at = time.monotonic() + _LAST_WORDS_SECONDS
        elif time.monotonic() >= self._cuts_off_at:
            self._at_hand.cut_off_all()

    def _accept_queued(self, listener: Any) -> None:
        before = -1
        while self.nr_conns != before:
            before = self.nr_conns
            self.accept(listener)

    def _quit(self) -> None:
        self._gateway.lifecycle.end()
        # Threads that a client or an upstream keeps busy would keep the process, too.
        timer = threading.Timer(_QUIT_SECONDS, os._exit, (0,))
        timer.daemon = True
        timer.start()

    def _handle_hup(self, sig: int, frame: Any) -> None:
        if self.booted:  # else `run` sees for itself
            self.method_queue.defer(self._reload)

    def _reload(self) -> None:
        """Put in force what the master has checked; what fails here must not end the main loop."""
        expected = launch.reload_board.digest
        try:
            settings = configured.read_settings()
            if launch.reload_board.expects(settings.digest):
                self._gateway.reload(settings)
                launch.reloaded(settings)
                return
            log.error("the configuration changed again while it was reloaded; send SIGHUP once more")
        except SettingsError as error:
            launch.complain(error)
        except Exception:
            log.exception("the reload failed; nothing has changed in this worker")
        launch.reload_board.fail(expected)

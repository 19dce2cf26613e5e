"""gunicorn's gthread worker, as a gateway needs it.

Owns: the life of connections before and after a request, and the signals of a worker process. Web layer; the main
loop's thread, but for `handle` and what it calls. What gunicorn's own worker does otherwise, and why that will not do
here:

- It gives a new connection a thread before the client has sent a byte; here it waits in the poller like a kept one,
  so that silent connections hold no thread.
- It reads a request's head without a deadline; here `recv` has one.
- It waits for a refused client to hang up in the main loop, where meanwhile nobody is accepted; here that is the
  poller's affair, too.
- It invites a body (100 Continue) before anybody has looked at the request; here that is up to whoever reads it.
- It spins when it is out of descriptors; here it waits a second.
- On SIGTERM it keeps its listening sockets open to the end, so that new connections hang in their queue; here they
  are closed at once, after what already queued was accepted.
- A client that takes nothing keeps it to the end of its grace, when it is killed; here such clients are cut off before.
- On SIGQUIT it waits for its threads; here streams are told the end, and the process ends.
- SIGHUP kills it; here it reloads the configuration in place.
- It misses a signal that comes right behind its fork, and the master then waits for it; here it looks whether to stop.
- It answers a malformed request with an HTML page, and logs the offending header, which may be a credential.
- It sends a response's head by itself; here that goes with the first piece of the body.
- It hands a connection back to the main loop after every answer, and from there to a thread again: two changes of
  threads and a dozen system calls; here the thread waits a moment for the next request itself.
- It parses and checks lines of heads that it has read a thousand times, and looks each of its settings up anew; here
  `request_head` knows such lines again, and the settings are plain attributes.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import selectors
import signal
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

from flask import has_app_context
from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from gateway import launch
from gateway.client_socket import ClientSocket, ReadDeadlineExceeded
from gateway.goodbyes import Connection, Goodbyes
from gateway.malformed import FAILURE, refusal_of
from gateway.request_head import KnownLines, read_once
from gateway.server_response import PromptResponse
from gateway.service import Gateway
from gateway.settings import SettingsError
from gateway.thread_pool import ThreadPool

log = logging.getLogger(__name__)

# What a kept connection may still hold of a body that nobody read; the rest is not waited for.
_LEFTOVER_SECONDS = 0.02
_OUT_OF_DESCRIPTORS_SECONDS = 1.0
_QUIT_SECONDS = 1.0
_HEARTBEAT_SECONDS = 0.5
# How long a thread waits for a client's next request, if so many threads are spare.
_LINGER_SECONDS = 0.002
_SPARE_FOR_LINGERING = 8
# How long clients may take, past the drain time, to take the end of their answers; the rest of the grace is `flush`'s.
_LAST_WORDS_SECONDS = 3.0
# Requests leave next to no cycles behind, so the youngest objects need not be looked at after every 700 (gc's default).
_COLLECT_AFTER = 5_000
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # see mallopt(3)
_LARGE_BYTES = 1024 * 1024


class _Served:
    """What became of a connection, in the form in which gunicorn wants to be told."""

    __slots__ = ("_is_kept",)

    def __init__(self, is_kept: bool) -> None:
        self._is_kept = is_kept

    def cancelled(self) -> bool:
        return False

    def result(self) -> bool:
        return self._is_kept


class GatewayWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A gthread worker with deadlines, a prompt stop and a reload in place."""

    # The base class resets its signals to their defaults first, and the default of SIGHUP is to die.
    SIGNALS: ClassVar = [number for number in ThreadWorker.SIGNALS if number != signal.SIGHUP]

    processor: int | None = None  # the one to keep to; the master sets it

    def init_process(self) -> None:
        launch.become_worker(self.age)
        if self.processor is not None:
            _keep_to(self.processor)
        _spare_memory()
        read_once(self.cfg)
        self._known_lines = KnownLines(self.cfg)
        self._has_stopped_listening = False
        self._accepts_again_at = 0.0
        self._beats_again_at = 0.0
        self._at_hand: set[ClientSocket] = set()  # whose requests have come and not ended; single steps are atomic
        self._cuts_off_at: float | None = None
        super().init_process()

    def get_thread_pool(self) -> ThreadPool:
        """The threads that serve requests."""
        return ThreadPool(self.cfg.threads)

    def init_signals(self) -> None:
        signal.signal(signal.SIGHUP, self._handle_hup)
        signal.siginterrupt(signal.SIGHUP, False)
        super().init_signals()

    def run(self) -> None:
        """Serve until told to stop; a reload that came before the signal was handled here is caught up on."""
        self._goodbyes = Goodbyes(self.poller)
        gc.freeze()  # what is loaded stays: a collection that walks through all of it would stop every stream
        gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
        if not launch.reload_board.expects(self._gateway.configuration.settings.digest):
            self.method_queue.defer(self._reload)
        if launch.stop_board.says_so():
            self.handle_exit(signal.SIGTERM, None)
        try:
            super().run()
        finally:
            self._gateway.flush()

    def notify(self) -> None:
        """Called by the main loop in every round, which comes about once a second at least."""
        if self._accepting and not self._wants_connections:  # the loop itself asks only what is new to it
            super().set_accept_enabled(False)
        now = time.monotonic()
        if now >= self._beats_again_at:
            self._beats_again_at = now + _HEARTBEAT_SECONDS
            super().notify()
        self._goodbyes.sweep()
        if self._gateway.lifecycle.is_over:
            self._cut_off_late()
        self._gateway.tick()

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop at once: what runs is told so, and has a moment to say it."""
        self.method_queue.defer(self._quit)
        self.handle_exit(sig, frame)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Besides: leave new connections to workers that have places left, or until there are descriptors; and once
        stopping, take what has queued and close the listening sockets for good.
        """
        super().set_accept_enabled(enabled and self._wants_connections)
        if not self.alive and not self._has_stopped_listening:
            self._has_stopped_listening = True
            for listener in self.sockets:
                self._accept_queued(listener)
                listener.close()
            for connection in self.pending_conns:
                connection.timeout = min(connection.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
            self._gateway.drain()

    def accept(self, listener: Any) -> None:
        """Accept a connection and let it wait in the poller for its first byte."""
        if self.alive and not self._wants_connections:  # it has become so since the loop last asked
            return
        settings = self._gateway.configuration.settings
        try:
            accepted, address = listener.accept()
            client = ClientSocket.adopt(accepted, settings.write_timeout_seconds)
            connection = Connection(self.cfg, client, address, client.getsockname())
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("a connection could not be accepted: %s; the next are accepted in a second", error)
            self._accepts_again_at = time.monotonic() + _OUT_OF_DESCRIPTORS_SECONDS
            return
        connection.goodbye = self._goodbyes.say
        connection.known_lines = self._known_lines
        self.nr_conns += 1
        connection.timeout = time.monotonic() + settings.head_timeout_seconds
        self.pending_conns.append(connection)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, connection))

    def enqueue_req(self, conn: Any) -> None:
        """Have a thread serve what the connection has brought."""
        self._at_hand.add(conn.sock)
        self.tpool.submit(partial(self._serve, conn))

    def _serve(self, conn: Any) -> None:
        """Serve a connection's request and those that follow closely; then the main loop has it back."""
        is_kept = False
        try:
            if not has_app_context():  # there is nothing of a request's own in it: a thread has one for good
                self.wsgi.app_context().push()
            is_kept = self.handle(conn)
            while is_kept and self._lingers(conn):
                is_kept = self.handle(conn)
        finally:
            self.method_queue.defer(self.finish_request, conn, _Served(is_kept))

    def _lingers(self, conn: Any) -> bool:
        """Whether the client asks again at once. Not for requests that came together: others have their turn first."""
        if not self.alive or self.tpool.spare < _SPARE_FOR_LINGERING or conn.parser.unreader.buf.getvalue():
            return False
        client: ClientSocket = conn.sock
        return client.is_readable(_LINGER_SECONDS)

    def handle(self, conn: Any) -> Any:
        """Serve a request in a thread; its head must arrive before the deadline."""
        settings = self._gateway.configuration.settings
        client = conn.sock
        client.read_deadline_at = time.monotonic() + settings.head_timeout_seconds
        self._at_hand.add(client)
        try:
            return super().handle(conn)
        finally:
            self._at_hand.discard(client)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """The head is there: have the application answer, and say whether the connection is kept.

        The body's deadline is set, and the body asked for, where it is read.
        """
        conn.sock.read_deadline_at = None
        conn.sock.owes_continue = req._expected_100_continue
        req._expected_100_continue = False
        began_at = time.monotonic()
        response, environ = wsgi.create(
            req, conn.sock, conn.client, conn.server, self.cfg, response_class=PromptResponse
        )
        environ["wsgi.multithread"] = True
        environ["gateway.client"] = response
        if not self.alive or len(self.keepalived_conns) >= self.max_keepalived:
            response.force_close()
        try:
            self._respond(response, environ)
        except OSError:
            raise  # the client is gone; gunicorn's `handle` knows what to do
        except Exception as error:
            if not response.headers_sent:
                raise
            # An error page would come in the middle of the answer.
            log.exception("an answer broke off inside the gateway")
            util.close_graceful(conn.sock)
            raise StopIteration from error
        finally:
            self.log.access(response, req, environ, timedelta(seconds=time.monotonic() - began_at))
        return not response.should_close()

    def _respond(self, response: PromptResponse, environ: dict[str, Any]) -> None:
        body = self.wsgi(environ, response.start_response)
        try:
            for piece in body:
                response.write(piece)
            response.close()
        finally:
            if hasattr(body, "close"):  # not every iterable has it (PEP 3333)
                body.close()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer a request that could not be parsed, in the protocol's shape."""
        refusal = refusal_of(exc)
        if refusal is not None:
            log.warning("refused a request from %s: %s", (addr or ("a socket",))[0], refusal.message)
            self._gateway.metrics.count_refusal("unknown", refusal.status, refusal.kind)
        else:
            log.error("a request failed in the server", exc_info=exc)
        try:
            client.sendall((refusal or FAILURE).rendered())
        except OSError as error:
            log.debug("the refusal was not delivered: %s", error)

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Whether the connection can carry another request: not if its body is still to come."""
        if not keepalive or conn.sock.owes_continue:
            return False
        conn.sock.read_deadline_at = deadline = time.monotonic() + _LEFTOVER_SECONDS
        try:
            # gunicorn looks at the deadline between pieces, and a trickle never completes one.
            return bool(conn.parser.finish_body(deadline=deadline))
        except ReadDeadlineExceeded:
            return False
        finally:
            conn.sock.read_deadline_at = None

    @property
    def _wants_connections(self) -> bool:
        is_full = self._gateway.admission.should_yield(len(self._at_hand))
        return not is_full and time.monotonic() >= self._accepts_again_at

    @property
    def _gateway(self) -> Gateway:
        gateway: Gateway = self.wsgi.extensions["gateway"]
        return gateway

    def _cut_off_late(self) -> None:
        """Wake threads whose clients take nothing, so that their requests are counted and recorded."""
        if self._cuts_off_at is None:
            self._cuts_off_at = time.monotonic() + _LAST_WORDS_SECONDS
        elif time.monotonic() >= self._cuts_off_at:
            for client in list(self._at_hand):
                with suppress(OSError):  # it has hung up
                    client.shutdown(socket.SHUT_RDWR)

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
            settings = launch.read_settings()
            if launch.reload_board.expects(settings.digest):
                self._gateway.reload(settings)
                return
            log.error("the configuration changed again while it was reloaded; send SIGHUP once more")
        except SettingsError as error:
            launch.complain(error)
        except Exception:
            log.exception("the reload failed; nothing has changed in this worker")
        launch.reload_board.fail(expected)


def _keep_to(processor: int) -> None:
    """Have this process's threads, those to come included, take turns at one processor, and let each other finish.

    Threads that share an interpreter lose half their time when each turn is on another processor. One that wakes while
    another is at work would only find the interpreter taken: under SCHED_BATCH (sched(7)) it does not interrupt.
    """
    try:
        os.sched_setaffinity(0, {processor})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:  # a sandbox may forbid it
        log.warning("the worker's threads go where the system puts them: %s", error.strerror)


def _spare_memory() -> None:
    """Have the C library return the memory of large bodies, and share the rest among all threads.

    glibc would keep up to 64 MB in each of many arenas; as threads take turns at the interpreter, two are enough.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not every C library has it, nor needs it
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_ARENA_MAX, 2)

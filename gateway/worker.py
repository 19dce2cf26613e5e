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
- It answers a malformed request with an HTML page, and logs the offending header, which may be a credential.
"""

from __future__ import annotations

import ctypes
import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from gunicorn import util
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from gateway import launch
from gateway.client_socket import ClientSocket, ReadDeadlineExceeded
from gateway.malformed import FAILURE, refusal_of
from gateway.service import Gateway
from gateway.settings import SettingsError

log = logging.getLogger(__name__)

# How long a client that was answered may take to hang up, and, while it still sends, in all.
_GOODBYE_SECONDS = 2.0
_LONGEST_GOODBYE_SECONDS = 30.0
# What a kept connection may still hold of a body that nobody read; the rest is not waited for.
_LEFTOVER_SECONDS = 0.02
_OUT_OF_DESCRIPTORS_SECONDS = 1.0
_QUIT_SECONDS = 1.0
# How long clients may take, past the drain time, to take the end of their answers; the rest of the grace is `flush`'s.
_LAST_WORDS_SECONDS = 3.0
_M_MMAP_THRESHOLD, _LARGE_BYTES = -3, 1024 * 1024  # see mallopt(3)


class _Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A connection that does not wait for its client when it is closed: `goodbye` sees to that."""

    goodbye: Callable[[ClientSocket], None]

    def close(self, graceful: bool = False) -> None:
        """Close now, or as soon as the client has had the answer; may be called again."""
        if graceful:
            self.goodbye(self.sock)
        else:
            util.close(self.sock)


class _Goodbyes:
    """Answered connections whose clients are given time to hang up first, so that they lose nothing of the answer.

    A reset would overtake it: that is what closing does while the client still sends (RFC 9112 section 9.6).
    """

    def __init__(self, poller: selectors.BaseSelector) -> None:
        self._poller = poller
        self._waiting: dict[ClientSocket, tuple[float, float]] = {}  # the next deadline, and the last

    def say(self, client: ClientSocket) -> None:
        """End our side; close when the client has ended its own, or after a while."""
        try:
            client.setblocking(False)
            client.shutdown(socket.SHUT_WR)
            self._poller.register(client, selectors.EVENT_READ, self._heard)
        except OSError:
            util.close(client)
            return
        now = time.monotonic()
        self._waiting[client] = (now + _GOODBYE_SECONDS, now + _LONGEST_GOODBYE_SECONDS)

    def sweep(self) -> None:
        """Close those that have had their time."""
        now = time.monotonic()
        for client in [client for client, deadlines in self._waiting.items() if min(deadlines) <= now]:
            self._end(client)

    def _heard(self, client: ClientSocket) -> None:
        client.read_deadline_at = None
        try:
            is_over = not client.recv(64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            is_over = True
        if is_over:
            self._end(client)
        else:
            self._waiting[client] = (time.monotonic() + _GOODBYE_SECONDS, self._waiting[client][1])

    def _end(self, client: ClientSocket) -> None:
        del self._waiting[client]
        self._poller.unregister(client)
        util.close(client)


class GatewayWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A gthread worker with deadlines, a prompt stop and a reload in place."""

    # The base class resets its signals to their defaults first, and the default of SIGHUP is to die.
    SIGNALS: ClassVar = [number for number in ThreadWorker.SIGNALS if number != signal.SIGHUP]

    def init_process(self) -> None:
        launch.become_worker(self.age)
        _return_large_blocks()
        self._has_stopped_listening = False
        self._accepts_again_at = 0.0
        self._served: set[ClientSocket] = set()  # by threads, now; additions and removals are atomic
        self._cuts_off_at: float | None = None
        super().init_process()

    def init_signals(self) -> None:
        signal.signal(signal.SIGHUP, self._handle_hup)
        signal.siginterrupt(signal.SIGHUP, False)
        super().init_signals()

    def run(self) -> None:
        """Serve until told to stop; a reload that came before the signal was handled here is caught up on."""
        self._goodbyes = _Goodbyes(self.poller)
        if not launch.reload_board.expects(self._gateway.configuration.settings.digest):
            self.method_queue.defer(self._reload)
        try:
            super().run()
        finally:
            self._gateway.flush()

    def notify(self) -> None:
        """Called by the main loop in every round, which comes about once a second at least."""
        super().notify()
        if self._accepting and not self._wants_connections:  # the loop itself asks only what is new to it
            super().set_accept_enabled(False)
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
            connection = _Connection(self.cfg, client, address, client.getsockname())
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("a connection could not be accepted: %s; the next are accepted in a second", error)
            self._accepts_again_at = time.monotonic() + _OUT_OF_DESCRIPTORS_SECONDS
            return
        connection.goodbye = self._goodbyes.say
        self.nr_conns += 1
        connection.timeout = time.monotonic() + settings.head_timeout_seconds
        self.pending_conns.append(connection)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, connection))

    def handle(self, conn: Any) -> Any:
        """Serve a request in a thread; its head must arrive before the deadline."""
        settings = self._gateway.configuration.settings
        client = conn.sock
        client.read_deadline_at = time.monotonic() + settings.head_timeout_seconds
        self._served.add(client)
        try:
            return super().handle(conn)
        finally:
            self._served.discard(client)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """The head is there; the body's deadline is set, and the body asked for, where it is read."""
        conn.sock.read_deadline_at = None
        conn.sock.owes_continue = req._expected_100_continue
        req._expected_100_continue = False
        return super().handle_request(req, conn)

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
        return not self._gateway.admission.should_yield and time.monotonic() >= self._accepts_again_at

    @property
    def _gateway(self) -> Gateway:
        gateway: Gateway = self.wsgi.extensions["gateway"]
        return gateway

    def _cut_off_late(self) -> None:
        """Wake threads whose clients take nothing, so that their requests are counted and recorded."""
        if self._cuts_off_at is None:
            self._cuts_off_at = time.monotonic() + _LAST_WORDS_SECONDS
        elif time.monotonic() >= self._cuts_off_at:
            for client in list(self._served):
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
        launch.reload_board.publish(None)


def _return_large_blocks() -> None:
    """Have the C library return the memory of large bodies; glibc would keep up to 64 MB in each arena."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not every C library has it, nor needs it
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)

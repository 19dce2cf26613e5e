"""gunicorn's gthread worker, as a gateway needs it.

Owns: the life of connections before and after a request, and the signals of a worker process. Web layer. What
gunicorn's own worker does otherwise, and why that will not do here:

- It gives a new connection a thread before the client has sent a byte; here it waits in the poller like a kept one,
  so that silent connections hold no thread.
- It reads a request's head without a deadline; here `recv` has one.
- On SIGTERM it keeps its listening sockets open to the end, so that new connections hang in their queue; here they
  are closed at once, after what already queued was accepted.
- SIGHUP kills it; here it reloads the configuration in place.
- It answers a malformed request with an HTML page, and logs the offending header, which may be a credential.
"""

from __future__ import annotations

import logging
import selectors
import signal
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from gunicorn import util
from gunicorn.http import errors as http_errors
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from gateway import launch
from gateway.client_socket import ClientSocket, ReadDeadlineExceeded
from gateway.errors import error_body
from gateway.responses import new_request_id
from gateway.service import Gateway
from gateway.settings import SettingsError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """The answer to a request that never became one."""

    status: int
    reason: str
    kind: str
    message: str

    def rendered(self) -> bytes:
        """The whole response; the connection closes behind it, for where the next request begins is unknown."""
        request_id = new_request_id()
        body = error_body(self.kind, self.message, request_id)
        head = (
            f"HTTP/1.1 {self.status} {self.reason}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nrequest-id: {request_id}\r\nDate: {util.http_date()}\r\n"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + body


def _bad(status: int, reason: str, message: str) -> _Refusal:
    return _Refusal(status, reason, "invalid_request_error", message)


_REFUSALS: tuple[tuple[type[Exception], _Refusal], ...] = (
    (http_errors.LimitRequestLine, _bad(414, "URI Too Long", "the request line is too long")),
    (http_errors.LimitRequestHeaders, _bad(431, "Request Header Fields Too Large", "the request's head is too large")),
    (http_errors.UnsupportedTransferCoding, _bad(501, "Not Implemented", "the transfer coding is not supported")),
    (http_errors.ExpectationFailed, _bad(417, "Expectation Failed", "the expectation cannot be met")),
    (http_errors.ParseException, _bad(400, "Bad Request", "the request is not well-formed HTTP/1.1")),
    (
        ReadDeadlineExceeded,
        _Refusal(408, "Request Timeout", "timeout_error", "the request's head did not arrive in time"),
    ),
)
_FAILURE = _Refusal(500, "Internal Server Error", "api_error", "the gateway failed to serve this request")


_GOODBYE_SECONDS = 2.0
_SHORT_GOODBYE_SECONDS = 0.1


class _Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A connection that is parted from in the thread that served it.

    The client is given up to two seconds to hang up first, so that it loses nothing of the answer; gunicorn waits for
    that in the main loop, where meanwhile nobody is accepted or dispatched.
    """

    def part(self) -> None:
        """End the sending side, wait for the client, close; one that has run out its time is not waited for long."""
        deadline_at, self.sock.read_deadline_at = self.sock.read_deadline_at, None
        has_dawdled = deadline_at is not None and deadline_at <= time.monotonic()
        self.sock.setblocking(True)
        util.close_graceful(self.sock, timeout=_SHORT_GOODBYE_SECONDS if has_dawdled else _GOODBYE_SECONDS)

    def close(self, graceful: bool = False) -> None:
        """Close now; may be called again."""
        util.close(self.sock)


class GatewayWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A gthread worker with deadlines, a prompt stop and a reload in place."""

    # The base class resets its signals to their defaults first, and the default of SIGHUP is to die.
    SIGNALS: ClassVar = [number for number in ThreadWorker.SIGNALS if number != signal.SIGHUP]

    def init_process(self) -> None:
        launch.become_worker(self.age)
        super().init_process()

    def init_signals(self) -> None:
        signal.signal(signal.SIGHUP, self._handle_hup)
        signal.siginterrupt(signal.SIGHUP, False)
        super().init_signals()

    def run(self) -> None:
        """Serve until told to stop; a reload that came before the signal was handled here is caught up on."""
        if not launch.reload_board.expects(self._gateway.configuration.settings.digest):
            self.method_queue.defer(self._reload)
        try:
            super().run()
        finally:
            self._gateway.flush()

    def notify(self) -> None:
        """Called about once a second by the main loop."""
        super().notify()
        self._gateway.tick()

    def set_accept_enabled(self, enabled: bool) -> None:
        """Besides: leave new connections to workers that have places left; and once stopping, take what has queued
        and close the listening sockets for good.
        """
        super().set_accept_enabled(enabled and not self._gateway.admission.should_yield)
        if not enabled and not self.alive:
            for listener in self.sockets:
                self._accept_queued(listener)
                listener.close()
            for connection in self.pending_conns:
                connection.timeout = min(connection.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
            self._gateway.drain()

    def accept(self, listener: Any) -> None:
        """Accept a connection and let it wait in the poller for its first byte."""
        settings = self._gateway.configuration.settings
        try:
            accepted, address = listener.accept()
            client = ClientSocket.adopt(accepted, settings.write_timeout_seconds)
            connection = _Connection(self.cfg, client, address, client.getsockname())
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors, say: the worker lives on, and those connected are served
            log.error("a connection could not be accepted: %s", error)
            return
        self.nr_conns += 1
        connection.timeout = time.monotonic() + settings.head_timeout_seconds
        self.pending_conns.append(connection)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, connection))

    def handle(self, conn: Any) -> Any:
        """Serve a request in a thread; its head must arrive before the deadline."""
        client = conn.sock
        if isinstance(client, ClientSocket):
            settings = self._gateway.configuration.settings
            client.read_deadline_at = time.monotonic() + settings.head_timeout_seconds
        is_kept = super().handle(conn)
        if is_kept is False:
            conn.part()
        return is_kept

    def handle_request(self, req: Any, conn: Any) -> Any:
        """The head is there; the body's deadline is set where the body is read."""
        if isinstance(conn.sock, ClientSocket):
            conn.sock.read_deadline_at = None
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer a request that could not be parsed, in the protocol's shape."""
        refusal = next((refusal for kind, refusal in _REFUSALS if isinstance(exc, kind)), None)
        if refusal is not None:
            log.warning("refused a request from %s: %s", (addr or ("a socket",))[0], refusal.message)
        else:
            log.error("a request failed in the server", exc_info=exc)
        try:
            client.sendall((refusal or _FAILURE).rendered())
        except OSError as error:
            log.debug("the refusal was not delivered: %s", error)

    @property
    def _gateway(self) -> Gateway:
        gateway: Gateway = self.wsgi.extensions["gateway"]
        return gateway

    def _accept_queued(self, listener: Any) -> None:
        before = -1
        while self.nr_conns != before:
            before = self.nr_conns
            self.accept(listener)

    def _handle_hup(self, sig: int, frame: Any) -> None:
        if self.booted:  # else `run` sees for itself
            self.method_queue.defer(self._reload)

    def _reload(self) -> None:
        """Put in force what the master has checked."""
        try:
            settings = launch.read_settings()
            if not launch.reload_board.expects(settings.digest):
                log.error("the configuration changed again while it was reloaded; send SIGHUP once more")
                return
            self._gateway.reload(settings)
        except SettingsError as error:
            launch.complain(error)

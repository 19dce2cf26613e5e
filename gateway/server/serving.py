"""What a worker's threads do with a connection whose request's head is there.

Owns: serving a connection's requests, and answers to what never became one. The pool's threads. The main
loop, which hands connections over and takes them back, is `worker`'s. What gunicorn's own worker does otherwise, and
why that will not do here:

- It invites a body (100 Continue) before anybody has looked at the request; here that is up to whoever reads it.
- It answers a malformed request with an HTML page, and logs the offending header, which may be a credential.
- It sends a response's head by itself; here that goes with the first piece of the body.
- It keeps a thread for a response until that is over; here one that waits is parked, and has none (`parking`).
- It hands a connection back to the main loop after every answer, and from there to a thread again: two changes of
  threads and a dozen system calls; here the next request is waited for a moment where the last one was served (`kept`).
- It parses and checks lines of heads that it has read a thousand times, and looks each of its settings up anew; here
  `request_head` knows such lines again, and the settings are plain attributes.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from gunicorn.http import wsgi

from gateway.access.cors import unread_answer_headers
from gateway.runtime.client_socket import ReadDeadlineExceeded
from gateway.server.answer import Answer
from gateway.server.arriving_body import ArrivingBody
from gateway.server.bad_request import FAILURE, refusal_of
from gateway.server.clients_at_hand import ClientsAtHand
from gateway.server.connection import Connection, Progress
from gateway.server.kept import Kept
from gateway.server.parking import Parked, Parking
from gateway.server.server_response import PromptResponse
from gateway.server.thread_pool import ThreadPool
from gateway.server.waiting_room import WaitingRoom
from gateway.server.worker_life import PromptWorker
from gateway.web.service import Gateway

log = logging.getLogger("gateway.worker")  # who reads the log knows one worker, however its code is cut

# How long what has come of a body that nobody read is read, before the connection is closed for it.
_LEFTOVER_SECONDS = 0.02
# Requests that begin so pause wherever they would wait.
_QUICK = b"POST /v1/messages"


class ServingWorker(PromptWorker):
    """A gthread worker as its threads know it."""

    tpool: ThreadPool
    _at_hand: ClientsAtHand
    _waiting: WaitingRoom
    _parking: Parking

    def enqueue_req(self, conn: Connection) -> None:
        """Have served what the connection has brought: by the poller, if nothing of it may block, else in a thread."""
        self._at_hand.add(conn.sock)
        if self._is_quick(conn):
            self._parking.park(Kept(conn, has_head=True))
        else:
            self.tpool.submit(partial(self._serve, conn))

    def _is_quick(self, conn: Connection) -> bool:
        """Whether a request is one of those that pause where they would wait, and not a page that is made at once."""
        return conn.refusal is None and conn.begins_with(_QUICK) and not self._gateway.limiter.may_wait

    def _serve(self, conn: Connection) -> None:
        """Serve a connection's request in a thread."""
        served: bool | Answer = False
        try:
            served = self.handle(conn)
        finally:
            following = self._following(conn, served)
            if following is not None:
                self._parking.park(following)  # and from here on it is another's

    def go_on(self, parked: Parked) -> Parked | None:
        """Go on with a response that has paused, or a kept connection; what is to be parked next."""
        if isinstance(parked, Kept):
            return self._next_request(parked)
        conn = parked.connection
        served: bool | Answer = False
        try:
            if self._run(parked):
                return parked
            served = self._keepalive_after(conn, not parked.response.should_close())
        except StopIteration as error:  # as gunicorn has it
            log.debug("closing a connection: %s", error)
        except OSError as error:
            is_gone = isinstance(error, ConnectionError)
            log.log(logging.DEBUG if is_gone else logging.ERROR, "a connection broke", exc_info=error)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told
            self.handle_error(parked.request, conn.sock, conn.client, error)
        self._at_hand.discard(conn.sock)
        return self._following(conn, served)

    def _next_request(self, kept: Kept) -> Parked | None:
        conn = kept.connection
        if not kept.has_head:
            progress = conn.collect()
            if progress is not Progress.READY:  # in time
                self.method_queue.defer(self.finish_request, conn, progress is not Progress.GONE)
                return None
            if not self._is_quick(conn):
                self.tpool.submit(partial(self._serve, conn))
                return None
        served: bool | Answer = False
        try:
            served = self.handle(conn)
        except Exception:  # it would end the poller's round
            log.exception("a connection failed in the server")
        return self._following(conn, served)

    def _following(self, conn: Connection, served: bool | Answer) -> Parked | None:
        """What is to be parked when a request has been served, or as far as it could be."""
        if isinstance(served, Answer):
            return served
        if served and self.alive and not conn.parser.unreader.buf.getvalue():
            return Kept(conn)
        # Requests that came together: others have their turn first.
        self.method_queue.defer(self.finish_request, conn, served)
        return None

    def handle(self, conn: Connection) -> bool | Answer:
        """Serve a request in a thread: whether its connection is kept, or a response that has paused."""
        client = conn.sock
        self._at_hand.add(client)
        served: bool | Answer = False
        try:
            if conn.refusal is not None:
                self.handle_error(None, client, conn.client, conn.refusal)
                return False
            # The head is there. Only what is no plain HTTP has to be waited for.
            client.read_deadline_at = time.monotonic() + self._gateway.configuration.settings.head_timeout_seconds
            served = super().handle(conn)
            return served
        finally:
            if not isinstance(served, Answer):
                self._at_hand.discard(client)

    def handle_request(self, req: Any, conn: Connection) -> bool | Answer:
        """The head is there: have the application answer. As `handle`.

        The body's deadline is set, and the body asked for, where it is read.
        """
        conn.sock.read_deadline_at = None
        conn.sock.owes_continue = req._expected_100_continue
        req._expected_100_continue = False
        response, environ = wsgi.create(
            req, conn.sock, conn.client, conn.server, self.cfg, response_class=PromptResponse
        )
        environ["wsgi.multithread"] = True
        environ["gateway.body"] = ArrivingBody(req, conn.sock)
        is_crowded = self._waiting.kept >= self.max_keepalived
        if not self.alive or (is_crowded and req.req_number == 1):  # known clients keep their connections
            response.force_close()
        answer = Answer(conn, req, response, environ)
        return answer if self._run(answer, begins=True) else not response.should_close()

    def _run(self, answer: Answer, begins: bool = False) -> bool:
        """Run a response; whether it has paused."""
        is_paused = False
        try:
            try:
                if begins:
                    answer.begin(self._application)
                is_paused = answer.run()
            finally:
                if not is_paused:
                    answer.end(self.log)
        except OSError:
            raise  # the client is gone
        except Exception as error:
            if not answer.response.headers_sent:
                raise
            # An error page would come in the middle of the answer.
            log.exception("an answer broke off inside the gateway")
            raise StopIteration from error
        return is_paused

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer a request that could not be parsed, in the protocol's shape."""
        refusal = refusal_of(exc)
        if refusal is not None:
            log.warning("refused a request from %s: %s", (addr or ("a socket",))[0], refusal.message)
            self._gateway.metrics.count_refusal("unknown", refusal.status, refusal.kind)
        else:
            log.error("a request failed in the server", exc_info=exc)
        settings = self._gateway.configuration.settings
        try:
            answer = (refusal or FAILURE).rendered(unread_answer_headers(settings.cors_origins))
            client.send(answer, socket.MSG_DONTWAIT)  # a client that takes nothing must not hold up the poller
        except OSError as error:
            log.debug("the refusal was not delivered: %s", error)

    def _keepalive_after(self, conn: Connection, keepalive: bool | Answer) -> bool | Answer:
        """Whether the connection can carry another request: not if its body is still to come."""
        if isinstance(keepalive, Answer):
            return keepalive
        if not keepalive or conn.sock.owes_continue:
            return False
        conn.sock.read_deadline_at = now = time.monotonic()  # what is still to come is not waited for
        try:
            return bool(conn.parser.finish_body(deadline=now + _LEFTOVER_SECONDS))
        except ReadDeadlineExceeded:
            return False
        finally:
            conn.sock.read_deadline_at = None

    @property
    def _application(self) -> Callable[..., Iterable[bytes]]:
        """The application with its Pauses: any other server is given none."""
        application: Callable[..., Iterable[bytes]] = self.wsgi.extensions["pausing"]
        return application

    @property
    def _gateway(self) -> Gateway:
        gateway: Gateway = self.wsgi.extensions["gateway"]
        return gateway

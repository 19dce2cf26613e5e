"""One client request to `/v1/messages`, from the first byte in to the last byte out.

Owns: the one loop over turns, relaying each to the client, and saying how it ended.
`run` is a generator of one Head and then bytes, and of Pauses all along; closing it at any point frees the upstream's
connection and records what was seen. What is asked in each turn, and what of the answer is shown, is the Conversation's
affair.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Generator
from contextlib import closing

from gateway.protocol.errors import (
    ClientGone,
    GatewayError,
    Stopping,
    UpstreamError,
    error_event,
    upstream_error_event,
)
from gateway.protocol.outcomes import Ending, stream_ending_of
from gateway.records.record_builder import RecordBuilder
from gateway.relay.conversation import Conversation
from gateway.relay.pace import Output, Pace
from gateway.relay.turn import Turn, TurnMaker
from gateway.telemetry.metrics import Metrics
from gateway.upstream import Reply
from gateway.upstream.event_stream import EventStream

log = logging.getLogger(__name__)

# How long a stream may stay open behind its last event, and how much may come, before its connection is dropped.
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 64 * 1024


class Interception:
    """Relays one messages request. `clock` is monotonic; `started_at` is its reading at the request's head.

    `settle` is called before the client is told the end of a turn: what the last one has used is counted by then.
    """

    __slots__ = (
        "_builder",
        "_clock",
        "_conversation",
        "_has_relayed",
        "_metrics",
        "_pace",
        "_settle",
        "_started_at",
        "_turns",
    )

    def __init__(
        self,
        conversation: Conversation,
        turns: TurnMaker,
        pace: Pace,
        metrics: Metrics,
        builder: RecordBuilder,
        started_at: float,
        clock: Callable[[], float] = time.monotonic,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._conversation = conversation
        self._turns = turns
        self._pace = pace
        self._metrics = metrics
        self._builder = builder
        self._started_at = started_at
        self._clock = clock
        self._settle = settle
        self._has_relayed = False

    def run(self) -> Generator[Output, None, None]:
        """The response: its Head, then the bytes of its body, if it is a stream.

        Raises GatewayError and ClientGone before the head; BrokenPipeError after it when the client has gone.
        """
        ending = Ending.CLIENT_DISCONNECTED  # whoever closes this generator early does so for that
        failure: GatewayError | None = None
        try:
            ending = yield from self._answer()
        except ClientGone:
            if not self._pace.has_begun:
                raise
            # The server must not end the response cleanly, in case the client has only stopped sending.
            raise BrokenPipeError(errno.EPIPE, "the client is gone") from None
        except GatewayError as error:
            if not self._pace.has_begun:
                raise
            ending, failure = stream_ending_of(error), error
            log.warning("%s: stream ended: %s", self._builder.name, error.message)
            yield self._error(error)
        except Exception:
            if not self._pace.has_begun:
                raise
            ending = Ending.TRUNCATED
            failure = GatewayError("the gateway failed in mid-stream; its log says why")
            log.exception("%s: stream failed inside the gateway", self._builder.name)
            yield self._error(failure)
        finally:
            self._conversation.close()
            if self._pace.has_begun:
                self._metrics.streams_ended.labels(ending.value).inc()
                self._builder.stream_ended(ending, failure)

    def _answer(self) -> Generator[Output, None, Ending]:
        ending = Ending.COMPLETED
        while self._conversation.has_more and ending is Ending.COMPLETED:
            turn = yield from self._turns.obtain(self._conversation.next_call(), self._pace)
            try:
                with closing(turn.reply):
                    if turn.stream is None:
                        ending = yield from self._whole(turn)
                    else:
                        ending = yield from self._streamed(turn.stream, turn.opening)
            finally:
                self._turns.ended(turn)
            if ending is Ending.COMPLETED:
                yield from self._conversation.end_turn(self._pace)
        return ending

    def _whole(self, turn: Turn) -> Generator[Output, None, Ending]:
        is_message = turn.reply.status == 200 and _holds_message(turn)
        if is_message and self._conversation.shows_events:
            return (yield from self._as_events(turn))
        if self._pace.has_begun:  # for another answer, which was a stream
            yield upstream_error_event(turn.reply.status, turn.body, self._pace.told_id)
            return Ending.UPSTREAM_ERROR
        body = self._conversation.show_whole(turn.body) if is_message else turn.body
        if body is not None:
            self._settle()
            yield self._pace.whole(turn.reply, body)
        return Ending.COMPLETED

    def _as_events(self, turn: Turn) -> Generator[Output, None, Ending]:
        shown = self._conversation.show_whole(turn.body)
        self._settle()
        yield from self._begun(turn.reply)
        if shown:
            yield self._pace.sent(shown)
        return Ending.COMPLETED

    def _streamed(self, stream: EventStream, opening: bytes) -> Generator[Output, None, Ending]:
        yield from self._begun(stream.reply)
        batch: bytes | None = opening
        while True:
            if batch:
                shown = self._shown(batch, stream)
                if stream.has_ended:
                    self._settle()
                    if shown:
                        yield shown
                    break
                pause = stream.reply.pause_if_drained(self._pace.due_at)
                if pause is not None:
                    pause.carried = shown
                    yield pause
                elif shown:
                    yield shown
            elif batch is None:
                if self._pace.left_seconds <= 0:
                    yield self._pace.ping()
                yield stream.reply.pause(self._pace.due_at)
            else:
                raise UpstreamError("the upstream's stream ended before message_stop")
            batch = stream.receive()
        yield from self._linger(stream)
        return Ending.COMPLETED if stream.tally.has_stopped else Ending.UPSTREAM_ERROR

    def _begun(self, reply: Reply) -> Generator[Output, None, None]:
        """The head, if it has not gone out yet; the first event follows."""
        if not self._pace.has_begun:
            yield self._pace.begin(
                reply, is_due=self._conversation.shows_events
            )  # else all is shown, the first event too
        if not self._has_relayed:
            self._has_relayed = True
            self._metrics.time_to_first_event.observe(self._clock() - self._started_at)
            self._builder.first_event()

    def _shown(self, batch: bytes, stream: EventStream) -> bytes:
        """What the client is shown of whole events; a ping if that has been nothing for too long."""
        shown = self._conversation.show(batch, stream)
        if shown:
            return self._pace.sent(shown)
        return self._pace.ping() if self._pace.left_seconds <= 0 else b""

    def _linger(self, stream: EventStream) -> Generator[Output, None, None]:
        """Behind the last event: let the upstream end its body, so that its connection is kept; but not for long.

        The client has its message: nothing that still comes is shown.
        """
        deadline = time.monotonic() + _LINGER_SECONDS
        left_bytes = _LINGER_BYTES
        try:
            while left_bytes > 0 and (rest := stream.reply.receive()) != b"":
                if rest is not None:
                    left_bytes -= len(rest)
                elif time.monotonic() < deadline:
                    yield stream.reply.pause(deadline)
                else:
                    break
        except (UpstreamError, Stopping, ClientGone) as error:
            log.debug("%s: after the last event: %r", self._builder.name, error)

    def _error(self, error: GatewayError) -> bytes:
        return error_event(error.kind, error.message, self._pace.told_id)


def _holds_message(turn: Turn) -> bool:
    """Whether a whole answer is a message and not an error. Raises UpstreamError if it is no JSON object."""
    if not turn.tally.observe_whole(turn.body):
        raise UpstreamError("the upstream's answer is not a JSON object")
    return turn.tally.error_kind is None

"""Obtaining one upstream answer: the attempts of a turn, over the pool or with the client's own credential.

Owns: what an attempt is. Every route that calls upstream comes through here, and through the one walk. Flow layer;
a TurnMaker belongs to one request and its thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from gateway.access import Caller
from gateway.credential import AuthHeader, Key, key_header
from gateway.errors import UpstreamError
from gateway.failover import walk
from gateway.messages import Tally
from gateway.narrator import Narrator
from gateway.pace import Output, Pace
from gateway.pool import Pool
from gateway.stream import EventStream
from gateway.upstream import Call, Reply, Upstream
from gateway.verdict import Outcome, Verdict, cooldown_seconds, outcome_of, outcome_of_error
from gateway.watch import Watch


@dataclass(slots=True)
class Turn:
    """One answer obtained: either whole, in `body`, or a stream of which `opening` holds the first events."""

    reply: Reply
    tally: Tally
    body: bytes = b""
    stream: EventStream | None = None
    opening: bytes = b""

    def discard(self) -> None:
        """Throw the answer away; its connection is kept if that is quick."""
        self.reply.discard()


class TurnMaker:
    """Makes the turns of one request.

    `default_cooldown_seconds` is a limited key's rest when the upstream names none; `wall_clock` gives epoch seconds.
    """

    def __init__(
        self,
        upstream: Upstream,
        pool: Pool,
        caller: Caller,
        watch: Watch,
        narrator: Narrator,
        default_cooldown_seconds: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._upstream = upstream
        self._pool = pool
        self._caller = caller
        self._watch = watch
        self._narrator = narrator
        self._default_cooldown_seconds = default_cooldown_seconds
        self._wall_clock = wall_clock

    def obtain(self, call: Call, pace: Pace) -> Generator[Output, None, Turn]:
        """One turn: yields what the client must hear meanwhile, returns the answer.

        A stream of events is opened as such if the call may have one, and read whole as any other answer if not.

        Raises RateLimited, AuthenticationExhausted, UpstreamError, ClientGone, Stopping.
        """
        self._narrator.trace.turn_began(has_walk=not self._caller.own)
        if self._caller.own:
            turn, _ = yield from self._attempt(call, self._caller.own, pace, None)
        else:

            def attempt(key: Key) -> Generator[Output, None, tuple[Turn, Verdict]]:
                return self._attempt(call, (key_header(key),), pace, key)

            turn = yield from walk(self._pool, attempt, self._narrator)
        self._narrator.chronicle.turn_obtained(turn.tally)
        return turn

    def _attempt(
        self, call: Call, credentials: Sequence[AuthHeader], pace: Pace, key: Key | None
    ) -> Generator[Output, None, tuple[Turn, Verdict]]:
        chronicle, trace = self._narrator.chronicle, self._narrator.trace
        chronicle.attempt_began(key)
        call = trace.attempt_began(call, key.name if key is not None else None)
        try:
            turn, verdict = yield from self._exchange(call, credentials, pace, key)
        except BaseException as error:
            if isinstance(error, UpstreamError):
                chronicle.attempt_ended(Verdict(Outcome.TRANSPORT_ERROR))
            trace.attempt_failed(error)
            raise
        chronicle.attempt_ended(verdict)
        trace.attempt_ended(verdict, turn.reply, turn.tally, turn.stream is not None)
        return turn, verdict

    def _exchange(
        self, call: Call, credentials: Sequence[AuthHeader], pace: Pace, key: Key | None
    ) -> Generator[Output, None, tuple[Turn, Verdict]]:
        if pace.has_begun:  # an earlier answer's head has gone out, so silence must not grow long
            sending = self._upstream.send_patiently(call, credentials, self._watch, lambda: pace.left_seconds)
            reply = yield from _with_pings(sending, pace)
        else:
            reply = self._upstream.send(call, credentials, self._watch)
        try:
            self._narrator.answered(key, reply.status, dict(reply.headers))
            if call.may_stream and reply.is_event_stream:
                return (yield from self._opened(EventStream(reply), pace))
            verdict = self._verdict(outcome_of(reply.status), reply)
            if key is not None and verdict.outcome.fails_over:
                return Turn(reply, Tally()), verdict
            return Turn(reply, Tally(), _checked(reply, reply.read_whole())), verdict
        except BaseException:
            reply.close()
            raise

    def _opened(self, stream: EventStream, pace: Pace) -> Generator[Output, None, tuple[Turn, Verdict]]:
        """Wait for a stream's first event: it still decides whether the key was limited."""
        pace.upstream_head_came()
        while (opening := stream.open(pace.left_seconds)) is None:
            if pace.left_seconds <= 0:
                yield pace.signal(stream.reply)
        error_kind = stream.tally.error_kind if opening.event.name == "error" else None
        outcome = Outcome.OK if error_kind is None else outcome_of_error(error_kind)
        turn = Turn(stream.reply, stream.tally, stream=stream, opening=opening.batch)
        return turn, self._verdict(outcome, stream.reply)

    def _verdict(self, outcome: Outcome, reply: Reply) -> Verdict:
        if not outcome.cools:
            return Verdict(outcome, http_status=reply.status)
        rest = cooldown_seconds(dict(reply.headers), self._wall_clock(), self._default_cooldown_seconds)
        return Verdict(outcome, rest, reply.status)


def _with_pings(sending: Generator[None, None, Reply], pace: Pace) -> Generator[Output, None, Reply]:
    """Wait for an answer's head, with pings to a client whose stream has begun."""
    try:
        while True:
            next(sending)
            yield pace.ping()
    except StopIteration as done:
        reply: Reply = done.value
        return reply
    finally:
        sending.close()


def _checked(reply: Reply, body: bytes) -> bytes:
    """A whole answer's body. Raises UpstreamError for a success that is no JSON: SDKs would take it for an answer."""
    if reply.status != 200:
        return body
    if not body.strip():
        raise UpstreamError("the upstream's answer is empty")
    if "json" not in reply.content_type:
        try:
            json.loads(body)
        except (ValueError, RecursionError) as error:
            kind = reply.content_type or "no content type"
            raise UpstreamError(f"the upstream's answer is not JSON ({kind})") from error
    return body

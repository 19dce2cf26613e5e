"""Obtaining one upstream answer: the attempts of a turn, over the pool or with the client's own credential.

Owns: what an attempt is. Every route that calls upstream comes through here, and through the one walk. A TurnMaker
belongs to one request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from gateway.access.authentication import Caller
from gateway.access.credential import AuthHeader, Key, key_headers
from gateway.keys.classification import LARGEST_JUDGED_BYTES, Cooldowns, judge, status_of_kind
from gateway.keys.failover import Course, walk
from gateway.keys.places import place_of
from gateway.keys.pool import Pool
from gateway.keys.verdict import Next, Verdict
from gateway.protocol.errors import UpstreamError
from gateway.protocol.json_values import object_or_none
from gateway.protocol.messages import Tally
from gateway.protocol.outcomes import Outcome
from gateway.protocol.sse import Event
from gateway.relay.pace import Output, Pace, with_pings
from gateway.runtime.pause import Pause
from gateway.telemetry.observer import Observer
from gateway.upstream import Call, Reply, Upstream
from gateway.upstream.event_stream import EventStream
from gateway.upstream.watch import Watch

# A whole answer that is larger is looked into in a thread.
_LARGE_BYTES = 64 * 1024


@dataclass(slots=True)
class Turn:
    """One answer obtained: either whole, in `body`, or a stream of which `opening` holds the first events.

    One that is not relayable was not read: nobody but another key can answer.
    """

    reply: Reply
    tally: Tally
    body: bytes = b""
    stream: EventStream | None = None
    opening: bytes = b""
    is_relayable: bool = True

    def discard(self) -> None:
        """Throw the answer away; its connection is kept if that is quick."""
        self.reply.discard()

    def forbid_retries(self) -> None:
        """Tell the client that asking again does not help: SDKs obey this header."""
        self.reply.replace_header("x-should-retry", "false")


class TurnMaker:
    """Makes the turns of one request.

    `course` is what its walks are for. `cooldowns` are those of keys where the upstream names none;
    `stream_idle_seconds` is how long the upstream may be silent behind a stream's first event; `wall_clock` gives epoch
    seconds.
    """

    __slots__ = (
        "_caller",
        "_cooldowns",
        "_course",
        "_observer",
        "_pool",
        "_stream_idle_seconds",
        "_upstream",
        "_wall_clock",
        "_watch",
    )

    def __init__(
        self,
        upstream: Upstream,
        pool: Pool,
        caller: Caller,
        watch: Watch,
        observer: Observer,
        course: Course,
        cooldowns: Cooldowns,
        stream_idle_seconds: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._upstream = upstream
        self._pool = pool
        self._caller = caller
        self._watch = watch
        self._observer = observer
        self._course = course
        self._cooldowns = cooldowns
        self._stream_idle_seconds = stream_idle_seconds
        self._wall_clock = wall_clock

    def obtain(self, call: Call, pace: Pace) -> Generator[Output, None, Turn]:
        """One turn: yields what the client must hear meanwhile, returns the answer.

        A stream of events is opened as such if the call may have one, and read whole as any other answer if not.

        Raises RateLimited, AuthenticationExhausted, OutOfMoney, UpstreamError, ClientGone, Stopping.
        """
        self._observer.turn_began(self._course.scope if not self._caller.own else None)
        if self._caller.own:
            turn, _ = yield from self._attempt(call, self._caller.own, pace, None)
        else:

            def attempt(key: Key) -> Generator[Output, None, tuple[Turn, Verdict]]:
                return self._attempt(call, key_headers(key), pace, key)

            turn = yield from walk(self._pool, attempt, self._observer, self._course)
        self._observer.turn_obtained(turn.tally)
        return turn

    def ended(self, turn: Turn) -> None:
        """A turn's answer has come to its end, or as far as it will."""
        if turn.tally.container_id is not None and self._course.session is not None:
            self._course.session.told_of(turn.tally.container_id)

    def _attempt(
        self, call: Call, credentials: Sequence[AuthHeader], pace: Pace, key: Key | None
    ) -> Generator[Output, None, tuple[Turn, Verdict]]:
        call = self._observer.attempt_began(call, key)
        try:
            turn, verdict = yield from self._exchange(call, credentials, pace, key)
        except BaseException as error:
            self._observer.attempt_failed(key, error, was_sent=self._watch.has_sent)
            raise
        self._observer.attempt_ended(key, verdict, turn.tally, is_stream=turn.stream is not None)
        return turn, verdict

    def _exchange(
        self, call: Call, credentials: Sequence[AuthHeader], pace: Pace, key: Key | None
    ) -> Generator[Output, None, tuple[Turn, Verdict]]:
        reply = yield from with_pings(self._upstream.exchange(call, credentials, self._watch), pace)
        try:
            headers = dict(reply.headers)
            if key is not None:
                self._pool.learn(key, place_of(headers))
            self._observer.answered(key, reply.status, headers)
            if call.may_stream and reply.is_event_stream:
                return (yield from self._opened(EventStream(reply, call.is_looked_into), headers, pace))
            return (yield from with_pings(self._whole(reply, headers, key), pace))
        except BaseException:
            reply.close()
            raise

    def _whole(
        self, reply: Reply, headers: Mapping[str, str], key: Key | None
    ) -> Generator[Pause, None, tuple[Turn, Verdict]]:
        """An answer that is no stream: judged, and read to its end if it may be the client's."""
        head, is_all, failure = b"", False, None
        if reply.status >= 400:
            try:
                head, is_all = yield from reply.read_refusal(LARGEST_JUDGED_BYTES)
            except UpstreamError as error:  # its status says what it is, and another key may answer
                failure = error
        verdict = self._judge(reply.status, headers, head)
        if verdict.next is not Next.NONE:
            yield from self._watch.to_thread()  # a mark may have to be written somewhere
            if key is not None and not (is_all and verdict.is_kept):
                return Turn(reply, Tally(), is_relayable=False), verdict
        if failure is not None:
            raise failure
        body = head if is_all else head + (yield from reply.read_whole())
        reply.close()  # the walk may go on, and needs the connection
        if len(body) > _LARGE_BYTES:
            yield from self._watch.to_thread()  # it is looked into
        return Turn(reply, Tally(), _checked(reply, body)), verdict

    def _opened(
        self, stream: EventStream, headers: Mapping[str, str], pace: Pace
    ) -> Generator[Output, None, tuple[Turn, Verdict]]:
        """Wait for a stream's first event that is no ping: it still decides whether the key was refused."""
        pace.upstream_head_came()
        while (opening := stream.open()) is None:
            if pace.left_seconds <= 0:
                yield pace.signal(stream.reply)
            yield stream.reply.pause(pace.due_at)
        event = opening.event
        if not _is_error(event) or stream.tally.error_kind is None:
            # The gateway's pings keep the client's own watchdog quiet, so the gateway has to be the one.
            stream.reply.limit_silence(self._stream_idle_seconds)
            turn = Turn(stream.reply, stream.tally, stream=stream, opening=opening.batch)
            return turn, Verdict(Outcome.OK, http_status=stream.reply.status)
        status = status_of_kind(stream.tally.error_kind)
        verdict = self._judge(status, headers, event.data.encode())
        if verdict.next is not Next.NONE:
            yield from self._watch.to_thread()
        if pace.has_begun:
            return Turn(stream.reply, stream.tally, stream=stream, opening=opening.batch), verdict
        stream.reply.recast(status, "application/json")  # SDKs do not retry an error in a 200
        stream.reply.close()
        return Turn(stream.reply, Tally(), event.data.encode()), verdict

    def _judge(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        return judge(status, headers, body, self._wall_clock(), self._cooldowns)


def _is_error(event: Event) -> bool:
    """Whether an event is an error by its name or, if it has none, by what its data says."""
    if event.name != "message":  # what an event without a name is called
        return event.name == "error"
    document = object_or_none(event.data)
    return document is not None and document.get("type") == "error"


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

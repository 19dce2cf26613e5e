"""What the client has been sent, and when it must next hear something.

Owns: the response head's moment (with the first event, or half a second after the upstream's head) and the
pings of a silent stream. Belongs to one request. Pure but for the clock it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from gateway.protocol.headers import Headers, for_client, for_client_stream
from gateway.protocol.sse import PING
from gateway.runtime.pause import Pause
from gateway.upstream import Reply

HEAD_GRACE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Head:
    """The response's head; `body` is the whole body, or None when a stream of bytes follows.

    `request_id` is the one among `headers`. `is_due` says that it must go out at once; else the first bytes follow on
    its heels, and it goes with them.
    """

    status: int
    headers: Headers
    request_id: str
    body: bytes | None = None
    is_due: bool = True


# What an interception yields. A Pause is bytes, too, and belongs to whoever serves the response.
Output = Head | bytes

Result = TypeVar("Result")


class Pace:
    """The client's side of one streamed answer. `clock` is that of Pauses: `time.monotonic`, in seconds.

    `due_at` is its reading when the client must hear something, the head or a ping. `told_id` is the request id that
    the client is told: the gateway's, or that of the upstream's answer.
    """

    __slots__ = ("_clock", "_ping_seconds", "due_at", "has_begun", "told_id")

    def __init__(self, request_id: str, ping_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.told_id = request_id
        self.has_begun = False
        self._ping_seconds = ping_seconds
        self._clock = clock
        self.due_at = clock() + ping_seconds

    @property
    def left_seconds(self) -> float:
        """How long the client may still be left without a word."""
        return max(0.0, self.due_at - self._clock())

    def upstream_head_came(self) -> None:
        """The upstream accepted the request as a stream; its first event may take its time."""
        if not self.has_begun:
            self.due_at = self._clock() + HEAD_GRACE_SECONDS

    def signal(self, reply: Reply) -> Output:
        """What to send when nothing else has come in time: the head first, pings after."""
        return self.ping() if self.has_begun else self.begin(reply)

    def ping(self) -> bytes:
        """A sign of life in a stream that has begun."""
        return self.sent(PING)

    def begin(self, reply: Reply, is_due: bool = True) -> Head:
        """The head of a stream, to be sent now, or with the bytes that follow at once."""
        self.has_begun = True
        headers = self._identified(for_client_stream(reply.headers))
        self.sent(b"")
        return Head(reply.status, headers, self.told_id, is_due=is_due)

    def whole(self, reply: Reply, body: bytes) -> Head:
        """The head and body of a whole answer."""
        headers = self._identified(for_client(reply.headers))
        return Head(reply.status, headers, self.told_id, body)

    def sent(self, data: bytes) -> bytes:
        """Note that the client hears this now."""
        self.due_at = self._clock() + self._ping_seconds
        return data

    def _identified(self, headers: Headers) -> Headers:
        for name, value in headers:
            if name == "request-id":
                self.told_id = value
                return headers
        return [*headers, ("request-id", self.told_id)]


def with_pings(waiting: Generator[Pause, None, Result], pace: Pace) -> Generator[Output, None, Result]:
    """Pass Pauses on, with pings to a client whose stream has begun."""
    try:
        while True:
            pause = next(waiting)
            if pace.has_begun:
                if pace.left_seconds <= 0:
                    yield pace.ping()
                pause.until_at = min(pause.until_at, pace.due_at)
            yield pause
    except StopIteration as done:
        result: Result = done.value
        return result
    finally:
        waiting.close()

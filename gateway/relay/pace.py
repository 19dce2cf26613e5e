"""What the client has been sent, and when it must next hear something.

Owns: the response head's moment (with the first event, or half a second after the upstream's head) and the
pings of a silent stream. Belongs to one request. Pure but for the clock it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.protocol.headers import Headers, for_client, for_client_stream
from gateway.protocol.sse import PING
from gateway.upstream import Reply

HEAD_GRACE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Head:
    """The response's head; `body` is the whole body, or None when a stream of bytes follows.

    `is_due` says that it must go out at once; else the first bytes follow on its heels, and it goes with them.
    """

    status: int
    headers: Headers
    body: bytes | None = None
    is_due: bool = True


Output = Head | bytes


class Pace:
    """The client's side of one streamed answer. `clock` is monotonic, in seconds.

    `told_id` is the request id that the client is told: the gateway's, or that of the upstream's answer.
    """

    def __init__(self, request_id: str, ping_seconds: float, clock: Callable[[], float]) -> None:
        self.told_id = request_id
        self.has_begun = False
        self._ping_seconds = ping_seconds
        self._clock = clock
        self._due_at = clock() + ping_seconds

    @property
    def left_seconds(self) -> float:
        """How long the client may still be left without a word."""
        return max(0.0, self._due_at - self._clock())

    def upstream_head_came(self) -> None:
        """The upstream accepted the request as a stream; its first event may take its time."""
        if not self.has_begun:
            self._due_at = self._clock() + HEAD_GRACE_SECONDS

    def signal(self, reply: Reply) -> Output:
        """What to send when nothing else has come in time: the head first, pings after."""
        return self.ping() if self.has_begun else self.begin(reply)

    def ping(self) -> bytes:
        """A sign of life in a stream that has begun."""
        return self.sent(PING)

    def begin(self, reply: Reply, is_due: bool = True) -> Head:
        """The head of a stream, to be sent now, or with the bytes that follow at once."""
        self.has_begun = True
        head = Head(reply.status, self._identified(for_client_stream(reply.headers)), is_due=is_due)
        self.sent(b"")
        return head

    def whole(self, reply: Reply, body: bytes) -> Head:
        """The head and body of a whole answer."""
        return Head(reply.status, self._identified(for_client(reply.headers)), body)

    def sent(self, data: bytes) -> bytes:
        """Note that the client hears this now."""
        self._due_at = self._clock() + self._ping_seconds
        return data

    def _identified(self, headers: Headers) -> Headers:
        for name, value in headers:
            if name == "request-id":
                self.told_id = value
                return headers
        return [*headers, ("request-id", self.told_id)]

"""What is asked of the upstream turn by turn, and what of its answers the client is shown.

Owns: the steps that every interception takes, and their simplest form: one answer, shown as it comes. A
Conversation belongs to whoever runs the request. The Interception takes the next call, shows the answer, and lets the
conversation say whether another turn follows; `tool_loop` has the form with several turns.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from gateway.relay.pace import Output, Pace
from gateway.upstream import Call
from gateway.upstream.event_stream import EventStream


class Conversation(Protocol):
    """The turns of one interception. `shows_events`: the client is shown events, even of a whole message."""

    shows_events: bool

    @property
    def has_more(self) -> bool:
        """Whether there is another call to make."""
        ...

    def next_call(self) -> Call:
        """The next turn's call, handed out once: a body of megabytes must not live as long as its answer."""
        ...

    @property
    def is_last(self) -> bool:
        """Whether no turn follows the one whose end was shown last."""
        ...

    def show(self, batch: bytes, stream: EventStream) -> bytes:
        """What the client is shown of whole events; may be nothing. Raises UpstreamError if they make no message."""
        ...

    def show_whole(self, body: bytes) -> bytes | None:
        """What the client is shown of a whole message: events, if `shows_events`, else a document.

        There is no document while another turn is to follow. Raises UpstreamError if it is no message.
        """
        ...

    def end_turn(self, pace: Pace) -> Generator[Output, None, None]:
        """A turn is over: call the tools that it asks for. Yields what the client must hear meanwhile.

        Raises TurnLimitReached, ClientGone, Stopping.
        """
        ...

    def close(self) -> None:
        """The interception is over, however it ended."""
        ...


class OneTurn:
    """One answer, shown as it comes."""

    __slots__ = "_call"

    shows_events = False

    def __init__(self, call: Call) -> None:
        self._call: Call | None = call

    @property
    def has_more(self) -> bool:
        return self._call is not None

    def next_call(self) -> Call:
        call, self._call = self._call, None
        if call is None:
            raise RuntimeError("a call is handed out once")
        return call

    @property
    def is_last(self) -> bool:
        return True

    def show(self, batch: bytes, stream: EventStream) -> bytes:
        return batch

    def show_whole(self, body: bytes) -> bytes | None:
        return body

    def end_turn(self, pace: Pace) -> Generator[Output, None, None]:
        """Nothing follows."""
        yield from ()

    def close(self) -> None:
        """Nothing is left."""

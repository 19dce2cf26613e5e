"""One upstream answer as a stream of whole events.

Owns: reading a Reply event-wise, looking into the few events that must be looked into, and the bounds of what is held
back. Nothing waits here. The fast path decodes nothing: a run of whole events passes through as the
bytes that arrived.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from gateway.protocol.errors import UpstreamError, UpstreamSilent
from gateway.protocol.messages import Tally
from gateway.protocol.sse import (
    Event,
    EventSplitter,
    EventTooLarge,
    decode_event,
    is_notable,
    may_be_notable,
    notable_events,
    split_events,
)
from gateway.upstream import Reply

# Comments and pings before the first event are signs of life; nobody needs so many.
_LARGEST_PRELUDE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class DecodedEvent:
    """An event as it came, and what it says: None for what carries no data."""

    raw: bytes
    event: Event | None


@dataclass(frozen=True, slots=True)
class Opening:
    """A stream's first event that is an answer, and all that came up to the end of its batch."""

    event: Event
    batch: bytes


class EventStream:
    """The events of one Reply. `tally` is brought up to date with every batch that is handed out.

    The last event (`message_stop`, or an `error`) ends it, and `has_ended` once it was handed out: what the upstream
    sends behind that is not. One that `is_looked_into` decodes every event, for `take_decoded`.
    Both what comes before the first event and an event that does not end are bounded in bytes, and in time by the
    upstream's longest silence: that something comes is no excuse for nothing that is whole.
    """

    __slots__ = (
        "_began_at",
        "_decoded",
        "_half_since_at",
        "_is_looked_into",
        "_prelude",
        "_splitter",
        "has_ended",
        "reply",
        "tally",
    )

    def __init__(self, reply: Reply, is_looked_into: bool = False) -> None:
        self.reply = reply
        self.tally = Tally()
        self.has_ended = False
        self._splitter = EventSplitter()
        self._half_since_at: float | None = None
        self._is_looked_into = is_looked_into
        self._decoded: list[DecodedEvent] = []
        self._began_at = time.monotonic()
        self._prelude = bytearray()

    def open(self) -> Opening | None:
        """The first event that is an answer; None if it has not come. Before `receive`, and until it is there.

        Raises as `receive` does, and UpstreamError if the stream ends before or only comments and pings come.
        """
        while True:
            decoded_before = len(self._decoded)
            batch = self.receive()
            if batch is None:
                return None
            if not batch:
                raise UpstreamError("the upstream's stream ended before its first event")
            self._prelude += batch
            event = self._first_event(batch, self._decoded[decoded_before:])
            if event is not None:
                opening = Opening(event, bytes(self._prelude))
                self._prelude.clear()
                return opening
            self._require_first_event()

    def receive(self) -> bytes | None:
        """Whole events if there are any; b"" at the end; None if none is complete, and `reply.pause` is due.

        Half an event at the end is not handed out; one that only lacks its blank line is, with it. Raises as
        Reply.receive does, UpstreamError for an event that is too large, UpstreamSilent for one that does not end.
        """
        while True:
            data = self.reply.receive()
            if data is None:
                return None
            try:
                batch = self._splitter.feed(data) if data else self._splitter.finish()
            except EventTooLarge as error:
                raise UpstreamError(f"the upstream sent {error}") from error
            if batch:
                self._half_since_at = None
                if self._is_looked_into:
                    return self._all_observed(batch)
                tally = self.tally
                if may_be_notable(batch):
                    batch = self._observed(batch)
                else:
                    tally.usage.passed(batch)
                tally.tools.observe(batch)
                return batch
            if not data:
                return b""
            self._require_end_of_event()

    def take_decoded(self) -> list[DecodedEvent]:
        """What was handed out since the last call, event by event; nothing if it is not looked into."""
        decoded, self._decoded = self._decoded, []
        return decoded

    def _first_event(self, batch: bytes, decoded: list[DecodedEvent]) -> Event | None:
        """The first event that is an answer; None if there are only comments and pings."""
        events = [part.event for part in decoded] if self._is_looked_into else map(decode_event, split_events(batch))
        return next((event for event in events if event is not None and event.name != "ping"), None)

    def _require_first_event(self) -> None:
        if len(self._prelude) > _LARGEST_PRELUDE_BYTES:
            raise UpstreamError(
                f"the upstream sent {len(self._prelude)} bytes of comments and pings before its first event"
            )
        if time.monotonic() - self._began_at > self.reply.read_idle_seconds:
            raise UpstreamSilent("the upstream sent nothing but comments and pings in place of its first event")

    def _require_end_of_event(self) -> None:
        now = time.monotonic()
        if self._half_since_at is None:
            self._half_since_at = now
        elif now - self._half_since_at > self.reply.read_idle_seconds:
            raise UpstreamSilent("the upstream began an event and did not end it")

    def _all_observed(self, batch: bytes) -> bytes:
        """As `_observed`, with every event decoded, once for all who look into it."""
        tally = self.tally
        read = 0
        for raw in split_events(batch):
            read += len(raw)
            event = decode_event(raw)
            self._decoded.append(DecodedEvent(raw, event))
            if not is_notable(raw):
                tally.usage.passed(raw)
            if event is None:
                continue
            _ = event.exact  # which `document` makes do with
            tally.observe(event)
            tally.tools.observe_event(raw, event)
            if tally.has_ended:
                self.has_ended = True
                self._decoded[-1] = DecodedEvent(_whole(raw), event)
                return _whole(batch[:read])
        return batch

    def _observed(self, batch: bytes) -> bytes:
        """The batch, up to the last event of the stream if that is in it."""
        usage = self.tally.usage
        read = 0
        for start, end in notable_events(batch):
            usage.passed(batch[read:start])
            read = end
            event = decode_event(batch[start:end])
            if event is not None:
                self.tally.observe(event)
            if self.tally.has_ended:
                self.has_ended = True
                batch = _whole(batch[:end])
                break
        usage.passed(batch[read:])
        return batch


def _whole(last: bytes) -> bytes:
    """The last event with the LF of its last line end, which is on its way: nothing more is read."""
    return last + b"\n" if last.endswith(b"\r\n\r") else last

"""One upstream answer as a stream of whole events.

Owns: reading a Reply event-wise, and looking into the few events that must be looked into. Flow layer; belongs to
one thread. The fast path decodes nothing: a run of whole events passes through as the bytes that arrived.
"""

from __future__ import annotations

import time

from gateway.errors import UpstreamError
from gateway.events import Event, EventSplitter, EventTooLarge, decode_event, notable_events, split_events
from gateway.messages import Tally
from gateway.upstream import Reply


class EventStream:
    """The events of one Reply. `tally` is brought up to date with every batch that is handed out."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.tally = Tally()
        self._splitter = EventSplitter()

    def receive(self, timeout_seconds: float) -> bytes | None:
        """Whole events as soon as there are any; b"" at the end; None if none was complete in time.

        Half an event at the end is not handed out. Raises as Reply.receive does.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            data = self.reply.receive(deadline - time.monotonic())
            if not data:
                return data
            try:
                batch = self._splitter.feed(data)
            except EventTooLarge as error:
                raise UpstreamError(f"the upstream sent {error}") from error
            if batch:
                self.tally.tools.observe(batch)
                self._observe(batch)
                return batch
            # What no poll would tell of must not wait for the next packet.
            if deadline <= time.monotonic() and not self.reply.may_hold_more:
                return None

    def _observe(self, batch: bytes) -> None:
        rest = batch
        for raw in notable_events(batch):
            unread, _, rest = rest.partition(raw)
            self.tally.usage.passed(unread)
            event = decode_event(raw)
            if event is not None:
                self.tally.observe(event)
        self.tally.usage.passed(rest)


def first_event(batch: bytes) -> Event | None:
    """The first event of a run of whole events that is an answer; None if there are only comments and pings."""
    events = (decode_event(raw) for raw in split_events(batch))
    return next((event for event in events if event is not None and event.name != "ping"), None)

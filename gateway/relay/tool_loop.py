"""The agentic loop: turns until the model calls none of the gateway's tools any more.

Owns: making the calls of a turn and asking on with their results. A ToolLoop belongs to one request. Streamed and whole
answers take the same way: a whole one is spliced as the events it could have been streamed as, and put together again
if the client asked for no stream.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gateway.protocol.accumulator import Accumulator, MalformedStream, events_of
from gateway.protocol.errors import TurnLimitReached, UpstreamError
from gateway.protocol.json_values import exact_object_or_none, to_json
from gateway.protocol.outcomes import ToolOutcome
from gateway.protocol.sse import BYTE_ORDER_MARK, Event, encode_event
from gateway.relay.pace import Output, Pace
from gateway.relay.tool_call import RequestedCall
from gateway.telemetry.observer import Observer
from gateway.tools.injection import ToolRequest, inject
from gateway.tools.splicer import Splicer, ToolUse
from gateway.tools.toolbox import InjectedTool, Toolbox
from gateway.upstream import Call
from gateway.upstream.event_stream import EventStream
from gateway.upstream.watch import Watch

# A turn is kept until it has ended: it may have to be sent back.
LARGEST_TURN_BYTES = 128 * 1024 * 1024
_UNFIT_NUMBERS = "the upstream's answer has numbers that cannot be passed on"


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """Which requests get tools, and how many turns (upstream answers) they may lead to, at least 2.

    Requests whose model `excluded_models` is found in get none; None excludes no model.
    """

    excluded_models: re.Pattern[str] | None = None
    allows_parallel: bool = False
    max_turns: int = 20

    def inject(self, body: bytes, model: str, tools: Sequence[InjectedTool]) -> ToolRequest | None:
        """The request with the tools in it; None if it is to be left alone."""
        if not tools or (self.excluded_models is not None and self.excluded_models.search(model)):
            return None
        return inject(body, [tool.definition for tool in tools], self.allows_parallel)


class ToolLoop:
    """A Conversation with as many turns as the model's calls ask for. `call`'s body is replaced in each turn."""

    def __init__(
        self,
        call: Call,
        request: ToolRequest,
        toolbox: Toolbox,
        policy: ToolPolicy,
        is_streaming: bool,
        watch: Watch,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shows_events = is_streaming
        # A stream that nobody asked for is not one of ours to follow.
        headers = request.headers(call.headers)
        self._template = replace(call, headers=headers, body=b"", may_stream=is_streaming, is_looked_into=True)
        self._request = request
        self._toolbox = toolbox
        self._tools = {tool.name: tool for tool in toolbox.tools()}
        self._max_turns = policy.max_turns
        self._watch = watch
        self._observer = observer
        self._clock = clock
        self._turns = 0
        self._turn_bytes = 0
        self._has_more = True
        self._splicer = Splicer(request.is_ours)
        self._shown = Accumulator()  # the client's message, if it is not streamed

    @property
    def has_more(self) -> bool:
        return self._has_more

    def next_call(self) -> Call:
        self._has_more = False
        self._turns += 1
        self._turn_bytes = 0
        return replace(self._template, body=self._request.body())

    @property
    def is_last(self) -> bool:
        return not self._splicer.continues or self._turns >= self._max_turns

    def show(self, batch: bytes, stream: EventStream) -> bytes:
        self._turn_bytes += len(batch)
        if self._turn_bytes > LARGEST_TURN_BYTES:
            raise UpstreamError("the upstream's answer is too large")
        with _upstreams_fault():
            shown = b"".join(self._show_event(decoded.raw, decoded.event) for decoded in stream.take_decoded())
        # In mid-stream it would be part of a name.
        return shown.removeprefix(BYTE_ORDER_MARK) if self._turns > 1 else shown

    def _show_event(self, raw: bytes, event: Event | None) -> bytes:
        if event is None:
            return raw
        data = event.exact
        if data is None:
            if event.document is not None:  # it may be what must not be shown, as a turn's ending
                raise UpstreamError(_UNFIT_NUMBERS)
            return raw
        shown = self._splicer.splice(data)
        if shown is data:
            return raw
        return b"" if shown is None else encode_event(event.name, to_json(shown))

    def show_whole(self, body: bytes) -> bytes | None:
        message = exact_object_or_none(body)
        if message is None:
            raise UpstreamError(_UNFIT_NUMBERS)
        with _upstreams_fault():
            shown = [data for data in map(self._splicer.splice, events_of(message)) if data is not None]
            if self.shows_events:
                return b"".join(encode_event(str(data["type"]), to_json(data)) for data in shown)
            for data in shown:
                self._shown.add(data)
        if self._splicer.continues:
            return None
        return body if self._splicer.is_verbatim else to_json(self._shown.message)

    def end_turn(self, pace: Pace) -> Generator[Output, None, None]:
        if not self._splicer.continues:
            return
        yield from self._watch.to_thread()  # the tools' input is read, and the next request written
        if self._turns >= self._max_turns:
            raise TurnLimitReached(f"the model still called tools after {self._turns} turns, the most that are allowed")
        uses, content, container_id = self._splicer.calls, self._splicer.content, self._splicer.container_id
        self._tell_not_made([use for use in self._splicer.withheld if use not in uses])
        self._splicer.end_turn()
        results = yield from self._results(uses, pace)
        self._request = self._request.continued(content, results, container_id)
        if self._turns == self._max_turns - 1:
            self._request = self._request.without_tools()
        self._has_more = True

    def close(self) -> None:
        """Tell of the calls that the last turn asks for: none of them was made."""
        self._tell_not_made(self._splicer.withheld)

    def _tell_not_made(self, uses: Sequence[ToolUse]) -> None:
        for use in uses:
            self._observer.tool_called(use.id, self._tools.get(use.name), ToolOutcome.NOT_MADE)

    def _results(self, uses: Sequence[ToolUse], pace: Pace) -> Generator[Output, None, list[dict[str, Any]]]:
        """Make all calls of a turn at once; their results in the order of the calls."""
        blocks = []
        with ExitStack() as stack:
            calls = []
            for use in uses:
                call = RequestedCall(use, self._tools.get(use.name), self._toolbox, self._observer, self._clock)
                calls.append(stack.enter_context(closing(call)))
            for call in calls:
                blocks.append((yield from call.result(self._watch, pace)))
                call.close()
        return blocks


@contextmanager
def _upstreams_fault() -> Iterator[None]:
    try:
        yield
    except MalformedStream as error:
        raise UpstreamError(f"the upstream's answer is malformed: {error}") from error

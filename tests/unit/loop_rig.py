"""An interception over a scripted upstream and scripted tools, without sockets: streamed in any pieces, or whole.

Owns: the stand-ins that record what they were asked. The walk, the turns, the loop and the interception are real.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

from gateway.access.authentication import Caller
from gateway.keys.classification import Cooldowns
from gateway.keys.failover import Course
from gateway.protocol.messages import read_request
from gateway.protocol.outcomes import ToolOutcome
from gateway.relay.conversation import Conversation, OneTurn
from gateway.relay.interception import Interception
from gateway.relay.pace import Head, Output, Pace
from gateway.relay.tool_loop import ToolLoop, ToolPolicy
from gateway.relay.turn import TurnMaker
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import Pause
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Observer
from gateway.telemetry.spans import NOT_TRACED, Trace
from gateway.tools.toolbox import InjectedTool, ToolCall, ToolResult
from gateway.upstream import Call, Reply, Upstream
from gateway.upstream.watch import Watch
from tests.unit.fakes import FakeClock, builder_of, pool_of
from tests.unit.messages_api import Answer, event

Cut = Callable[[bytes], Sequence[bytes]]


def whole(data: bytes) -> Sequence[bytes]:
    """All at once."""
    return [data]


@dataclass(frozen=True)
class Refusal:
    """An answer that is an HTTP error; `retry_after` becomes the header."""

    status: int
    kind: str
    retry_after: str | None = None

    def body(self) -> bytes:
        return json.dumps({"type": "error", "error": {"type": self.kind, "message": "no"}}).encode()


@dataclass(frozen=True)
class Streamed:
    """An answer that is a stream of these pieces, whatever they are."""

    pieces: Sequence[bytes]


class FakeReply:
    """An answer whose body comes in these pieces."""

    read_idle_seconds = 600.0

    def __init__(self, status: int, headers: list[tuple[str, str]], pieces: Sequence[bytes]) -> None:
        self.status = status
        self.headers = headers
        self.pieces = [*pieces, b""]
        self.is_event_stream = ("content-type", "text/event-stream") in headers
        self.content_type = dict(headers)["content-type"]

    def receive(self) -> bytes:
        return self.pieces.pop(0) if len(self.pieces) > 1 else b""

    def pause_if_drained(self, until_at: float) -> None:
        """All of it is there."""

    def read_whole(self) -> Generator[Pause, None, bytes]:
        yield from ()
        return b"".join(self.pieces)

    def read_refusal(self, limit_bytes: int) -> Generator[Pause, None, tuple[bytes, bool]]:
        return (yield from self.read_whole()), True

    def limit_silence(self, seconds: float) -> None:
        """Its upstream is never silent."""

    def recast(self, status: int, media_type: str) -> None:
        self.status, self.content_type = status, media_type

    def discard(self) -> None:
        self.close()

    def close(self) -> None:
        self.pieces = [b""]


@dataclass
class FakeUpstream:
    """Gives its answers in order, each in the form that is asked for, and keeps the requests with their keys."""

    answers: list[Answer | Refusal | Streamed | bytes]
    cut: Cut = whole
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def exchange(self, call: Call, credentials: Sequence[Any], watch: Watch) -> Generator[Pause, None, Reply]:
        yield from ()
        request = json.loads(call.body)
        # Keys are named by the number in their planted secrets.
        self.calls.append((f"k{int(credentials[0].secret.reveal().split('-')[3])}", request))
        self.headers.append(dict(call.headers))
        answer = self.answers.pop(0)
        number = ("request-id", f"req_{len(self.calls)}")
        if isinstance(answer, Refusal):
            headers = [("content-type", "application/json"), number]
            if answer.retry_after is not None:
                headers.append(("retry-after", answer.retry_after))
            return cast(Reply, FakeReply(answer.status, headers, [answer.body()]))
        if isinstance(answer, Streamed):
            headers = [("content-type", "text/event-stream"), number]
            return cast(Reply, FakeReply(200, headers, answer.pieces))
        if isinstance(answer, bytes):
            return cast(Reply, FakeReply(200, [("content-type", "application/json"), number], [answer]))
        if request.get("stream"):
            headers = [("content-type", "text/event-stream"), number]
            return cast(Reply, FakeReply(200, headers, [piece for piece in self.cut(answer.stream()) if piece]))
        return cast(Reply, FakeReply(200, [("content-type", "application/json"), number], [answer.body()]))


class FakeCall:
    """A call whose result is there at once, or never."""

    def __init__(self, result: ToolResult | None) -> None:
        self._result = result
        self._read_end, write_end = os.pipe()
        self._write_end: int | None = write_end
        self.closed = 0
        if result is not None:
            os.close(write_end)  # the end of a pipe is readable for good
            self._write_end = None

    def fileno(self) -> int:
        return self._read_end

    def result(self) -> ToolResult:
        assert self._result is not None, "nobody may ask before it is there"
        return self._result

    def close(self) -> None:
        if not self.closed:
            os.close(self._read_end)
            if self._write_end is not None:
                os.close(self._write_end)
        self.closed += 1


class FakeToolbox:
    """Tools of one server, `box`; each call gives what `run` says, None being a call that never ends."""

    def __init__(self, *names: str, run: Callable[[str, Mapping[str, Any]], ToolResult | None] | None = None) -> None:
        self._tools = [
            InjectedTool(f"bmcp_box_{name}", "box", name, {"name": f"bmcp_box_{name}", "input_schema": {}})
            for name in sorted(names)
        ]
        self._run = run or (lambda tool, arguments: said(f"{tool} {json.dumps(arguments)}"))
        self.made: list[tuple[str, Mapping[str, Any]]] = []
        self.contexts: list[Mapping[str, str]] = []
        self.calls: list[FakeCall] = []

    def tools(self) -> Sequence[InjectedTool]:
        return self._tools

    def begin(self, tool: InjectedTool, arguments: Mapping[str, Any], context: Mapping[str, str]) -> ToolCall:
        self.made.append((tool.tool, arguments))
        self.contexts.append(context)
        self.calls.append(FakeCall(self._run(tool.tool, arguments)))
        return self.calls[-1]


def said(words: str, outcome: ToolOutcome = ToolOutcome.OK) -> ToolResult:
    """A result that is a text."""
    return ToolResult(outcome, [{"type": "text", "text": words}])


@dataclass
class Ran:
    """What came of one interception: the head, and what followed it."""

    outputs: list[Output]

    @property
    def head(self) -> Head:
        head = self.outputs[0]
        assert isinstance(head, Head)
        return head

    @property
    def stream(self) -> bytes:
        """All that followed the head."""
        rest = self.outputs[1:]
        assert all(isinstance(output, bytes) and output for output in rest), "an empty piece ends a chunked body"
        return b"".join(cast("list[bytes]", rest))

    @property
    def document(self) -> dict[str, Any]:
        """The whole answer."""
        assert self.head.body is not None
        document: dict[str, Any] = json.loads(self.head.body)
        return document


class Rig:
    """`count` keys before an upstream that gives `answers` in order."""

    def __init__(
        self,
        answers: Sequence[Answer | Refusal | Streamed | bytes],
        toolbox: FakeToolbox,
        *,
        count: int = 1,
        cut: Cut = whole,
        policy: ToolPolicy | None = None,
        trace: Trace = NOT_TRACED,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.headers = headers or {}
        self.upstream = FakeUpstream(list(answers), cut)
        self.toolbox = toolbox
        self.trace = trace
        self.clock = FakeClock(0.0)
        self.pool = pool_of(count)
        self.metrics = Metrics()
        self.builder = builder_of(clock=self.clock)
        self.policy = policy or ToolPolicy()
        self.lifecycle = Lifecycle()
        self.settled = 0  # how often the request was settled

    def interception(self, is_streaming: bool, **members: object) -> Interception:
        """The interception of one request, with these `headers` of the rig's."""
        document = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]} | members
        if is_streaming:
            document["stream"] = True
        call = Call("POST", "/v1/messages", list(self.headers.items()), json.dumps(document).encode(), may_stream=True)
        watch = Watch(None, self.lifecycle)
        observer = Observer(self.metrics, self.builder, self.trace)
        upstream = cast(Upstream, self.upstream)
        turns = TurnMaker(
            upstream,
            self.pool,
            Caller(None, False),
            watch,
            observer,
            Course(),
            Cooldowns(60.0, 3600.0),
            180.0,
            self.clock,
        )
        request = self.policy.inject(call.body, read_request(call.body).model, self.toolbox.tools())
        conversation: Conversation = OneTurn(call)
        if request is not None:
            conversation = ToolLoop(call, request, self.toolbox, self.policy, is_streaming, watch, observer, self.clock)
        pace = Pace("req_gw_1", 10.0, self.clock)

        def settle() -> None:
            self.settled += conversation.is_last

        return Interception(conversation, turns, pace, self.metrics, self.builder, 0.0, self.clock, settle=settle)

    def outputs(self, is_streaming: bool, **members: object) -> Generator[Output, None, None]:
        """What the interception of one request gives its client. Nothing is to be waited for: upstreams answer at once,
        and tools at once or never."""
        with closing(self.interception(is_streaming, **members).run()) as running:
            for output in running:
                if not isinstance(output, Pause):
                    yield output

    def run(self, is_streaming: bool, **members: object) -> Ran:
        """Run one request to its end. Raises what the interception raises."""
        try:
            return Ran(list(self.outputs(is_streaming, **members)))
        finally:
            self.lifecycle.close()

    def until_called(self) -> tuple[list[Output], Generator[Output, None, None]]:
        """Run a streamed request until it waits for a tool: what it has given so far, and the rest of it."""
        running = self.outputs(is_streaming=True)
        outputs = []
        while not self.toolbox.calls:
            outputs.append(next(running))
            self.clock.advance(100.0)  # so that it must hear something in every wait
        return outputs, running

    @property
    def keys_seen(self) -> list[str]:
        """The keys that the upstream saw, in order."""
        return [key for key, _ in self.upstream.calls]

    @property
    def states(self) -> list[str]:
        """The keys' states now."""
        return [status.state.value for status in self.pool.statuses()]

    def tool_calls(self) -> dict[tuple[str, str], float]:
        """Calls of tools that were counted, by tool and outcome."""
        return {
            (sample.labels["tool"], sample.labels["outcome"]): sample.value
            for family in self.metrics.tool_calls.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        }


def ping() -> bytes:
    """A ping as an upstream sends it."""
    return event("ping")

"""What goes wrong before an answer's body: bad heads, no heads, unread requests. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from gateway.simulator.answer import Answer
from gateway.simulator.behaviour import Behaviour
from gateway.simulator.options import flag, option, seconds
from gateway.simulator.refusals import TooLarge
from gateway.simulator.seen import SeenRequest
from gateway.simulator.steps import Close, Pause, Reset, Send, Stall, Step, split_sends


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowHead(Answer):
    """Silent for a while, then a good answer."""

    name: ClassVar[str] = "slow_head"

    head_seconds: float = option("seconds", 1.0, "how long before the head", seconds)

    def prelude(self) -> Iterator[Step]:
        yield Pause(self.head_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class DripHead(Answer):
    """The head of a good answer byte by byte."""

    name: ClassVar[str] = "drip_head"

    delay_seconds: float = option("delay", 0.01, "seconds after each byte of the head", seconds)

    def plan(self, request: SeenRequest) -> Iterator[Step]:
        steps = Answer.plan(replace(self, delay_seconds=0.0), request)
        for step in steps:
            if isinstance(step, Send):
                head, blank_line, body = step.data.partition(b"\r\n\r\n")
                yield from split_sends([Send(head + blank_line)], 1, self.delay_seconds)
                yield Send(body)
                break
            yield step
        yield from steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent(Behaviour):
    """Reads the request and never answers."""

    name: ClassVar[str] = "silent"

    def plan(self, request: SeenRequest) -> Iterator[Step]:
        yield Stall()


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRead(Behaviour):
    """Does not read the request's body, so that a sender of megabytes is held up."""

    name: ClassVar[str] = "no_read"
    reads_body: ClassVar[bool] = False

    hold_seconds: float = option("seconds", 0.0, "then resets the connection; 0: never", seconds)

    def plan(self, request: SeenRequest) -> Iterator[Step]:
        if not self.hold_seconds:
            yield Stall()
            return
        yield Pause(self.hold_seconds)
        yield Reset()


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyAnswer(TooLarge):
    """413 before the body is read, which it never is."""

    name: ClassVar[str] = "early_answer"
    reads_body: ClassVar[bool] = False

    closes: bool = option("close", False, "closes after the answer, instead of silence", flag)

    def plan(self, request: SeenRequest) -> Iterator[Step]:
        yield from TooLarge.plan(self, request)
        yield Close() if self.closes else Stall()


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseAtOnce(Behaviour):
    """Reads the request and closes without a byte of an answer."""

    name: ClassVar[str] = "close"

    is_reset: bool = option("reset", False, "with a TCP reset", flag)

    def plan(self, request: SeenRequest) -> Iterator[Step]:
        yield Reset() if self.is_reset else Close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage(Behaviour):
    """Answers with something that is not HTTP, then closes."""

    name: ClassVar[str] = "garbage"

    def plan(self, request: SeenRequest) -> Iterator[Step]:
        yield Send(b"\x16\x03\x01 this is not HTTP \xff\xfe\r\n\r\n")
        yield Close()

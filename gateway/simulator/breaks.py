"""Answers that begin well and break: stalled, cut, reset, mangled. Pure.

`after` counts events of a stream (for a whole answer: pieces of 64 bytes). Each class says what is
sent (`cut`) and what follows (`ending`); everything else is an ordinary answer's, with all its
options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from gateway.simulator.answer import Answer
from gateway.simulator.framing import Framed
from gateway.simulator.options import count, flag, option, positive, seconds
from gateway.simulator.seen import SeenRequest
from gateway.simulator.steps import Close, Pause, Reset, Send, Stall, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Break(Answer):
    """An answer that breaks off after some events."""

    after: int = option("after", 4, "number of whole events sent before", count)
    hold_seconds: float = option("hold", 0.0, "seconds of silence before the end", seconds)

    def cut(self, frames: list[bytes]) -> tuple[list[bytes], int]:
        return frames, min(self.after, len(frames))

    def ending(self, framed: Framed) -> Iterator[Step]:
        if self.hold_seconds:
            yield Pause(self.hold_seconds)
        yield from self.breaking(framed)

    def breaking(self, framed: Framed) -> Iterator[Step]:
        """The end itself."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class StallAfter(Break):
    """Some events, then silence for ever."""

    name: ClassVar[str] = "stall"

    def breaking(self, framed: Framed) -> Iterator[Step]:
        yield Stall()


@dataclass(frozen=True, slots=True, kw_only=True)
class StallHalf(StallAfter):
    """Some events and half of one (a chunk of its own), then silence for ever."""

    name: ClassVar[str] = "stall_half"

    def cut(self, frames: list[bytes]) -> tuple[list[bytes], int]:
        return _halved(frames, self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(Break):
    """Some events, then the connection is closed although the body has not ended."""

    name: ClassVar[str] = "cut"

    is_ragged: bool = option("ragged", False, "over TLS: without a close_notify", flag)

    def breaking(self, framed: Framed) -> Iterator[Step]:
        yield Close(self.is_ragged)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutClean(Break):
    """Some events, then a proper end of the body, without `message_stop`."""

    name: ClassVar[str] = "cut_clean"

    def cut(self, frames: list[bytes]) -> tuple[list[bytes], int]:
        kept = frames[: self.after]
        return kept, len(kept)

    def breaking(self, framed: Framed) -> Iterator[Step]:
        return Answer.ending(self, framed)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutHalf(Cut):
    """Some events and half of one, then the connection is closed."""

    name: ClassVar[str] = "cut_half"

    is_clean: bool = option("clean", False, "the body ends properly after the half", flag)

    def cut(self, frames: list[bytes]) -> tuple[list[bytes], int]:
        halved, sent = _halved(frames, self.after)
        return (halved[:sent], sent) if self.is_clean else (halved, sent)

    def breaking(self, framed: Framed) -> Iterator[Step]:
        return Answer.ending(self, framed) if self.is_clean else Cut.breaking(self, framed)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutAt(Cut):
    """Closes after so many bytes of the body (before compression and chunk heads)."""

    name: ClassVar[str] = "cut_at"

    byte: int = option("byte", 100, "bytes sent; `after` is ignored", count)

    def cut(self, frames: list[bytes]) -> tuple[list[bytes], int]:
        ends = list(accumulate(map(len, frames)))
        whole = sum(end <= self.byte for end in ends)
        if whole == len(frames):
            return frames, whole
        offset = self.byte - (ends[whole - 1] if whole else 0)
        return _split_frame(frames, whole, offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetAfter(Break):
    """Some events, then a TCP reset."""

    name: ClassVar[str] = "reset"

    def breaking(self, framed: Framed) -> Iterator[Step]:
        yield Reset()


@dataclass(frozen=True, slots=True, kw_only=True)
class BadChunk(Break):
    """Some events, then a chunk whose size is no number."""

    name: ClassVar[str] = "bad_chunk"

    def framing_for(self, request: SeenRequest, is_streamed: bool) -> str:
        return "chunked"

    def breaking(self, framed: Framed) -> Iterator[Step]:
        yield Send(b"not-a-size\r\nnot a chunk\r\n")
        yield Close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortLength(Answer):
    """The whole message, but Content-Length promises more; then closed."""

    name: ClassVar[str] = "short_length"

    extra_bytes: int = option("extra", 10, "bytes promised and not sent", positive)

    def framing_for(self, request: SeenRequest, is_streamed: bool) -> str:
        return "length"

    def missing_bytes(self) -> int:
        return self.extra_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty(Answer):
    """200 with the right content type and an empty body."""

    name: ClassVar[str] = "empty"

    def cut(self, frames: list[bytes]) -> tuple[list[bytes], int]:
        return [], 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LateEnd(Answer):
    """A good answer with `message_stop`, but the body ends long after it."""

    name: ClassVar[str] = "late_end"

    hold_seconds: float = option("seconds", 0.0, "how long after; 0: never", seconds)

    def ending(self, framed: Framed) -> Iterator[Step]:
        if not self.hold_seconds:
            yield Stall()
            return
        yield Pause(self.hold_seconds)
        yield from Answer.ending(self, framed)


def _halved(frames: list[bytes], after: int) -> tuple[list[bytes], int]:
    """The frame after so many cut in two, and the number of frames with its first half."""
    whole = min(after, len(frames) - 1)
    return _split_frame(frames, whole, len(frames[whole]) // 2)


def _split_frame(frames: list[bytes], index: int, offset: int) -> tuple[list[bytes], int]:
    frame = frames[index]
    halves = [half for half in (frame[:offset], frame[offset:]) if half]
    sent = index + (1 if offset else 0)
    return [*frames[:index], *halves, *frames[index + 1 :]], sent

"""The options that say which message an answer carries. Pure."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from itertools import cycle, islice

from gateway.simulator.behaviour import Behaviour
from gateway.simulator.message import Block, Fallback, Message, Text, Thinking, pieces_of
from gateway.simulator.options import count, flag, one_of, option, plain, positive
from gateway.simulator.seen import Ask, SeenRequest
from gateway.simulator.usage import Counts, Usage, iteration_list, read_iterations

_WORDS = ("The ", "simulated ", "answer ", "streams ", "on. ")
_WIDE_WORDS = ("Grüße, ", "世界! ", "🦜 ", "naïve ", "Ωmega. ")
_REASONING = ("Let me think. ", "Yes: that will do.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageShape(Behaviour):
    """An answer whose message is described by options."""

    text: str = option("text", "", "the text, in `events` pieces; by default words go round", plain)
    events: int = option("events", 5, "number of text `content_block_delta` events", positive)
    delta_bytes: int = option("bytes", 0, "size of each delta's text; 0: a word", count)
    big_bytes: int = option("big", 0, "size of the middle delta's text; 0: like the others", count)
    is_wide: bool = option("utf8", False, "text of multi-byte characters", flag)
    is_thinking: bool = option("thinking", False, "a thinking block, signed, before the text", flag)
    message_id: str = option("id", "", "message id; by default made from the request's body", plain)
    stop_reason: str = option("stop", "end_turn", "stop reason", plain)
    input_tokens: int = option("input-tokens", 25, "usage; also the answer of count_tokens", count)
    output_tokens: int = option("output-tokens", 0, "usage; 0: as many as text deltas", count)
    cache_read: int = option("cache-read", 7, "usage: cache_read_input_tokens", count)
    cache_write: int = option("cache-write", 3, "usage: tokens written to the cache for 5 minutes", count)
    cache_write_1h: int = option("cache-write-1h", 0, "usage: tokens written to the cache for an hour", count)
    container: str = option("container", "", "id of a container, told with the stop reason", plain)
    fallback: str = option("fallback", "", "a model that takes over behind a thought and a `fallback` block", plain)
    web_searches: int = option("web-searches", 0, "usage: web_search_requests of server_tool_use", count)
    web_fetches: int = option("web-fetches", 0, "usage: web_fetch_requests of server_tool_use", count)
    has_lifetimes: bool = option("lifetimes", True, "usage: `cache_creation` says for how long the cache lives", flag)
    tier: str = option("tier", "standard", "usage: service_tier", one_of("standard", "priority", "batch"))
    speed: str = option("speed", "", "usage: speed; by default as the request asks", plain)
    geo: str = option("geo", "", "usage: inference_geo; by default as the request asks", plain)
    iterations: str = option("iterations", "", "usage: iterations, a JSON list; then these count", iteration_list)

    def message(self, request: SeenRequest, ask: Ask) -> Message:
        """The message that answers this request: the same for the same body."""
        source = self.message_id.encode() or request.body
        digest = hashlib.sha256(source).hexdigest()[:24]
        chunks = self.chunks()
        return Message(
            id=self.message_id or f"msg_sim_{digest}",
            model=ask.model,
            blocks=(*self.fallback_blocks(ask), *self.thinking_blocks(), *self.blocks(ask, chunks, digest)),
            stop_reason=self.stop_reason,
            usage=self.usage(ask, len(chunks)),
            container=self.container,
        )

    def usage(self, ask: Ask, text_deltas: int) -> Usage:
        """What the answer has used."""
        output = self.output_tokens or text_deltas
        tools = {"web_search_requests": self.web_searches, "web_fetch_requests": self.web_fetches}
        return Usage(
            Counts(self.input_tokens, self.cache_write, self.cache_read, output, self.cache_write_1h),
            read_iterations(self.iterations) if self.iterations else (),
            {name: times for name, times in tools.items() if times},
            self.tier,
            self.geo or ask.geo,
            self.speed or ask.speed,
            self.has_lifetimes,
        )

    def blocks(self, ask: Ask, chunks: tuple[str, ...], digest: str) -> tuple[Block, ...]:
        """The blocks after any thinking."""
        return (Text(chunks),)

    def thinking_blocks(self) -> tuple[Block, ...]:
        return (_thought(),) if self.is_thinking else ()

    def fallback_blocks(self, ask: Ask) -> tuple[Block, ...]:
        return (_thought(), Fallback(ask.model, self.fallback)) if self.fallback else ()

    def chunks(self) -> tuple[str, ...]:
        """The text of each delta."""
        words = _WIDE_WORDS if self.is_wide else _WORDS
        chunks = pieces_of(self.text, self.events) if self.text else tuple(islice(cycle(words), self.events))
        if self.delta_bytes:
            chunks = tuple(_fill(chunk, self.delta_bytes) for chunk in chunks)
        if self.big_bytes:
            middle = len(chunks) // 2
            big = _fill(chunks[middle], self.big_bytes)
            chunks = (*chunks[:middle], big, *chunks[middle + 1 :])
        return chunks


def _thought() -> Thinking:
    signature = base64.b64encode(hashlib.sha512("".join(_REASONING).encode()).digest())
    return Thinking(_REASONING, signature.decode())


def _fill(word: str, size_bytes: int) -> str:
    """The word over and over, exactly that many bytes: what is left at the end is dots."""
    encoded = word.encode()
    whole = (encoded * (size_bytes // len(encoded) + 1))[:size_bytes]
    text = whole.decode(errors="ignore")
    return text + "." * (size_bytes - len(text.encode()))

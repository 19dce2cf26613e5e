"""The bytes that the fake upstream says and the load generator sends: shaped as Anthropic's, prepared once."""

from __future__ import annotations

import json

LIMITED_KEY = b"sk-ant-bench-limited"
GOOD_KEY = b"sk-ant-bench-good"
MODEL = "claude-bench"

_HEADERS = (
    b"date: Wed, 01 Jan 2025 00:00:00 GMT\r\n"
    b"request-id: req_011CbenchBenchBenchBenchBe\r\n"
    b"anthropic-organization-id: 00000000-0000-0000-0000-000000000000\r\n"
    b"anthropic-ratelimit-requests-limit: 4000\r\n"
    b"anthropic-ratelimit-requests-remaining: 3999\r\n"
    b"anthropic-ratelimit-requests-reset: 2025-01-01T00:00:00Z\r\n"
    b"anthropic-ratelimit-input-tokens-limit: 2000000\r\n"
    b"anthropic-ratelimit-input-tokens-remaining: 1999000\r\n"
    b"anthropic-ratelimit-input-tokens-reset: 2025-01-01T00:00:00Z\r\n"
    b"anthropic-ratelimit-output-tokens-limit: 400000\r\n"
    b"anthropic-ratelimit-output-tokens-remaining: 399000\r\n"
    b"anthropic-ratelimit-output-tokens-reset: 2025-01-01T00:00:00Z\r\n"
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    + _HEADERS
    + b"transfer-encoding: chunked\r\n\r\n"
)
_USAGE: dict[str, object] = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 1,
    "service_tier": "standard",
}
_MESSAGE: dict[str, object] = {
    "id": "msg_01BenchBenchBenchBenchBen",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": _USAGE,
}


def _document(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _answer(status: bytes, document: object, headers: bytes = b"") -> bytes:
    body = _document(document)
    lines = b"content-type: application/json\r\n%s%scontent-length: %d\r\n\r\n" % (_HEADERS, headers, len(body))
    return b"HTTP/1.1 " + status + b"\r\n" + lines + body


_TEXT = "The quick brown fox jumps over the lazy dog, and nobody knows why. " * 8
WHOLE = _answer(
    b"200 OK",
    _MESSAGE
    | {
        "content": [{"type": "text", "text": _TEXT}],
        "stop_reason": "end_turn",
        "usage": {**_USAGE, "output_tokens": 120},
    },
)
RATE_LIMITED = _answer(
    b"429 Too Many Requests",
    {"type": "error", "error": {"type": "rate_limit_error", "message": "This request would exceed your rate limit."}},
    b"retry-after: 3600\r\n",
)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112 section 7.1)."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(name: bytes, document: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name, _document(document))


_DELTA = _event(
    b"content_block_delta",
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "TEXT"}},
)
_DELTA_BEFORE, _, _DELTA_AFTER = _DELTA.partition(b"TEXT")


def delta(text: bytes) -> bytes:
    """One event of text."""
    return _DELTA_BEFORE + text + _DELTA_AFTER


_BEGIN = chunk(_event(b"message_start", {"type": "message_start", "message": _MESSAGE})) + chunk(
    _event(
        b"content_block_start",
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    )
)
_END = (
    chunk(_event(b"content_block_stop", {"type": "content_block_stop", "index": 0}))
    + chunk(
        _event(
            b"message_delta",
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 120},
            },
        )
    )
    + chunk(_event(b"message_stop", {"type": "message_stop"}))
    + b"0\r\n\r\n"
)


def stream_begin() -> bytes:
    """What comes before the text, in chunks."""
    return _BEGIN


def stream_end() -> bytes:
    """What comes after the text, in chunks, and the end of the body."""
    return _END


def burst(events: int) -> bytes:
    """A whole stream of so many deltas, head and all."""
    return STREAM_HEAD + _BEGIN + b"".join(chunk(delta(b" word-%d" % number)) for number in range(events)) + _END


NO_STREAM = b'"stream":false'  # as `request_body` writes it


def request_body(is_streamed: bool, padding_bytes: int = 0) -> bytes:
    """A request; with padding, as large as those of Claude Code, in tools and system prompt."""
    document: dict[str, object] = {
        "model": MODEL,
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Why is the sky blue?"}]}],
        "stream": is_streamed,
    }
    if padding_bytes:
        description = "Reads a file from the local filesystem. You can access any file directly.\n" * 28
        schema = {"type": "object", "properties": {"path": {"type": "string", "description": "The file's path."}}}
        tool = {"name": "Read_00", "description": description, "input_schema": schema}
        tools = [{**tool, "name": f"Read_{number:02}"} for number in range(24)]
        document["tools"] = tools
        document["system"] = [{"type": "text", "text": "x" * max(0, padding_bytes - len(_document(tools)))}]
    return _document(document)

"""What a server sends, read as RESP within bounds: it may be anything, come in drops, or never end.

Owns: the reader that redis-py's connections are given in place of the library's own, which would read on for as long as
something comes (https://redis.io/docs/latest/develop/reference/protocol-spec/). Belongs to its connection's
thread. An answer has a length, a depth and one deadline for all of it; what is none is a redis.InvalidResponse.
"""

from __future__ import annotations

import re
import ssl
import time
from contextlib import suppress
from typing import Any

import redis

_LONGEST_BYTES = 4 * 1024 * 1024
_LONGEST_LINE_BYTES = 4096
_DEEPEST = 8
_RECEIVE_BYTES = 65536
_LONGEST_SHOWN = 200
_WHOLE_NUMBER = re.compile(rb"-?[0-9]{1,18}")


class AnswerReader:
    """redis-py's `parser_class`, made beforehand. `answer_seconds` is how long an answer may take, all in all."""

    def __init__(self, answer_seconds: float) -> None:
        self.answer_seconds = answer_seconds
        self._socket: Any = None
        self._data = bytearray()
        self._at = 0
        self._deadline = 0.0

    def __call__(self, socket_read_size: int) -> AnswerReader:
        """What redis-py calls to make one."""
        return self

    def on_connect(self, connection: Any) -> None:
        """redis-py has connected. This private attribute is all by which its parsers get the socket (redis below 9)."""
        self._socket = connection._sock
        self._data.clear()
        self._at = 0

    def on_disconnect(self) -> None:
        """redis-py closes the socket."""
        self._socket = None

    def fileno(self) -> int:
        """The socket's descriptor; -1 without one."""
        return -1 if self._socket is None else int(self._socket.fileno())

    def can_read(self, timeout: float = 0) -> bool:
        """Whether something has come, or comes in that time; a closed connection raises redis.ConnectionError."""
        if self._data:
            return True
        try:
            self._receive(timeout)
        except redis.TimeoutError:
            return False
        return True

    def read_response(self, disable_decoding: bool = False, **_: object) -> Any:
        """One answer; an error that the server tells is returned, as redis-py expects it. Raises redis.RedisError."""
        self._deadline = time.monotonic() + self.answer_seconds
        answer = self._value(0)
        if self._at < len(self._data):
            raise redis.InvalidResponse("more came than one answer")
        self._data.clear()
        self._at = 0
        return answer

    def read_what_came(self) -> list[Any]:
        """The answers that have come whole; waits for nothing, and keeps what has come of the next.

        A closed connection raises redis.ConnectionError.
        """
        with suppress(redis.TimeoutError):  # no more has come
            while len(self._data) <= _LONGEST_BYTES:
                self._receive(0)
        self._deadline = 0.0  # so that nothing is waited for
        answers, read_to = [], 0
        with suppress(redis.TimeoutError):  # the last one is not whole
            while self._at < len(self._data):
                answers.append(self._value(0))
                read_to = self._at
        del self._data[:read_to]
        self._at = 0
        return answers

    def _value(self, depth: int) -> Any:
        if depth > _DEEPEST:
            raise redis.InvalidResponse("an answer is nested too deep")
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            kind_of_error = redis.exceptions.NoScriptError if rest.startswith(b"NOSCRIPT") else redis.ResponseError
            return kind_of_error(_shown(rest))
        if kind == b":":
            return _whole(rest)
        if kind == b"$":
            size_bytes = _whole(rest)
            return None if size_bytes == -1 else self._text(size_bytes)
        if kind == b"*":
            count = _whole(rest)
            return None if count == -1 else [self._value(depth + 1) for _ in range(count)]
        raise redis.InvalidResponse(f"an answer is not RESP: {_shown(line)}")

    def _line(self) -> bytes:
        looked_at = self._at
        while (end := self._data.find(b"\r\n", looked_at)) < 0:
            if len(self._data) - self._at > _LONGEST_LINE_BYTES:
                raise redis.InvalidResponse("a line of an answer has no end")
            looked_at = max(self._at, len(self._data) - 1)
            self._receive_more()
        line = bytes(self._data[self._at : end])
        self._at = end + 2
        return line

    def _text(self, size_bytes: int) -> bytes:
        if not 0 <= size_bytes <= _LONGEST_BYTES:
            raise redis.InvalidResponse(f"an answer of {size_bytes} bytes")
        end = self._at + size_bytes
        while len(self._data) < end + 2:
            self._receive_more()
        if self._data[end : end + 2] != b"\r\n":
            raise redis.InvalidResponse("a text of an answer does not end where it should")
        text = bytes(self._data[self._at : end])
        self._at = end + 2
        return text

    def _receive_more(self) -> None:
        if len(self._data) > _LONGEST_BYTES:
            raise redis.InvalidResponse(f"an answer is longer than {_LONGEST_BYTES} bytes")
        left_seconds = self._deadline - time.monotonic()
        if left_seconds <= 0:
            raise redis.TimeoutError("an answer took too long")
        self._receive(left_seconds)

    def _receive(self, timeout_seconds: float) -> None:
        if self._socket is None:
            raise redis.ConnectionError("not connected")
        patience_seconds = self._socket.gettimeout()
        self._socket.settimeout(timeout_seconds)
        try:
            received = self._socket.recv(_RECEIVE_BYTES)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError) as error:
            raise redis.TimeoutError("no answer in time") from error
        finally:
            self._socket.settimeout(patience_seconds)
        if not received:
            raise redis.ConnectionError("the server closed the connection")
        self._data += received


def _whole(text: bytes) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise redis.InvalidResponse(f"not a whole number: {_shown(text)}")
    return int(text)


def _shown(text: bytes) -> str:
    """What may stand in a log: printable, and not long."""
    return ascii(text[:_LONGEST_SHOWN].decode(errors="replace"))[1:-1]

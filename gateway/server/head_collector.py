"""Collecting requests' heads before a thread is spent on them.

Owns: when there is enough of a head for gunicorn's parser to have the last word on it. Pure of sockets and clocks; a
Head belongs to its connection.

A head is handed to a thread when it is whole, or when the parser would refuse what is there of it: then the thread
never waits for its rest, and what is accepted, and what is refused with which words, stays the parser's decision.
The parser copies and searches all that it has whenever a byte comes; here each byte is looked at once, and the parser
is asked once for a head that comes in pieces, when its request line is there.
"""

from __future__ import annotations

from collections.abc import Iterator

from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from gateway.server.request_head import HeadParser, KnownLines

_LINE_END = b"\r\n"
_HEAD_END = b"\r\n\r\n"


class HeadRules:
    """What gunicorn's parser allows a head to be, in one configuration."""

    def __init__(self, known: KnownLines, config: Config) -> None:
        limits = _Limits(config, IterUnreader(()), "")
        self.line_bytes: int = limits.limit_request_line  # 0: any
        self.fields_bytes: int = limits.max_buffer_headers
        # What does not begin with a request line, the parser has to read by itself, from the first byte.
        self.is_plain: bool = config.protocol == "http" and config.proxy_protocol == "off"
        self._known = known
        self._config = config

    def parser(self, source: object, address: object) -> HeadParser:
        """A connection's parser."""
        return HeadParser(self._known, self._config, source, address)

    def has_last_word(self, begun: bytes, address: object) -> bool:
        """Whether the parser can say now what becomes of a head that begins so."""
        try:
            next(self.parser(_no_more_than(begun), address))
        except _Unfinished:
            return False
        except Exception:  # noqa: BLE001  # whatever it is, it is raised again where the request is served
            return True
        return True


class Head:
    """One connection's next head, as it comes in; `address` is the client's."""

    __slots__ = ("_address", "_bytes", "_fields_at", "_rules", "is_too_large")

    def __init__(self, rules: HeadRules, address: object) -> None:
        self._rules = rules
        self._address = address
        self._forget()

    def __len__(self) -> int:
        return len(self._bytes)

    def feed(self, data: bytes) -> bool:
        """Take in what has come; whether the parser has the last word now. Then `take` is next.

        If that is because `is_too_large`, the parser would not find out by what is there, but by reading on.
        """
        seen = len(self._bytes)
        self._bytes += data
        if not self._rules.is_plain or self._bytes.find(_HEAD_END, max(0, seen - 3)) >= 0 or self._has_bare_lf(seen):
            return True
        if self._fields_at < 0 and self._line_decides(seen):
            return True
        self.is_too_large = self._fields_at >= 0 and len(self._bytes) - self._fields_at > self._rules.fields_bytes
        return self.is_too_large

    def begins_with(self, prefix: bytes) -> bool:
        """Whether what has come begins so."""
        return self._bytes.startswith(prefix)

    def take(self) -> bytes:
        """All that has come, which is not kept: the next head begins."""
        taken = bytes(self._bytes)
        self._forget()
        return taken

    def _forget(self) -> None:
        self._bytes = bytearray()
        self._fields_at = -1
        self.is_too_large = False

    def _has_bare_lf(self, seen: int) -> bool:
        begin = seen - 1 if self._bytes[seen - 1 : seen] == b"\r" else seen
        return self._bytes.count(b"\n", begin) != self._bytes.count(_LINE_END, begin)

    def _line_decides(self, seen: int) -> bool:
        """Whether the request line is there, or too much of it, and the parser refuses the head for it."""
        begin = len(_LINE_END) if self._bytes.startswith(_LINE_END) else 0  # one empty line may go before it
        end = self._bytes.find(_LINE_END, max(begin, seen - 1))
        line_bytes = (end if end >= 0 else len(self._bytes) - len(_LINE_END)) - begin
        if line_bytes > self._rules.line_bytes > 0:
            return True
        if end < 0:
            return False
        self._fields_at = end + len(_LINE_END)
        return self._rules.has_last_word(bytes(self._bytes), self._address)

    def __repr__(self) -> str:
        return f"<Head of {len(self._bytes)} bytes>"


class _Unfinished(Exception):
    """The parser wants more."""


def _no_more_than(data: bytes) -> Iterator[bytes]:
    yield data
    raise _Unfinished


class _Limits(Request):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's Request before it reads anything: it has worked out its limits."""

    limit_request_line: int
    max_buffer_headers: int

    def parse(self, unreader: object) -> bytes:
        """Nothing."""
        return b""

"""HTTP/1.1 answers as they come off the wire: bytes in, a head and body pieces out.

Owns: reading one response incrementally, so that a wait can fall between any two bytes and nothing that has
arrived is ever held back by a reader that wants more. Pure; a parser belongs to one exchange. The grammar is
llhttp's, the parser of Node.js, by way of httptools.
"""

from __future__ import annotations

from dataclasses import dataclass

import httptools

LARGEST_HEAD_BYTES = 256 * 1024
# An alert and a handshake, as a TLS server answers to plain HTTP: https://www.rfc-editor.org/rfc/rfc8446#section-5.1
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")


class WireError(Exception):
    """What came is not an HTTP/1.1 answer, or ended before its end."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers of an answer; names in lower case, values as latin-1 text, in the order they came."""

    status: int
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        """The first header of that lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


class ResponseParser:
    """One response. Feed it bytes; once it `has_head`, take that, then the body, until `is_complete`.

    `body` holds the pieces of it that have come and that nobody has taken.
    """

    __slots__ = (
        "__weakref__",
        "_body_pieces",
        "_bytes_before_head",
        "_has_length",
        "_has_surplus",
        "_headers",
        "_keeps_alive",
        "_parser",
        "body",
        "has_head",
        "head",
        "is_complete",
        "on_body",
    )

    def __init__(self) -> None:
        self.has_head = False
        self.head: ResponseHead | None = None
        self.is_complete = False
        self._headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.on_body = self.body.append  # called for each piece of the body, which may be a few bytes
        self._body_pieces: int | None = None  # of this answer, once it is complete
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._bytes_before_head = 0
        self._has_length = False  # else its end is that of the connection
        self._keeps_alive = False
        self._has_surplus = False

    def feed(self, data: bytes) -> None:
        """Take in bytes. Raises WireError if they are not HTTP; what was good before them can still be taken."""
        if self.is_complete:
            self._has_surplus = True
            return
        if self._parser is None:
            raise RuntimeError("the parser is closed")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as error:
            self._failed(data, error)
        if not self.has_head:
            self._bytes_before_head += len(data)
            if self._bytes_before_head > LARGEST_HEAD_BYTES:
                raise WireError("the answer's head is too large")

    def end(self) -> None:
        """The connection has ended. Raises WireError if the answer has not."""
        if not self.has_head:
            raise WireError("the connection ended before the answer's head was complete")
        if not self.is_complete and self._has_length:
            raise WireError("the connection ended in the middle of the answer")
        self.is_complete = True
        self._keeps_alive = False

    def take_head(self) -> ResponseHead:
        """The head, handed out once: it need not live as long as the body arrives."""
        head, self.head = self.head, None
        if head is None:
            raise RuntimeError("there is no head")
        return head

    def take_body(self) -> bytes:
        """The body bytes that have come since the last call."""
        body = self.body
        if self._body_pieces is not None:
            del body[self._body_pieces :]
        if len(body) == 1:
            return body.pop()
        taken = b"".join(body)
        body.clear()
        return taken

    def close(self) -> None:
        """No more bytes will be fed.

        llhttp's parser refers back to this one: without this, both would wait for the garbage collector.
        """
        self._parser = None

    @property
    def is_reusable(self) -> bool:
        """Whether the connection may carry another exchange: all was read, nothing is left over."""
        return self.is_complete and self._keeps_alive and not self._has_surplus

    def _failed(self, data: bytes, error: Exception) -> None:
        if isinstance(error, httptools.HttpParserUpgrade):
            raise WireError("the answer switches protocols") from error
        if not self.has_head and data.startswith(_TLS_RECORDS):
            raise WireError("the answer is not HTTP but TLS: should the address begin with https://?") from error
        if not self.is_complete:
            raise WireError(f"the answer is not HTTP/1.1: {error}") from error
        self._has_surplus = True

    # httptools calls these.

    def on_message_begin(self) -> None:
        self._headers = []
        self._has_surplus = self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser is None:
            return  # it is the parser itself that calls
        status = parser.get_status_code()
        if status >= 200 and not self.is_complete:
            self.has_head = True
            self.head = ResponseHead(
                status,
                tuple(
                    [(name.decode("latin-1").lower(), value.decode("latin-1").strip()) for name, value in self._headers]
                ),
            )
            self._headers = []
            coding = self.head.get("transfer-encoding") or ""
            self._has_length = bool(self.head.get("content-length")) or "chunked" in coding.lower()
            self._keeps_alive = parser.should_keep_alive()

    def on_message_complete(self) -> None:
        # An informational answer (1xx) is complete too, and the real one follows it.
        if self.has_head and not self.is_complete:
            self.is_complete = True
            self._body_pieces = len(self.body)  # what follows belongs to no answer that was asked for

"""A request's body as it arrives, without a thread that waits for it.

Owns: taking in what has come, until gunicorn's own reader can read the body without waiting. Where a chunked body ends,
llhttp says; what the body is, and what is wrong with it, remains gunicorn's word. Belongs to whoever runs the request.
"""

from __future__ import annotations

import os
from typing import Any

import httptools
from gunicorn.http.body import ChunkedReader, LengthReader

from gateway.runtime.client_socket import ClientSocket

_RECEIVE_BYTES = 256 * 1024
_CHUNKED_RECEIVE_BYTES = 16 * 1024  # gunicorn's cost for a piece is its bytes times its chunks
_LEAST_READ_BYTES = 1024  # gunicorn's Body asks for so much, however little is left to read
_PADDING_BYTES = 64 * 1024  # what chunks' sizes, extensions and trailers may take beside as much as the body itself
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


class ArrivingBody:
    """The body of a gunicorn Request whose head has been read from `client`.

    What comes is kept in the pieces in which it came: gunicorn copies all of what it is given for every chunk.
    """

    def __init__(self, request: Any, client: ClientSocket) -> None:
        self._unreader = request.unreader
        self._reader = request.body.reader
        self._client = client
        self._pieces: list[bytes] = []
        self._piece_bytes = 0
        self._chunks: _Chunks | None = None

    def fileno(self) -> int:
        """The client's descriptor: readable when more has come."""
        return self._client.fileno()

    def receive(self, limit_bytes: int) -> bool:
        """Take in what has come. Whether that is all, or more than `limit_bytes` of it, or nothing more will come.

        Raises OSError if the connection breaks.
        """
        while (wanted_bytes := self._wanted_bytes(limit_bytes + _LEAST_READ_BYTES)) > 0:
            data = self._client.receive_now(wanted_bytes)
            if data is None:
                return False
            if not data:
                return True
            self._pieces.append(data)
            self._piece_bytes += len(data)
            self._unreader.chunk = self._next_piece
            if self._chunks is not None:
                self._chunks.feed(data)
        return True

    def forget(self) -> None:
        """What has been read counts no more for the limits of `receive`: the rest is to be thrown away."""
        if self._chunks is not None:
            self._chunks.body_bytes = self._chunks.raw_bytes = 0

    def _wanted_bytes(self, most_bytes: int) -> int:
        """How much to ask for next; 0 when there is enough. Of a body of known length never more than that."""
        if isinstance(self._reader, LengthReader):
            held_bytes = self._unreader.buf.seek(0, os.SEEK_END) + self._piece_bytes
            return min(int(min(self._reader.length, most_bytes) - held_bytes), _RECEIVE_BYTES)
        if not isinstance(self._reader, ChunkedReader):
            return 0
        if self._chunks is None:
            self._chunks = _Chunks()
            self._chunks.feed(self._unreader.buf.getvalue())
        chunks = self._chunks
        is_padded = chunks.raw_bytes > 2 * most_bytes + _PADDING_BYTES
        return 0 if chunks.are_over or chunks.body_bytes >= most_bytes or is_padded else _CHUNKED_RECEIVE_BYTES

    def _next_piece(self, size_hint: int | None = None) -> bytes:
        """What gunicorn reads next, where else it would ask the socket."""
        if not self._pieces:
            del self._unreader.chunk  # the class's own again
            from_socket: bytes = self._unreader.chunk(size_hint)
            return from_socket
        piece = self._pieces.pop(0)
        self._piece_bytes -= len(piece)
        return piece


class _Chunks:
    """Finds the end of a chunked body; `body_bytes` is how much of it there is, in `raw_bytes` of chunks."""

    def __init__(self) -> None:
        self.are_over = False
        self.body_bytes = 0
        self.raw_bytes = 0
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_CHUNKED_HEAD)

    def feed(self, data: bytes) -> None:
        self.raw_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.are_over = True  # it is malformed, or what follows it is; gunicorn says so

    # httptools calls these.

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)

    def on_message_complete(self) -> None:
        self.are_over = True

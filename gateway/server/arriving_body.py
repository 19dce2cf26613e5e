"""A request's body as it arrives, without a thread that waits for it.

Owns: taking in what has come, until gunicorn's own reader can read the body without waiting. What has come lies in the
buffer of gunicorn's parser. Where a chunked body ends, llhttp says; what the body is, and what is wrong with it,
remains gunicorn's word. Belongs to whoever runs the request.
"""

from __future__ import annotations

import os
from typing import Any

import httptools
from gunicorn.http.body import ChunkedReader, LengthReader

from gateway.runtime.client_socket import ClientSocket

_RECEIVE_BYTES = 256 * 1024
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


class ArrivingBody:
    """The body of a gunicorn Request whose head has been read from `client`."""

    def __init__(self, request: Any, client: ClientSocket) -> None:
        self._buffer = request.unreader.buf
        self._reader = request.body.reader
        self._client = client
        self._chunks: _Chunks | None = None

    def fileno(self) -> int:
        """The client's descriptor: readable when more has come."""
        return self._client.fileno()

    def receive(self, limit_bytes: int) -> bool:
        """Take in what has come. Whether that is all, or more than `limit_bytes` of it, or nothing more will come.

        Raises OSError if the connection breaks.
        """
        while not self._is_enough(limit_bytes):
            data = self._client.receive_now(_RECEIVE_BYTES)
            if data is None:
                return False
            if not data:
                return True
            self._buffer.seek(0, os.SEEK_END)
            self._buffer.write(data)
            if self._chunks is not None:
                self._chunks.feed(data)
        return True

    def _is_enough(self, limit_bytes: int) -> bool:
        if isinstance(self._reader, LengthReader):
            return bool(self._buffer.seek(0, os.SEEK_END) >= min(self._reader.length, limit_bytes + 1))
        if not isinstance(self._reader, ChunkedReader):
            return True
        if self._chunks is None:
            self._chunks = _Chunks()
            self._chunks.feed(self._buffer.getvalue())
        return self._chunks.are_over or self._chunks.body_bytes > limit_bytes


class _Chunks:
    """Finds the end of a chunked body; `body_bytes` is how much of it there is."""

    def __init__(self) -> None:
        self.are_over = False
        self.body_bytes = 0
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_CHUNKED_HEAD)

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.are_over = True  # it is malformed, or what follows it is; gunicorn says so

    # httptools calls these.

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)

    def on_message_complete(self) -> None:
        self.are_over = True

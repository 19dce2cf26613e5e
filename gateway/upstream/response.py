"""An answer as any user of requests knows it: read by waiting, with `.content`, `.iter_content`, `.reason` and cookies.

Owns: making a complete `requests.Response` of an answer that arrives over the gateway's own connections. The gateway
itself reads answers without waiting (`reply`); this is for whoever mounts the adapter in a `requests.Session`.
"""

from __future__ import annotations

import io
import time
from http.client import HTTPMessage, responses
from typing import Protocol

from requests import PreparedRequest, Response
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers
from urllib3 import HTTPHeaderDict
from urllib3.response import HTTPResponse

from gateway.protocol.http_response import ResponseHead
from gateway.runtime.pause import Wanted, wait
from gateway.upstream.watch import Watch


class Arriving(Protocol):
    """A body that is being read; see adapter.WireBody."""

    @property
    def wanted(self) -> Wanted: ...

    def receive(self) -> bytes | None: ...

    def close(self) -> None: ...


def whole_response(
    request: PreparedRequest, head: ResponseHead, body: Arriving, watch: Watch, timeout_seconds: float
) -> Response:
    """A Response whose body is read when it is asked for, by waiting `timeout_seconds` for each piece at most."""
    original = _Original(head)
    raw = HTTPResponse(
        body=io.BufferedReader(_WaitingFile(body, watch, timeout_seconds)),
        headers=HTTPHeaderDict(head.headers),
        status=head.status,
        version=11,
        version_string="HTTP/1.1",
        reason=responses.get(head.status, ""),
        preload_content=False,
        decode_content=False,  # requests asks for it
        original_response=original,  # type: ignore[arg-type]  # of it requests takes the cookies
        request_method=request.method,
    )
    response = Response()
    response.status_code = head.status
    response.headers = CaseInsensitiveDict(raw.headers)
    response.encoding = get_encoding_from_headers(response.headers)
    response.raw = raw
    response.reason = raw.reason or ""
    response.url = request.url or ""
    response.request = request
    extract_cookies_to_jar(response.cookies, request, raw)  # type: ignore[no-untyped-call]
    return response


class _Original:
    """As much of http.client's response as is asked for."""

    def __init__(self, head: ResponseHead) -> None:
        self.msg = HTTPMessage()
        for name, value in head.headers:
            self.msg[name] = value

    def isclosed(self) -> bool:
        return False  # the body says so itself

    def close(self) -> None:
        """The body is closed by itself."""


class _WaitingFile(io.RawIOBase):
    """A body as a file. Raises TimeoutError, and as the body does."""

    def __init__(self, body: Arriving, watch: Watch, timeout_seconds: float) -> None:
        super().__init__()
        self._body = body
        self._watch = watch
        self._timeout_seconds = timeout_seconds
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader gives
        try:
            data = self._rest or self._received()
        except BaseException:
            self._body.close()  # nobody need know that this response is to be closed
            raise
        taken = min(len(data), len(buffer))
        buffer[:taken] = data[:taken]
        self._rest = data[taken:]
        return taken

    def _received(self) -> bytes:
        silent_until = time.monotonic() + self._timeout_seconds
        while (data := self._body.receive()) is None:
            if time.monotonic() >= silent_until:
                raise TimeoutError("the upstream has gone silent")  # as a socket does
            wait(self._watch.pause(self._body.wanted, silent_until))
            self._watch.check()
        return data

    def close(self) -> None:
        if not self.closed:
            self._body.close()
        super().close()

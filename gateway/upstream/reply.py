"""An upstream's answer being read.

Owns: the answer's status and headers, its body as it arrives, and giving the connection back. Who opens a Reply closes
it. requests' exceptions end here: what leaves is a GatewayError.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import Protocol, cast

from requests import Response
from requests.exceptions import ConnectTimeout, ReadTimeout, RequestException
from urllib3.exceptions import DecodeError
from urllib3.response import ContentDecoder, HTTPResponse, MultiDecoder

from gateway.protocol.errors import GatewayError, UpstreamError, UpstreamSilent, UpstreamTimedOut
from gateway.protocol.headers import Headers
from gateway.runtime.pause import Pause, Wanted
from gateway.upstream.watch import Watch

LARGEST_WHOLE_BYTES = 256 * 1024 * 1024
_DECODED_BYTES = 64 * 1024  # what is looked through at once, while others wait
_AT_A_TIME_BYTES = 512 * 1024  # of a whole answer; then others have their turn
_DISCARD_BYTES = 64 * 1024
# How long the body of a refusal may take before it is judged by its head alone: another key may answer meanwhile.
_REFUSAL_SECONDS = 0.25
_DECODER_ERRORS: tuple[type[Exception], ...] = (DecodeError, *HTTPResponse.DECODER_ERROR_CLASSES)


class Body(Protocol):
    """What an answer's `raw` can do; see adapter.WireBody."""

    @property
    def wanted(self) -> Wanted: ...

    def receive(self) -> bytes | None: ...

    def wanted_if_drained(self) -> Wanted | None: ...

    def close(self) -> None: ...


class Reply:
    """One answer. `headers` have lower-case names, as they came; the body is decoded whatever its coding.

    `content_type` is the media type, lower case, without parameters; empty when there is none.

    `read_idle_seconds` is the longest silence of the upstream that is borne.
    """

    __slots__ = (
        "_decoder",
        "_heard_at",
        "_is_ended",
        "_raw",
        "_watch",
        "content_type",
        "headers",
        "read_idle_seconds",
        "status",
    )

    def __init__(self, response: Response, watch: Watch, read_idle_seconds: float) -> None:
        self.status: int = response.status_code
        self.headers: Headers = list(response.headers.items())
        self._raw = cast(Body, response.raw)
        self._watch = watch
        self.read_idle_seconds = read_idle_seconds
        self._heard_at = time.monotonic()
        self._is_ended = False
        self._decoder = _decoder(response.headers.get("content-encoding", ""))
        media_type = response.headers.get("content-type", "").partition(";")[0]
        self.content_type = media_type.strip().lower()

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of events rather than one document."""
        return self.status == 200 and self.content_type == "text/event-stream"

    def receive(self) -> bytes | None:
        """Decoded bytes if any are there; b"" at the end; None if nothing has come, and `pause` is due.

        Raises UpstreamError if the body breaks, UpstreamSilent past the read-idle limit, ClientGone, Stopping.
        """
        self._watch.check()
        if self._decoder is not None:
            return self._decoded(self._decoder)
        return self._arrived()

    def pause_if_drained(self, until_at: float) -> Pause | None:
        """As `pause`, if `receive` would most likely find nothing now; else None, and `receive` should be asked."""
        wanted = self._raw.wanted_if_drained() if self._decoder is None else None
        if wanted is None:
            return None
        return self._watch.pause(wanted, min(until_at, self._heard_at + self.read_idle_seconds))

    def pause(self, until_at: float = math.inf) -> Pause:
        """A Pause until `receive` may have something, or is to say that the upstream is silent, or a monotonic time."""
        return self._watch.pause(self._raw.wanted, min(until_at, self._heard_at + self.read_idle_seconds))

    def read_whole(self) -> Generator[Pause, None, bytes]:
        """The rest of the body. Raises as `receive` does, and UpstreamError past a size nobody sends."""
        pieces: list[bytes] = []
        size = 0
        pauses_at = _AT_A_TIME_BYTES
        while (data := self.receive()) != b"":
            if data is None:
                yield self.pause()
                continue
            pieces.append(data)
            size += len(data)
            if size >= pauses_at:
                pauses_at = size + _AT_A_TIME_BYTES
                yield self._watch.let_others()
            if size > LARGEST_WHOLE_BYTES:
                raise UpstreamError("the upstream's answer is too large")
        return b"".join(pieces)

    def read_refusal(self, limit_bytes: int) -> Generator[Pause, None, tuple[bytes, bool]]:
        """The body as far as it comes quickly, up to about so many bytes, and whether that is all of it.

        Raises as `receive` does; the rest is there for `read_whole` or `discard`.
        """
        pieces: list[bytes] = []
        size = 0
        deadline = time.monotonic() + _REFUSAL_SECONDS
        while size <= limit_bytes:
            data = self.receive()
            if data == b"":
                return b"".join(pieces), True
            if data is None:
                if time.monotonic() >= deadline:
                    break
                yield self.pause(deadline)
                continue
            pieces.append(data)
            size += len(data)
        return b"".join(pieces), False

    def limit_silence(self, seconds: float) -> None:
        """From now on the upstream may be silent for so long at most."""
        self.read_idle_seconds = min(self.read_idle_seconds, seconds)

    def recast(self, status: int, media_type: str) -> None:
        """From now on the answer has this status and type: its stream began with what is no stream."""
        self.status = status
        kept = [(name, value) for name, value in self.headers if name not in ("content-type", "content-length")]
        self.headers = [*kept, ("content-type", media_type)]

    def replace_header(self, name: str, value: str) -> None:
        """From now on the answer has this header once, with this value."""
        self.headers = [*((known, old) for known, old in self.headers if known != name), (name, value)]

    def discard(self) -> None:
        """Throw the answer away. What is there of it is read: if that is all, the connection is kept."""
        left_bytes = _DISCARD_BYTES
        try:
            while left_bytes > 0 and (data := self._raw.receive()):
                left_bytes -= len(data)
        except RequestException:
            pass  # nobody needs this answer; a connection that broke is not kept
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection back, or close it if the answer was not read to its end; may be called again."""
        self._raw.close()

    def _arrived(self) -> bytes | None:
        """What has come, as it came."""
        try:
            data = self._raw.receive()
            if data is None:
                data = self._late()
        except RequestException as error:
            raise translation_of(error) from error
        if data:
            self._heard_at = time.monotonic()
        return data

    def _decoded(self, decoder: ContentDecoder) -> bytes | None:
        """What has come, decoded, in pieces: a few bytes may stand for gigabytes."""
        try:
            while True:
                if decoder.has_unconsumed_tail:
                    return decoder.decompress(b"", _DECODED_BYTES)
                if self._is_ended:
                    return b""
                data = self._arrived()
                if data is None:
                    return None
                self._is_ended = not data
                decoded = decoder.decompress(data, _DECODED_BYTES) if data else decoder.flush()
                if decoded:
                    return decoded
        except _DECODER_ERRORS as error:
            raise UpstreamError("the upstream's answer cannot be decoded") from error

    def _late(self) -> bytes | None:
        """Nothing is there. Raises UpstreamSilent if that has been so for too long."""
        if time.monotonic() < self._heard_at + self.read_idle_seconds:
            return None
        data = self._raw.receive()  # perhaps nobody has asked for so long, as while the client took nothing
        if data is None:
            raise UpstreamSilent("the upstream has gone silent")
        return data

    def __repr__(self) -> str:
        return f"<Reply {self.status} {self.content_type}>"


def _decoder(coding: str) -> ContentDecoder | None:
    codings = [name.strip().lower() for name in coding.split(",") if name.strip()]
    codings = [name for name in codings if name != "identity"]
    if not codings:
        return None
    unknown = [name for name in codings if name not in HTTPResponse.CONTENT_DECODERS]
    if unknown:
        return _Undecodable(unknown[0])
    if len(codings) > MultiDecoder.max_decode_links:
        return _Undecodable("too many of them")
    return MultiDecoder(",".join(codings))


class _Undecodable(ContentDecoder):
    """Stands for a coding nobody here can undo; says so when the body is read, not before it is needed."""

    def __init__(self, coding: str) -> None:
        self._coding = coding

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        raise UpstreamError(f"the upstream's answer has an unknown content coding: {self._coding}")

    @property
    def has_unconsumed_tail(self) -> bool:
        return False

    def flush(self) -> bytes:
        return b""


def translation_of(error: RequestException) -> GatewayError:
    """What the gateway says for one of requests' exceptions; its message may be shown."""
    if isinstance(error, ConnectTimeout):
        return UpstreamTimedOut(str(error))
    if isinstance(error, ReadTimeout):
        return UpstreamSilent("the upstream did not answer in time")
    return UpstreamError(str(error))

"""Taking the content coding off a request body (RFC 9110 section 8.4.1).

Owns: which codings are read, and the bounds of reading them. Pure; any thread. A few bytes can stand for gigabytes, and
for hours of work: no more is made of a body than its limit, and of no more parts than anybody sends.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

from gateway.protocol.errors import InvalidRequest, RequestTooLarge, UnsupportedCoding

try:
    from backports import zstd
except ImportError:  # Python 3.14 has it of its own
    from compression import zstd  # type: ignore[import-not-found, no-redef]

ACCEPTED = "gzip, deflate, zstd"

_PIECE_BYTES = 64 * 1024
_MOST_CODINGS = 2
# gzip files and zstd frames may follow each other in one body; each has to be begun.
_MOST_PARTS = 1024
_ZSTD_WINDOW_LOG = 23  # 8 MB, RFC 9659


class _Decoder(Protocol):
    """Decodes one part. `eof` tells its end, `unused_data` what came behind it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def codings_of(content_encoding: str) -> tuple[str, ...]:
    """The codings that a Content-Encoding names, in the order in which they are to be taken off.

    Raises UnsupportedCoding for one that is not read here, and for too many.
    """
    if not content_encoding:
        return ()
    named = [name.strip().lower() for name in content_encoding.split(",")]
    codings = tuple(name for name in reversed(named) if name not in ("", "identity"))
    for name in codings:
        if name not in _DECODERS:
            why = f"the content coding {name[:40]} is not read here; send {ACCEPTED} or none"
            raise UnsupportedCoding(why, accepted=ACCEPTED)
    if len(codings) > _MOST_CODINGS:
        why = f"the request body has {len(codings)} content codings; at most {_MOST_CODINGS} are read"
        raise UnsupportedCoding(why, accepted=ACCEPTED)
    return codings


def decoded(body: bytes, codings: tuple[str, ...], limit_bytes: int) -> bytes:
    """The body without its codings.

    Raises InvalidRequest if it is broken or cut off, RequestTooLarge past the limit.
    """
    for name in codings:
        if body:
            body = _without(body, name, limit_bytes)
    return body


def _without(body: bytes, name: str, limit_bytes: int) -> bytes:
    begin = _DECODERS[name]
    pieces: list[bytes] = []
    left_bytes, parts = limit_bytes, 1
    try:
        decoder = begin(body)
        for start in range(0, len(body), _PIECE_BYTES):
            piece = body[start : start + _PIECE_BYTES]
            while piece:
                if decoder.eof:
                    parts += 1
                    if parts > _MOST_PARTS or name == "deflate":
                        raise InvalidRequest(f"the request body has too much behind the end of its {name} coding")
                    decoder = begin(piece)
                pieces.append(decoder.decompress(piece, left_bytes + 1))
                left_bytes -= len(pieces[-1])
                if left_bytes < 0:
                    raise RequestTooLarge(f"the request body, decoded, is larger than {limit_bytes} bytes")
                piece = decoder.unused_data
    except (zlib.error, zstd.ZstdError) as error:
        raise InvalidRequest(f"the request body is not what its content coding says: {name} cannot be read") from error
    if not decoder.eof:
        raise InvalidRequest(f"the request body is cut off in its {name} coding")
    return b"".join(pieces)


def _gunzip(_: bytes) -> _Decoder:
    return zlib.decompressobj(wbits=31)


def _inflate(body: bytes) -> _Decoder:
    """Zlib's format (RFC 1950), as the name means, or the bare one (RFC 1951), as some understood it."""
    has_head = body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
    return zlib.decompressobj(wbits=15 if has_head else -15)


def _unzstd(_: bytes) -> _Decoder:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


_DECODERS: dict[str, Callable[[bytes], _Decoder]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _inflate,
    "zstd": _unzstd,
}

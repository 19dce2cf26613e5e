"""HTTP/1.1 as bytes: heads, three ways to delimit a body, codings flushed by the piece. Pure."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

Headers = Iterable[tuple[str, str]]

FRAMINGS = ("chunked", "length", "close")
CODINGS = {"gzip": 31, "deflate": 15}  # zlib's window bits: 31 writes a gzip header, 15 a zlib one


@dataclass(frozen=True, slots=True)
class Framed:
    """A body cut into pieces and framed: what goes on the wire, still to be sent in any way."""

    headers: tuple[tuple[str, str], ...]
    parts: tuple[bytes, ...]
    terminator: bytes
    closes: bool


def frame_body(pieces: list[bytes], tail: bytes, framing: str, missing_bytes: int = 0) -> Framed:
    """The body in that framing; its Content-Length promises `missing_bytes` more than comes."""
    if framing == "chunked":
        terminator = (chunk(tail) if tail else b"") + b"0\r\n\r\n"
        parts = tuple(chunk(piece) for piece in pieces)
        return Framed((("transfer-encoding", "chunked"),), parts, terminator, closes=False)
    if framing == "length":
        length = sum(map(len, pieces)) + len(tail) + missing_bytes
        header = ("content-length", str(length))
        return Framed((header,), tuple(pieces), tail, closes=missing_bytes > 0)
    return Framed((("connection", "close"),), tuple(pieces), tail, closes=True)


def chunk(data: bytes) -> bytes:
    """One chunk; none for no data, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def encode(pieces: list[bytes], coding: str) -> tuple[list[bytes], bytes]:
    """The pieces compressed, each flushed so that it can be decoded, and the coding's tail."""
    if not coding:
        return pieces, b""
    compressor = zlib.compressobj(wbits=CODINGS[coding])
    encoded = [compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return encoded, compressor.flush()


def head(status: int, headers: Headers, now_epoch: float) -> bytes:
    """The head of an answer, `date` included."""
    lines = [f"HTTP/1.1 {status} {reason(status)}", f"date: {formatdate(now_epoch, usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def reason(status: int) -> str:
    """The reason phrase; 529 is Anthropic's own and has none in the registry."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Overloaded" if status == 529 else "Unknown"

"""Answers that swell when they are decoded: a Reply hands them out in pieces, however little came for them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from requests import Response
from requests.structures import CaseInsensitiveDict

from gateway.protocol.errors import UpstreamError
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import complete
from gateway.upstream.reply import LARGEST_WHOLE_BYTES, Reply
from gateway.upstream.watch import Watch

MEBIBYTE = 1 << 20
LIFECYCLE = Lifecycle()


class PiecemealBody:
    """A body that comes in these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def receive(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.pieces.clear()


def reply_of(coding: str, *pieces: bytes) -> Reply:
    response = Response()
    response.status_code = 200
    response.headers = CaseInsensitiveDict({"content-encoding": coding})
    response.raw = PiecemealBody(*pieces)
    return Reply(response, Watch(None, LIFECYCLE), 30.0)


def twice(data: bytes) -> bytes:
    return gzip.compress(gzip.compress(data))


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        pytest.param("gzip", gzip.compress, id="gzip"),
        pytest.param("deflate", zlib.compress, id="deflate"),
        pytest.param("gzip, gzip", twice, id="gzip-in-gzip"),
    ],
)
@pytest.mark.parametrize("size", [16 * MEBIBYTE, 16 * MEBIBYTE + 1, MEBIBYTE - 1], ids=["even", "odd", "small"])
@pytest.mark.parametrize("cut", [None, 7, -1], ids=["at-once", "cut-at-its-start", "cut-at-its-end"])
def test_bomb_is_handed_out_in_pieces_of_a_mebibyte(
    coding: str, encode: Callable[[bytes], bytes], size: int, cut: int | None
) -> None:
    """Given few bytes that stand for many, when they are read, then all come, never more than a mebibyte at once."""
    encoded = encode(bytes(size))
    reply = reply_of(coding, *((encoded[:cut], encoded[cut:]) if cut is not None else (encoded,)))
    sizes = []
    while piece := reply.receive():
        sizes.append(len(piece))
    assert max(sizes) <= MEBIBYTE
    assert sum(sizes) == size


def test_bomb_that_is_read_whole_ends_at_a_size_nobody_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an answer that stands for more than anybody sends, when it is read whole, then it is an error in time."""
    member = gzip.compress(bytes(64 * MEBIBYTE))
    body = PiecemealBody(*[member] * (LARGEST_WHOLE_BYTES // (64 * MEBIBYTE) + 4))
    reply = reply_of("gzip")
    monkeypatch.setattr(reply, "_raw", body)
    with pytest.raises(UpstreamError, match="too large"):
        complete(reply.read_whole())
    assert body.pieces  # the rest was not even asked for

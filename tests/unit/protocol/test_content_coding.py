"""Request bodies in gzip, deflate and zstd: read as they were, or refused early."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.content_coding import codings_of, decoded
from gateway.protocol.errors import InvalidRequest, RequestTooLarge, UnsupportedCoding

LIMIT = 1024 * 1024


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


CODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw-deflate": ("deflate", raw_deflate),
    "zstd": ("zstd", zstd.compress),
}
coders = pytest.mark.parametrize(("name", "encode"), CODERS.values(), ids=CODERS)


def read(body: bytes, name: str, limit_bytes: int = LIMIT) -> bytes:
    return decoded(body, codings_of(name), limit_bytes)


@coders
@given(body=st.binary(max_size=300), times=st.integers(1, 900))
def test_body_is_what_it_was_before_its_coding(name, encode, body, times):
    """Given any body in a coding, then it is read byte for byte."""
    assert read(encode(body * times), name) == body * times


@coders
def test_body_of_exactly_the_limit_is_read_and_one_byte_more_is_not(name, encode):
    """Given a body that is as large as may be once decoded, then it is read; one byte more is 413."""
    assert len(read(encode(b"x" * LIMIT), name)) == LIMIT
    with pytest.raises(RequestTooLarge, match="decoded"):
        read(encode(b"x" * (LIMIT + 1)), name)


@coders
def test_bomb_ends_early(name, encode):
    """Given a few KB that stand for 64 MB, then little more than the limit is ever made of them."""
    bomb = encode(b"\0" * (64 * LIMIT))
    tracemalloc.start()
    try:
        with pytest.raises(RequestTooLarge):
            read(bomb, name)
        assert tracemalloc.get_traced_memory()[1] < 6 * LIMIT
    finally:
        tracemalloc.stop()


@coders
@pytest.mark.parametrize("cut", [1, 5, 9, -1, -4, -8])
def test_body_that_is_cut_off_is_400(name, encode, cut):
    """Given a body that lacks its end, then it is refused, never taken for a shorter one."""
    with pytest.raises(InvalidRequest, match=r"cut off|cannot be read"):
        read(encode(b'{"model": "m"} ' * 50)[:cut], name)


@coders
@pytest.mark.parametrize(
    "rubbish", [b"{}", b"\x1f\x8b\x08\x00rubbish-rubbish", b"\x28\xb5\x2f\xfd\xff\xff", b"\0" * 40]
)
def test_body_that_is_not_in_its_coding_is_400(name, encode, rubbish):
    """Given a body that is not what its header says, then 400 names the coding."""
    with pytest.raises(InvalidRequest):
        read(rubbish, name)


@coders
def test_damaged_body_is_400(name, encode):
    """Given a body of which a byte was changed on the way, then it is refused or, without a checksum, differs."""
    body = bytes(range(256)) * 40
    packed = bytearray(encode(body))
    packed[len(packed) // 2] ^= 0xFF
    with contextlib.suppress(InvalidRequest, RequestTooLarge):
        assert read(bytes(packed), name) != body


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_several_parts_are_one_body(name):
    """Given a body of several gzip files or zstd frames, empty ones among them, then it is all of them in a row."""
    encode = CODERS[name][1]
    assert (
        read(b"".join(map(encode, [b"a" * 70_000, b"", b"b", b"c" * 70_000])), name)
        == b"a" * 70_000 + b"b" + b"c" * 70_000
    )


def test_a_body_has_1024_parts_at_most():
    """Given as many parts as are read, then the body is read; with one more it is refused."""
    part = gzip.compress(b"x")
    assert read(part * 1024, "gzip") == b"x" * 1024
    with pytest.raises(InvalidRequest, match="too much behind the end"):
        read(part * 1025, "gzip")


@coders
def test_what_stands_behind_the_end_is_400(name, encode):
    """Given more bytes behind a whole body, or parts without end, then 400: nobody knows what they are."""
    with pytest.raises(InvalidRequest):
        read(encode(b"{}") + b"and more", name)
    with pytest.raises(InvalidRequest):
        read(encode(b"") * 2000, name)


def test_stacked_codings_are_taken_off_from_the_last_to_the_first():
    """Given two codings, then the one named last is taken off first; the bounds hold for each."""
    assert read(zstd.compress(gzip.compress(b"{}")), "gzip, zstd") == b"{}"
    assert read(gzip.compress(b"{}"), " identity , GZIP,") == b"{}"
    with pytest.raises(RequestTooLarge):
        read(gzip.compress(zlib.compress(b"x" * (LIMIT + 1))), "deflate, gzip")
    with pytest.raises(RequestTooLarge):
        read(gzip.compress(gzip.compress(b"x" * (40 * LIMIT))), "gzip, gzip", 1000)


@pytest.mark.parametrize("name", ["br", "compress", "gzip, br", "gzip, gzip, gzip", "aes128gcm", "gzip;q=1"])
def test_other_codings_are_415_with_those_that_are_read(name):
    """Given a coding that is not read here, or more than anybody sends, then 415 lists what is read."""
    with pytest.raises(UnsupportedCoding) as raised:
        codings_of(name)
    assert raised.value.headers["accept-encoding"] == "gzip, deflate, zstd"


@pytest.mark.parametrize("name", ["", "identity", " , "])
def test_no_coding_is_none(name):
    """Given no coding, then there is nothing to take off."""
    assert codings_of(name) == ()


def test_window_that_takes_much_memory_is_400():
    """Given a zstd frame that wants more than HTTP allows to be kept of it, then it is refused."""
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)
    packed = packer.compress(b"x" * 100) + packer.flush()
    with pytest.raises(InvalidRequest):
        read(packed, "zstd")


def stored(first: int, data: bytes) -> bytes:
    """A stored block that is not the last, whose header is filled up with these bits (RFC 1951 section 3.2.4)."""
    size = len(data)
    return bytes([first]) + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + data


@pytest.mark.parametrize(("first", "size_bytes"), [(0x08, 0), (0x10, 27)], ids=["method", "check"])
def test_bare_deflate_that_begins_half_like_zlib_s_is_read(first, size_bytes):
    """Given a bare body whose first bytes have zlib's method or its check, but not both, then it is taken for bare."""
    body = b"x" * size_bytes
    assert read(stored(first, body) + raw_deflate(b"{}"), "deflate") == body + b"{}"


def test_a_long_name_of_a_coding_is_told_in_part():
    """Given a coding with a long name, then its first 40 characters are told."""
    with pytest.raises(UnsupportedCoding, match=f"the content coding {'x' * 40} is not read here"):
        codings_of("x" * 99)


def test_empty_body_stays_empty():
    """Given no body at all, then it is read as none, whatever its header says."""
    assert read(b"", "gzip") == b""

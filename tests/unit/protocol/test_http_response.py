"""HTTP/1.1 answers off the wire: fed whole, byte by byte and cut at every offset, and broken off at every byte."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.http_response import LARGEST_HEAD_BYTES, ResponseParser, WireError


@dataclass(frozen=True)
class Row:
    """An answer on the wire and what it must be read as; `ends` says how its end is known."""

    name: str
    wire: bytes
    body: bytes
    status: int = 200
    is_reusable: bool = True
    ends: str = "told"  # or "closed": only the connection's end ends it


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ROWS = [
    Row("content-length", OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    Row("no-body", OK + b"Content-Length: 0\r\n\r\n", b""),
    Row("chunked", CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
    Row("chunked-empty", CHUNKED + b"0\r\n\r\n", b""),
    Row("chunk-sizes-in-capitals", CHUNKED + b"000A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    Row("chunk-extensions", CHUNKED + b'5;a=b;c="d e"\r\nhello\r\n0;last\r\n\r\n', b"hello"),
    Row("trailers", CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n", b"hello"),
    Row("line-ends-in-chunks", CHUNKED + b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    Row("close-delimited", OK + b"Content-Type: text/plain\r\n\r\nhello", b"hello", is_reusable=False, ends="closed"),
    Row("http-1.0", b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello", is_reusable=False, ends="closed"),
    Row("http-1.0-length", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", is_reusable=False),
    Row("connection-close", OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", b"hi", is_reusable=False),
    Row("continue-before", b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", b"hi"),
    Row(
        "hints-before",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n"
        + OK
        + b"Content-Length: 2\r\n\r\nhi",
        b"hi",
    ),
    Row("204", b"HTTP/1.1 204 No Content\r\n\r\n", b"", status=204),
    Row("304", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", b"", status=304),
    Row("529", b"HTTP/1.1 529 \r\nContent-Length: 2\r\n\r\n{}", b"{}", status=529),
    Row("no-reason", b"HTTP/1.1 429\r\nContent-Length: 2\r\n\r\n{}", b"{}", status=429),
    Row("empty-value", OK + b"X-Empty:\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
]
TABLE = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def read(chunks: list[bytes], ends: str) -> tuple[ResponseParser, bytes]:
    """Feed the chunks; what is complete must be handed out at once, the end must be told at the last byte."""
    parser = ResponseParser()
    body = b""
    for number, chunk in enumerate(chunks, start=1):
        assert not parser.is_complete
        parser.feed(chunk)
        body += parser.take_body()
        assert number < len(chunks) or parser.is_complete == (ends == "told")
    if ends == "closed":
        parser.end()
    return parser, body


def pieces(wire: bytes) -> list[list[bytes]]:
    """The wire whole, byte by byte, and cut in two at every offset."""
    cuts = [[wire[:cut], wire[cut:]] for cut in range(1, len(wire))]
    return [[wire], [wire[at : at + 1] for at in range(len(wire))], *cuts]


@TABLE
def test_answer_is_read_however_it_is_cut(row):
    """Given an answer, when fed whole, byte by byte and cut at every offset, then one status, body and reuse."""
    for chunks in pieces(row.wire):
        parser, body = read(chunks, row.ends)
        assert parser.head is not None
        assert (parser.head.status, body) == (row.status, row.body)
        assert parser.is_complete
        assert parser.is_reusable == row.is_reusable


@TABLE
def test_answer_broken_off_anywhere_is_an_error(row):
    """Given an answer that breaks off at any byte, then WireError, unless its end is the connection's and its head
    has come; what came of the body can be taken."""
    head_bytes = row.wire.rindex(b"\r\n\r\n") + 4 if row.ends == "closed" else len(row.wire)
    for cut in range(len(row.wire)):
        parser = ResponseParser()
        parser.feed(row.wire[:cut])
        if cut < head_bytes:
            with pytest.raises(WireError):
                parser.end()
            assert not parser.is_reusable
        else:
            parser.end()
            assert row.body.startswith(parser.take_body())
        assert row.body.startswith(parser.take_body())


@TABLE
def test_body_is_handed_out_as_it_comes(row):
    """Given an answer fed byte by byte, then each byte of the body can be taken as soon as it has come."""
    parser, taken = ResponseParser(), b""
    for at in range(len(row.wire)):
        parser.feed(row.wire[at : at + 1])
        piece = parser.take_body()
        assert len(piece) <= 1
        taken += piece
    assert taken == row.body


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 408 Timeout\r\n\r\n", b"HTTP", b"garbage", b"\x00"], ids=repr)
@pytest.mark.parametrize("row", [row for row in ROWS if row.ends == "told"], ids=lambda row: row.name)
def test_surplus_bytes_spoil_the_connection_and_not_the_answer(row, surplus):
    """Given bytes behind a complete answer, in its last segment or later, then the answer stands, without reuse."""
    for chunks in ([row.wire + surplus], [row.wire, surplus]):
        parser = ResponseParser()
        for chunk in chunks:
            parser.feed(chunk)
        assert parser.head is not None
        assert (parser.head.status, parser.take_body(), parser.is_complete) == (row.status, row.body, True)
        assert not parser.is_reusable


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"hello\r\n\r\n", id="not-http"),
        pytest.param(b"<html><body>502</body></html>", id="html"),
        pytest.param(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1", id="tls"),
        pytest.param(b"HTTP/2 200\r\n\r\n", id="http-2"),
        pytest.param(b"HTTP/1.1 abc OK\r\n\r\n", id="status-no-number"),
        pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", id="status-too-long"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="a-request"),
        pytest.param(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", id="two-lengths"),
        pytest.param(OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", id="length-twice"),
        pytest.param(OK + b"Content-Length: -5\r\n\r\nhello", id="negative-length"),
        pytest.param(OK + b"Content-Length: five\r\n\r\nhello", id="length-no-number"),
        pytest.param(OK + b"Content-Length: 99999999999999999999999\r\n\r\n", id="length-overflow"),
        pytest.param(CHUNKED + b"xyz\r\nhello\r\n", id="bad-chunk-size"),
        pytest.param(CHUNKED + b"-5\r\nhello\r\n", id="negative-chunk-size"),
        pytest.param(CHUNKED + b"fffffffffffffffffff\r\n", id="chunk-size-overflow"),
        pytest.param(CHUNKED + b"5\r\nhelloworld\r\n", id="chunk-longer-than-told"),
        pytest.param(OK + b"Bad Header: x\r\n\r\n", id="space-in-a-name"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="upgrade"),
    ],
)
def test_what_is_no_answer_is_an_error(wire):
    """Given bytes that are no HTTP/1.1 answer, when fed whole or byte by byte, then WireError."""
    for chunks in ([wire], [wire[at : at + 1] for at in range(len(wire))]):
        parser = ResponseParser()
        with pytest.raises(WireError):  # noqa: PT012  # any of the bytes may show it
            for chunk in chunks:
                parser.feed(chunk)
            parser.end()
        assert not parser.is_reusable


def test_good_chunks_before_a_bad_one_can_be_taken():
    """Given good chunks and then a bad one, then WireError, and the good ones are still there to be taken."""
    parser = ResponseParser()
    with pytest.raises(WireError):
        parser.feed(CHUNKED + b"5\r\nhello\r\nzz\r\n")
    assert parser.take_body() == b"hello"


def test_length_and_chunked_together_are_not_trusted():
    """Given both a length and chunks, as in response splitting, then the connection is not used again."""
    parser = ResponseParser()
    try:
        parser.feed(OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    except WireError:
        pass
    else:
        assert parser.take_body() == b"hello"
    assert not parser.is_reusable


@pytest.mark.parametrize("piece_bytes", [1 << 16, 1 << 20])
def test_endless_head_is_refused(piece_bytes):
    """Given a head that does not end, then WireError not long past the limit."""
    parser, fed = ResponseParser(), 0
    parser.feed(OK)
    with pytest.raises(WireError, match="too large"):  # noqa: PT012  # at which piece is not the point
        while fed < 8 * LARGEST_HEAD_BYTES:
            parser.feed(b"X-Long: " + b"x" * piece_bytes)
            fed += piece_bytes
    assert fed <= LARGEST_HEAD_BYTES + piece_bytes


def test_the_largest_head_is_taken():
    """Given a head that has not ended, then as many bytes of it are taken as may be, and not one more."""
    parser = ResponseParser()
    parser.feed(OK + b"X: ".ljust(LARGEST_HEAD_BYTES - len(OK), b"x"))
    with pytest.raises(WireError, match="too large"):
        parser.feed(b"x")


def test_body_of_an_answer_that_nobody_asked_for_is_not_handed_out():
    """Given an answer without a body and another one behind it, then nothing of the other's body is taken."""
    parser = ResponseParser()
    parser.feed(OK + b"Content-Length: 0\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi")
    assert parser.is_complete
    assert (parser.take_body(), parser.take_body(), parser.is_reusable) == (b"", b"", False)


def test_head_is_handed_out_once():
    """Given an answer, then its head can be taken once it has come, and once alone."""
    parser = ResponseParser()
    with pytest.raises(RuntimeError):
        parser.take_head()
    parser.feed(OK + b"Content-Length: 2\r\n\r\n")
    assert parser.take_head().status == 200
    with pytest.raises(RuntimeError):
        parser.take_head()
    parser.feed(b"hi")
    assert (parser.has_head, parser.is_complete, parser.take_body()) == (True, True, b"hi")


def test_headers_are_in_lower_case_in_order_and_repeated():
    """Given headers of mixed case, twice, with spaces and bytes past ASCII, then names are lower and all are kept."""
    parser = ResponseParser()
    parser.feed(OK + b"Set-Cookie: a\r\nX-B:  two words \r\nset-cookie: b\r\nX-L: \xe9\r\nContent-Length: 0\r\n\r\n")
    assert parser.head is not None
    assert parser.head.headers == (
        ("set-cookie", "a"),
        ("x-b", "two words"),
        ("set-cookie", "b"),
        ("x-l", "é"),
        ("content-length", "0"),
    )
    assert (parser.head.get("x-b"), parser.head.get("absent")) == ("two words", None)


def test_headers_of_informational_answers_are_left_out():
    """Given an informational answer with headers, then the real answer's head has its own alone."""
    parser = ResponseParser()
    parser.feed(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
    assert parser.head is None
    parser.feed(OK + b"Content-Length: 0\r\n\r\n")
    assert parser.head is not None
    assert parser.head.get("link") is None


def test_trailers_change_no_header():
    """Given trailers, when the answer is complete, then the head is as it was."""
    parser = ResponseParser()
    parser.feed(CHUNKED + b"0\r\nTransfer-Encoding: gzip\r\nX-Late: 1\r\n\r\n")
    assert parser.head is not None
    assert parser.head.headers == (("transfer-encoding", "chunked"),)


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_any_body_comes_through_in_any_pieces(parts, data):
    """Given any body in any chunks, when cut anywhere, then it comes through whole and the connection is reusable."""
    wire = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part) + b"0\r\n\r\n"
    cuts = sorted({0, len(wire), *data.draw(st.lists(st.integers(0, len(wire)), max_size=8))})
    parser, body = ResponseParser(), b""
    for start, end in pairwise(cuts):
        parser.feed(wire[start:end])
        body += parser.take_body()
    assert body == b"".join(parts)
    assert parser.is_reusable


@given(st.binary(max_size=80))
def test_no_bytes_break_the_parser(wire):
    """Given any bytes behind a good start or none, then an answer or WireError, and nothing else."""
    for start in (b"", OK, CHUNKED):
        parser = ResponseParser()
        try:
            parser.feed(start + wire)
            parser.end()
        except WireError:
            continue
        assert parser.head is not None


def test_a_parser_that_is_closed_leaves_nothing_to_the_garbage_collector():
    """Given an answer that was read, when its parser is closed and let go, then it is gone at once."""
    parser = ResponseParser()
    parser.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    gone = weakref.ref(parser)
    parser.close()
    assert parser.is_reusable
    gc.disable()
    try:
        del parser
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "record", [b"\x15\x03\x03\x00\x02\x02\x46", b"\x16\x03\x03\x00\x7a\x02"], ids=["alert", "handshake"]
)
def test_tls_instead_of_http_is_told_as_such(record: bytes) -> None:
    """Given an answer that is a TLS record, then the error says that the port speaks TLS."""
    with pytest.raises(WireError, match="the answer is not HTTP but TLS: should the address begin with https://"):
        ResponseParser().feed(record)

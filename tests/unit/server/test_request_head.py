"""Heads read by known lines: nothing is accepted, refused or understood otherwise than by gunicorn's own parser."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request

from gateway.server import request_head
from gateway.server.request_head import HeadParser, KnownLines, read_once

PROXY, STRANGER = ("127.0.0.1", 4000), ("192.0.2.7", 4000)
REQUEST_LINE = b"POST /v1/messages HTTP/1.1"
USUAL = (
    b"Host: gateway.example",
    b"User-Agent: Anthropic/Python 0.40.0",
    b"Accept: application/json",
    b"Content-Type: application/json",
    b"anthropic-version: 2023-06-01",
    b"x-api-key: a-key-of-the-client",
    b"Content-Length: 2",
)
WAIT_SECONDS = 30
SECRET = b"sk-ant-api03-never-to-be-remembered"


def config_of(**settings: object) -> Config:
    config = Config()
    for name, value in settings.items():
        config.set(name, value)
    return config


def head_of(*lines: bytes, request_line: bytes = REQUEST_LINE, body: bytes = b"{}") -> bytes:
    return b"".join(line + b"\r\n" for line in (request_line, *lines)) + b"\r\n" + body


def outcomes_of(parser: RequestParser) -> Iterator[object]:
    """All that a connection's requests come to, down to the refusal's words and what is left to be read."""
    while True:
        try:
            request = next(parser)
        except StopIteration:
            return
        except (ParseException, OSError) as error:
            yield type(error), str(error)
            return
        target = (request.method, request.uri, request.path, request.query, request.fragment, request.version)
        reader = request.body.reader
        framing = (type(reader), getattr(reader, "length", None), request.must_close, request.should_close())
        policy = (request.scheme, request._expected_100_continue, request.remote_addr)
        try:
            body: object = request.body.read()
        except (ParseException, OSError) as error:
            body = type(error), str(error)
        yield target, request.headers, request.trailers, framing, policy, body, parser.unreader.buf.getvalue()
        if request.should_close():
            return


def by_gunicorn(config: Config, pieces: Sequence[bytes], address: object = PROXY) -> list[object]:
    return list(outcomes_of(RequestParser(config, list(pieces), address)))


def by_known_lines(known: KnownLines, config: Config, pieces: Sequence[bytes], address: object = PROXY) -> list[object]:
    return list(outcomes_of(HeadParser(known, config, list(pieces), address)))


def lines_of(known: KnownLines) -> set[bytes]:
    return {*known.headers, *known.request_lines}


HEADS = {
    "usual": head_of(*USUAL),
    "two-requests": head_of(*USUAL) + head_of(*USUAL[:2], body=b""),
    "close": head_of(*USUAL, b"Connection: close"),
    "keep-alive-1.0": head_of(b"Connection: keep-alive", request_line=b"GET /health HTTP/1.0", body=b""),
    "http-1.0": head_of(*USUAL, request_line=b"POST /v1/messages HTTP/1.0"),
    "query": head_of(*USUAL, request_line=b"POST /v1/messages?beta=true#part HTTP/1.1"),
    "absolute-target": head_of(*USUAL, request_line=b"POST http://gateway.example/v1/messages HTTP/1.1"),
    "no-fields": head_of(body=b""),
    "empty-line-first": b"\r\n" + head_of(*USUAL),
    "repeated-plain": head_of(*USUAL, b"anthropic-beta: one", b"anthropic-beta: two", b"anthropic-beta: one"),
    "repeated-host": head_of(*USUAL, b"Host: gateway.example"),
    "repeated-host-otherwise-written": head_of(*USUAL, b"hOST:other.example"),
    "repeated-content-type": head_of(*USUAL, b"Content-Type: application/json"),
    "repeated-length": head_of(*USUAL, b"Content-Length: 2"),
    "repeated-host-before-a-long-line": head_of(*USUAL, b"Host: a", b"X-Long: " + b"a" * 9000),
    "long-line-before-repeated-host": head_of(*USUAL, b"X-Long: " + b"a" * 9000, b"Host: a"),
    "repeated-host-before-expectation": head_of(*USUAL, b"Host: a", b"Expect: the-impossible"),
    "odd-spacing": head_of(b"Host:gateway.example", b"Accept:   */*  ", b"User-Agent:\tx\t ", b"X-App:"),
    "inner-spaces": head_of(*USUAL, b"User-Agent: a  b\tc"),
    "case": head_of(b"HOST: Gateway.Example", b"aCCept: */*", b"Accept: */*"),
    "non-ascii-value": head_of(*USUAL, "User-Agent: Füchse 🦊".encode()),
    "non-ascii-name": head_of(*USUAL, b"X-\xdf: a"),
    "fold": head_of(*USUAL, b"Accept: text/html,", b" text/plain"),
    "fold-by-tab": head_of(*USUAL, b"Accept: text/html,", b"\ttext/plain"),
    "fold-behind-known": head_of(*USUAL[:3], b" and more", *USUAL[3:]),
    "fold-first": head_of(b" Host: a", *USUAL),
    "fold-only-spaces": head_of(*USUAL, b"  "),
    "space-before-colon": head_of(*USUAL, b"Accept : */*"),
    "no-colon": head_of(*USUAL, b"Accept"),
    "no-name": head_of(*USUAL, b": a"),
    "bad-name": head_of(*USUAL, b"Acc(ept: */*"),
    "nul": head_of(*USUAL, b"Accept: a\0b"),
    "bare-cr": head_of(*USUAL, b"Accept: a\rb"),
    "bare-lf": head_of(*USUAL, b"Accept: a\nX-Smuggled: b"),
    "delete": head_of(*USUAL, b"User-Agent: a\x7f"),
    "underscore": head_of(*USUAL, b"X_Stainless_Lang: python", b"Accept_: a"),
    "forwarder": head_of(*USUAL, b"SCRIPT_NAME: /v1", b"PATH_INFO: /x"),
    "scheme": head_of(*USUAL, b"X-Forwarded-Proto: https"),
    "schemes-that-differ": head_of(*USUAL, b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: off"),
    "scheme-and-underscore": head_of(*USUAL, b"X-Forwarded-Proto: https", b"A_B: c", b"Expect: 100-continue"),
    "expect": head_of(*USUAL, b"Expect: 100-Continue"),
    "expect-1.0": head_of(*USUAL, b"Expect: 100-continue", request_line=b"POST / HTTP/1.0"),
    "expect-the-impossible": head_of(*USUAL, b"Expect: the-impossible"),
    "chunked": head_of(*USUAL[:5], b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
    "chunked-twice": head_of(*USUAL[:5], b"Transfer-Encoding: chunked, chunked"),
    "chunked-and-length": head_of(*USUAL, b"Transfer-Encoding: chunked"),
    "chunked-1.0": head_of(b"Transfer-Encoding: chunked", request_line=b"POST / HTTP/1.0"),
    "unknown-coding": head_of(*USUAL[:5], b"Transfer-Encoding: cow"),
    "trailers": head_of(
        *USUAL[:5], b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\nAccept: */*\r\nX-Checksum: 1\r\n\r\n"
    ),
    "forbidden-trailer": head_of(
        *USUAL[:5], b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\nHost: gateway.example\r\n\r\n"
    ),
    "negative-length": head_of(*USUAL[:5], b"Content-Length: -1"),
    "length-with-plus": head_of(*USUAL[:5], b"Content-Length: +2"),
    "lower-case-method": head_of(*USUAL, request_line=b"post /v1/messages HTTP/1.1"),
    "unknown-version": head_of(*USUAL, request_line=b"POST /v1/messages HTTP/2.0"),
    "no-version": head_of(*USUAL, request_line=b"POST /v1/messages"),
    "connect": head_of(*USUAL, request_line=b"CONNECT gateway.example:443 HTTP/1.1"),
    "asterisk": head_of(*USUAL, request_line=b"POST * HTTP/1.1"),
    "non-ascii-target": head_of(*USUAL, request_line="POST /ü HTTP/1.1".encode()),
    "long-request-line": head_of(*USUAL, request_line=b"POST /" + b"a" * 5000 + b" HTTP/1.1"),
    "as-many-fields-as-may-be": head_of(*(b"X-App: cli" for _ in range(100)), body=b""),
    "a-field-too-many": head_of(*(b"X-App: cli" for _ in range(101)), body=b""),
    "dropped-fields-do-not-count": head_of(*(b"X_App: cli" for _ in range(120)), b"Accept: */*", body=b""),
    "cut-off": head_of(*USUAL)[:90],
}
CONFIGURATIONS: dict[str, dict[str, object]] = {
    "default": {},
    "underscores-refused": {"header_map": "refuse"},
    "underscores-taken": {"header_map": "dangerous"},
    "folding": {"permit_obsolete_folding": True},
    "spaces-stripped": {"strip_header_spaces": True},
    "few-fields": {"limit_request_fields": 8},
    "short-fields": {"limit_request_field_size": 34},
    "own-scheme-header": {"secure_scheme_headers": {"X-APP": "cli", "ACCEPT": "*/*"}},
    "nobody-trusted": {"forwarded_allow_ips": ""},
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_comes_to_what_gunicorn_makes_of_it(head, configuration):
    """Given a head, when its lines are new, known from itself, or known from others, then it means the same."""
    config = config_of(**CONFIGURATIONS[configuration])
    data = HEADS[head]
    known = KnownLines(config)
    for address in (PROXY, STRANGER, ""):
        expected = by_gunicorn(config, [data], address)
        assert by_known_lines(known, config, [data], address) == expected
        assert by_known_lines(known, config, [data], address) == expected
    for other in HEADS.values():
        by_known_lines(known, config, [other])
    assert by_known_lines(known, config, [data]) == by_gunicorn(config, [data])


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_comes_byte_by_byte(head):
    """Given a head in pieces of a byte, then it means what it means in one."""
    config = config_of()
    known = KnownLines(config)
    by_known_lines(known, config, [head_of(*USUAL)])
    pieces = [bytes([byte]) for byte in HEADS[head]]
    assert by_known_lines(known, config, pieces) == by_gunicorn(config, pieces)


def test_heads_mixed_of_good_and_bad_lines():
    """Given thousands of heads mixed of the table's lines, read one after the other, then each means the same."""
    chance = random.Random(2616)
    config = config_of(limit_request_fields=12)
    known = KnownLines(config)
    lines = sorted({line for head in HEADS.values() for line in head.split(b"\r\n")[1:] if 0 < len(line) < 300})
    refused = 0
    for _ in range(3000):
        mixed = [*chance.sample(USUAL, chance.randrange(8)), *chance.sample(lines, chance.choice((0, 0, 1, 2, 5)))]
        chance.shuffle(mixed)
        data, address = head_of(*mixed), chance.choice((PROXY, STRANGER))
        expected = by_gunicorn(config, [data], address)
        assert by_known_lines(known, config, [data], address) == expected, data
        refused += isinstance(expected[0], tuple) and isinstance(expected[0][0], type)
    assert 500 < refused < 2500  # else the mixture shows little


def test_known_lines_are_not_parsed_again(monkeypatch):
    """Given a head that was there before, then gunicorn parses its secret and its length, and nothing else."""
    config = config_of()
    known = KnownLines(config)
    by_known_lines(known, config, [head_of(*USUAL)])
    expected = by_gunicorn(config, [head_of(*USUAL)])
    parsed: list[bytes] = []
    parse_headers = Request.parse_headers

    def watched(self: Any, data: bytes, from_trailer: bool = False) -> Any:
        parsed.extend(data.split(b"\r\n"))
        return parse_headers(self, data, from_trailer)

    monkeypatch.setattr(Request, "parse_headers", watched)
    monkeypatch.delattr(Request, "parse_request_line")
    assert by_known_lines(known, config, [head_of(*USUAL)]) == expected
    assert parsed == list(USUAL[5:])


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "x-api-key",
        "x-gateway-token",
        "proxy-authorization",
        "cookie",
        "X-Of-Some-Middle-Box",
        "referer",
    ],
)
def test_no_credential_is_remembered(name):
    """Given a header that may hold a secret, under whatever name, then its line is in no memory."""
    config = config_of()
    known = KnownLines(config)
    line = b"%s: Bearer %s" % (name.encode(), SECRET)
    (outcome,) = by_known_lines(known, config, [head_of(*USUAL, line)])
    assert (name.upper(), f"Bearer {SECRET.decode()}") in outcome[1]
    assert lines_of(known) == {REQUEST_LINE, *USUAL[:5]}
    assert SECRET.decode() not in repr(vars(known))


def test_no_query_is_remembered():
    """Given a target with a query, which may be a secret, then its line is in no memory."""
    config = config_of()
    known = KnownLines(config)
    by_known_lines(known, config, [head_of(request_line=b"GET /status?key=%s HTTP/1.1" % SECRET, body=b"")])
    assert lines_of(known) == set()


@pytest.mark.parametrize(
    ("line", "is_remembered"),
    [
        pytest.param(b"User-Agent: " + b"a" * 244, True, id="longest"),
        pytest.param(b"User-Agent: " + b"a" * 245, False, id="too-long"),
        pytest.param(b"Accept: a\x7f", False, id="refused"),
        pytest.param(b"Content-Length: 0", False, id="length"),
        pytest.param(b"Expect: 100-continue", False, id="expectation"),
        pytest.param(b"Transfer-Encoding: chunked", False, id="coding"),
        pytest.param(b"X-Forwarded-Proto: https", False, id="scheme"),
    ],
)
def test_what_is_remembered(line, is_remembered):
    """Given a line, then it is remembered if it is short, good, and of a field that nothing hangs on."""
    config = config_of()
    known = KnownLines(config)
    by_known_lines(known, config, [head_of(line, body=b"0\r\n\r\n")])
    assert (line in known.headers) is is_remembered


def test_a_scheme_header_of_the_configuration_is_not_remembered():
    """Given a configuration that reads the scheme off a field that else repeats, then gunicorn sees each such line."""
    config = config_of(secure_scheme_headers={"X-APP": "cli"})
    known = KnownLines(config)
    by_known_lines(known, config, [head_of(b"X-App: cli", b"Accept: */*", body=b"")])
    assert set(known.headers) == {b"Accept: */*"}


def test_the_memory_is_bounded():
    """Given more different lines than are remembered, then it never holds more, and goes on remembering."""
    config = config_of()
    known = KnownLines(config)
    for number in range(3000):
        head = head_of(b"User-Agent: program/%d" % number, request_line=b"GET /%d HTTP/1.1" % number, body=b"")
        by_known_lines(known, config, [head])
        assert len(known.headers) <= 1024
        assert len(known.request_lines) <= 1024
    assert b"User-Agent: program/2999" in known.headers
    assert b"GET /2999 HTTP/1.1" in known.request_lines


def test_threads_share_a_memory_that_is_forgotten_all_the_time(monkeypatch):
    """Given threads whose lines push each other's out of the memory, then each reads what its own heads say."""
    monkeypatch.setattr(request_head, "_MOST_LINES", 3)
    config = config_of()
    known = KnownLines(config)
    all_begin = threading.Barrier(4)

    def read(number: int) -> list[object]:
        all_begin.wait(WAIT_SECONDS)
        lines = (b"User-Agent: program/%d" % number, b"X-App: %d" % (number % 2), b"X-Of-Its-Own: %d" % number)
        data = head_of(*lines, request_line=b"GET /%d HTTP/1.1" % number, body=b"")
        expected = by_gunicorn(config, [data])
        return [found for _ in range(300) if (found := by_known_lines(known, config, [data])) != expected]

    with switching_often(), ThreadPoolExecutor(4) as threads:
        assert list(threads.map(read, range(4), timeout=WAIT_SECONDS)) == [[]] * 4


@contextmanager
def switching_often() -> Iterator[None]:
    """Have threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_a_configuration_reads_the_same_by_attributes():
    """Given a configuration that is read once, then every setting, property and method says what it said."""
    config = config_of(threads=64, forwarded_allow_ips="10.0.0.0/8,192.0.2.7", header_map="refuse", sendfile=False)
    names = {*config.settings, *(name for name in dir(Config) if isinstance(getattr(Config, name), property))}
    before = {name: getattr(config, name) for name in names}
    networks = config.forwarded_allow_networks()
    read_once(config)
    assert {name: getattr(config, name) for name in names} == before
    assert config.forwarded_allow_networks() == networks
    with pytest.raises(AttributeError):
        config.no_such_setting  # noqa: B018

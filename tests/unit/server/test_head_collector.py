"""Heads collected before a thread is spent on them: handed on when gunicorn's parser has the last word, at once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser
from gunicorn.http.errors import ParseException

from gateway.server.head_collector import Head, HeadRules
from gateway.server.request_head import KnownLines
from tests.unit.server.test_request_head import CONFIGURATIONS, HEADS, PROXY, USUAL, config_of, head_of


def rules_of(config: Config) -> HeadRules:
    return HeadRules(KnownLines(config), config)


class _WantsMore(Exception):
    """The parser asks for more than there is."""


def bytes_that_gunicorn_needs(config: Config, data: bytes) -> int | None:
    """How much of a head gunicorn reads, a byte at a time, before it takes or refuses it; None: more than this."""
    read = 0

    def byte_by_byte() -> Iterator[bytes]:
        nonlocal read
        for read in range(1, len(data) + 1):
            yield data[read - 1 : read]
        raise _WantsMore

    try:
        next(RequestParser(config, byte_by_byte(), PROXY))
    except _WantsMore:
        return None
    except ParseException:
        pass
    return read


def bytes_that_are_collected(config: Config, data: bytes, pieces: list[int]) -> int | None:
    """How much has been taken in, in pieces of these lengths, when the head is handed on."""
    head, begin = Head(rules_of(config), PROXY), 0
    for length in pieces:
        if head.feed(data[begin : begin + length]):
            assert head.take() == data[: begin + length]
            assert len(head) == 0
            return begin + length
        begin += length
    return None


ODD_HEADS = HEADS | {
    "two-empty-lines-first": b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "return-first": b"\rGET / HTTP/1.1\r\n\r\n",
    "line-feed-first": b"\nGET / HTTP/1.1\r\n\r\n",
    "line-feed-behind-an-empty-line": b"\r\n\nGET / HTTP/1.1\r\n\r\n",
    "no-http": b"no http at all\r\nand more",
    "line-feed-ends-the-line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "line-feed-ends-a-field": b"GET / HTTP/1.1\r\nHost: a\nAccept: b\r\n\r\n",
    "returns-and-line-feeds": b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\r\n\r\n\r\n",
    "line-without-an-end": b"GET /" + b"a" * 9000,
    "line-of-the-greatest-length": b"GET /" + b"a" * 4080 + b" HTTP/1.1\r\n\r\n",
    "line-a-byte-too-long": b"GET /" + b"a" * 4081 + b" HTTP/1.1\r\n\r\n",
    "empty": b"",
}
ODD_CONFIGURATIONS = {name: CONFIGURATIONS[name] for name in ("default", "folding", "few-fields")} | {
    "small-heads": {"limit_request_fields": 3, "limit_request_field_size": 20, "limit_request_line": 30},
    "any-line": {"limit_request_line": 0},
}


@pytest.mark.parametrize("configuration", ODD_CONFIGURATIONS)
@pytest.mark.parametrize("head", ODD_HEADS)
def test_a_head_is_handed_on_at_the_byte_at_which_gunicorn_knows(head, configuration):
    """Given a head byte by byte, then it is handed on when gunicorn would read no further, to the byte."""
    config = config_of(**ODD_CONFIGURATIONS[configuration])
    data = ODD_HEADS[head]
    needed = bytes_that_gunicorn_needs(config, data)
    assert bytes_that_are_collected(config, data, [1] * len(data)) == needed


def test_mixed_heads_in_mixed_pieces_are_handed_on_with_the_decisive_piece():
    """Given thousands of heads mixed of good and bad lines, cut anywhere, then the piece decides that has the byte."""
    chance = random.Random(7230)
    config = config_of(limit_request_fields=6, limit_request_field_size=200, limit_request_line=60)
    lines = sorted({line for head in ODD_HEADS.values() for line in head.split(b"\r\n")[1:] if len(line) < 120})
    undecided = 0
    for _ in range(3000):
        mixed = [*chance.sample(USUAL, chance.randrange(4)), *chance.sample(lines, chance.randrange(4))]
        chance.shuffle(mixed)
        data = head_of(*mixed)[: chance.choice((None, None, -3, -9))]
        pieces: list[int] = []
        while sum(pieces) < len(data):
            pieces.append(min(chance.choice((1, 2, 5, 40, 200)), len(data) - sum(pieces)))
        needed = bytes_that_gunicorn_needs(config, data)
        collected = bytes_that_are_collected(config, data, pieces)
        if needed is None:
            undecided += 1
            assert collected is None, data
        else:
            ends = [sum(pieces[: count + 1]) for count in range(len(pieces))]
            assert collected == next(end for end in ends if end >= needed), (data, pieces)
    assert 100 < undecided < 2500  # else the mixture shows little


def test_what_is_too_large_is_told():
    """Given a head that goes beyond gunicorn's limit without an end, then it is handed on as too large."""
    config = config_of(limit_request_fields=3, limit_request_field_size=20)
    head = Head(rules_of(config), PROXY)
    assert head.feed(b"GET / HTTP/1.1\r\nX: " + b"a" * 100) is True
    assert head.is_too_large
    head.take()
    assert not head.is_too_large


@pytest.mark.parametrize("settings", [{"protocol": "uwsgi"}, {"proxy_protocol": "v1"}], ids=["uwsgi", "proxy"])
def test_what_is_no_plain_http_is_handed_on_at_once(settings):
    """Given a server that speaks something else, then the first bytes are handed on: its parser reads the rest."""
    assert Head(rules_of(config_of(**settings)), PROXY).feed(b"\0") is True


def processor_seconds(data: bytes) -> float:
    """The time that a head takes which comes byte by byte; the least of a few tries."""
    rules = rules_of(config_of())
    tries = []
    for _ in range(3):
        head = Head(rules, PROXY)
        begun_at = time.thread_time()
        for position in range(len(data)):
            assert not head.feed(data[position : position + 1])
        tries.append(time.thread_time() - begun_at)
    return min(tries)


@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nX: ", b"a", id="one-field"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"a: b\r\n", id="many-fields"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"\r", id="returns"),
    ],
)
def test_a_head_costs_in_proportion_to_its_length(start, repeated):
    """Given a head a byte at a time, when it is eight times as long, then it costs some eight times, not 64 times."""
    short, long = (start + repeated * (length // len(repeated)) for length in (6_000, 48_000))
    assert processor_seconds(long) < 24 * processor_seconds(short)

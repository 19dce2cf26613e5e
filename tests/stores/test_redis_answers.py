"""RESP as it may come: in any pieces, and within bounds."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from gateway.keys.redis.answers import AnswerReader

PATIENT_SECONDS = 60.0
GOOD = [
    (b"+OK\r\n", b"OK"),
    (b":-12\r\n", -12),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"$0\r\n\r\n", b""),
    (b"$4\r\na\r\nb\r\n", b"a\r\nb"),
    (b"*0\r\n", []),
    (b"*3\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n+b\r\n", [b"a", [1, None], b"b"]),
]
ENDLESS = {
    "list": (b"*1000000000\r\n", b":1\r\n"),
    "line": (b"+", b"x"),
    "text": (b"$1000000000\r\n", b"x"),
    "depth": (b"", b"*1\r\n"),
}


class Wire:
    """A reader, and the server's end of its socket."""

    def __init__(self) -> None:
        ours, self.server = socket.socketpair()
        ours.settimeout(PATIENT_SECONDS)
        self.reader = AnswerReader(PATIENT_SECONDS)
        self.reader(65536).on_connect(SimpleNamespace(_sock=ours))
        self._ours = ours

    def close(self) -> None:
        self.reader.on_disconnect()
        self._ours.close()
        self.server.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


@pytest.mark.parametrize(("sent", "answer"), GOOD, ids=[repr(sent) for sent, _ in GOOD])
def test_answer_is_read_whole_and_byte_by_byte(wire: Wire, sent: bytes, answer: Any) -> None:
    wire.server.sendall(sent)
    assert wire.reader.read_response() == answer
    sending = threading.Thread(target=lambda: [wire.server.sendall(sent[at : at + 1]) for at in range(len(sent))])
    sending.start()
    assert wire.reader.read_response() == answer
    sending.join(PATIENT_SECONDS)


@pytest.mark.parametrize(("begin", "repeated"), ENDLESS.values(), ids=ENDLESS)
def test_endless_answer_is_read_to_its_limit_and_no_further(wire: Wire, begin: bytes, repeated: bytes) -> None:
    """Given a server that sends on as fast as it can, then the answer is none once it is too long, or too deep."""
    sent = 0

    def send() -> None:
        nonlocal sent
        data = repeated * (65536 // len(repeated))
        try:
            wire.server.sendall(begin)
            while True:
                wire.server.sendall(data)
                sent += len(data)
        except OSError:
            pass  # the reader has had enough

    sending = threading.Thread(target=send)
    sending.start()
    with pytest.raises(redis.InvalidResponse):
        wire.reader.read_response()
    wire._ours.close()
    sending.join(PATIENT_SECONDS)
    assert sent < 16 * 1024 * 1024


def test_error_of_the_server_is_returned_in_printable_words(wire: Wire) -> None:
    wire.server.sendall(b"-ERR \x1b[2J a\nforged line " + b"x" * 1000 + b"\r\n")
    error = wire.reader.read_response()
    assert type(error) is redis.ResponseError
    assert str(error).isprintable()
    assert len(str(error)) < 300
    wire.server.sendall(b"-NOSCRIPT No matching script\r\n")
    assert type(wire.reader.read_response()) is redis.exceptions.NoScriptError


def test_what_nobody_asked_for_is_noticed(wire: Wire) -> None:
    assert not wire.reader.can_read()
    wire.server.sendall(b"+OK\r\n")
    assert wire.reader.can_read()
    assert wire.reader.read_response() == b"OK"
    wire.server.close()
    with pytest.raises(redis.ConnectionError):
        wire.reader.can_read()


def test_answer_has_one_deadline(wire: Wire) -> None:
    """Given a part of an answer, then the cooldown is waited for no longer than the whole may take."""
    wire.reader.answer_seconds = 0.05
    wire.server.sendall(b"*2\r\n:1\r\n")
    with pytest.raises(redis.TimeoutError):
        wire.reader.read_response()


# What comes unasked.


@pytest.mark.parametrize(("sent", "answer"), GOOD, ids=[repr(sent) for sent, _ in GOOD])
def test_what_has_not_come_whole_is_kept_for_the_next_time(wire: Wire, sent: bytes, answer: Any) -> None:
    """Given an answer whose bytes come one by one, and two at once, then each is read once, when it came."""
    for number in range(len(sent) - 1):
        wire.server.sendall(sent[number : number + 1])
        assert wire.reader.read_what_came() == []
    wire.server.sendall(sent[-1:] + sent + sent[:1])
    assert wire.reader.read_what_came() == [answer, answer]
    wire.server.sendall(sent[1:])
    assert wire.reader.read_what_came() == [answer]
    assert wire.reader.read_what_came() == []


def test_connection_that_was_closed_is_an_error_though_nothing_is_waited_for(wire: Wire) -> None:
    wire.server.shutdown(socket.SHUT_RDWR)
    with pytest.raises(redis.ConnectionError):
        wire.reader.read_what_came()


@pytest.mark.parametrize("sent", [b"*1\r\n" * 100, b"$1000000000\r\n", b"what\r\n", b"x" * 5000], ids=repr)
def test_rubbish_is_an_error_though_nothing_is_waited_for(wire: Wire, sent: bytes) -> None:
    wire.server.sendall(sent)
    with pytest.raises(redis.InvalidResponse):
        wire.reader.read_what_came()

"""Single values of settings: the bounds of each kind, and what is said of one that is out of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.config import values
from gateway.config.values import BadValue

READ: list[tuple[Callable[[object], object], object, object]] = [
    (values.text, " a ", "a"),
    (values.seconds, "0.5", 0.5),
    (values.seconds, 1, 1.0),
    (values.seconds, 999_999_999, 999_999_999.0),
    (values.seconds_or_never, "0", 0.0),
    (values.seconds_or_never, 0.0, 0.0),
    (values.seconds_or_never, "2", 2.0),
    (values.seconds_up_to(5.0), "5", 5.0),
    (values.count(3), "3", 3),
    (values.count(3), 4, 4),
    (values.flag, "TRUE", True),
    (values.flag, False, False),
    (values.choice("a", "b", "c"), " B ", "b"),
    (values.base_url, "https://a.example/base/", "https://a.example/base"),
    (values.record_url, "NONE", "none"),
    (values.bind_address, "unix:a", "unix:a"),
    (values.bind_address, "[::1]:65535", "[::1]:65535"),
    (values.bind_address, "localhost:0", "localhost:0"),
    (
        values.origins,
        "https://A.example:443/,http://b:80,https://c:80",
        ("https://a.example", "http://b", "https://c:80"),
    ),
]


@pytest.mark.parametrize(("kind", "raw", "meant"), READ)
def test_what_was_written_is_read(kind: Callable[[object], object], raw: object, meant: object) -> None:
    """Given a value as it is written in the environment or in TOML, then it is read as it is meant."""
    found = kind(raw)
    assert (found, type(found)) == (meant, type(meant))


REFUSED: list[tuple[Callable[[object], object], object, str]] = [
    (values.text, "  ", "the value is empty"),
    (values.text, 7, "the value is empty"),
    (values.seconds, "0", "a positive number of seconds was expected, not '0'"),
    (values.seconds, 1e9, "a positive number of seconds was expected, not 1000000000.0"),
    (values.seconds, True, "a positive number of seconds was expected, not True"),
    (values.seconds, 10**400, "a positive number of seconds was expected, not 1"),
    (values.seconds, "soon", "a positive number of seconds was expected, not 'soon'"),
    (values.seconds_or_never, False, "a positive number of seconds was expected, not False"),
    (values.seconds_up_to(5.0), "5.5", "at most 5 seconds were expected, not '5.5'"),
    (values.count(3), "2", "a whole number of at least 3 was expected, not '2'"),
    (values.count(1), True, "a whole number of at least 1 was expected, not True"),
    (values.count(3), "many", "a whole number of at least 3 was expected, not 'many'"),
    (values.flag, "yes", "true or false was expected, not 'yes'"),
    (values.choice("a", "b", "c"), "d", "a, b or c was expected, not 'd'"),
    (values.base_url, "https://u@a.example", "a URL such as"),
    (values.base_url, "https://:p@a.example", "a URL such as"),
    (values.base_url, "ftp://a.example", "a URL such as"),
    (values.bind_address, "unix:", "HOST:PORT or unix:PATH was expected, not 'unix:'"),
    (values.bind_address, "localhost:65536", "HOST:PORT or unix:PATH was expected, not 'localhost:65536'"),
    (values.bind_address, ":80", "HOST:PORT or unix:PATH was expected, not ':80'"),
    (values.bind_address, "localhost:٣", "HOST:PORT or unix:PATH was expected"),
]


@pytest.mark.parametrize(("kind", "raw", "complaint"), REFUSED)
def test_what_cannot_be_meant_is_refused_in_words(
    kind: Callable[[object], object], raw: object, complaint: str
) -> None:
    """Given a value that is out of its bounds or of another kind, then one line says what was expected."""
    with pytest.raises(BadValue) as raised:
        kind(raw)
    (line,) = raised.value.lines
    assert line.startswith(complaint)
    assert str(raised.value) == line


@pytest.mark.parametrize(
    ("bind", "is_local"),
    [("unix:/a", True), ("127.0.0.1:1", True), ("[::1]:1", True), ("0.0.0.0:1", False), ("[::]:1", False)],
)
def test_an_address_is_reached_from_here_alone_or_from_elsewhere(bind: str, is_local: bool) -> None:
    """Given an address to listen on, then it is known whether others can reach it."""
    assert values.is_local_address(bind) is is_local

"""JSON of strangers: read as far as it can be, written so that everybody can read it, and refused in words."""

from __future__ import annotations

import math

import pytest

from gateway.protocol.json_values import exact_object_or_none, is_unicode, object_or_none, to_json, unfit

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        (b'{"a": 1}', {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1.5}', {"a": 1.5}),
        ("[1]", None),
        ("7", None),
        ("{", None),
        (b"\xff", None),
        ('{"a": 1e999}', None),
        ('{"a": NaN}', None),
        ('{"a": -Infinity}', None),
        pytest.param(f'{{"a": {DEEP}}}', None, id="too-deep"),
    ],
)
def test_an_exact_object_can_be_written_again(text, expected):
    """Given a text, then it is read if it is an object whose numbers are numbers, and is None else."""
    assert exact_object_or_none(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        (b'{"a": 1}', {"a": 1}),
        ('{"a": "\\ud800"}', {"a": "\ud800"}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": -Infinity}', {"a": -math.inf}),
        ("[1]", None),
        ("", None),
        ("{", None),
        (b"\xff", None),
        pytest.param(f'{{"a": {DEEP}}}', None, id="too-deep"),
    ],
)
def test_an_object_is_read_as_far_as_it_can_be(text, expected):
    """Given a text, then it is read if any reader takes it for an object, and is None else."""
    assert object_or_none(text) == expected


@pytest.mark.parametrize("digits", [999, 1000])
def test_a_number_of_a_thousand_digits_is_one(digits):
    """Given an object that only the lenient reader takes, then its long number is read, up to 1,000 digits."""
    read = object_or_none('{"a": NaN, "b": ' + "9" * digits + "}")
    assert read is not None
    assert read["b"] == 10**digits - 1


def test_a_longer_number_is_infinite():
    """Given a number of more digits, then it is infinite, and the object is read all the same."""
    assert object_or_none('{"a": NaN, "b": ' + "9" * 1001 + "}")["b"] == math.inf


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1, None),
        (1.5, None),
        ("text", None),
        (None, None),
        (math.inf, "a number that is not finite"),
        (math.nan, "a number that is not finite"),
        (2**1023 - 1, None),
        (2**1023, "a number that is too large"),
        (-(10**400), "a number that is too large"),
        ("\ud800", "half a character (a lone surrogate)"),
        ({"\ud800": 1}, "half a character (a lone surrogate)"),
        ({"a": ["b", {"c": math.inf}]}, "a number that is not finite"),
        (nested(5), None),
        (nested(6), "more than 5 levels"),
    ],
    ids=range(14),
)
def test_why_a_value_is_no_json_for_everybody(value, why):
    """Given a value, wherever it is nested, then what is wrong with it is said in words, or nothing."""
    assert unfit(value, 5) == why


def test_text_is_written_as_it_is_and_half_a_character_as_an_escape():
    """Given text, then it is compact UTF-8; half a surrogate pair, which UTF-8 cannot hold, is an escape."""
    assert to_json({"a": ["ä", 1]}) == '{"a":["ä",1]}'.encode()
    assert to_json({"a": ["\ud800", 1]}) == b'{"a":["\\ud800",1]}'
    assert is_unicode("ä")
    assert not is_unicode(["\ud800"])

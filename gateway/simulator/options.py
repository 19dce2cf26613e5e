"""Options of behaviours: dataclass fields that know their name, meaning and reader.

A behaviour is a frozen dataclass; each of its fields is made by `option`. Pure.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

Reader = Callable[[str], object]


def option(name: str, default: object, meaning: str, read: Reader) -> Any:
    """A field that is an option of a script; `read` raises ValueError saying what it wants."""
    return dataclasses.field(default=default, metadata={"name": name, "meaning": meaning, "read": read})


def flag(text: str) -> bool:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise ValueError("wants true or false")
    return text == "true"


def count(text: str) -> int:
    """A whole number, 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError("wants a whole number, 0 or more")
    return int(text)


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError("wants a whole number, 1 or more")
    return int(text)


def number(text: str) -> float:
    """A number, also below 0."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError("wants a number") from None
    if not math.isfinite(value):
        raise ValueError("wants a finite number")
    return value


def seconds(text: str) -> float:
    """Seconds, whole or fractional, 0 or more."""
    if (value := number(text)) < 0:
        raise ValueError("wants seconds, 0 or more")
    return value


def plain(text: str) -> str:
    """Any text."""
    return text


def header_value(text: str) -> str:
    """Any text that fits in a header."""
    if not text.isprintable() or not text.isascii():
        raise ValueError("wants printable ASCII")
    return text


def status_code(text: str) -> int:
    """A final HTTP status that has a body."""
    if not (text.isascii() and text.isdigit() and 200 <= int(text) <= 599):
        raise ValueError("wants a status from 200 to 599")
    return int(text)


def json_object(text: str) -> str:
    """A JSON object, kept as text."""
    if not isinstance(json.loads(text), dict):
        raise ValueError("wants a JSON object")  # noqa: TRY004  # a wrong value of the right type, text
    return text


def one_of(*choices: str) -> Reader:
    """One of these words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"wants one of {', '.join(choices)}")
        return text

    return read

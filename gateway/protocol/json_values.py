"""JSON, as clients and upstreams really send it.

Owns: reading an object without trusting it, and writing one that any reader takes. Pure; any thread.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

_MOST_DIGITS = 1000  # Python refuses to read more than some thousands
_LARGEST_BITS = 1023  # of an integer that a double can still hold


def object_or_none(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object that a text is; None for anything else."""
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        document = _read_leniently(text)
    return document if isinstance(document, dict) else None


def _read_leniently(text: str | bytes) -> object:
    """For what msgspec refuses and others send: half a surrogate pair, a byte order mark, NaN, endless digits."""
    try:
        return json.loads(text, parse_int=_whole_number)
    except (ValueError, RecursionError):
        return None


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


def is_unicode(value: object) -> bool:
    """Whether JSON values can be written in UTF-8: half a surrogate pair in a text cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def unfit(value: object, deepest: int) -> str | None:
    """Why a value is no JSON that everybody reads, in words; None if it is.

    That is a number that is not finite or that no float holds, half a surrogate pair, and nesting over `deepest`.
    """
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return "a number that is not finite"
        if isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
            return "a number that is too large"
        if isinstance(value, str) and not is_unicode(value):
            return "half a character (a lone surrogate)"
        if isinstance(value, dict | list):
            if depth > deepest:
                return f"more than {deepest} levels"
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(part, depth + 1) for part in inner]
    return None


def exact_object_or_none(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object that a text is, if it can be written again.

    None for NaN, which is no JSON, and for numbers that no float holds.
    """
    try:
        document = _EXACT.decode(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("too large, or no number")
    return number


_EXACT = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def to_json(value: object) -> bytes:
    """Compact JSON in UTF-8; half a surrogate pair, which UTF-8 cannot hold and models send, stays an escape."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()

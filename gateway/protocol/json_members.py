"""The members of a JSON object as they are written, so that one can be changed and the rest stays byte for byte.

Owns: finding them, and writing them together again. Pure; values. They are found as texts, by the standard library's
decoder, which takes what clients send (half surrogate pairs, names given twice) and says where each value ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.protocol.json_values import to_json

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a JSON object: its name and value, and both as they are written."""

    name: str
    value: Any = field(repr=False)
    name_text: str = field(repr=False)
    value_text: str = field(repr=False)


Members = tuple[Member, ...]


def members_of(body: bytes) -> Members | None:
    """The members of the JSON object that a body is, in order; None if it is none."""
    try:
        return _members_in(body.decode())
    except (ValueError, IndexError, RecursionError):
        return None


def written(members: Members) -> str:
    """The object that has these members."""
    return f"{{{','.join(f'{member.name_text}:{member.value_text}' for member in members)}}}"


def last_member(members: Sequence[Member], name: str) -> Member | None:
    """The member of that name; the last one, if there are several, as JSON's readers take it."""
    return next((member for member in reversed(members) if member.name == name), None)


def with_member(members: Members, name: str, value_text: str) -> Members:
    """The same members, the one of that name with this value; it comes last if it is new."""
    old = last_member(members, name)
    if old is None:
        return (*members, Member(name, None, to_json(name).decode(), value_text))
    return tuple(replace(member, value_text=value_text) if member is old else member for member in members)


def without_member(members: Members, name: str) -> Members:
    """The same members without those of that name."""
    return tuple(member for member in members if member.name != name)


def object_with(object_text: str, name: str, value_text: str) -> str:
    """The same object, its member of that name with this value."""
    return written(with_member(_members_in(object_text), name, value_text))


def _members_in(text: str) -> Members:
    position = _past(text, 0, "{")
    members: list[Member] = []
    while text[position] != "}":
        if members:
            position = _past(text, position, ",")
        name, name_end = _DECODER.raw_decode(text, position)
        start = _past(text, name_end, ":")
        value, end = _DECODER.raw_decode(text, start)
        members.append(Member(name, value, text[position:name_end], text[start:end]))
        position = _past(text, end, "")
    return tuple(members)


def _past(text: str, position: int, mark: str) -> int:
    """The position behind white space, this mark, and white space."""
    position = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it always matches
    if not text.startswith(mark, position):
        raise ValueError(f"{mark} was expected")
    return _SPACE.match(text, position + len(mark)).end()  # type: ignore[union-attr]

"""An object's members as they are written: found, changed, and written together again."""

from __future__ import annotations

import pytest

from gateway.protocol.json_members import last_member, members_of, object_with, with_member, without_member, written

BODY = b' { "a" : [1, 2] ,\r\n"\\u0062":{"x": "}"},"a":1.50 , "s":"\\ud800" }\n'


def test_members_are_found_as_they_are_written() -> None:
    """Given an object with white space, escapes and a name given twice, then each member has its value and its text."""
    members = members_of(BODY)
    assert members is not None
    assert [(member.name, member.value, member.name_text, member.value_text) for member in members] == [
        ("a", [1, 2], '"a"', "[1, 2]"),
        ("b", {"x": "}"}, '"\\u0062"', '{"x": "}"}'),
        ("a", 1.5, '"a"', "1.50"),
        ("s", "\ud800", '"s"', '"\\ud800"'),
    ]
    assert written(members) == '{"a":[1, 2],"\\u0062":{"x": "}"},"a":1.50,"s":"\\ud800"}'
    assert repr(members[0]) == "Member(name='a')", "values may be prompts"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"7", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1 "b":2}', b"{a:1}", b'x{"a":1}', b'{"a" 1}'),
        *(b"\xff", b'{"a":' + b"[" * 100_000),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_object_has_no_members(body: bytes) -> None:
    """Given what is no JSON object, then it has none."""
    assert members_of(body) is None


@pytest.mark.parametrize("body", [b"{}", b" { } "])
def test_an_empty_object_has_no_member(body: bytes) -> None:
    """Given an object without members, then there are none."""
    assert members_of(body) == ()


def test_one_member_is_changed_and_the_rest_stays() -> None:
    """Given a name, then its last member has the new value, or it comes last; without it, all of that name are gone."""
    members = members_of(BODY)
    assert members is not None
    last = last_member(members, "a")
    assert last is not None
    assert (last.value_text, last_member(members, "none")) == ("1.50", None)
    assert written(with_member(members, "a", "7")) == '{"a":[1, 2],"\\u0062":{"x": "}"},"a":7,"s":"\\ud800"}'
    assert written(without_member(members, "a")) == '{"\\u0062":{"x": "}"},"s":"\\ud800"}'
    assert object_with('{"x": 1}', "ä", "[]") == '{"x":1,"ä":[]}'

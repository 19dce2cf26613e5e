"""What a process knows of the keys by their names in a file: the names, and how knowledge is joined."""

from __future__ import annotations

from dataclasses import replace

from gateway.keys.key_record import NEVER_SEEN, Record
from gateway.keys.known_keys import Known

SALT, OTHER_SALT = "00" * 32, "11" * 32
LIMITED = Record(cooling_until_at=20.0, reason="rate_limited", status=429, marked_at=10.0)


def known(**records: Record) -> Known:
    """Records by subject; `__` stands for the slash before a detail."""
    empty = Known(SALT, {})
    return empty.having({empty.name(subject.replace("__", "/", 1)): record for subject, record in records.items()})


def test_a_name_hides_the_base_and_shows_the_detail():
    """Given a subject, then its name is a keyed hash of its base, with the detail as it is; each salt has its own."""
    name = known().name("secret/messages/opus")
    base, _, detail = name.partition("/")
    assert detail == "messages/opus"
    assert len(base) == 64
    assert base == known().name("secret")
    assert base != Known(OTHER_SALT, {}).name("secret")
    assert "secret" not in name


def test_records_are_found_by_subject():
    """Given a record, then it is found by its subject; of another subject nothing is known."""
    assert known(k=LIMITED).record("k") == LIMITED
    assert known(k=LIMITED).record("other") is NEVER_SEEN


def test_details_are_those_of_a_base_sorted():
    """Given details of two bases, then each base has its own; and a new one is found however it comes."""
    one = known(k__b=LIMITED, k__a=LIMITED, other__c=LIMITED, k=LIMITED)
    assert one.details("k") == ["a", "b"]
    assert one.details("nobody") == []
    assert one.with_one(one.name("k/z"), LIMITED).details("k") == ["a", "b", "z"]
    assert one.having({one.name("k/y"): LIMITED}).details("k") == ["y"]


def test_a_changed_record_keeps_the_details_that_were_found():
    """Given details that were asked for, when a record that is known changes, then they are not sorted again."""
    one = known(k__a=LIMITED)
    assert one.details("k") == ["a"]
    other = one.with_one(one.name("k/a"), NEVER_SEEN)
    assert other.record("k/a") == NEVER_SEEN
    assert other._details is one._details
    assert one.with_one(one.name("k/b"), LIMITED)._details is not one._details


def test_what_is_spent_is_forgotten_and_nothing_else():
    """Given a rest of a scope that is long over, then it goes; keys stay, and what is unchanged is the same object."""
    one = known(k=LIMITED, k__scope=LIMITED)
    assert one.without_spent(15.0) is one
    later = one.without_spent(1e9)
    assert later.record("k") == LIMITED
    assert later.details("k") == []


def test_under_another_salt_what_was_asked_for_is_known():
    """Given a file that begins again under another salt, then subjects that were asked for are found there, details
    with them; those that nobody asked for cannot be."""
    one = known(k=LIMITED, k__scope=LIMITED)
    asked_by_nobody = "ab" * 32
    other = one.having({**one.records, asked_by_nobody: LIMITED}).under(OTHER_SALT)
    assert other.salt == OTHER_SALT
    assert (other.record("k"), other.record("k/scope")) == (LIMITED, LIMITED)
    assert set(other.records) == {other.name("k"), other.name("k/scope")}
    assert one.under(SALT) is one


def test_what_a_file_says_is_joined_with_what_is_known():
    """Given a file, then new records are taken, known ones joined, leases are the file's; the same again is no news."""
    one = known(k=LIMITED, mine=LIMITED)
    theirs = replace(LIMITED, cooling_until_at=30.0, lease_until_at=40.0)
    name, new = one.name("k"), one.name("new")
    both = one.with_what({name: theirs, new: LIMITED})
    assert both.record("k") == theirs
    assert both.record("new") == both.record("mine") == LIMITED
    earlier = one.with_what({name: replace(LIMITED, cooling_until_at=5.0, lease_until_at=7.0)})
    assert (earlier.record("k").cooling_until_at, earlier.record("k").lease_until_at) == (20.0, 7.0)
    assert both.with_what(both.records) is both

"""Records by name: what is forgotten, when, and that every change is seen."""

from __future__ import annotations

import pytest

from gateway.keys import subjects
from gateway.keys.key_record import NEVER_SEEN, Record
from gateway.keys.subjects import DAY_SECONDS, Shelf, by_base, is_sound, is_spent, latest_at, leaving, named

NOW = 1_000_000.0
RECENT = Record(cooling_until_at=NOW, marked_at=NOW - 5)
SPENT = Record(cooling_until_at=NOW - DAY_SECONDS - 1, marked_at=NOW - DAY_SECONDS - 9)


def shelf_of(**records: Record) -> Shelf:
    """`__` stands for the slash before a detail."""
    shelf = Shelf()
    for name, record in records.items():
        shelf.put(name.replace("__", "/"), record, NOW)
    return shelf


@pytest.mark.parametrize("detail", ["a", "messages/opus-5.1", "of/org+1/ws:2@x_y", "x" * 160])
def test_a_sound_detail_is_kept_as_it_is(detail):
    """Given a detail that a gateway writes, then the name has it behind the base's name."""
    assert is_sound(f"base/{detail}")
    assert named(f"base/{detail}", str.upper) == f"BASE/{detail}"


@pytest.mark.parametrize("detail", ["", "x" * 161, "a b", "a\n", "ä"])
def test_any_other_detail_is_refused(detail):
    """Given a detail that no store takes, then it is an error; a base is none of it."""
    assert not is_sound(f"base/{detail}")
    with pytest.raises(ValueError, match="160"):
        named(f"base/{detail}", str.upper)
    assert is_sound("base")
    assert named("base", str.upper) == "BASE"


def test_the_last_moment_of_a_record():
    """Given moments of every kind, then the latest counts; an empty record speaks of none."""
    assert latest_at(NEVER_SEEN) is None
    for name in ("cooling_until_at", "confirmed_at", "marked_at", "lease_until_at"):
        assert latest_at(Record(**{name: 7.0})) == 7
    assert latest_at(Record(cooling_until_at=3, confirmed_at=9, marked_at=4)) == 9


def test_a_record_is_spent_a_day_after_its_last_moment():
    """Given a record, then it is spent when all of it lies more than a day back; a retired one never, nor an empty."""
    assert not is_spent(Record(marked_at=NOW - DAY_SECONDS), NOW)
    assert is_spent(Record(marked_at=NOW - DAY_SECONDS - 0.5), NOW)
    assert not is_spent(Record(marked_at=1, is_retired=True), NOW)
    assert not is_spent(NEVER_SEEN, NOW)


def test_details_are_sorted_by_base():
    """Given names, then each base has its details in order; one without a detail has none."""
    assert by_base(["b/2", "a/z", "b/1", "c"]) == {"a": ["z"], "b": ["1", "2"]}


def test_every_change_shows_in_the_number():
    """Given what is put and removed, then the number is larger after each change, and after nothing else."""
    shelf = Shelf()
    seen = [shelf.changes]
    shelf.put("k", RECENT, NOW)
    seen.append(shelf.changes)
    shelf.put("k/a", RECENT, NOW)
    seen.append(shelf.changes)
    shelf.remove("k/a")
    seen.append(shelf.changes)
    assert seen == sorted(set(seen))
    shelf.put("k", RECENT, NOW)
    assert shelf.changes == seen[-1], "the same again is no change"


def test_details_of_a_shelf_are_those_that_are_there():
    """Given details put twice and removed, then those that are left are told, in order."""
    shelf = shelf_of(k__b=RECENT, k__a=RECENT, other__c=RECENT, k=RECENT)
    shelf.put("k/a", SPENT, NOW)
    assert shelf.details("k") == ["a", "b"]
    shelf.remove("k/a")
    shelf.remove("k/b")
    assert shelf.details("k") == shelf.details("nobody") == []
    assert (len(shelf), sorted(shelf), "k" in shelf, "k/a" in shelf) == (2, ["k", "other/c"], True, False)
    assert shelf.get("k/a") is NEVER_SEEN


def test_a_shelf_is_tidied_once_an_hour():
    """Given a spent detail, then it is forgotten by what is put an hour after the last time, and told; keys never."""
    shelf = shelf_of(k=SPENT, k__old=SPENT)
    assert shelf.put("k/new", RECENT, NOW + 3599) == []
    assert shelf.details("k") == ["new", "old"]
    assert shelf.put("k/newer", RECENT, NOW + 3600) == ["k/old"]
    assert ("k" in shelf, shelf.details("k")) == (True, ["new", "newer"])
    shelf.put("k/old", SPENT, NOW + 3601)
    assert shelf.put("k/last", RECENT, NOW + 7199) == []
    assert shelf.put("k/last", SPENT, NOW + 7200) == ["k/old", "k/last"]


def test_too_many_details_are_fewer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more details than there may be, then the oldest go, retired ones last; as many as there may be all stay."""
    monkeypatch.setattr(subjects, "MOST_DETAILED", 4)
    monkeypatch.setattr(subjects, "_KEPT_OF_TOO_MANY", 3)
    records = {f"k/{age}": Record(marked_at=NOW - age) for age in (4, 3, 2)}
    records["k/retired"] = Record(marked_at=NOW - 9, is_retired=True)
    records["k"] = Record(marked_at=1)
    assert leaving(records, NOW) == []
    records["k/1"] = Record(marked_at=NOW - 1)
    assert leaving(records, NOW) == ["k/4", "k/3"]
    shelf = Shelf()
    gone = [name for name, record in records.items() for name in shelf.put(name, record, NOW)]
    assert gone == ["k/4", "k/3"]
    spent = {f"k/spent{number}": SPENT for number in range(3)}
    assert sorted(leaving({name: records[name] for name in ("k/2", "k/3", "k/4")} | spent, NOW)) == sorted(spent)


def test_what_speaks_of_no_moment_is_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given too many details and an empty one, then that goes first."""
    monkeypatch.setattr(subjects, "MOST_DETAILED", 1)
    monkeypatch.setattr(subjects, "_KEPT_OF_TOO_MANY", 1)
    assert leaving({"k/first": Record(marked_at=0.5), "k/empty": NEVER_SEEN}, 1.0) == ["k/empty"]


def test_of_more_than_20000_details_a_tenth_goes_as_well():
    """Given a detail too many, then 18,000 stay, so that the next is not looked at again."""
    records = {f"k/{number}": Record(marked_at=NOW + number) for number in range(20_001)}
    assert leaving(records, NOW) == [f"k/{number}" for number in range(2001)]


def test_a_shelf_knows_how_many_details_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given details that come and go, then spent ones are looked for as soon as there are too many, not before."""
    monkeypatch.setattr(subjects, "MOST_DETAILED", 4)
    monkeypatch.setattr(subjects, "_KEPT_OF_TOO_MANY", 3)
    shelf = shelf_of(k=RECENT, k__old=SPENT, k__a=RECENT, k__b=RECENT)
    assert shelf.put("k/c", RECENT, NOW) == []
    shelf.remove("k/a")
    assert shelf.put("k/d", RECENT, NOW) == []
    assert shelf.put("k/e", RECENT, NOW) == ["k/old"]

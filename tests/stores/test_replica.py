"""What one process knows of the keys while it exchanges it with a server. No server here: answers are given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.keys.key_record import NEVER_SEEN, Cause, Record, cooled, leased, retired
from gateway.keys.replica import Replica
from gateway.keys.store import Change

LIMITED = Cause("rate_limited", 429, 5.0)
REFUSED = Cause("unauthorized", 401, 6.0)
NOW = 100.0


def cooling(until_at: float) -> Change:
    return lambda record: cooled(record, until_at, record.generation, LIMITED)


def retiring(record: Record) -> Record:
    return retired(record, record.generation, REFUSED)


@pytest.fixture
def replica() -> Replica:
    """One that was told of a key's cooldown, and has nothing untold."""
    made = Replica(lambda: NOW)
    made.mark("name", cooling(200.0))
    told = made.tell(["name"])
    assert told["name"].is_news
    made.learn(told, {"name": told["name"].record}, NOW)
    return made


def news(replica: Replica) -> list[str]:
    """The keys of which something is untold."""
    return sorted(replica.untold())


def test_a_clean_record_is_replaced(replica: Replica) -> None:
    """Given nothing untold, then what the server says counts, even if it is less."""
    answer = replace(replica.read(["name"])[0], cooling_until_at=199.9)
    replica.learn(replica.tell(["name"]), {"name": answer}, NOW)
    assert replica.read(["name"]) == [answer]
    assert news(replica) == []


def test_a_mark_made_during_an_exchange_is_joined_and_told_next(replica: Replica) -> None:
    """Given marks while the answer was under way, then they stay, and only they are still to be told."""
    told = replica.tell(["name"])
    answer = replace(told["name"].record, cooling_until_at=250.0, limited_count=7)
    replica.mark("name", cooling(300.0))
    replica.mark("name", retiring)
    replica.learn(told, {"name": answer}, NOW)
    (record,) = replica.read(["name"])
    assert (record.cooling_until_at, record.is_retired) == (300.0, True)
    assert (record.limited_count, record.refused_count) == (8, 1)
    told = replica.tell(["name"])
    assert told["name"].is_news
    assert (told["name"].limited_count, told["name"].refused_count) == (7, 0)


def test_what_a_failed_exchange_told_is_told_again(replica: Replica) -> None:
    """Given an exchange of unknown outcome, then its marks and the leases it gave back are in the next."""
    replica.mark("name", retiring)
    replica.release("name", lambda record: record, "lease")
    told = replica.tell(["name"])
    replica.take_back(told)
    assert replica.tell(["name"]) == told


def test_a_key_that_the_server_has_forgotten_is_told_again(replica: Replica) -> None:
    """Given an answer without a key that is known here, then it is kept and told; one unknown to both is nothing."""
    before = replica.read(["name", "stranger"])
    replica.learn(replica.tell(["name", "stranger"]), {"name": None, "stranger": None}, NOW)
    assert replica.read(["name", "stranger"]) == before
    assert news(replica) == ["name"]


def test_in_doubt_everything_is_told(replica: Replica) -> None:
    """Given a server that may have lost anything, then what was told once is told again."""
    assert news(replica) == []
    replica.doubt()
    assert news(replica) == ["name"]


@pytest.mark.parametrize(
    ("answer", "lease_until_at"),
    [
        (Record(cooling_until_at=90.0), 130.0),
        (Record(cooling_until_at=90.0, confirmed_at=95.0), 0.0),
        (Record(cooling_until_at=190.0), 0.0),
        (Record(cooling_until_at=90.0, is_retired=True), 0.0),
        (Record(cooling_until_at=90.0, generation=1), 0.0),
    ],
    ids=["same trial", "confirmed", "limited again", "retired", "enabled"],
)
def test_a_lease_outlives_an_exchange_while_its_trial_lasts(answer: Record, lease_until_at: float) -> None:
    """Given a lease taken here, then it is kept until the server tells of something that ended it."""
    replica = Replica(lambda: NOW)
    replica.mark("name", lambda record: replace(record, cooling_until_at=90.0))
    replica.learn(replica.tell(["name"]), {"name": Record(cooling_until_at=90.0)}, NOW)
    assert replica.lease("name", lambda record: leased(record, 130.0, NOW))
    replica.learn(replica.tell(["name"]), {"name": answer}, NOW)
    assert replica.read(["name"])[0].lease_until_at == lease_until_at
    assert news(replica) == []


def test_what_is_shown_between_exchanges_loses_no_mark_under_way(replica: Replica) -> None:
    """Given a record shown with a lease's refusal while a mark is being told, then the mark stays."""
    replica.mark("name", retiring)
    told = replica.tell(["name"])
    replica.learn_one("name", Record(cooling_until_at=90.0, confirmed_at=95.0))
    assert replica.read(["name"])[0].is_retired
    replica.take_back(told)
    assert replica.tell(["name"])["name"].record.is_retired


def test_a_lease_that_is_given_back_is_free_here_at_once_and_told() -> None:
    """Given a lease taken here, when it is given back, then it is over here, and the next exchange says so."""
    replica = Replica(lambda: NOW)
    replica.mark("name", lambda record: replace(record, cooling_until_at=90.0))
    replica.tell(["name"])
    assert replica.lease("name", lambda record: leased(record, 130.0, NOW))
    replica.release("name", lambda record: replace(record, lease_until_at=0.0), "lease")
    assert replica.read(["name"])[0].lease_until_at == 0.0
    assert news(replica) == ["name"]
    assert replica.tell(["name"])["name"].released == "lease"


def test_what_is_shown_between_exchanges_is_known(replica: Replica) -> None:
    """Given a record shown outside of an exchange, then it is known at once; what was counted here is kept."""
    before = replica.changes
    replica.learn_one("name", Record(cooling_until_at=300.0, limited_count=50, refused_count=60))
    (record,) = replica.read(["name"])
    assert (record.cooling_until_at, record.limited_count, record.refused_count) == (300.0, 1, 0)
    assert replica.changes > before


def test_refusals_are_counted_by_all(replica: Replica) -> None:
    """Given refusals counted here during an exchange, and elsewhere before, then none is lost or counted twice."""
    replica.mark("name", retiring)
    told = replica.tell(["name"])
    replica.mark("name", lambda record: replace(record, refused_count=record.refused_count + 2))
    replica.learn(told, {"name": replace(told["name"].record, refused_count=7)}, NOW)
    assert replica.read(["name"])[0].refused_count == 9


def test_a_subject_that_was_forgotten_begins_to_count_again() -> None:
    """Given a detail that was counted, forgotten, and is marked again, then it is told with no count of before."""
    now = [NOW]
    replica = Replica(lambda: now[0])
    replica.mark("base/detail", cooling(200.0))
    told = replica.tell(["base/detail"])
    replica.learn(told, {"base/detail": replace(told["base/detail"].record, limited_count=5)}, NOW)
    now[0] += 10 * 86400.0
    replica.doubt()
    assert replica.details("base") == []
    replica.mark("base/detail", cooling(now[0] + 5.0))
    assert replica.tell(["base/detail"])["base/detail"].limited_count == 0


def test_a_key_never_seen_is_not_told(replica: Replica) -> None:
    """Given a name that only the server has, then it is asked about, and known after."""
    told = replica.tell(["other"])
    assert (told["other"].record, told["other"].is_news) == (NEVER_SEEN, False)
    answer = Record(cooling_until_at=150.0, limited_count=3)
    replica.learn(told, {"other": answer}, NOW)
    assert replica.read(["other"]) == [answer]


def test_details_that_had_their_time_are_not_told_again() -> None:
    """Given a server that forgot details, then one that was spent, or that says nothing of when, is forgotten here as
    well, in doubt neither is told, and one that still cools down is."""
    day_seconds = 86400.0
    now = 10 * day_seconds
    replica = Replica(lambda: now)
    names = ["base/spent", "base/enabled", "base/cooling", "base"]
    replica.mark("base/spent", lambda record: replace(record, cooling_until_at=now - 2 * day_seconds))
    replica.mark("base/enabled", lambda record: replace(record, generation=1))
    replica.mark("base/cooling", lambda record: replace(record, cooling_until_at=now - day_seconds / 2))
    replica.mark("base", lambda record: replace(record, cooling_until_at=1.0))
    told = replica.tell(names)
    assert [name for name, what in told.items() if what.is_news] == ["base/enabled", "base/cooling", "base"]
    replica.learn(told, {name: what.record for name, what in told.items() if what.is_news}, now)
    assert news(replica) == []
    replica.doubt()
    assert news(replica) == ["base", "base/cooling"]
    replica.learn(replica.tell(["base/enabled"]), {"base/enabled": None}, now)
    assert replica.details("base") == ["cooling"]


def test_keys_are_told_from_their_details(replica: Replica) -> None:
    """Given a key and something about it, then the key alone is a base."""
    replica.mark("name/messages/opus", cooling(200.0))
    assert replica.bases() == {"name"}


def test_counts_of_a_key_that_was_never_exchanged_begin_at_none(replica: Replica) -> None:
    """Given a key that the server has not been told of, then it is told all of its counts."""
    replica.mark("new", cooling(200.0))
    told = replica.tell(["new"])["new"]
    assert (told.record.limited_count, told.limited_count, told.refused_count) == (1, 0, 0)


def test_one_answer_of_nothing_does_not_hide_the_next(replica: Replica) -> None:
    """Given two subjects of which the server knows the second alone, then the second is learnt."""
    told = replica.tell(["gone", "name"])
    answer = replace(told["name"].record, cooling_until_at=333.0)
    replica.learn(told, {"gone": None, "name": answer}, NOW)
    assert replica.read(["name"])[0].cooling_until_at == 333.0


def test_what_has_been_forgotten_is_not_told(replica: Replica) -> None:
    """Given a scope's cooldown that had its time, when the server no longer knows it, then it is untold no more."""
    replica.mark("name/messages/opus", cooling(101.0))
    told = replica.tell(["name/messages/opus"])
    replica.mark("name/messages/opus", cooling(102.0))
    replica.learn(told, {"name/messages/opus": None}, 1e9)
    assert news(replica) == []
    assert replica.details("name") == []

"""Places for interceptions: never more than the limit, never lost."""

from __future__ import annotations

import random

from gateway.admission import Admission
from tests.unit.fakes import race


def test_places_are_given_up_to_the_limit_and_given_back():
    """Given two places, when both are taken, then the third is refused until one is given back."""
    admission = Admission(2)
    assert [admission.enter() for _ in range(3)] == [True, True, False]
    assert repr(admission) == "<Admission 2/2>"
    admission.leave()
    assert admission.enter()
    assert admission.taken == admission.limit == 2


def test_no_limit_no_place():
    """Given no places at all, then everyone is refused."""
    assert not Admission(0).enter()


def test_a_rush_gets_exactly_the_places_there_are():
    """Given 64 threads at a barrier and 10 places, then 10 enter."""
    admission = Admission(10)
    assert sum(race(64, lambda _: admission.enter())) == 10
    assert admission.taken == 10


def test_storm_of_comings_and_goings_loses_no_place():
    """Given 64 threads that come and go at random, then the limit holds throughout and in the end all is free."""
    admission = Admission(10)

    def come_and_go(number: int) -> int:
        chance, held, most = random.Random(number), 0, 0
        for _ in range(500):
            if held and chance.random() < 0.5:
                admission.leave()
                held -= 1
            else:
                held += admission.enter()
            most = max(most, admission.taken)
        for _ in range(held):
            admission.leave()
        return most

    assert max(race(64, come_and_go)) <= 10
    assert admission.taken == 0

"""Where keys belong: read from answers, and kept by the store."""

from __future__ import annotations

import pytest

from gateway.keys.places import NOWHERE, Place, place_from, place_of

ORGANISATION, WORKSPACE = "9f6f3b8e-1b0a-4a7e-8f31-0d2f6f0b3c11", "wrkspc_01Ab"


@pytest.mark.parametrize(
    ("headers", "place"),
    [
        ({}, NOWHERE),
        ({"anthropic-organization-id": ORGANISATION}, Place(ORGANISATION)),
        (
            {"anthropic-organization-id": ORGANISATION, "anthropic-workspace-id": WORKSPACE},
            Place(ORGANISATION, WORKSPACE),
        ),
        ({"anthropic-organization-id": "a/b", "anthropic-workspace-id": "\x1b[31m"}, NOWHERE),
        ({"anthropic-organization-id": "a" * 65, "anthropic-workspace-id": ""}, NOWHERE),
    ],
)
def test_answer_tells_where_its_key_belongs(headers, place):
    """Given an answer's headers, then the place is what they say; what no id looks like says nothing."""
    assert place_of(headers) == place


@pytest.mark.parametrize("place", [Place("a", "b"), Place("a"), Place("", "b")])
def test_detail_says_the_whole_place(place):
    """Given a place, then the store's name of it leads back to it."""
    assert place_from(place.detail) == place


@pytest.mark.parametrize("detail", ["messages/opus-4", "of", "of/a", "of//", "of//b", "on/a/b", "suspect", "models"])
def test_other_details_are_no_places(detail):
    """Given another detail of a key's, then it is no place."""
    assert place_from(detail) is None


@pytest.mark.parametrize(
    ("now", "older", "place"),
    [
        (Place("a"), Place("a", "w"), Place("a", "w")),
        (Place("a", "v"), Place("a", "w"), Place("a", "v")),
        (Place("b"), Place("a", "w"), Place("b")),
        (Place("a"), NOWHERE, Place("a")),
    ],
)
def test_answer_that_says_less_takes_nothing_back(now, older, place):
    """Given an answer without a workspace, then the one that was known of this organisation stays."""
    assert now.completed(older) == place


def test_group_is_where_prompt_caches_lie():
    """Given a place, then its group is the workspace, else the organisation, in letters that a reason may have."""
    assert Place(ORGANISATION, WORKSPACE).group == WORKSPACE
    assert Place(ORGANISATION).group == ORGANISATION.replace("-", "_")
    assert NOWHERE.group == ""

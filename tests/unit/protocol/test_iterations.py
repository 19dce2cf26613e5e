"""The inferences that an answer says it was made of: their models, their lifetimes in the cache, which one is free."""

from __future__ import annotations

import pytest

from gateway.protocol.counts import MOST
from gateway.protocol.iterations import Iteration, counts_in, is_declined, iterations_in, with_lifetimes, with_models

WRITTEN, MINUTES, HOUR = "cache_write_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"


def made(kind: str = "message", model: str | None = None, **counts: int) -> Iteration:
    return Iteration(kind, model, counts)


@pytest.mark.parametrize(
    ("entry", "read"),
    [
        pytest.param({"type": "message", "model": "m", "output_tokens": 2}, made(model="m", output_tokens=2), id="all"),
        pytest.param({"type": "message", "model": 7}, made(), id="odd-model"),
        pytest.param({"type": "dream", "input_tokens": 1}, made("other", input_tokens=1), id="unknown-kind"),
        pytest.param({"input_tokens": -1, "output_tokens": "2"}, made("other"), id="no-counts"),
        pytest.param("message", made("other"), id="no-object"),
    ],
)
def test_an_entry_is_read_as_far_as_it_can_be(entry: object, read: Iteration) -> None:
    """Given an entry, then its kind, its model and its counts are known; what cannot be read is left out."""
    assert iterations_in([entry]) == (read,)


def test_counts_are_those_of_the_object_and_of_its_cache_creation() -> None:
    """Given a usage object, then its counts are kept by their names, and nothing else of it is."""
    said = {
        "input_tokens": 1,
        "cache_creation": {"ephemeral_1h_input_tokens": 2, "x": 3},
        "ephemeral_5m_input_tokens": 4,
    }
    assert counts_in(said) == {"input_tokens": 1, HOUR: 2}
    assert counts_in({"cache_creation": 5, "server_tool_use": {"ephemeral_1h_input_tokens": 6}}) == {}


def test_entries_beyond_the_first_thousand_are_added_up() -> None:
    """Given a thousand entries, then each is kept; given more, then the rest is one entry of no known kind."""
    entry = {"type": "message", "model": "m", "input_tokens": 2, "cache_creation": {"ephemeral_1h_input_tokens": 1}}
    assert iterations_in([entry] * 1000) == (made(model="m", input_tokens=2, **{HOUR: 1}),) * 1000
    *each, rest = iterations_in(
        [entry] * 1000 + [entry, {"input_tokens": 5, "output_tokens": MOST}, {"output_tokens": 1}]
    )
    assert (len(each), rest.kind, rest.model) == (1000, "other", None)
    assert rest.counts == {
        **{"input_tokens": 7, "output_tokens": MOST, "cache_read_tokens": 0},
        **{WRITTEN: 0, MINUTES: 0, HOUR: 1},
    }


@pytest.mark.parametrize(
    ("kind", "is_of_answer", "is_in_sum"),
    [
        ("message", True, True),
        ("fallback_message", True, True),
        ("other", False, True),
        ("compaction", False, False),
        ("advisor_message", False, False),
    ],
)
def test_what_an_entry_is_part_of(kind: str, is_of_answer: bool, is_in_sum: bool) -> None:
    """Given an entry's kind, then it has made a part of the answer, and the answer's own counts hold it, or not."""
    assert made(kind).is_of_answer is is_of_answer
    assert made(kind).is_in_sum is is_in_sum


@pytest.mark.parametrize(
    ("entries", "asked", "models"),
    [
        pytest.param([made()], "asked", ["served"], id="the-answer-s"),
        pytest.param([made(model="own"), made("advisor_message", "own")], "asked", ["own", "own"], id="their-own"),
        pytest.param([made(), made("fallback_message")], "asked", ["asked", "served"], id="another-took-over"),
        pytest.param([made("fallback_message"), made("other")], "asked", ["served", "served"], id="no-message"),
        pytest.param([made("compaction", "own")], "asked", ["asked"], id="summary"),
        pytest.param([made("compaction", "own")], None, ["served"], id="summary-nobody-asked-for"),
    ],
)
def test_each_entry_has_its_model(entries: list[Iteration], asked: str | None, models: list[str]) -> None:
    """Given entries that name a model or none, then each has the model that it is billed at."""
    found = with_models(entries, asked, "served")
    assert [entry.model for entry in found] == models
    assert [(entry.kind, entry.counts) for entry in found] == [(entry.kind, entry.counts) for entry in entries]


@pytest.mark.parametrize(
    ("entries", "hour_tokens", "hours"),
    [
        pytest.param([made(**{WRITTEN: 5})], 3, [3], id="some-of-what-was-written"),
        pytest.param([made(**{WRITTEN: 5})], 1, [1], id="a-single-one"),
        pytest.param([made(**{WRITTEN: 5})], 9, [5], id="never-more-than-was-written"),
        pytest.param([made(**{WRITTEN: 5})], 0, [None], id="none"),
        pytest.param([made(**{WRITTEN: 3}), made(**{WRITTEN: 4})], 5, [1, 4], id="the-last-first"),
        pytest.param([made(**{WRITTEN: 3}), made(**{WRITTEN: 4})], 4, [None, 4], id="nothing-left"),
        pytest.param([made(**{WRITTEN: 3}), made("fallback_message")], 2, [2, 0], id="what-wrote-nothing-has-none"),
        pytest.param(
            [made("advisor_message", **{WRITTEN: 3}), made()], 2, [None, 0], id="an-adviser-is-not-the-answer"
        ),
        pytest.param([made(**{WRITTEN: 9}), made(**{WRITTEN: 2, HOUR: 2})], 6, [4, 2], id="what-was-said-is-not-left"),
        pytest.param([made(**{WRITTEN: 9, MINUTES: 9}), made(**{WRITTEN: 2})], 6, [None, 2], id="what-said-minutes"),
    ],
)
def test_what_the_answer_wrote_for_an_hour_is_dealt_out(
    entries: list[Iteration], hour_tokens: int, hours: list[int | None]
) -> None:
    """Given the answer's own word on its hour, then entries that say nothing of lifetimes have it, from the last on."""
    dealt = with_lifetimes(entries, hour_tokens)
    assert [entry.counts.get(HOUR) for entry in dealt] == hours
    assert [entry.counts.get(WRITTEN) for entry in dealt] == [entry.counts.get(WRITTEN) for entry in entries]


SILENT = made(model="a", output_tokens=0)


@pytest.mark.parametrize(
    ("entry", "later", "is_refused", "is_free"),
    [
        pytest.param(SILENT, [made("fallback_message", "b")], False, True, id="another-model-goes-on"),
        pytest.param(SILENT, [made(model="a"), made(model="b")], False, True, id="another-goes-on-later"),
        pytest.param(SILENT, [made(model="a")], False, False, id="the-same-goes-on"),
        pytest.param(SILENT, [made(model="a")], True, False, id="the-same-is-what-refuses"),
        pytest.param(SILENT, [made("advisor_message", "b")], False, False, id="an-adviser-does-not-go-on"),
        pytest.param(SILENT, [made("advisor_message", "b")], True, True, id="the-answer-s-last-refuses"),
        pytest.param(SILENT, [], True, True, id="refused"),
        pytest.param(SILENT, [], False, False, id="silent"),
        pytest.param(made(model="a", output_tokens=1), [made(model="b")], True, False, id="said-a-word"),
        pytest.param(made(model="a"), [made(model="b")], True, False, id="not-counted"),
        pytest.param(made("compaction", "a", output_tokens=0), [made(model="b")], True, False, id="a-summary"),
    ],
)
def test_who_declines_without_a_word_is_free(
    entry: Iteration, later: list[Iteration], is_refused: bool, is_free: bool
) -> None:
    """Given an entry and those behind it, then it is free if its model declined and had put out nothing."""
    assert is_declined(entry, later, is_refused=is_refused) is is_free

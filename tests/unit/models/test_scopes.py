"""Scopes: the class of each model, and the names of scopes."""

from __future__ import annotations

import re

import pytest

from gateway.models.scopes import COUNT_TOKENS, MODELS, ModelClasses, is_scope, known_classes, messages_scope


@pytest.mark.parametrize(
    ("model", "model_class"),
    [
        ("claude-opus-4-8", "opus-4"),
        ("claude-opus-4-5-20251101", "opus-4"),
        ("claude-opus-4-5@20251101", "opus-4"),
        ("claude-opus-4-8-latest", "opus-4"),
        ("claude-opus-4-8[1m]", "opus-4"),
        ("anthropic/claude-sonnet-4-6", "sonnet-4"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "sonnet-4"),
        ("claude-fable-5-2", "fable-5"),
        ("claude-mythos-5-1", "mythos-5"),
        ("claude-opus-5-5", "opus-5-5"),
        ("claude-opus-5", "opus-5"),
        ("claude-haiku-5-5", "haiku-5-5"),
        ("claude-haiku-4-5-20251001", "haiku-4-5"),
        ("gpt-oss:20b", "gpt-oss_20b"),
        ("m" * 100, "m" * 64),
        ("a b", "other"),
        ("\n\x1b[31m é/..", "other"),
        ("m" * 500, "other"),
    ],
)
def test_model_has_the_class_whose_limits_it_shares(model, model_class):
    """Given a model in any spelling, then its class is the table's, or its own; in few characters, and short."""
    assert known_classes().class_of(model) == model_class
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", known_classes().class_of(model))


def test_operators_table_wins():
    """Given a file of the operator's, then it counts where it says anything."""
    own = ModelClasses.read('[[model]]\nid = "claude-opus-4-8"\nclass = "own"\n[[model]]\nid = "m"\nclass = "own"\n')
    both = known_classes().with_overrides(own)
    assert [both.class_of(model) for model in ("claude-opus-4-8", "m", "claude-opus-4-7")] == ["own", "own", "opus-4"]


@pytest.mark.parametrize(
    "text", ["model = 3", "[[model]]\nid = 'm'", "[[model]]\nid = 'm'\nclass = 3", "[model]\nid = 'm'", "[["]
)
def test_file_that_says_something_else_is_refused(text):
    """Given a file with another form, then a ValueError says so."""
    with pytest.raises(ValueError, match=r".+"):
        ModelClasses.read(text)


def test_memory_of_models_is_bounded():
    """Given more names of models than anybody uses, then not all of them are remembered."""
    classes = ModelClasses({})
    for number in range(5000):
        assert classes.class_of(f"m{number}") == f"m{number}"
    assert len(classes._known) <= 1001


def test_scopes_are_told_from_other_details():
    """Given what is kept of a key, then scopes are known by their names."""
    scopes = [COUNT_TOKENS, MODELS, messages_scope("opus-4", is_fast=True), messages_scope("opus-4", is_fast=False)]
    assert scopes[2:] == ["messages/opus-4+fast", "messages/opus-4"]
    assert all(map(is_scope, scopes))
    assert not any(map(is_scope, ["of/a/b", "suspect", "looked", "forgiven", "messages"]))

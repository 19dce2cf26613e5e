"""Secrets: what they show, what they compare."""

from __future__ import annotations

import copy
import hashlib
import pickle

import pytest

from gateway.access.credential import Key, Secret, key_headers


@pytest.mark.parametrize(
    ("clear", "hint"),
    [
        pytest.param("sk-ant-api03-abcdefgh-WXYZ", "sk-ant-...WXYZ", id="anthropic"),
        pytest.param("an-opaque-credential-1234", "...1234", id="other"),
        pytest.param("x" * 16 + "1234", "...1234", id="twenty"),
        pytest.param("x" * 15 + "1234", "****", id="nineteen"),
        pytest.param("sk-ant-short", "****", id="short-anthropic"),
        pytest.param("", "****", id="empty"),
    ],
)
def test_hint_is_a_known_prefix_and_four_characters(clear, hint):
    """Given a secret, then its hint is this, and every rendering shows the hint alone."""
    secret = Secret(clear)
    assert secret.hint == hint
    assert {str(secret), repr(secret), f"{secret}", f"{secret!r}", "%s" % secret} == {f"<Secret {hint}>"}  # noqa: UP031
    assert Key("k", secret).hint == hint


def test_equal_secrets_are_equal_whoever_made_them():
    """Given two secrets of one text, then they are equal, hash alike and have one fingerprint."""
    one, other = Secret("s" * 30), Secret("s" * 30)
    assert one == other
    assert hash(one) == hash(other)
    assert one.fingerprint == other.fingerprint == hashlib.sha256(b"s" * 30).hexdigest()
    assert one != Secret("t" * 30)
    assert one != "s" * 30


def test_fingerprint_of_odd_bytes_is_found():
    """Given a header's latin-1 text or an environment's surrogates, then a fingerprint can be made."""
    assert len(Secret("é\udc80").fingerprint) == 64


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_secret_does_not_leave_by_serialising(leave):
    """Given a secret, when it is pickled or copied, then TypeError and nothing in clear."""
    with pytest.raises(TypeError) as raised:
        leave(Secret("sk-ant-planted-secret-value"))
    assert "planted" not in str(raised.value)


def test_secret_has_no_dictionary():
    """Given a secret, then `vars`, as debuggers and error reporters use it, has nothing to show."""
    with pytest.raises(TypeError):
        vars(Secret("sk-ant-planted-secret-value"))


def test_pool_key_goes_upstream_as_x_api_key():
    """Given a key of the pool, then it is carried bare in x-api-key."""
    (header,) = key_headers(Key("k", Secret("clear")))
    assert (header.name, header.scheme, header.secret.reveal()) == ("x-api-key", "", "clear")

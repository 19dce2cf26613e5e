"""What the master leaves of a reload."""

from __future__ import annotations

import stat

import pytest

from gateway.server.reload_answer import ReloadAnswer, forget, last, leave

ANSWER = ReloadAnswer(7.5, ["a fault"], ["GATEWAY_BIND"])


def test_answer_is_read_as_it_was_left(tmp_path) -> None:
    """Given two answers, then the later one is read, and the file is its owner's alone."""
    leave(tmp_path, ReloadAnswer(1.0, [], []))
    leave(tmp_path, ANSWER)
    assert last(tmp_path) == ANSWER
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_forgotten_answer_is_none(tmp_path) -> None:
    """Given an answer of an earlier start, when it is forgotten, once more as well, then there is none."""
    leave(tmp_path, ANSWER)
    forget(tmp_path)
    forget(tmp_path)
    assert last(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"began_at": "soon"}', b"\xff"])
def test_file_that_is_no_answer_is_none(tmp_path, content) -> None:
    """Given a file that something else has written, then there is no answer."""
    (tmp_path / "reload").write_bytes(content)
    assert last(tmp_path) is None

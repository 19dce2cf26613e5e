"""`make check` finds tracked files that nothing names."""

from __future__ import annotations

import pytest

from scripts.check_files import unnamed

MAKEFILE = {"Makefile": "run:\n\tsh scripts/run.sh\n"}


@pytest.mark.parametrize(
    ("path", "is_named"),
    [
        ("relative.db", False),
        ("scripts/run.sh", True),
        ("scripts/rerun.sh", False),
        ("scripts/run.sh.orig", False),
        ("LICENSE", True),
        ("gateway/keys/pool.py", True),
        ("gateway/keys/notes.txt", False),
        ("tests/unit/samples.json", True),
    ],
)
def test_file_has_to_be_named_or_known(path: str, is_named: bool) -> None:
    """Given a file, then it must be a module, a test's, known by convention, or named by its whole name."""
    assert unnamed(MAKEFILE | {path: ""}) == ([] if is_named else [path])


def test_what_only_a_test_or_the_file_itself_names_is_stray() -> None:
    """Given a file that is named in itself and in a test, then it is stray all the same."""
    assert unnamed({"relative.db": "relative.db", "tests/unit/test_x.py": '"relative.db"'}) == ["relative.db"]

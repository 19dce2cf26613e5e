"""Descriptors: the limit is raised, and a reserve is kept for everything that is no client's connection."""

from __future__ import annotations

import logging
import resource

import pytest

from gateway.server import descriptors


class Limit:
    """The process's limit of open files."""

    def __init__(self, soft: int, hard: int) -> None:
        self.soft, self.hard = soft, hard

    def get(self, what: int) -> tuple[int, int]:
        assert what == resource.RLIMIT_NOFILE
        return self.soft, self.hard

    def set(self, what: int, limits: tuple[int, int]) -> None:
        assert what == resource.RLIMIT_NOFILE
        self.soft, self.hard = limits


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    limit = Limit(1024, 4096)
    monkeypatch.setattr(resource, "getrlimit", limit.get)
    monkeypatch.setattr(resource, "setrlimit", limit.set)
    return limit


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        pytest.param(1024, 4096, 4096, id="to-the-hard-limit"),
        pytest.param(4096, 4096, 4096, id="done-already"),
        pytest.param(1024, resource.RLIM_INFINITY, 1064 + 64 + 200, id="no-hard-limit"),
        pytest.param(resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, id="no-limit"),
    ],
)
def test_the_limit_is_raised(limit, caplog, soft, hard, raised):
    """Given a soft limit, then it is raised as far as the hard one allows, without a word if that is enough."""
    limit.soft, limit.hard = soft, hard
    descriptors.raise_limit(64)
    assert (limit.soft, limit.hard) == (raised, hard)
    assert caplog.records == []


def test_too_low_a_limit_is_told(limit, caplog):
    """Given a hard limit that is too low, then a warning says what is missing, and what follows from it."""
    caplog.set_level(logging.WARNING)
    limit.soft, limit.hard = 512, 700
    descriptors.raise_limit(64)
    (record,) = caplog.records
    assert record.getMessage() == (
        "700 open files are allowed, and a worker of 64 requests may need 1328: it takes 461 connections at most"
    )
    assert limit.soft == 700


@pytest.mark.parametrize(
    ("soft", "requests", "connections"),
    [
        pytest.param(4096, 64, 1064, id="plenty"),
        pytest.param(resource.RLIM_INFINITY, 64, 1064, id="no-limit"),
        pytest.param(1328, 64, 1064, id="just-enough"),
        pytest.param(1327, 64, 1063, id="one-too-few"),
        pytest.param(700, 64, 461, id="few"),
        pytest.param(700, 512, 262, id="fewer-than-requests"),
        pytest.param(64, 64, 24, id="hardly-any"),
        pytest.param(1, 64, 1, id="none"),
    ],
)
def test_a_reserve_is_kept(limit, soft, requests, connections):
    """Given a limit, then connections leave a descriptor for each request, and some for files and stores."""
    limit.soft = soft
    assert descriptors.most_connections(1064, requests) == connections

"""Fixtures that unit tests share: what ends a wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.runtime.lifecycle import Lifecycle
from gateway.upstream.watch import Watch


@pytest.fixture
def lifecycle() -> Iterator[Lifecycle]:
    """Whether the gateway serves, of a gateway of the test's own."""
    made = Lifecycle()
    yield made
    made.close()


@pytest.fixture
def watch(lifecycle: Lifecycle) -> Watch:
    """A request's waits, which no client's hang-up ends."""
    return Watch(None, lifecycle)

"""Fixtures that the tests of deploy/ and docs/ share."""

from __future__ import annotations

import pytest

from tests.deploy.dockerfile import Image, built


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """What the image's first stage installs; it takes a while, so there is one for all."""
    return built(tmp_path_factory.mktemp("image"))

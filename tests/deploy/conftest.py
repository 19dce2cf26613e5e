"""Fixtures that the tests of deploy/ and docs/ share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.deploy.dockerfile import Image, built
from tests.deploy.machine import Machine
from tests.harness import ROOT


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """What the image's first stage installs; it takes a while, so there is one for all."""
    return built(tmp_path_factory.mktemp("image"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's folder, where its commands may write."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    for name in ("gateway", "gunicorn.conf.py", ".venv", "requirements.lock"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def machine(project: Path, image: Image, tmp_path: Path) -> Machine:
    """The machine of docs/deploying.md, before anything is done."""
    return Machine(project, image, tmp_path)

"""deploy/docker/Dockerfile, read, and its first stage carried out word for word without a container engine.

The machine's own programs stand in for the base image; what the Dockerfile installs lies at the paths it names.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.deploy import sandbox
from tests.harness import ROOT

DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage: word and rest, continued lines joined."""
    found: list[list[tuple[str, str]]] = []
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest.strip()))
    return found


def only(stage: list[tuple[str, str]], word: str) -> str:
    """What the stage's only instruction of that kind says."""
    (rest,) = [rest for known, rest in stage if known == word]
    return rest


@dataclass(frozen=True)
class Image:
    """What the first stage has installed, and the folder of the base image's programs."""

    folder: Path
    shims: Path


def allowed() -> set[str]:
    """What may go into the build, by deploy/docker/Dockerfile.dockerignore."""
    lines = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in lines, "everything is kept out unless it is named"
    return {line[1:] for line in lines if line.startswith("!")}


def built(top: Path) -> Image:
    """The first stage, carried out in a folder."""
    image, build = Image(top / "image", top / "shims"), top / "build"
    for made in (image.folder, image.shims, build):
        made.mkdir()
    # The base image's `python` and `pip`.
    (image.shims / "python").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    (image.shims / "pip").write_text(f'#!/bin/sh\nexec {sys.executable} -m pip "$@"\n')
    (image.shims / "pip").chmod(0o755)
    options = [
        *("--ro-bind", str(image.shims), "/shims", "--tmpfs", "/opt"),
        *(*sandbox.writable("/opt/messages-gateway", image.folder), *sandbox.writable("/build", build)),
    ]
    places = {"/build/": build, "/build/gateway": build / "gateway", "/opt/messages-gateway/": image.folder}
    for word, rest in stages()[0]:
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                assert source in allowed(), f".dockerignore keeps {source} out"
                _copy(ROOT / source, places[target])
        elif word == "RUN":
            sandbox.run(["sh", "-euc", rest], options, first="/shims")
    return image


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)

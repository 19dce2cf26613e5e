"""Tracked files that no other tracked file names: what was committed by mistake. Says which, and fails; else silent.

Modules of the packages and everything in a folder called tests are left out: imports, pytest and promtool find them.
What only a test names counts as unnamed. A file is named where its whole name stands, in whatever way.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path, PurePath

# Found by their place or name: by git, make, pip, ruff, Docker, Grafana, Helm, the continuous integration, people.
CONVENTIONAL = frozenset(
    {
        ".ci/run",
        ".gitignore",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "deploy/docker/Dockerfile.dockerignore",
        "deploy/grafana/dashboards/gateway.json",
        "deploy/helm/messages-gateway/Chart.yaml",
        "deploy/helm/messages-gateway/templates/NOTES.txt",
        "deploy/helm/messages-gateway/templates/_names.tpl",
        "deploy/helm/messages-gateway/values.schema.json",
        "ruff.toml",
        "setup.py",
    }
)


def tracked() -> list[str]:
    """The paths of all tracked files that are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    return [path for path in listed.split("\0") if path and Path(path).is_file()]


def unnamed(files: dict[str, str]) -> list[str]:
    """Of these files, by path with their text, those that no other one names."""
    found = []
    for path in files:
        is_module = path.endswith(".py") and path.split("/")[0] in ("gateway", "bench")
        if path in CONVENTIONAL or is_module or "tests/" in path:
            continue
        name = re.compile(rf"(?<![\w-]){re.escape(PurePath(path).name)}(?![\w-])")
        namers = (text for other, text in files.items() if other != path and not other.startswith("tests/"))
        if not any(map(name.search, namers)):
            found.append(path)
    return found


def main() -> int:
    """1 if there are any."""
    found = unnamed({path: Path(path).read_text(errors="replace") for path in tracked()})
    for path in found:
        print(f"{path}: no other tracked file names it; remove it, or refer to it", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

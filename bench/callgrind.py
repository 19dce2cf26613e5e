"""Instructions of a program, as valgrind counts them: they hardly depend on what else the machine does."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.harness import ROOT


def counted(program: Sequence[str], root: Path = ROOT) -> int:
    """The instructions of a run in a checkout; this one's benchmarks are used, whatever its gateway is."""
    environ = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *program]
    done = subprocess.run(valgrind, cwd=root, env=environ, check=True, capture_output=True, text=True)
    match = re.search(r"Collected : (\d+)", done.stderr)
    assert match is not None, done.stderr
    return int(match[1])


def of_one(program_of: Callable[[int], Sequence[str]], fewer: int, more: int, root: Path = ROOT) -> float:
    """The instructions of one turn of a program that takes so many: what a start costs falls out of the difference."""
    return (counted(program_of(more), root) - counted(program_of(fewer), root)) / (more - fewer)

"""Runs tests against a mutant in a process of its own.

Owns: the processes. This one imports what the tests need of other people's packages, and never the gateway; each run is
a fork of it, which imports the gateway with the mutant in it. So a run costs no start of Python, and changes no file.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType

import hypothesis
import pytest

# Examples are the same in each run, and the first that fails is enough.
hypothesis.settings.register_profile(
    "mutation",
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    suppress_health_check=list(hypothesis.HealthCheck),
)
PYTEST = ("-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "--hypothesis-profile=mutation")


@dataclass(slots=True)
class Run:
    """One fork with its tests: `status` is None while it runs; then 0 says that all tests passed."""

    pid: int
    began_at: float
    ends_at: float
    status: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def look(self) -> bool:
        """Whether the run is over. One that takes too long is ended."""
        if time.monotonic() > self.ends_at:
            _end_group(self.pid)
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        if pid:
            self.seconds = time.monotonic() - self.began_at
            self.cpu_seconds = used.ru_utime + used.ru_stime
            self.status = os.waitstatus_to_exitcode(status)
            _end_group(self.pid)  # what its tests may have left
        return pid != 0

    @property
    def is_endless(self) -> bool:
        """Whether it was ended because it took too long, or too much processor time."""
        return self.status == -signal.SIGKILL


def start(tests: Sequence[str], seconds: float, cpu_seconds: int, *, module: str = "", source: str = "") -> Run:
    """Start a module's tests, with that source in the place of the module's own; they have so much time."""

    def work() -> int:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))  # a loop without end is ended soon
        if module:
            sys.meta_path.insert(0, _Mutated(module.removesuffix(".py").replace("/", "."), module, source))
        return pytest.main([*PYTEST, *tests])

    now = time.monotonic()
    return Run(_forked(work), now, now + seconds)


def import_libraries(tests: Sequence[str]) -> None:
    """Import the libraries that the tests import, as a fork finds out that collects them."""
    reader, writer = os.pipe()

    def work() -> int:
        status = pytest.main([*PYTEST, "--collect-only", *tests])
        os.write(writer, "\n".join(name for name in sys.modules if _is_library(name)).encode())
        return status

    pid = _forked(work, keep=writer)
    os.close(writer)
    with open(reader, encoding="utf-8") as names:
        listed = names.read().split()
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit("The tests cannot be collected")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in listed:
            with suppress(ImportError):
                importlib.import_module(name)


def _is_library(name: str) -> bool:
    spec = getattr(sys.modules[name], "__spec__", None)
    return spec is not None and spec.name == name and name.split(".")[0] not in ("gateway", "tests", "bench", "scripts")


def _forked(work: Callable[[], int], keep: int = -1) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2) if not os.environ.get("MUTATION_SHOW") else (0,):
            os.dup2(nowhere, descriptor)
        status = int(work())
    finally:
        os._exit(status)  # nothing of the parent's is flushed or torn down


def _end_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class _Source(SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Mutated(MetaPathFinder):
    """Finds the one module that is mutated."""

    def __init__(self, name: str, path: str, source: str) -> None:
        self._name = name
        self._loader = _Source(name, str(Path(path).resolve()), source)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        return spec_from_file_location(fullname, self._loader.path, loader=self._loader)

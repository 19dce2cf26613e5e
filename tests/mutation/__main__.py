"""`make mutation`: draw mutants, run each against its module's own tests, and say how many were noticed.

Owns: what is asked for, the drawing, the counting, the tables. Ends with status 1 if fewer than 92 % are killed, or if
the list of survivors is out of date. MUTANTS= says which are run: nothing, a sample; `all`; or modules, such as
`gateway/keys/pool.py`, of which all are. SEED= draws another sample.
"""

from __future__ import annotations

import os
import sys
import time
import tomllib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tests.mutation import fork
from tests.mutation.mutants import Mutant, mutants_of

HERE = Path(__file__).parent
A_MODULE = 12
AT_LEAST = 600
NEEDED_PERCENT = 92


@dataclass(slots=True)
class Module:
    """A module, its tests, and how its mutants did."""

    path: str
    tests: list[str]
    mutants: list[Mutant]
    chosen: list[Mutant] = field(default_factory=list)
    limits: tuple[float, int] = (0.0, 0)  # how long its tests may take, and their processor time
    killed: int = 0
    endless: int = 0  # of those
    survivors: list[Mutant] = field(default_factory=list)


def main() -> int:
    modules = read_modules()
    listed = read_survivors()
    complaints = [*out_of_date(listed, modules), *unlisted_modules(modules)]
    choose(modules, os.environ.get("MUTANTS", ""), int(os.environ.get("SEED", "1")))
    asked = [module for module in modules if module.chosen]
    fork.import_libraries(sorted({test for module in asked for test in module.tests}))
    for module in run(asked, int(os.environ.get("JOBS", os.cpu_count() or 1))):
        report(module, listed)
    complaints += [
        f"is killed now, take it off the list: {mutant.module}: {mutant.after}"
        for module in asked
        for mutant in module.chosen
        if mutant.identity in listed and mutant not in module.survivors
    ]
    return summary(asked, listed, complaints)


def read_modules() -> list[Module]:
    """The modules that take part, with all their mutants."""
    with (HERE / "modules.toml").open("rb") as file:
        tests = tomllib.load(file)["tests"]
    return [Module(path, own, mutants_of(path, Path(path).read_text("utf-8"))) for path, own in tests.items()]


def unlisted_modules(modules: Sequence[Module]) -> Iterable[str]:
    """Modules of the packages that neither take part nor are left out with a reason."""
    with (HERE / "modules.toml").open("rb") as file:
        listing = tomllib.load(file)
    named = {module.path for module in modules} | {*listing["left_out"]}
    there = {str(path) for package in listing["packages"] for path in Path(package).rglob("*.py")}
    yield from (f"neither tested nor left out in modules.toml: {path}" for path in sorted(there - named))
    yield from (f"not there, though modules.toml names it: {path}" for path in sorted(named - there))


def read_survivors() -> dict[tuple[str, str, str, str], str]:
    """The listed survivors and their reasons."""
    with (HERE / "survivors.toml").open("rb") as file:
        entries = tomllib.load(file).get("survivor", [])
    return {(one["module"], one["inside"], one["before"], one["after"]): one["reason"] for one in entries}


def out_of_date(listed: Iterable[tuple[str, str, str, str]], modules: Sequence[Module]) -> Iterable[str]:
    known = {mutant.identity for module in modules for mutant in module.mutants}
    yield from (f"no such mutant any more, take it off the list: {entry}" for entry in listed if entry not in known)


def choose(modules: Sequence[Module], asked: str, seed: int) -> None:
    """Set which mutants are run: the same number of each module, as far as it has as many."""
    if asked:
        for module in modules:
            if asked == "all" or module.path in asked.split():
                module.chosen = [mutant for mutant in module.mutants if mutant.is_python()]
        return
    each = A_MODULE
    while sum(min(each, len(module.mutants)) for module in modules) < AT_LEAST and each < 1000:
        each += 1
    for module in modules:
        drawn = sorted(module.mutants, key=lambda mutant: mutant.lot(seed))
        module.chosen = [*islice((mutant for mutant in drawn if mutant.is_python()), each)]


def run(modules: Sequence[Module], at_once: int) -> Iterator[Module]:
    """Run each module's own tests as they are, and then with each of its mutants; the modules, as they are done."""
    waiting = deque[tuple[Module, Mutant | None]]((module, None) for module in modules)
    running: list[tuple[fork.Run, Module, Mutant | None]] = []
    while waiting or running:
        while waiting and len(running) < at_once:
            module, mutant = waiting.popleft()
            running.append((_started(module, mutant), module, mutant))
        time.sleep(0.01)
        ended = [one for one in running if one[0].look()]
        running = [one for one in running if one[0].status is None]
        for done, module, mutant in ended:
            if mutant is None:
                _begin(module, done)
                waiting.extendleft((module, mutant) for mutant in reversed(module.chosen))
                continue
            module.killed += done.status != 0
            module.endless += done.is_endless
            module.survivors += [mutant] if done.status == 0 else []
            if module.killed + len(module.survivors) == len(module.chosen):
                yield module


def _started(module: Module, mutant: Mutant | None) -> fork.Run:
    if mutant is None:
        return fork.start(module.tests, 600, 300)
    return fork.start(module.tests, *module.limits, module=module.path, source=mutant.source)


def _begin(module: Module, unchanged: fork.Run) -> None:
    if unchanged.status:
        raise SystemExit(f"{module.path}: its tests fail without a mutant: {' '.join(module.tests)}")
    module.limits = (60 + 5 * unchanged.seconds, 2 + int(4 * unchanged.cpu_seconds))


def report(module: Module, listed: dict[tuple[str, str, str, str], str]) -> None:
    print(
        f"{module.path}: {module.killed} of {len(module.chosen)} killed, {module.endless} of them endless", flush=True
    )
    for mutant in module.survivors:
        if mutant.identity not in listed:
            print(f"  survived, line {mutant.line}, in {mutant.inside or 'the module'}:")
            print("".join(f"    - {text}\n" for text in mutant.before.splitlines()), end="")
            print("".join(f"    + {text}\n" for text in mutant.after.splitlines()), end="", flush=True)


def summary(modules: Sequence[Module], listed: dict[tuple[str, str, str, str], str], complaints: list[str]) -> int:
    total: Counter[str] = Counter()
    print("\n| module | mutants | run | killed | survived, listed | survived |\n|---|---|---|---|---|---|")
    for module in modules:
        equivalent = sum(mutant.identity in listed for mutant in module.survivors)
        row = (len(module.mutants), len(module.chosen), module.killed, equivalent, len(module.survivors) - equivalent)
        total.update(dict(zip("abcde", row, strict=True)))
        print(f"| `{module.path}` | " + " | ".join(map(str, row)) + " |")
    print("| all | " + " | ".join(str(total[column]) for column in "abcde") + " |\n")
    percent = 100 * total["c"] / max(total["c"] + total["e"], 1)
    print(f"{percent:.1f} % killed of those not listed; at least {NEEDED_PERCENT} % are needed")
    for complaint in complaints:
        print(complaint)
    return 1 if complaints or percent < NEEDED_PERCENT else 0


if __name__ == "__main__":
    sys.exit(main())

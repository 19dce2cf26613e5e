"""What the gateway uses of other packages that these do not promise to keep: each name stands here.

A package whose private names are used is bound to the versions that have been tried (`setup.cfg`). A new version is
taken when this module has been gone through.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from textwrap import dedent

import gateway

ROOT = Path(__file__).parents[2]

# Private names by the package that has them. Those of standard modules and documented ones (`os._exit`,
# `namedtuple._replace`) are not among them.
USED = {
    "gunicorn": {
        "_accepting",
        "_cap_keepalive",
        "_emit_body",
        "_expected_100_continue",
        "_keepalive_after",
        "_peer_trusted_for_forwarded",
    },
    "prometheus_client": {"_value"},
    "redis": {"_sock"},
}
BOUND = {"gunicorn": "==27.*", "prometheus_client": ">=0.22,<0.27", "redis": ">=5,<9"}
DOCUMENTED = {"_exit", "_replace"}


def modules() -> Iterator[str]:
    """Every module of the gateway, but for its commands' entry points."""
    for found in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if not found.name.endswith(("gunicorn_conf", "__main__")):
            yield found.name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(source: str) -> set[str]:
    """The private names that a piece of source defines or asks an object for."""
    found = set()
    for node in ast.walk(ast.parse(dedent(source))):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return set(filter(is_private, found))


def outside_package(kind: type) -> str | None:
    """The package of a class that is neither the gateway's nor Python's own."""
    package = kind.__module__.partition(".")[0]
    return None if package in sys.stdlib_module_names or package in ("gateway", "builtins") else package


def source_of(kind: type) -> str:
    """A class's source; nothing of one that is written in C, or made by a call."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def used_of_bases() -> Iterator[tuple[str, str]]:
    """What classes of the gateway share with those of other packages from which they are made."""
    for name in modules():
        for kind in vars(importlib.import_module(name)).values():
            if not inspect.isclass(kind) or kind.__module__ != name:
                continue
            own = private_names(source_of(kind))
            for base in kind.__mro__[1:]:
                package = outside_package(base)
                if package is not None:
                    for shared in own & (private_names(source_of(base)) | set(filter(is_private, vars(base)))):
                        yield package, shared


def used_of_objects() -> Iterator[str]:
    """Private names that are asked of objects, and that no class of the gateway has."""
    asked, defined = set(), set()
    for name in modules():
        source = inspect.getsource(importlib.import_module(name))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                (defined if is_own else asked).add(node.attr)
            elif isinstance(node, ast.FunctionDef):
                defined.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                defined.add(node.target.id)
    yield from asked - defined - DOCUMENTED


def test_every_private_name_of_a_package_is_listed() -> None:
    """Given the sources, then what they use of others' private names is what stands here, no more and no less."""
    found: dict[str, set[str]] = {}
    for package, name in used_of_bases():
        found.setdefault(package, set()).add(name)
    assert found.keys() <= USED.keys(), found
    assert set().union(*found.values()) | set(used_of_objects()) == set().union(*USED.values())


def test_packages_with_private_names_are_bound() -> None:
    """Given a package whose private names are used, then only the versions that were tried are taken."""
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options"]["install_requires"].strip().splitlines()
    required = {name.replace("-", "_"): versions for name, _, versions in (line.partition(" ") for line in lines)}
    assert {name: required[name] for name in USED} == BOUND

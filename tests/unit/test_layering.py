"""Imports point only down: every module lies in a package, and no package reaches above itself."""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import gateway

ROOT = Path(gateway.__file__).parent

# The folders of the package, lowest first: each may import itself and what stands before it.
PACKAGES = [
    *("protocol", "runtime", "models", "pricing", "access", "config", "upstream", "keys", "limits", "records", "tools"),
    *("telemetry", "relay", "web", "server", "cli"),
]
SIMULATOR = "simulator"  # shares nothing with the others; only its command knows it

# Packages in which nothing waits, runs beside the request, tells the time or reads a file; but for these modules.
PURE_PACKAGES = ("protocol", "models", "pricing", "access", "config")
NOT_PURE = {"access.token_file"}
# Modules of other packages that are as pure.
PURE_TOO = [
    *("keys.verdict", "keys.classification", "keys.key_record", "keys.standing", "keys.places", "keys.overview"),
    *("keys.known_keys", "keys.subjects", "records.interception_record", "records.record_words"),
    *("records.usage_report", "records.reconciliation", "tools.injection", "tools.splicer", "tools.taken_back"),
    *("tools.tool_results", "web.paths", "cli.timeline"),
]

# What waits, runs beside, tells the time, or serves: nothing pure has any of it, whoever ships it.
IMPURE = {
    *("socket", "select", "selectors", "ssl", "asyncio", "signal", "http", "socketserver"),
    *("threading", "_thread", "queue", "concurrent", "multiprocessing", "subprocess", "sched", "contextvars"),
    *("time", "random", "secrets", "uuid", "os", "io", "pathlib", "tempfile", "shutil", "mmap", "sys", "logging"),
    *("flask", "werkzeug", "gunicorn", "requests", "urllib3", "certifi", "prometheus_client", "sqlite3"),
    *("redis", "fcntl", "sqlalchemy", "psycopg", "opentelemetry"),
}

# Libraries that only some packages know. `gateway` itself has Flask's name for a type.
KNOWN_TO = {
    "flask": {"web", "telemetry.tracing", ""},
    "werkzeug": {"web"},
    "gunicorn": {"server", "web.request_body"},
    "requests": {"upstream"},
    "urllib3": {"upstream"},
    "certifi": {"upstream"},
    "redis": {"keys.redis"},
    "sqlalchemy": {"records.database"},
    "sqlite3": {"records.database"},
    "prometheus_client": {"telemetry", "runtime.shared_counts", "web.status"},
    "mcp": {"tools.mcp"},
}


def is_simulator(module: str) -> bool:
    return package_of(module) == SIMULATOR


def package_of(module: str) -> str:
    return module.split(".")[0]


def path_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")) if module else ROOT
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def every_module() -> list[str]:
    """Names relative to the package; the package itself is the empty name."""
    names = []
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(names)


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text())


@cache
def imports_of(module: str) -> frozenset[str]:
    """Absolute names of the modules that a module imports, inside functions and for types alike."""
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            origin = node.module or ""
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                is_own = origin.split(".")[0] == "gateway"
                # The version is a constant of the package itself, and leads nowhere.
                if inner != "gateway.__version__":
                    found.add(inner if is_own and relative(inner) in MODULES else origin)
    return frozenset(found)


def relative(absolute: str) -> str:
    return absolute.removeprefix("gateway").removeprefix(".")


def own_imports(module: str) -> Iterator[str]:
    """What a module imports of this package, by relative name."""
    return (relative(name) for name in imports_of(module) if name.split(".")[0] == "gateway")


MODULES = every_module()
GATEWAY_MODULES = [module for module in MODULES if not is_simulator(module)]
IN_PACKAGES = [module for module in GATEWAY_MODULES if module]
PURE_MODULES = [
    *(module for module in IN_PACKAGES if package_of(module) in PURE_PACKAGES and module not in NOT_PURE),
    *PURE_TOO,
]


def test_every_module_lies_in_a_package():
    """Given the package's files, then its folders are these packages, and only `__init__` lies beside them."""
    assert {path.name for path in ROOT.iterdir() if list(path.glob("*.py"))} == {*PACKAGES, SIMULATOR}
    assert [path.name for path in ROOT.glob("*.py")] == ["__init__.py"]


def test_every_package_says_what_it_is():
    """Given a package, then it opens with a docstring, and docs/architecture.md lists it, in the same order."""
    assert [name for name in PACKAGES if not ast.get_docstring(tree_of(name))] == []
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    assert re.findall(r"^\d+\. `(\w+)/`", page, re.MULTILINE) == [*PACKAGES, SIMULATOR]


@pytest.mark.parametrize("module", IN_PACKAGES)
def test_imports_point_down(module):
    """Given a module, then what it imports of the gateway is of its package or of one below."""
    may = {*PACKAGES[: PACKAGES.index(package_of(module)) + 1]} | (
        {SIMULATOR} if package_of(module) == "cli" else set()
    )
    assert [imported for imported in own_imports(module) if package_of(imported) not in may] == []


def test_no_two_modules_import_each_other():
    """Given the imports among the gateway's modules, then following them never comes back to where it began."""
    finished: set[str] = set()

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module in finished or is_simulator(module):
            return
        for imported in own_imports(module):
            # The package's own import of the application is deferred into create_app, and so closes no circle.
            if imported and imported != module:
                follow(imported, (*way, module))
        finished.add(module)

    for module in GATEWAY_MODULES:
        follow(module, ())


@pytest.mark.parametrize("module", PURE_MODULES)
def test_pure_module_has_no_socket_thread_clock_or_framework(module):
    """Given a pure module, then nothing that it imports waits, runs beside it, tells the time or serves."""
    assert not {name.split(".")[0] for name in imports_of(module)} & IMPURE
    assert not [name for name in imports_of(module) if name in ("urllib.request", "urllib.error")]
    assert [imported for imported in own_imports(module) if imported not in PURE_MODULES] == []


@pytest.mark.parametrize("module", PURE_MODULES)
def test_pure_module_asks_no_clock(module):
    """Given a pure module, then it calls nothing that reads the time or a file by way of an innocent import."""
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call)
    }
    if module in ("models.scopes", "pricing.prices"):  # a table that comes with the package, as constant as its code
        called -= {"read_text"}
    assert not called & {"now", "utcnow", "today", "open", "read_text", "read_bytes", "input", "print"}


@pytest.mark.parametrize("module", [module for module in MODULES if is_simulator(module)])
def test_simulator_shares_no_code_with_the_gateway(module):
    """Given a module of the simulator, then it imports nothing of the gateway's, or a bug would hide itself."""
    assert [imported for imported in own_imports(module) if not is_simulator(imported)] == []


@pytest.mark.parametrize("package", KNOWN_TO)
def test_package_is_known_to_its_packages_alone(package):
    """Given a library, then every package that may import it does, and no other does."""
    users = {module for module in GATEWAY_MODULES if package in {name.split(".")[0] for name in imports_of(module)}}
    strangers = [module for module in users if not any(lies_in(module, folder) for folder in KNOWN_TO[package])]
    assert strangers == []
    assert [folder for folder in KNOWN_TO[package] if not any(lies_in(module, folder) for module in users)] == []


def lies_in(module: str, folder: str) -> bool:
    return module == folder or (bool(folder) and module.startswith(f"{folder}."))


def test_tracing_is_known_to_its_own_modules_alone():
    """Given OpenTelemetry, then spans know its API and tracing its SDK, which is an extra; nothing else imports it."""
    users = {
        module: {name for name in imports_of(module) if name.split(".")[0] == "opentelemetry"}
        for module in GATEWAY_MODULES
    }
    assert {module for module, names in users.items() if names} == {"telemetry.spans", "telemetry.tracing"}
    sdk = {module for module, names in users.items() if any(".sdk" in name or ".exporter" in name for name in names)}
    assert sdk == {"telemetry.tracing"}
    body = tree_of("telemetry.tracing").body
    assert not [node for node in body if "opentelemetry.sdk" in ast.dump(node) and is_import(node)]


def is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def test_secrets_are_revealed_where_they_are_written_to_the_wire_and_nowhere_else():
    """Given every attribute named `reveal` and every use of a secret's inside, then they stand where they may."""
    revealing, reaching = set(), set()
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Attribute) and node.attr == "reveal":
                revealing.add(module)
            if isinstance(node, ast.Attribute) and node.attr == "_clear":
                reaching.add(module)
            if isinstance(node, ast.Constant) and node.value in ("reveal", "_clear"):
                reaching.add(module)
    assert revealing == {"upstream.client", "upstream.proxy", "tools.mcp.wire"}
    assert reaching == {"access.credential"}


def test_request_context_is_read_by_views_alone():
    """Given `flask.request` and `current_app`, then only routes and the error handlers import them."""
    readers = set()
    for module in GATEWAY_MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.ImportFrom) and node.module == "flask":
                names = {alias.name for alias in node.names}
                if names & {"request", "current_app", "g", "session"}:
                    readers.add(module)
    assert readers <= {"web.routes", "web.status_pages", "web.app"}


def test_commands_print_by_way_of_one_module():
    """Given every call of `print`, then it stands where what is printed is made safe for a terminal."""
    printing = {
        module
        for module in GATEWAY_MODULES
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Name) and node.id == "print"
    }
    assert printing == {"cli.output"}


def test_wheel_has_every_file_that_is_no_code():
    """Given the package's files that are no Python, then setup.cfg names each for the wheel, and no pattern is idle."""
    setup = configparser.ConfigParser()
    setup.read(ROOT.parent / "setup.cfg")
    patterns = setup["options.package_data"]["gateway"].split()
    files = {path for path in ROOT.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    found = [set(ROOT.glob(pattern)) for pattern in patterns]
    assert set().union(*found) >= files
    assert all(found)


def test_no_module_logs_into_the_access_log() -> None:
    """Given a logger named by its module, then none lies below `gateway.access`, which is the access log's and is off
    where that is."""
    named = [path.name for path in (ROOT / "access").rglob("*.py") if "getLogger(__name__)" in path.read_text()]
    assert named == []

"""Imports point only down: every module of the package has a layer, and none reaches above it."""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import gateway

PACKAGE = Path(gateway.__file__).parent

# Lowest first. A name stands for a module, or for a package with all its modules.
LAYERS = {
    "pure": [
        *("errors", "credential", "events", "verdict", "headers", "messages", "access", "setting_values"),
        "setting_faults",
        *("settings", "settings_loader", "wire", "records", "json_values", "accumulate", "splice", "tools", "origin"),
        *("safe_text", "usage", "tool_uses", "clients", "interception_record", "record_words", "story", "usage_report"),
        *(
            "mcp_servers",
            "upstream_proxy",
            "tool_results",
            "classification",
            "counts",
            "json_members",
            "taken_back",
            "cors",
        ),
        *(
            "paths",
            "content_coding",
            "known_keys",
            "subjects",
            "places",
            "scopes",
            "standing",
            "overview",
            "key_entries",
            "pricing",
            "limit_rules",
            "reconciliation",
        ),
    ],
    "state": [
        *("store", "pool", "failover", "admission", "lifecycle", "metrics", "toolbox", "chronicle"),
        *("shipper", "recorder", "background", "starts", "allocation", "counts_file", "shared_counts", "machine_clock"),
        *("counts_folder", "affinity", "moment"),
    ],
    "edge": [
        *(
            "watch",
            "client_socket",
            "keepalive",
            "token_file",
            "upstream",
            "data_folder",
            "reload_answer",
            "folder_lock",
            "chair",
            "request_ids",
        ),
        *("replica", "redis_scripts", "redis_wire", "redis_store", "journal", "ledger", "mcp", "segment"),
        *(
            "tool_sessions",
            "whole_file",
            "edited_file",
            "keys_file",
            "file_store",
            "former_keys_file",
            "redis_answers",
            "redis_exchange",
        ),
        *("redis_leases", "limits"),
    ],
    "flow": [
        *("stream", "pace", "relay", "narrator", "turn", "dialogue", "tool_call", "tool_loop"),
        *("interception", "passthrough", "look", "looks", "key_news", "spans", "span_values"),
    ],
    "web": [
        *("service", "request_body", "responses", "exchange", "malformed", "routes", "status", "status_pages"),
        *(
            "launch",
            "master",
            "gunicorn_conf",
            "listening",
            "thread_pool",
            "server_response",
            "request_head",
            "goodbyes",
            "worker",
            "application",
        ),
        *("app", "cli", "", "tracing", "access_log", "log_format", "logs", "door"),
        *(
            "serving",
            "head_collector",
            "connection",
            "waiting_room",
            "clients_at_hand",
            "descriptors",
            "process_tuning",
            "worker_life",
        ),
    ],
}
RANKS = {name: rank for rank, names in enumerate(LAYERS.values()) for name in names}
WEB = max(RANKS.values())

# What waits, runs beside, tells the time, or serves: the pure layer has none of it, whoever ships it.
IMPURE = {
    *("socket", "select", "selectors", "ssl", "asyncio", "signal", "http", "socketserver"),
    *("threading", "_thread", "queue", "concurrent", "multiprocessing", "subprocess", "sched", "contextvars"),
    *("time", "random", "secrets", "uuid", "os", "io", "pathlib", "tempfile", "shutil", "mmap", "sys", "logging"),
    *("flask", "werkzeug", "gunicorn", "requests", "urllib3", "certifi", "prometheus_client", "sqlite3"),
    *("redis", "fcntl", "sqlalchemy", "psycopg", "opentelemetry"),
}


def is_simulator(module: str) -> bool:
    return module.split(".")[0] == "simulator"


def path_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def every_module() -> list[str]:
    """Names relative to the package; the package itself is the empty name."""
    names = []
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
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
                found.add(inner if origin.split(".")[0] == "gateway" and is_module(inner) else origin)
    return frozenset(found)


def is_module(absolute: str) -> bool:
    return relative(absolute) in every_module()


def relative(absolute: str) -> str:
    return absolute.removeprefix("gateway").removeprefix(".")


def own_imports(module: str) -> Iterator[str]:
    """What a module imports of this package, by relative name."""
    return (relative(name) for name in imports_of(module) if name.split(".")[0] == "gateway")


def rank_of(module: str) -> int:
    """Its layer's rank; a module without a layer, which a test below reports, counts as the lowest."""
    return RANKS.get(module.split(".")[0], 0)


MODULES = every_module()
GATEWAY_MODULES = [module for module in MODULES if not is_simulator(module)]
PURE_MODULES = [module for module in GATEWAY_MODULES if rank_of(module) == 0]


def test_every_module_has_a_layer_and_every_layer_its_modules():
    """Given the package's files, then each stands in one layer, and the table names none that is gone."""
    tops = {module.split(".")[0] for module in GATEWAY_MODULES}
    assert tops == set(RANKS)
    assert len(RANKS) == sum(map(len, LAYERS.values()))


@pytest.mark.parametrize("layer", LAYERS)
def test_architecture_page_has_the_layer_s_modules(layer):
    """Given a layer, then the page's table has its modules and no others; `redis_*` stands for all that begin so."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    (row,) = re.findall(rf"^\| {layer} \| (.*?) \|", page, re.MULTILINE)
    written = {name.rstrip("/") for name in re.findall(r"`(\S+)`", row)}
    own = {"redis_*" if name.startswith("redis_") else name for name in LAYERS[layer] if name}
    assert written == own


@pytest.mark.parametrize("module", GATEWAY_MODULES)
def test_imports_point_down(module):
    """Given a module, then what it imports of the gateway is of its layer or below."""
    above = [
        imported
        for imported in own_imports(module)
        if (is_simulator(imported) and rank_of(module) < WEB)
        or (not is_simulator(imported) and rank_of(imported) > rank_of(module) and imported != "")
    ]
    assert above == []


@pytest.mark.parametrize("module", [module for module in GATEWAY_MODULES if rank_of(module) < WEB])
def test_nothing_below_the_web_layer_imports_the_package_itself(module):
    """Given a module below the web layer, then it does not import `gateway`, whose create_app leads to the top."""
    assert "" not in own_imports(module)


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


@pytest.mark.parametrize("module", PURE_MODULES)
def test_pure_module_asks_no_clock(module):
    """Given a pure module, then it calls nothing that reads the time or a file by way of an innocent import."""
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call)
    }
    if module in ("scopes", "pricing.prices"):  # a table that comes with the package, as constant as its code
        called -= {"read_text"}
    assert not called & {"now", "utcnow", "today", "open", "read_text", "read_bytes", "input", "print"}


@pytest.mark.parametrize("module", [module for module in MODULES if is_simulator(module)])
def test_simulator_shares_no_code_with_the_gateway(module):
    """Given a module of the simulator, then it imports nothing of the gateway's, or a bug would hide itself."""
    assert [imported for imported in own_imports(module) if not is_simulator(imported)] == []


@pytest.mark.parametrize("module", GATEWAY_MODULES)
def test_flask_is_known_to_the_web_layer_alone(module):
    """Given a module below the web layer, then it imports neither Flask nor werkzeug nor gunicorn."""
    tops = {name.split(".")[0] for name in imports_of(module)}
    assert rank_of(module) == WEB or not tops & {"flask", "werkzeug", "gunicorn"}


def test_flow_and_state_layers_know_no_http_library():
    """Given requests and its relatives, then only the edge layer imports them."""
    users = {
        module
        for module in GATEWAY_MODULES
        if {name.split(".")[0] for name in imports_of(module)} & {"requests", "urllib3", "certifi"}
    }
    assert {module.split(".")[0] for module in users} == {"upstream"}


def test_tracing_is_known_to_its_own_modules_alone():
    """Given OpenTelemetry, then spans know its API and tracing its SDK, which is an extra; nothing else imports it."""
    users = {
        module: {name for name in imports_of(module) if name.split(".")[0] == "opentelemetry"}
        for module in GATEWAY_MODULES
    }
    assert {module for module, names in users.items() if names} == {"spans", "tracing"}
    sdk = {module for module, names in users.items() if any(".sdk" in name or ".exporter" in name for name in names)}
    assert sdk == {"tracing"}
    assert not [node for node in tree_of("tracing").body if "opentelemetry.sdk" in ast.dump(node) and is_import(node)]


def is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def test_redis_is_known_to_the_shared_store_alone():
    """Given Redis, then only what speaks to it imports its library."""
    users = {module for module in GATEWAY_MODULES if "redis" in {name.split(".")[0] for name in imports_of(module)}}
    assert users == {"redis_wire", "redis_answers"}


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
    assert revealing == {"upstream.client", "upstream.proxy", "mcp.wire"}
    assert reaching == {"credential"}


def test_request_context_is_read_by_views_alone():
    """Given `flask.request` and `current_app`, then only routes and the error handlers import them."""
    readers = set()
    for module in GATEWAY_MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.ImportFrom) and node.module == "flask":
                names = {alias.name for alias in node.names}
                if names & {"request", "current_app", "g", "session"}:
                    readers.add(module)
    assert readers <= {"routes", "status_pages", "app"}


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
    setup.read(PACKAGE.parent / "setup.cfg")
    patterns = setup["options.package_data"]["gateway"].split()
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    found = [set(PACKAGE.glob(pattern)) for pattern in patterns]
    assert set().union(*found) >= files
    assert all(found)

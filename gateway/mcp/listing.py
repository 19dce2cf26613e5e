"""Which of a server's tools are offered, under which names; and which are refused, and why.

Owns: names and definitions. Pure but for the JSON Schema library. The API refuses a whole request for one tool that it
does not like, so what would be refused there is left out here, with a line for the operator.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jsonschema import Draft202012Validator, SchemaError

from gateway.mcp_servers import McpServer
from gateway.toolbox import InjectedTool
from gateway.tools import PREFIX

LONGEST_NAME = 64
_ODD = re.compile(r"[^A-Za-z0-9_-]")
_PROPERTY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_COMBINATORS = ("anyOf", "oneOf", "allOf")


class ListedTool(Protocol):
    """A tool as its server lists it."""

    name: str
    description: str | None
    input_schema: dict[str, Any]
    execution: Any


@dataclass(frozen=True, slots=True)
class Listing:
    """A server's tools, sorted by name. Each of the `refusals` names a tool that is left out, and says why."""

    tools: tuple[InjectedTool, ...]
    refusals: tuple[str, ...]


NOTHING = Listing((), ())


def listing(server: McpServer, listed: Sequence[ListedTool], before: Listing) -> Listing:
    """The tools that are offered of those that a server lists; schemas that `before` has are not checked again."""
    wanted = {tool.name: tool for tool in listed if server.offers(tool.name)}
    names = {name: injected_name(server.name, name) for name in wanted}
    shares = Counter(names.values())
    checked = {tool.tool: tool.definition["input_schema"] for tool in before.tools}
    tools, refusals = [], []
    for tool in sorted(wanted.values(), key=lambda tool: tool.name):
        name, schema = names[tool.name], {"type": "object", **tool.input_schema}
        fault = _fault_of_name(name, shares[name]) or _fault_of_execution(tool.execution)
        if fault is None and checked.get(tool.name) != schema:
            fault = _fault_of_schema(schema)
        if fault is not None:
            refusals.append(f"tool {tool.name[:LONGEST_NAME]!r} of server {server.name} is not offered: {fault}")
            continue
        described = {"description": tool.description} if tool.description else {}
        definition = {"name": name, **described, "input_schema": schema}
        tools.append(InjectedTool(name, server.name, tool.name, definition))
    return Listing(tuple(sorted(tools, key=lambda tool: tool.name)), tuple(refusals))


def injected_name(server: str, tool: str) -> str:
    """What the model sees. Characters that MCP allows in a tool's name and Anthropic does not become `_`."""
    return f"{PREFIX}{server}_{_ODD.sub('_', tool)}"


def _fault_of_name(name: str, shares: int) -> str | None:
    if shares > 1:
        return f"{shares} of its tools would be called {name}"
    if len(name) > LONGEST_NAME:
        return f"{name[:LONGEST_NAME]}... has {len(name)} characters, and {LONGEST_NAME} are allowed"
    return None


def _fault_of_execution(execution: Any) -> str | None:
    """Tools that only run as tasks (2025-11-25) cannot be called otherwise."""
    return "it only runs as a task" if getattr(execution, "task_support", None) == "required" else None


def _fault_of_schema(schema: Mapping[str, Any]) -> str | None:
    if schema["type"] != "object":
        return "its input is no object"
    if found := [word for word in _COMBINATORS if word in schema]:
        return f"its input schema has {found[0]} at the top level"
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or not all(_PROPERTY.fullmatch(name) for name in properties):
        return "an input has a name of other than letters, digits, `_`, `.` and `-`, or of more than 64"
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError):
        return "its input schema is no valid JSON Schema"
    return None

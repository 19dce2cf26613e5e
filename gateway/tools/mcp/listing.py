"""Which of a server's tools are offered, under which names; and which are refused, and why.

Owns: names and definitions. Pure but for the JSON Schema library. The API refuses a whole request for one tool that it
does not like, so what would be refused there is left out here, with a line for the operator. Nothing that a server
writes in one tool is trusted to be of any form, and no tool is left out for another.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jsonschema import Draft202012Validator, SchemaError

from gateway.config.mcp_servers import McpServer
from gateway.protocol.json_values import to_json, unfit
from gateway.tools.injection import PREFIX
from gateway.tools.mcp.budget import NOTHING, Listing, ToolLimits, refusal
from gateway.tools.mcp.sifting import DEEPEST_SCHEMA
from gateway.tools.toolbox import InjectedTool

__all__ = ["LONGEST_NAME", "NOTHING", "Listing", "injected_name", "listing"]

# https://platform.claude.com/docs/en/agents-and-tools/tool-use/define-tools
LONGEST_NAME = 128
_ODD = re.compile(r"[^A-Za-z0-9_-]")
_PROPERTY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_COMBINATORS = ("anyOf", "oneOf", "allOf")


class ListedTool(Protocol):
    """A tool as its server lists it."""

    @property
    def name(self) -> object: ...

    @property
    def description(self) -> object: ...

    @property
    def input_schema(self) -> object: ...

    @property
    def execution(self) -> object: ...


def listing(
    server: McpServer, listed: Sequence[ListedTool], before: Listing, limits: ToolLimits | None = None
) -> Listing:
    """The tools that are offered of those that a server lists; schemas that `before` has are not checked again."""
    limits = limits or ToolLimits()
    nameless = sum(not isinstance(tool.name, str) for tool in listed)
    wanted = {tool.name: tool for tool in listed if isinstance(tool.name, str) and server.offers(tool.name)}
    names = {name: injected_name(server.name, name) for name in wanted}
    shares = Counter(names.values())
    checked = {tool.tool: tool.definition["input_schema"] for tool in before.tools}
    tools, refusals = [], [refusal(None, server.name, "it has no name")] * bool(nameless)
    for name, tool in sorted(wanted.items()):
        fault = _fault_of_name(name, names[name], shares[names[name]]) or _fault_of(tool, limits, checked.get(name))
        if fault is not None:
            refusals.append(refusal(name, server.name, fault))
            continue
        offered = InjectedTool(names[name], server.name, name, _definition(names[name], tool))
        if (size_bytes := len(to_json(offered.definition))) > limits.definition_bytes:
            fault = f"its definition has {size_bytes} bytes, and {limits.definition_bytes} are allowed"
            refusals.append(refusal(name, server.name, fault))
            continue
        tools.append(offered)
    return Listing(tuple(sorted(tools, key=lambda tool: tool.name)), tuple(refusals))


def injected_name(server: str, tool: str) -> str:
    """What the model sees. Characters that MCP allows in a tool's name and Anthropic does not become `_`."""
    return f"{PREFIX}{server}_{_ODD.sub('_', tool)}"


def _definition(name: str, tool: ListedTool) -> dict[str, Any]:
    described = {"description": tool.description} if tool.description else {}
    return {"name": name, **described, "input_schema": _typed(tool.input_schema)}


def _typed(schema: object) -> dict[str, Any]:
    """A schema that says its type: the protocol's are those of objects."""
    return {"type": "object", **schema} if isinstance(schema, dict) else {}


def _fault_of_name(name: str, injected: str, shares: int) -> str | None:
    if unfit(name, 1) is not None:
        return "its name has half a character (a lone surrogate)"
    if shares > 1:
        return f"{shares} of its tools would be called {injected[:LONGEST_NAME]}"
    if len(injected) > LONGEST_NAME:
        return f"{injected[:LONGEST_NAME]}... has {len(injected)} characters, and {LONGEST_NAME} are allowed"
    return None


def _fault_of(tool: ListedTool, limits: ToolLimits, checked: Mapping[str, Any] | None) -> str | None:
    fault = getattr(tool, "fault", None) or _fault_of_execution(tool.execution)
    fault = fault or _fault_of_description(tool.description, limits.description_bytes)
    if fault is not None:
        return str(fault)
    if not isinstance(tool.input_schema, dict):
        return "its input schema is not an object"
    schema = _typed(tool.input_schema)
    return _fault_of_value(schema) or (None if checked == schema else _fault_of_schema(schema))


def _fault_of_execution(execution: Any) -> str | None:
    """Tools that only run as tasks (2025-11-25) cannot be called otherwise."""
    return "it only runs as a task" if getattr(execution, "task_support", None) == "required" else None


def _fault_of_description(description: object, limit_bytes: int) -> str | None:
    if description is None:
        return None
    if not isinstance(description, str):
        return "its description is not a text"
    if (fault := unfit(description, 1)) is not None:
        return f"its description has {fault}"
    if (size_bytes := len(description.encode())) > limit_bytes:
        return f"its description has {size_bytes} bytes, and {limit_bytes} are allowed"
    return None


def _fault_of_value(schema: Mapping[str, Any]) -> str | None:
    fault = unfit(schema, DEEPEST_SCHEMA)
    return f"its input schema has {fault}" if fault is not None else None


def _fault_of_schema(schema: Mapping[str, Any]) -> str | None:
    if schema["type"] != "object":
        return "its input is not an object"
    if found := [word for word in _COMBINATORS if word in schema]:
        return f"its input schema has {found[0]} at the top level"
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or not all(_PROPERTY.fullmatch(name) for name in properties):
        return "an input's name has characters other than letters, digits, `_`, `.` and `-`, or more than 64 of them"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError:
        return "its input schema is not valid JSON Schema"
    except Exception as error:  # noqa: BLE001  # whatever it trips over, other tools must not be lost for it
        return f"its input schema cannot be checked ({type(error).__name__})"
    return None

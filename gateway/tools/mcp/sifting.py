"""Lists of tools as servers write them, taken apart before the SDK reads them.

Owns: the form in which the SDK gets a page of tools, and the tools as they were written. The SDK refuses a whole page,
and with it the server, for one tool that is not of the protocol's form or is no JSON that it reads: an input schema
that is `true`, half a surrogate pair, a number of 5000 digits. So each tool is read here by itself, as leniently as can
be; the SDK gets a form of it that it takes, and `listing` judges what was written. Any thread: one page at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from gateway.protocol.json_values import to_json, unfit
from gateway.protocol.sse import decode_event

if TYPE_CHECKING:
    from mcp_types import ListToolsResult

# Deeper than anything that is offered, and not so deep that Python's reader gives up.
_DEEPEST_READ = 100
DEEPEST_SCHEMA = 64
_PAGE = "messages-gateway/page"
_MOST_PAGES = 8
_LONGEST_INTEGER = 400  # digits; what has more is no number to anybody
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Execution:
    """What a tool says of how it runs."""

    task_support: object = None


@dataclass(frozen=True, slots=True)
class ListedTool:
    """A tool as its server lists it; nothing of it is checked. `fault` is what the SDK has found wrong with it."""

    name: object
    description: object = None
    input_schema: object = None
    execution: Execution | None = None
    fault: str | None = None


class Sifter:
    """The pages of one session."""

    def __init__(self) -> None:
        self._numbers = count()
        self._pages: dict[str, list[ListedTool]] = {}

    def sift(self, body: bytes) -> bytes:
        """A JSON-RPC message as the SDK is to read it: another one if it lists tools, else the same."""
        try:
            message = _read(body)
        except (ValueError, RecursionError):
            return body
        result = message.get("result") if isinstance(message, dict) else None
        listed = result.get("tools") if isinstance(result, dict) else None
        if not isinstance(message, dict) or not isinstance(result, dict) or not isinstance(listed, list):
            return body
        entries = [entry if isinstance(entry, dict) else {} for entry in listed]
        if entries and not any(isinstance(entry.get("name"), str) for entry in entries):
            return body  # no tool at all: the server does not speak the protocol
        page = self._kept([_listed(entry) for entry in entries])
        readable = [readable for entry in entries if (readable := _readable(entry)) is not None]
        return to_json({**message, "result": {**result, "tools": readable, "_meta": {_PAGE: page}}})

    def sift_event(self, raw: bytes) -> bytes:
        """The same for a message that is the data of an event."""
        event = decode_event(raw)
        if event is None:
            return raw
        data = event.data.encode("utf-8", "surrogatepass")
        sifted = self.sift(data)
        if sifted is data:
            return raw
        others = [line for line in raw.splitlines() if line and not line.startswith(b"data")]
        return b"\n".join([*others, b"data: " + sifted, b"", b""])

    def tools_of(self, page: ListToolsResult) -> list[ListedTool]:
        """The tools of a page as they were written."""
        number = (page.meta or {}).get(_PAGE)
        written = self._pages.pop(str(number), None)
        if written is None:  # it came another way, and so in a form that the SDK takes
            return [ListedTool(tool.name, tool.description, tool.input_schema) for tool in page.tools]
        kept = {tool.name for tool in page.tools}
        return [
            replace(tool, fault="an `x-mcp-header` in its input schema is invalid")
            if isinstance(tool.name, str) and _is_writable(tool.name) and tool.name not in kept
            else tool
            for tool in written
        ]

    def _kept(self, tools: list[ListedTool]) -> str:
        number = str(next(self._numbers))
        self._pages[number] = tools
        while len(self._pages) > _MOST_PAGES:  # the SDK lists tools now and then for itself
            del self._pages[next(iter(self._pages))]
        return number


def _read(body: bytes) -> object:
    text = body.decode("utf-8", "surrogateescape")
    try:
        return json.loads(text, parse_int=_number)
    except RecursionError:
        return json.loads(_flattened(text), parse_int=_number)


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


def _flattened(text: str) -> str:
    """The same JSON, with `null` in place of what is nested deeper than is read."""
    pieces, depth, kept_to = [], 0, 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in ("[", "{"):
            depth += 1
            if depth == _DEEPEST_READ + 1:
                pieces.append(text[kept_to : token.start()])
        elif mark in ("]", "}"):
            if depth == _DEEPEST_READ + 1:
                pieces.append("null")
                kept_to = token.end()
            depth -= 1
    return "".join([*pieces, text[kept_to:]])


def _listed(entry: Mapping[str, Any]) -> ListedTool:
    execution = entry.get("execution")
    support = execution.get("taskSupport") if isinstance(execution, dict) else None
    return ListedTool(entry.get("name"), entry.get("description"), entry.get("inputSchema"), Execution(support))


def _readable(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """A tool with what the SDK needs of it, in a form that it takes; None if it has no name that could be called."""
    name = entry.get("name")
    if not isinstance(name, str) or not _is_writable(name):
        return None
    readable: dict[str, Any] = {"name": name, "inputSchema": {"type": "object"}}
    schema = entry.get("inputSchema")
    if isinstance(schema, dict) and _is_writable(schema) and _has_the_protocols_form({"type": "object"} | schema):
        readable["inputSchema"] = {"type": "object"} | schema  # its `x-mcp-header` is heeded
    output = entry.get("outputSchema")
    if isinstance(output, dict) and _is_writable(output) and _has_the_protocols_form(output):
        readable["outputSchema"] = output  # results are held against it
    return readable


def _is_writable(value: object) -> bool:
    return unfit(value, DEEPEST_SCHEMA) is None


def _has_the_protocols_form(schema: Mapping[str, Any]) -> bool:
    """Whether a schema is of the form that every revision of the protocol has for them."""
    properties, required = schema.get("properties"), schema.get("required")
    return (
        schema.get("type") == "object"
        and isinstance(schema.get("$schema"), str | None)
        and (properties is None or _are(properties, dict, dict | bool))
        and (required is None or _are(required, list, str))
    )


def _are(values: object, kind: type[dict[str, Any]] | type[list[Any]], inner: Any) -> bool:
    if not isinstance(values, kind):
        return False
    return all(isinstance(value, inner) for value in (values.values() if isinstance(values, dict) else values))

"""What a line of the log looks like: text for people, or one JSON object for machines.

Owns: the two forms. Any thread. What a record carries beside its message, as the access log's do, comes in
its attribute `fields`, a mapping of names to values: members of the object in JSON, `name=value` in text. Whatever a
record quotes, it stays one line of visible characters, in JSON too, for its members are printed by others. The lines of
a traceback are indented: only what begins with a `[` is a record.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gateway.protocol.safe_text import safe_lines, safe_text

_TEXT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(name)s: %(message)s"
_TEXT_DATE = "%Y-%m-%d %H:%M:%S %z"
_PLAIN = re.compile(r"[^\s\"=\\]+")
_LONGEST_MESSAGE = 4000
_LONGEST_FIELD = 1000
_INDENT = "    "


class TextFormatter(logging.Formatter):
    """gunicorn's form, with the logger's name."""

    def __init__(self, form: str = _TEXT, date_form: str = _TEXT_DATE) -> None:
        super().__init__(form, date_form)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, without a traceback."""
        line = safe_text(super().formatMessage(record).rstrip("\n"), _LONGEST_MESSAGE)
        fields = _fields_of(record)
        return f"{line} {' '.join(_pair(name, value) for name, value in fields.items())}" if fields else line

    def formatException(self, ei: Any) -> str:
        """The traceback, indented."""
        return safe_lines(super().formatException(ei), _INDENT)

    def formatStack(self, stack_info: str) -> str:
        """The stack, indented."""
        return safe_lines(stack_info, _INDENT)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC, RFC 3339), `level`, `logger`, `pid`, `message`, perhaps `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole record."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        document: dict[str, object] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": safe_text(record.getMessage().rstrip("\n"), _LONGEST_MESSAGE),
        }
        document.update((name, _member(value)) for name, value in _fields_of(record).items())
        if record.exc_info:
            document["exception"] = safe_lines(self.formatException(record.exc_info))
        if record.stack_info:
            document["stack"] = safe_lines(self.formatStack(record.stack_info))
        return json.dumps(document, separators=(",", ":"))


def _fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields


def _member(value: object) -> object:
    """A value as JSON has it: numbers as they are, all else as text."""
    return value if value is None or isinstance(value, int | float) else safe_text(str(value), _LONGEST_FIELD)


def _pair(name: str, value: object) -> str:
    """One field as text; quoted as in JSON when a space or worse would make it ambiguous."""
    text = str(value)[:_LONGEST_FIELD]
    is_plain = _PLAIN.fullmatch(text) and safe_text(text, _LONGEST_FIELD) == text
    return f"{name}={text if is_plain else safe_text(json.dumps(text), 6 * _LONGEST_FIELD)}"

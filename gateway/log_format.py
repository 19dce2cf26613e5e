"""What a line of the log looks like: text for people, or one JSON object for machines.

Owns: the two forms. Web layer; any thread. What a record carries beside its message, as the access log's do, comes in
its attribute `fields`, a mapping of names to values: members of the object in JSON, `name=value` in text.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime

_TEXT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(name)s: %(message)s"
_TEXT_DATE = "%Y-%m-%d %H:%M:%S %z"
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x20\x7f-\x9f]+")


class TextFormatter(logging.Formatter):
    """gunicorn's form, with the logger's name."""

    def __init__(self) -> None:
        super().__init__(_TEXT, _TEXT_DATE)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, without a traceback."""
        line = super().formatMessage(record)
        fields = _fields_of(record)
        return f"{line} {' '.join(_pair(name, value) for name, value in fields.items())}" if fields else line


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
            "message": record.getMessage(),
        }
        document.update(_fields_of(record))
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            document["stack"] = self.formatStack(record.stack_info)
        return json.dumps(document, separators=(",", ":"), default=str)


def _fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields


def _pair(name: str, value: object) -> str:
    """One field as text; quoted as in JSON when a space or worse would make it ambiguous."""
    text = str(value)
    return f"{name}={text if _PLAIN.fullmatch(text) else json.dumps(text)}"

"""The two forms of a log line: text for people, one JSON object for machines."""

from __future__ import annotations

import json
import logging

import pytest

from gateway.protocol.safe_text import safe_text
from gateway.telemetry.log_format import JsonFormatter, TextFormatter

FORGERIES = [
    "a\n[2026-01-01 00:00:00 +0000] [1] [INFO] gateway.pool: forged",
    "\r",
    "\x1b[2K\x1b[1A",
    "\x9b2J",
    "\x7f",
    "\x00",
    "\u2028",
    "\u202egnp.exe",
    "\u200b",
    "\ud83d",
]


def record(message: str, *args: object, fields: dict[str, object] | None = None) -> logging.LogRecord:
    made = logging.LogRecord("gateway.some", logging.WARNING, "some.py", 7, message, args, None)
    made.created, made.process = 1_800_000_000.25, 42
    if fields is not None:
        made.fields = fields
    return made


def test_json_line_is_one_object_with_time_level_logger_and_process() -> None:
    """Given a record, when it is written as JSON, then time is UTC and the message has its arguments."""
    line = JsonFormatter().format(record("key %s cools down for %.1f s", "k0", 5.0))
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "warning",
        "logger": "gateway.some",
        "pid": 42,
        "message": "key k0 cools down for 5.0 s",
    }


@pytest.mark.parametrize("text", ['"', "\n", "a\r\nb", "\x1b[31m", "\u2028", "\ud83d", "\x00", "ü"])
def test_json_line_stays_one_line_whatever_it_quotes(text: str) -> None:
    """Given line ends, controls, quotes and half of a pair, then the line is ASCII, one line, and safe to print."""
    line = JsonFormatter().format(record("got %s.", text, fields={"user_agent": text}))
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == f"got {safe_text(text)}."
    assert json.loads(line)["user_agent"] == safe_text(text)


def test_json_line_carries_fields_as_members_of_their_own_type() -> None:
    """Given an access line's fields, then they are members beside the message, numbers as numbers."""
    document = json.loads(JsonFormatter().format(record("request", fields={"status": 200, "duration_seconds": 0.5})))
    assert (document["message"], document["status"], document["duration_seconds"]) == ("request", 200, 0.5)


def test_json_line_holds_the_whole_exception() -> None:
    """Given an exception with a cause, then the traceback is in the object, in one line."""
    made = record("it failed")
    try:
        {}["inner"]
    except KeyError as inner:
        outer = ValueError("outer")
        outer.__cause__ = inner
    made.exc_info = (ValueError, outer, None)
    line = JsonFormatter().format(made)
    assert len(line.splitlines()) == 1
    exception = json.loads(line)["exception"]
    assert "KeyError: 'inner'" in exception
    assert exception.endswith("ValueError: outer")


@pytest.mark.parametrize("text", FORGERIES)
def test_text_line_stays_one_line_of_visible_characters_whatever_it_quotes(text: str) -> None:
    """Given what would forge a line or move the cursor, in the message or a field, then it is shown escaped."""
    line = TextFormatter().format(record("got %s.", text, fields={"user_agent": text}))
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert f"got {safe_text(text)}." in line


@pytest.mark.parametrize("text", FORGERIES)
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_exceptions_words_forge_no_line(formatter: logging.Formatter, text: str) -> None:
    """Given an exception that quotes what others sent, then nothing but the record's own line begins at the margin."""
    made = record("it failed")
    made.exc_info = (ValueError, ValueError(f"cannot read {text}"), None)
    made.stack_info = f"Stack:\n{text}"
    first, *more = formatter.format(made).split("\n")
    assert all(line.startswith("    ") for line in more)
    assert all(line.isprintable() for line in (first, *more))


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_line_is_bounded(formatter: logging.Formatter) -> None:
    """Given megabytes in a message, a field and an exception, then the record has some kilobytes."""
    made = record("%s", "x" * 1_000_000, fields={"user_agent": "x" * 1_000_000, "odd": "\x7f" * 1_000_000})
    made.exc_info = (ValueError, ValueError("y" * 1_000_000), None)
    assert len(formatter.format(made)) < 20_000
    made.exc_info = (ValueError, ValueError("y\n" * 1_000_000), None)
    assert len(formatter.format(made)) < 20_000


def test_text_line_has_the_servers_form_and_the_loggers_name() -> None:
    """Given a record, when it is written as text, then it looks like gunicorn's lines, with the logger's name."""
    line = TextFormatter().format(record("hello"))
    assert line.endswith(" [42] [WARNING] gateway.some: hello")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("req_gw_1", "req_gw_1"),
        (0.25, "0.25"),
        (200, "200"),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('say "x"', '"say \\"x\\""'),
        ("two\nlines", '"two\\nlines"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        ("\x85", '"\\u0085"'),
        ("", '""'),
    ],
)
def test_text_line_quotes_what_would_be_ambiguous(value: object, written: str) -> None:
    """Given a field, then it stands as it is if it can be read back, and quoted as in JSON if not."""
    line = TextFormatter().format(record("request", fields={"field": value, "last": 1}))
    assert line.endswith(f"request field={written} last=1")
    assert len(line.splitlines()) == 1

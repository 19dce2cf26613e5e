"""The text form of scripts: `name:option=value,option=value`, joined by ` then `, repeated by `*N`.

One scanner does all the splitting, so that quotes and brackets mean the same everywhere: a
separator inside `"..."`, `{...}` or `[...]` does not separate. Pure; knows no behaviour by name.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

ScriptText = str | Sequence[str]

_REPEAT = re.compile(r"\*\s*(\d+)\s*$")
_LINE_END = re.compile(r"[\r\n\t]")
_THEN = " then "


class ScriptError(ValueError):
    """A script that cannot be understood; its text is one line for the person who wrote it."""


@dataclass(frozen=True, slots=True)
class ParsedStep:
    """One step of a script, as written: not yet looked up in the catalogue."""

    name: str
    options: dict[str, str]
    count: int


def parse_steps(script: ScriptText) -> list[ParsedStep]:
    """Every step of a script, or of several in a row.

    Raises: ScriptError.
    """
    texts = [script] if isinstance(script, str) else list(script)
    # Line ends in a script (a TOML file's, a shell's here-document) are as good as spaces; those
    # at both ends let a dangling `then` be seen.
    lines = [f" {_LINE_END.sub(' ', text)} " for text in texts]
    parts = [part for line in lines for part in split_outside(line, _THEN)]
    if not parts:
        raise ScriptError("the script is empty: it needs at least one behaviour, such as 'ok'")
    return [_parse_step(part) for part in parts]


def split_outside(text: str, separator: str) -> list[str]:
    """The parts of a text between separators, stripped; quotes and brackets are left alone.

    Raises: ScriptError when a quote or a bracket is left open.
    """
    parts: list[str] = []
    start = depth = position = 0
    is_quoted = False
    while position < len(text):
        character = text[position]
        if is_quoted:
            if character == "\\":
                position += 1
            elif character == '"':
                is_quoted = False
        elif character == '"':
            is_quoted = True
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
        elif depth == 0 and text.startswith(separator, position):
            parts.append(text[start:position].strip())
            position += len(separator)
            start = position
            continue
        position += 1
    if is_quoted or depth:
        raise ScriptError(f"a quote or a bracket is not closed in {text!r}")
    return [*parts, text[start:].strip()] if text.strip() else []


def _parse_step(text: str) -> ParsedStep:
    count = 1
    # A `*3` inside quotes is never at the very end: the closing quote is.
    if repeat := _REPEAT.search(text):
        count = int(repeat[1])
        text = text[: repeat.start()].strip()
        if count < 1:
            raise ScriptError(f"{text!r} is repeated 0 times")
    name, _, rest = text.partition(":")
    if not name.strip():
        raise ScriptError("a step of the script is empty")
    return ParsedStep(name.strip(), _parse_options(name.strip(), rest), count)


def _parse_options(name: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in split_outside(text, ","):
        option, equals, value = item.partition("=")
        option = option.strip()
        if not option:
            raise ScriptError(f"{name}: an option is empty in {text!r}")
        if option in options:
            raise ScriptError(f"{name}: option {option!r} is given twice")
        # A bare option is a switch turned on: `ok:gzip` is `ok:gzip=true`.
        options[option] = _unquote(name, value.strip()) if equals else "true"
    return options


def _unquote(name: str, value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError as error:
        raise ScriptError(f"{name}: {value} is not a quoted text ({error})") from error

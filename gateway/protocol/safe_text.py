"""What others wrote, made safe to show: in a log, on a terminal, in an error's message.

Owns: the escapes and the bounds. Pure; any thread. A line end forges a line of the log, an escape sequence rewrites
the terminal, a bidirectional override shows a name the wrong way round, and what has no width hides. All of it is
shown as Python writes it in a literal: `\\n`, `\\x1b`, `\\u202e`. What is safe already stays as it is, so text may pass
here twice. The log's formatters, the commands' output and the gateway's errors pass everything through here; code that
stores or sends foreign text elsewhere calls it itself.
"""

from __future__ import annotations

import re

_MORE = "..."
# What `str.isprintable` lets through although it is not seen (Unicode's Default_Ignorable_Code_Point, the fillers and
# the blank Braille pattern): joiners, selectors of variants, letters without ink.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


def safe_text(text: str | bytes, limit: int = 200) -> str:
    """The text in one line of visible characters, at most `limit` of them; bytes are taken for UTF-8."""
    if isinstance(text, bytes):
        text = text[: 4 * (limit + 1)].decode("utf-8", "backslashreplace")
    shown = _escaped(text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - len(_MORE)] + _MORE


def safe_lines(text: str, indent: str = "", limit: int = 1000, most: int = 500) -> str:
    """A text whose line feeds are meant, as a traceback's are: its lines made safe one by one, and the first `most`."""
    lines = text.split("\n", most)
    if len(lines) > most:
        lines[most] = _MORE
    return "\n".join(indent + safe_text(line, limit) for line in lines)


def _escaped(text: str) -> str:
    if text.isprintable() and (text.isascii() or not _UNSEEN.search(text)):
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() and not _UNSEEN.match(character):
        return character
    return character.encode("unicode_escape").decode("ascii")

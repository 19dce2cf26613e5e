"""What a command prints: every line is made safe for a terminal, because others wrote parts of it.

Owns: standard output and standard error of the commands. No other module of theirs prints.
"""

from __future__ import annotations

import sys

from gateway.protocol.safe_text import safe_text

_LONGEST_LINE = 10_000


def say(*lines: str) -> None:
    """Print these lines, the work's result."""
    for line in lines:
        print(safe_text(line, _LONGEST_LINE))


def complain(*lines: str) -> int:
    """Print these lines to standard error as the gateway's; the exit status that belongs to it."""
    for line in lines:
        print(f"gateway: {safe_text(line, _LONGEST_LINE)}", file=sys.stderr)
    return 1

"""Lines in columns, as the commands print their tables.

Owns: the widths.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.cli.output import say


def say_columns(lines: Sequence[Sequence[str]], names: int) -> None:
    """Print lines of cells; the first columns, so many, hold names and the others numbers."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.ljust(width) if index < names else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        say("  ".join(cells).rstrip())

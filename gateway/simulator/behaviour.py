"""What a behaviour is: a frozen value that turns a request into steps on the wire.

A behaviour holds its options and nothing else; the same value serves any number of requests in any
thread. Its name, the first line of its docstring and its options are what the documentation and
`gateway simulate --list` show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from gateway.simulator.seen import SeenRequest
from gateway.simulator.steps import Step


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """One option, for documentation."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """One way to treat a request; `reads_body` says whether its body is read before the plan."""

    name: ClassVar[str] = ""
    reads_body: ClassVar[bool] = True

    def plan(self, request: SeenRequest) -> Iterator[Step]:
        """What is done on the wire in answer to this request."""
        raise NotImplementedError

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    @classmethod
    def options(cls) -> tuple[OptionInfo, ...]:
        """Every option, inherited ones first."""
        return tuple(
            OptionInfo(field.metadata["name"], _default_text(field.default), field.metadata["meaning"])
            for field in dataclasses.fields(cls)
        )


def _default_text(default: object) -> str:
    if default is None or default == "":
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)

"""Every behaviour there is: how its text becomes a value, and how it is shown to people.

A new behaviour is a class and one name in `_ALL`; `--list` and a test of docs/simulator.md follow
from here. Pure.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping

from gateway.simulator import answers, breaks, heads, refusals
from gateway.simulator.answer import Answer
from gateway.simulator.behaviour import Behaviour, OptionInfo
from gateway.simulator.breaks import Break
from gateway.simulator.grammar import ParsedStep, ScriptError
from gateway.simulator.refusal import Refusal

_ALL: tuple[type[Behaviour], ...] = (
    answers.Ok,
    answers.ToolUse,
    answers.SetCookie,
    answers.EarlyHints,
    answers.JsonToStream,
    answers.Split,
    answers.OneSegment,
    answers.OneRecord,
    answers.ErrorEvent,
    refusals.RateLimited,
    refusals.Unauthorized,
    refusals.Forbidden,
    refusals.OutOfCredit,
    refusals.SpendLimited,
    refusals.NotEntitled,
    refusals.BadRequest,
    refusals.NotFound,
    refusals.MethodNotAllowed,
    refusals.TooLarge,
    refusals.ServerError,
    refusals.Unavailable,
    refusals.Overloaded,
    refusals.Status,
    refusals.Redirect,
    refusals.Html,
    refusals.Html502,
    heads.SlowHead,
    heads.DripHead,
    heads.Silent,
    heads.NoRead,
    heads.EarlyAnswer,
    heads.CloseAtOnce,
    heads.Garbage,
    breaks.StallAfter,
    breaks.StallHalf,
    breaks.Cut,
    breaks.CutClean,
    breaks.CutHalf,
    breaks.CutAt,
    breaks.ResetAfter,
    breaks.BadChunk,
    breaks.ShortLength,
    breaks.Empty,
    breaks.LateEnd,
)

BEHAVIOURS: dict[str, type[Behaviour]] = {behaviour.name: behaviour for behaviour in _ALL}

# Behaviours of one family share its options; tables show those once. The narrower comes first.
FAMILIES: dict[str, type[Behaviour]] = {"break": Break, "answer": Answer, "error": Refusal}


def build(step: ParsedStep) -> Behaviour:
    """The behaviour that a step of a script names.

    Raises: ScriptError, naming what is wrong and what there is instead.
    """
    behaviour = BEHAVIOURS.get(step.name)
    if behaviour is None:
        raise ScriptError(f"unknown behaviour {step.name!r}{_suggestion(step.name, BEHAVIOURS)}")
    fields = {field.metadata["name"]: field for field in dataclasses.fields(behaviour)}
    values: dict[str, object] = {}
    for name, text in step.options.items():
        field = fields.get(name)
        if field is None:
            raise ScriptError(f"{step.name} has no option {name!r}{_suggestion(name, fields)}")
        try:
            values[field.name] = field.metadata["read"](text)
        except ValueError as error:
            raise ScriptError(f"{step.name}: option {name}={text!r} {error}") from error
    return behaviour(**values)


def family_of(behaviour: type[Behaviour]) -> str:
    """The family whose options it shares, or ""."""
    return next((name for name, base in FAMILIES.items() if issubclass(behaviour, base)), "")


def own_options(behaviour: type[Behaviour]) -> tuple[OptionInfo, ...]:
    """Its options that its family lacks, or that mean something else here."""
    family = FAMILIES.get(family_of(behaviour))
    shared = family.options() if family else ()
    return tuple(option for option in behaviour.options() if option not in shared)


def family_options(family: str) -> tuple[OptionInfo, ...]:
    """What a family shares, without what it has from a wider one."""
    base = FAMILIES[family]
    wider = (other for other in FAMILIES.values() if other is not base and issubclass(base, other))
    inherited = {option for other in wider for option in other.options()}
    return tuple(option for option in base.options() if option not in inherited)


def as_text() -> str:
    """The catalogue for a terminal."""
    lines: list[str] = []
    for name, behaviour in BEHAVIOURS.items():
        family = family_of(behaviour)
        lines.append(f"{name} (takes {family} options)" if family else name)
        lines.append(f"    {behaviour.summary()}")
        lines += [_option_text(option) for option in own_options(behaviour)]
    for family in FAMILIES:
        lines += ["", f"{family} options{', and all answer options' * (family == 'break')}:"]
        lines += [_option_text(option) for option in family_options(family)]
    return "\n".join(lines)


def as_markdown() -> str:
    """The tables of docs/simulator.md."""
    lines = ["| behaviour | what it does | its options | family |", "|---|---|---|---|"]
    for name, behaviour in BEHAVIOURS.items():
        options = "; ".join(_option_markdown(option) for option in own_options(behaviour))
        lines.append(f"| `{name}` | {behaviour.summary()} | {options} | {family_of(behaviour)} |")
    for family in FAMILIES:
        lines += ["", f"| {family} option | default | meaning |", "|---|---|---|"]
        for option in family_options(family):
            default = f"`{option.default}`" if option.default else ""
            lines.append(f"| `{option.name}` | {default} | {option.meaning} |")
    return "\n".join(lines)


def _option_text(option: OptionInfo) -> str:
    return f"        {option.name}={option.default}  {option.meaning}"


def _option_markdown(option: OptionInfo) -> str:
    default = f"={option.default}" if option.default else ""
    return f"`{option.name}{default}`: {option.meaning}"


def _suggestion(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return "; --list shows all" if known is BEHAVIOURS else f"; it has {', '.join(known) or 'none'}"

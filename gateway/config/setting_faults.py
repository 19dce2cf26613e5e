"""Values that are well formed, and yet cannot be what was meant: a key in quotation marks, `${NAME}` never replaced.

Owns: finding them, and the words. Pure; what it says holds no secret. A gateway starts with such values, and then every
request fails, so `gateway check` counts them as faults.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

_PLACEHOLDER = re.compile(r"\$\{\s*([A-Za-z_][A-Za-z0-9_]*)?[^}]*\}|\{\{.*?\}\}")
_QUOTED = re.compile(r"([\"'`]).*\1", re.DOTALL)
_QUOTATION_MARK = re.compile("[\"'`]")
_API_PATH = re.compile(r"://[^/]+.*?(/v1(?:/messages)?)$")
# What begins so is a credential, but none that the Messages API takes as a key.
_OTHER_CREDENTIALS = (
    ("sk-ant-oat", "an OAuth token of a subscription"),
    ("sk-ant-ort", "an OAuth refresh token"),
    ("sk-ant-sid", "a browser's session"),
    ("sk-ant-admin", "a key of the Admin API"),
    ("gwt_", "a client token of a gateway"),
)
# Their own rules say what `$`, `{` and quotation marks mean in them; keys are looked at one by one.
_READ_OTHERWISE = frozenset({"tools_excluded_models", "api_keys"})


def in_value(name: str, value: object) -> str | None:
    """What cannot be meant in a setting's raw value; the words follow `NAME: `."""
    if name in _READ_OTHERWISE:
        return None
    for text in _texts(value):
        if (fault := _in_text(text)) is not None:
            return fault
    return _in_upstream(value) if name == "upstream_url" and isinstance(value, str) else None


def in_key(entry: str) -> str | None:
    """What cannot be meant in an entry of the pool; the words follow its place."""
    if (fault := _placeholder_in(entry)) is not None:
        return fault
    if _QUOTATION_MARK.search(entry):
        return "the key contains a quotation mark, which would be sent to the upstream: remove it"
    name, separator, rest = entry.partition("=")
    secret = (rest if separator else name).strip()
    for prefix, what in _OTHER_CREDENTIALS:
        if secret.startswith(prefix):
            return (
                f"a value that begins with {prefix} is {what}, and the upstream does not accept it as a key: "
                "put an API key here (sk-ant-api...)"
            )
    return None


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The known name that an unknown one was probably meant to be."""
    plain = name.lower().replace("-", "_").removeprefix("gateway_")
    return next(iter(difflib.get_close_matches(plain, list(known), n=1, cutoff=0.65)), None)


def _texts(value: object) -> Iterator[str]:
    """Every text in a value but for headers, whose placeholders are replaced, or told where they cannot be."""
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name != "headers":
                yield from _texts(item)


def _in_text(text: str) -> str | None:
    if (fault := _placeholder_in(text)) is not None:
        return fault
    if _QUOTED.fullmatch(text):
        return "the quotation marks are part of the value: remove them"
    return None


def _placeholder_in(text: str) -> str | None:
    found = _PLACEHOLDER.search(text)
    if found is None:
        return None
    shown = f"${{{found[1]}}}" if found[1] else "a placeholder"
    return f"{shown} was not replaced by its value, and the gateway does not do so: write the value itself"


def _in_upstream(given: str) -> str | None:
    url = given.strip().rstrip("/")
    found = _API_PATH.search(url)
    if found is None:
        return None
    return (
        f"the gateway adds /v1/messages, so a URL that ends in {found[1]} leads to a path that does not exist: "
        f"write {url.removesuffix(found[1])}"
    )

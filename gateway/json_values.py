"""JSON, as clients and upstreams really send it.

Owns: reading an object without trusting it, and writing one that any reader takes. Pure; any thread.
"""

from __future__ import annotations

import json
from typing import Any


def object_or_none(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object that a text is; None for anything else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def to_json(value: object) -> bytes:
    """Compact JSON in UTF-8; half a surrogate pair, which UTF-8 cannot hold and models send, stays an escape."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()

"""Ids for requests.

Owns: their form. Web layer; any thread.
"""

from __future__ import annotations

import secrets
import time


def new_request_id() -> str:
    """An id for a request, told apart from the upstream's by its form; later ones sort later, as databases like it."""
    return f"req_gw_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"

"""Ids for requests.

Owns: their form. Web layer; any thread.
"""

from __future__ import annotations

import secrets
import time


def new_request_id(given: str | None = None) -> str:
    """An id for a request, told apart from the upstream's by its form; made of the proxy's where that gave one.

    Others sort by the time at which they were made, as databases like it.
    """
    return f"req_gw_{given or f'{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}'}"

"""Ids for requests.

Owns: their form. Web layer; any thread.
"""

from __future__ import annotations

import secrets


def new_request_id(given: str | None = None) -> str:
    """An id for a request, told apart from the upstream's by its form; made of the proxy's where that gave one."""
    return f"req_gw_{given or secrets.token_hex(12)}"

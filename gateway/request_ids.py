"""Ids for requests.

Owns: their form. Web layer; any thread.
"""

from __future__ import annotations

import secrets


def new_request_id() -> str:
    """An id for a request, told apart from the upstream's by its form."""
    return f"req_gw_{secrets.token_hex(12)}"

"""Ids for requests.

Owns: their form. Any thread. Each request has one of its own, `req_gw_<its own>.<the proxy's>`: a proxy
that asks a second gateway asks again under the id it gave before, and another may give the same to all.
"""

from __future__ import annotations

import random
import time

_MARK = "req_gw_"


def new_request_id(given: str | None = None) -> str:
    """An id for a request, told apart from the upstream's by its form; `given` is the proxy's id, if it gave one.

    Ids sort by the time at which they were made, as databases like it.
    """
    # Random enough to be told apart: nothing opens to whoever guesses one. Python seeds anew after a fork.
    own = f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(48):012x}"
    return f"{_MARK}{own}.{given}" if given is not None else f"{_MARK}{own}"


def ending_of_given(name: str) -> str:
    """How an id ends that was made of a proxy's; that may be named as the proxy does or with the gateway's mark."""
    return f".{name.removeprefix(_MARK)}"


def is_called(id: str, name: str) -> bool:
    """Whether a request of this id goes by this name: the id itself, or the proxy's."""
    return id == name or id.endswith(ending_of_given(name))

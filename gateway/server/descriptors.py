"""How many descriptors there are, and for how many connections they suffice.

Owns: the process's limit of open files, and the reserve that is not given to clients' connections. The
master's start and a worker's.
"""

from __future__ import annotations

import logging
import resource

from gateway.config.capacity import BESIDE_REQUESTS, FOR_EACH_REQUEST, IDLE_CONNECTIONS, descriptors_for

log = logging.getLogger(__name__)


def raise_limit(requests: int) -> None:
    """Raise this process's limit as far as it may, and warn if that is too little for so many requests at once, beside
    idle connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = descriptors_for(requests)
    granted = wanted if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < granted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    if granted < wanted:
        log.warning(
            "%d open files are allowed, and a worker of %d requests may need %d: it takes %d connections at most",
            *(granted, requests, wanted, most_connections(requests + IDLE_CONNECTIONS, requests)),
        )


def most_connections(wanted: int, requests: int) -> int:
    """How many connections of clients a worker may have open, so that descriptors are left for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    left = soft - min(BESIDE_REQUESTS, soft // 4)
    # With very few, not so many requests can be served at once: each needs a connection to the upstream, too.
    return max(1, min(wanted, max(left - FOR_EACH_REQUEST * requests, left // 2)))

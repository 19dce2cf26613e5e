"""How many descriptors there are, and for how many connections they suffice.

Owns: the process's limit of open files, and the reserve that is not given to clients' connections. The
master's start and a worker's.
"""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

# A thread may have a connection to the upstream and one to a tool's server. Beside them there are the files and
# connections of stores, records and counts, listening sockets, and clients that are told goodbye.
_FOR_EACH_THREAD = 2
_BESIDE_THREADS = 200


def raise_limit(connections: int, threads: int) -> None:
    """Raise this process's limit as far as it may, and warn if that is too little for so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _FOR_EACH_THREAD * threads + _BESIDE_THREADS
    granted = wanted if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < granted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    if granted < wanted:
        log.warning(
            "%d open files are allowed, and a worker of %d threads may need %d: it takes %d connections at most",
            *(granted, threads, wanted, most_connections(connections, threads)),
        )


def most_connections(wanted: int, threads: int) -> int:
    """How many connections of clients a worker may have open, so that descriptors are left for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    left = soft - min(_BESIDE_THREADS, soft // 4)
    # With very few, not all threads can be busy at once: each connection that is served needs another.
    return max(1, min(wanted, max(left - _FOR_EACH_THREAD * threads, left // 2)))

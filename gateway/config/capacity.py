"""How many requests a worker can hold at once, by the descriptors and the memory that there are. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# Beyond this a worker would need more than its processor long before.
_MOST_REQUESTS = 10_000
_LEAST_REQUESTS = 64
# Idle connections of clients, beside those whose requests are served.
IDLE_CONNECTIONS = 1000
# Files and connections of stores, records and counts, listening sockets, lingering closes.
BESIDE_REQUESTS = 200
# A request holds its client's connection and one to the upstream.
FOR_EACH_REQUEST = 1
# What an open stream takes, with room for its events, and for bodies that are on their way.
_BYTES_A_REQUEST = 128 * 1024
_SHARE_OF_MEMORY = 0.5


def descriptors_for(requests: int) -> int:
    """How many descriptors a worker of so many requests at once may need."""
    return (1 + FOR_EACH_REQUEST) * requests + IDLE_CONNECTIONS + BESIDE_REQUESTS


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a machine, or a container, has: descriptors of one process, and bytes of memory."""

    descriptors: int
    memory_bytes: int

    def requests(self, workers: int) -> int:
        """How many requests each of so many workers can hold at once."""
        connections = self.descriptors - BESIDE_REQUESTS - IDLE_CONNECTIONS
        by_descriptors = connections // (1 + FOR_EACH_REQUEST)
        by_memory = int(self.memory_bytes * _SHARE_OF_MEMORY) // (workers * _BYTES_A_REQUEST)
        return max(_LEAST_REQUESTS, min(_MOST_REQUESTS, by_descriptors, by_memory))


_NO_END = 1 << 50
UNLIMITED = Capacity(descriptors=_NO_END, memory_bytes=_NO_END)

"""What the gateway needs of the machine: its clock, threads beside the requests, files, sockets, shared memory.

Owns: these helpers, which know nothing of keys, requests or HTTP. It may import `protocol`. Most of it is thread-safe;
each module says which threads may touch what it holds.
"""

"""The keys' records on a Redis server that several machines share.

Owns: the connection, the scripts that run on the server, and the thread that keeps this process's replica and the
server in step. It may import the rest of `keys` and the packages below. Requests read the replica from their own
threads.
"""

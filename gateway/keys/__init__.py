"""The pool of keys: which key serves a request, what is known of each key, and where that is kept.

Owns: the walk over the pool, the causes of refusals, the keys' records and their stores; `redis` holds the store that
machines share. It may import `upstream` and the packages below. The pool, which every request uses, is
thread-safe; probes of keys and the exchange with Redis run in background threads.
"""

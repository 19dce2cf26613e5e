"""Holding requests to their limits: what has been used, on this machine and on all that share a store.

Owns: the counts and the decision. Edge layer. `limiter` decides, and is what the web layer knows; `counters` are this
machine's counts, in memory that its workers share; `link` exchanges them with other machines through Redis. Whose
limits hold for a request is `limit_rules`' to say.
"""

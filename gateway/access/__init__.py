"""Who asks, where the request comes from, and what pays for it.

Owns: secrets, client tokens, the check of both, and what a request's head says of its client. It may import `protocol`
and `runtime`. All of it is values, but for `token_file`, which is thread-safe.
"""

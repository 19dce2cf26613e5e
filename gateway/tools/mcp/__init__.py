"""Clients of MCP servers: their sessions, their tools, calls of them.

`toolbox` is the way in; it, `call` and `failures` are all that a gateway without servers ever loads, for
the SDK is large.
"""

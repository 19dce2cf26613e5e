"""Tools that the gateway adds to requests, and the MCP servers that they come from.

Owns: adding tools to a request, putting turns together into one message, and in `mcp` the sessions with the servers. It
may import `config` and the packages below, and counts through a protocol of its own. Requests call tools from their own
threads; the sessions live in an event loop in one background thread.
"""

"""One interception, from the first byte in to the last byte out.

Owns: the turns of a request, the loop of tool calls, and passing on what the upstream sends. It may import `telemetry`
and the packages below. An interception is a generator: it belongs to whoever runs it, and yields a Pause wherever it
waits.
"""

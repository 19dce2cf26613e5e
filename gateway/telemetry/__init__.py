"""What the gateway tells its operators: metrics, spans, the access log, and the form of the log's lines.

Owns: the names and labels of all of these. It may import `tools` and the packages below. Metrics are thread-safe; an
observer and a trace belong to one request.
"""

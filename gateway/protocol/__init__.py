"""What is said on the wire: the Messages API's requests, answers, events, errors and counts, and HTTP around them.

Owns: every fact about the protocol, and nothing that happens. It imports no other package. Everything here is pure: no
socket, thread, clock or file, so any thread may use it.
"""

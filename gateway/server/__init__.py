"""How gunicorn serves the application: the worker, its threads and connections, the master's hooks, the log's set-up.

Owns: connections before and after a request, and the life of processes. It may import `web` and the packages below. The
main loop of a worker owns the connections that no thread serves.
"""

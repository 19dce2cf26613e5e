"""The Flask application: its routes, what a request passes before it is served, and what a running gateway is made of.

Owns: the views, request bodies, responses, admission, the status page, and opening all that the settings name. It may
import `relay` and the packages below. Views run in the worker's threads; the gateway in `service` is shared by
all threads.
"""

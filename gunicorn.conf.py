"""How gunicorn runs the gateway: `gunicorn -c gunicorn.conf.py 'gateway:create_app()'`.

The configuration itself is in the package, gateway/server/gunicorn_conf.py, where `gateway serve` finds it, too.
"""

from gateway.server.gunicorn_conf import *  # noqa: F403

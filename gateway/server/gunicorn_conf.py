"""How gunicorn runs the gateway: its configuration, as a module of the package.

Owns: what gunicorn is told. The master imports it, once. `gateway serve` names this module, and the file
gunicorn.conf.py at the top of the sources takes everything from it. Everything an operator sets is a GATEWAY_* setting
(docs/configuration.md); this module only hands it on.
"""

import os

from gateway.config.settings import SettingsError
from gateway.server import logs, master
from gateway.web import launch

try:
    _settings = launch.settings()
except SettingsError as error:
    raise SystemExit("\n".join(f"gateway: {line}" for line in error.complaints)) from None

launch.become_master()

wsgi_app = "gateway:create_app()"
bind = _settings.bind
workers = _settings.workers
threads = _settings.threads
worker_class = "gateway.server.worker.GatewayWorker"
worker_connections = master.worker_connections(_settings)
# Longer than nginx keeps its own side of an idle connection (60 s), so that it is never nginx that is surprised.
keepalive = 75
graceful_timeout = master.graceful_timeout(_settings)
timeout = 60
# The heartbeat file must not wait for a disk.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
control_socket_disable = True
proc_name = "messages-gateway"
loglevel = _settings.log_level
logger_class = logs.server_logger(_settings)
logs.configure(_settings)

on_starting = master.on_starting
when_ready = master.when_ready
pre_fork = master.pre_fork
child_exit = master.child_exit
on_exit = master.on_exit

"""A real nginx in front of several gateways, in a process of its own.

Owns: its configuration, its folder, its port, its life. A machine without `nginx` fails the tests: what they show
cannot be shown without one.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.harness import wait_until
from tests.ports import free_port

_START_SECONDS = 60.0
_TRIES = 5
_CONFIGURATION = """
{user}daemon off;
pid {folder}/pid;
error_log stderr;
worker_processes 1;
events {{
    worker_connections 8192;
}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream gateways {{
        {servers}
        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        client_max_body_size 32m;
        location / {{
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 600s;
            proxy_next_upstream off;
        }}
    }}
}}
"""


class NginxServer:
    """One nginx on a free port of the loopback address; requests go to the gateways' ports in turn."""

    def __init__(self, ports: Iterable[int]) -> None:
        binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if binary is None:
            raise AssertionError("these tests need nginx: apt-get install nginx-light")
        self._binary = binary
        self._servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports)
        self._folder = tempfile.TemporaryDirectory(prefix="nginx-")
        self._process: subprocess.Popen[bytes] | None = None
        for _ in range(_TRIES):
            self.port = free_port()
            if self._starts():
                return
        self.stop()
        raise AssertionError("nginx does not start")

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it for good."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
        self._folder.cleanup()

    def _starts(self) -> bool:
        folder = Path(self._folder.name)
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                # Started by root, it would serve as another user, who may not enter the folder.
                user="user root;\n" if os.geteuid() == 0 else "",
                folder=folder,
                port=self.port,
                servers=self._servers,
            )
        )
        process = self._process = subprocess.Popen(
            [self._binary, "-p", str(folder), "-c", str(configuration), "-e", "stderr"], stdin=subprocess.DEVNULL
        )
        return wait_until(lambda: process.poll() is not None or self._answers(), _START_SECONDS) and (
            process.poll() is None
        )

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

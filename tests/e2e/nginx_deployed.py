"""nginx as deploy/nginx has it: its own files, with the names, addresses and certificate that anybody has to put in.

Owns: a copy of the folder, a certificate, two ports, nginx's life. Nothing else of the files is changed; what a test
machine needs besides (folders for temporary files) stands in a file of its own beside them.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import trustme

from tests.e2e.clients import Client
from tests.harness import ROOT, wait_until
from tests.ports import free_port

_START_SECONDS = 60.0
_TRIES = 5
_GATEWAY = "server 127.0.0.1:8080 max_fails=3 fail_timeout=5s;"
_TEMPORARY_FILES = "".join(
    f"{module}_temp_path {{folder}}/{module};\n" for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def nginx_binary() -> str:
    """Where nginx is. Raises AssertionError on a machine without it."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    assert binary is not None, "these tests need nginx: apt-get install nginx-light"
    return binary


class DeployedNginx:
    """deploy/nginx in front of the gateways on these ports, on free ports of the loopback addresses."""

    def __init__(self, ports: Iterable[int]) -> None:
        # Its processes run as another user when it is started by root, and want to enter.
        self._folder = tempfile.TemporaryDirectory(prefix="nginx-deployed-")
        self.folder = Path(self._folder.name)
        self.folder.chmod(0o755)
        self._ports = list(ports)
        self._process: subprocess.Popen[bytes] | None = None
        self._write_certificate()
        for _ in range(_TRIES):
            self.port, self.plain_port = free_port(), free_port()
            self._write_configuration()
            if self._starts():
                return
        self.stop()
        raise AssertionError(f"nginx does not start:\n{self.log}")

    def __enter__(self) -> DeployedNginx:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it serves over TLS."""
        return f"https://localhost:{self.port}"

    @property
    def ca_file(self) -> str:
        """Who vouches for its certificate."""
        return str(self.folder / "ca.pem")

    @property
    def gateways_file(self) -> Path:
        """The file with the gateways' addresses."""
        return self.folder / "conf.d" / "gateways.conf"

    @property
    def command(self) -> list[str]:
        """nginx, told where its files are: what `nginx` alone is on a machine with the files in /etc/nginx."""
        return [nginx_binary(), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]

    @property
    def log(self) -> str:
        """Its error log."""
        file = self.folder / "log" / "error.log"
        return file.read_text() if file.exists() else ""

    @property
    def access_log(self) -> str:
        """A line for each request that has ended."""
        return (self.folder / "log" / "messages-gateway.log").read_text()

    def client(self, address: str = "127.0.0.1") -> Client:
        """A connection over TLS from one of this machine's addresses."""
        return Client(self.url, self.ca_file, address)

    def run(self, *options: str) -> str:
        """What nginx says on its standard error with these options. Raises AssertionError if it fails."""
        done = subprocess.run(
            [*self.command, *options], capture_output=True, text=True, timeout=_START_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def stop(self) -> None:
        """End it for good."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None
        self._folder.cleanup()

    def _write_certificate(self) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "gateway.example.com")
        authority.cert_pem.write_to_path(self.folder / "ca.pem")
        tls = self.folder / "tls"
        tls.mkdir()
        certificate.private_key_pem.write_to_path(tls / "privkey.pem")
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(tls / "fullchain.pem", append=number > 0)
        (self.folder / "log").mkdir()

    def _write_configuration(self) -> None:
        shutil.copytree(ROOT / "deploy" / "nginx", self.folder, dirs_exist_ok=True)
        servers = "\n    ".join(_GATEWAY.replace("8080", str(port)) for port in self._ports)
        replaced = {
            "/var/log/nginx/": f"{self.folder}/log/",
            "/run/nginx.pid": f"{self.folder}/nginx.pid",
            "/etc/nginx/tls/": f"{self.folder}/tls/",
            "server_name gateway.example.com;": "server_name localhost;",
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            # A machine without IPv6 leaves these two out.
            "listen [::]:80;": "",
            "listen [::]:443 ssl;": "",
            _GATEWAY: servers,
        }
        met = set()
        for file in (self.folder / "nginx.conf", *(self.folder / "conf.d").glob("*.conf")):
            text = file.read_text()
            for old, new in replaced.items():
                if old in text:
                    met.add(old)
                    text = text.replace(f"# {_GATEWAY}", "").replace(old, new)
            file.write_text(text)
        assert met == set(replaced), "deploy/nginx no longer has what a person is told to change"
        (self.folder / "conf.d" / "temporary-files.conf").write_text(_TEMPORARY_FILES.format(folder=self.folder))

    def _starts(self) -> bool:
        process = self._process = subprocess.Popen([*self.command, "-g", "daemon off;"], stdin=subprocess.DEVNULL)
        return wait_until(lambda: process.poll() is not None or self._listens(), _START_SECONDS) and (
            process.poll() is None
        )

    def _listens(self) -> bool:
        try:
            self.client().close()
        except (OSError, ssl.SSLError):
            return False
        return True

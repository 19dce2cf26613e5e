"""The machine that docs/deploying.md sets up, in a sandbox: its commands are run, and both gateways serve.

Owns: which of a page's commands can be run here, and the folders that they write to. systemctl.py stands in for
systemd, the simulator for the API; Redis, nginx, the gateways and the commands are real.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from tests.deploy import sandbox
from tests.deploy.dockerfile import Image
from tests.harness import ROOT

DOCS = ROOT / "docs"
# What needs the world, a container engine, a cluster, or what the image's own tests do in the same words.
_ELSEWHERE = re.compile(
    r"apt-get |nginx -t && systemctl |docker |kubectl |helm |\.\./smoke\.sh |deploy/smoke\.sh https"
    r"|python3 -m venv /opt|/opt/messages-gateway(\.new)?/bin/pip |for pod in |cp -a /opt|mv /opt"
)
_TOOLS = {
    "systemctl": f'exec {sys.executable} -P {ROOT}/tests/deploy/systemctl.py "$@"',
    "journalctl": 'while [ "$1" != -u ]; do shift; done; exec systemctl logs "$2"',
}
# For a test's user who is not root, and is root in the sandbox: there is nobody else there to become.
_TOOLS_OF_ONE_USER = {"setpriv": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'}
_KEYS = ("team-a", "team-b", "team-c")


def blocks(file: str, title: str | None = None) -> list[str]:
    """The shell blocks of a page, or of one of its sections; without what indents them in a list."""
    text = (DOCS / file).read_text()
    if title is not None:
        text = text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^( *)```sh\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def runnable(block: str) -> str:
    """The block's commands that can be run here; a command is a line and those that continue it."""
    commands = re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", block)
    loops = re.sub(r"^for pod in .*?^done\n", "", "".join(commands), flags=re.DOTALL | re.MULTILINE)
    commands = re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", loops)
    return "".join(command for command in commands if not _ELSEWHERE.match(command))


def etc(folder: Path) -> list[str]:
    """Options for an `/etc` that may be written to, with as much in it as these commands look for."""
    folder.mkdir()
    for name in ("passwd", "group", "nsswitch.conf", "ssl", "hosts", "ld.so.cache", "alternatives"):
        source = Path("/etc") / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True)
        elif source.exists():
            shutil.copy(source, folder / name)
    for name in ("systemd/system", "nginx/conf.d"):
        (folder / name).mkdir(parents=True)
    return sandbox.writable("/etc", folder)


class Machine:
    """A machine on which nothing is set up yet. `project` is the project's folder, where its commands may write."""

    def __init__(self, project: Path, image: Image, folder: Path) -> None:
        for name in ("log", "lib", "bin", "tools"):
            (folder / name).mkdir()
        is_root = os.geteuid() == 0
        for name, script in (_TOOLS if is_root else _TOOLS | _TOOLS_OF_ONE_USER).items():
            (folder / "tools" / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / "tools" / name).chmod(0o755)
        self._options = [
            *(*sandbox.as_root(), "--unshare-net", *etc(folder / "etc")),
            *("--ro-bind", str(ROOT), str(ROOT), "--bind", str(project), "/project", "--chdir", "/project"),
            *("--tmpfs", "/opt", *sandbox.writable("/opt/messages-gateway", image.folder)),
            *("--ro-bind", str(image.shims), "/shims", "--ro-bind", str(folder / "tools"), "/tools"),
            *("--tmpfs", "/run", *sandbox.writable("/usr/local/bin", folder / "bin")),
            *sandbox.writable("/var/log/nginx", folder / "log"),
            *sandbox.writable("/var/lib/nginx", folder / "lib"),
        ]
        if not is_root:
            for name, line in (("passwd", "messages-gateway:x:0:0::/:/bin/sh"), ("group", "messages-gateway:x:0:")):
                with (folder / "etc" / name).open("a") as file:
                    file.write(f"{line}\n")

    def run(self, *commands: str) -> str:
        """What it prints while it is set up as the page says, with three keys, and then at these commands."""
        script = "\n".join(["redis-server --save '' >/dev/null &", _simulator(), _set_up(), *commands])
        return sandbox.run(["sh", "-euc", script], self._options, first="/tools:/usr/local/bin")


def _simulator() -> str:
    keys = " ".join(f"--key sk-ant-api03-{name}=ok" for name in _KEYS)
    return f"""
        /opt/messages-gateway/bin/gateway simulate --bind 127.0.0.1:9000 {keys} >/dev/null &
        tries=0
        until curl -fs -o /dev/null http://127.0.0.1:9000/_simulator/keys; do
            tries=$((tries + 1)); [ $tries -lt 300 ]; sleep 0.1
        done
    """


def _set_up() -> str:
    """The page's commands, and what a person does between them with an editor."""
    text = "".join(runnable(block) for block in blocks("deploying.md", "One machine"))
    keys = "".join(f"{name}=sk-ant-api03-{name}\\n" for name in _KEYS)
    settings = "GATEWAY_UPSTREAM_URL=http://127.0.0.1:9000\\nGATEWAY_WORKERS=1\\n"
    for command, more in (
        (
            "install -m 0600 /dev/null /etc/messages-gateway/tokens\n",
            f"printf '{keys}' >> /etc/messages-gateway/keys\n",
        ),
        (
            "install -m 0600 deploy/systemd/gateway.env /etc/messages-gateway/\n",
            f"printf '{settings}' >> /etc/messages-gateway/gateway.env\n",
        ),
        ("gateway tokens make alice\n", "gateway tokens make ann > /run/token-of-ann\n"),
    ):
        assert text.count(command) == 1, command
        text = text.replace(command, command + more)
    return text

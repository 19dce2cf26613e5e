"""What `systemctl` and `journalctl` do with the gateways' unit, for a sandbox in which no systemd runs.

The unit's own lines are carried out: folders, credentials, environment, the commands, each as the user that it names.
A start is over when the service says that it is ready. Of systemd's sandboxing nothing is done. Run as a script:

    systemctl.py daemon-reload | enable --now UNIT... | reload UNIT... | status UNIT... | logs UNIT...

UNIT may be a pattern of running units, `messages-gateway@*`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

_RUNNING = Path("/run/units")
_START_SECONDS = 60


class Unit:
    """One unit, by its name: `messages-gateway@8081`."""

    def __init__(self, name: str) -> None:
        self.name = name.removesuffix(".service")
        template, _, instance = self.name.partition("@")
        self._credentials = Path("/run/credentials") / self.name
        text = Path(f"/etc/systemd/system/{template}@.service").read_text().partition("[Service]\n")[2]
        text = text.partition("\n[")[0].replace("%i", instance).replace("%d", str(self._credentials))
        lines = [line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#")]
        self._lines = [(key, value) for key, _, value in lines]
        self._pid_file = _RUNNING / self.name
        self.log = Path("/var/log") / self.name

    def start(self) -> None:
        """Start it; over when it is ready. Raises AssertionError if it ends before."""
        for kind, above in (("State", "/var/lib"), ("Runtime", "/run")):
            for folder in self._one(f"{kind}Directory").split():
                self._own_folder(Path(above) / folder, int(self._one(f"{kind}DirectoryMode"), 8))
        self._own_folder(self._credentials, 0o500)
        for credential in self._all("LoadCredential"):
            name, _, source = credential.partition(":")
            copy = shutil.copy(source, self._credentials / name)
            shutil.chown(copy, self._one("User"), self._one("Group"))
            os.chmod(copy, 0o400)
        for command in self._all("ExecStartPre"):
            self._run(command)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log.open("ab") as log:
            address = f"/run/notify-{self.name}"
            ready.bind(address)
            os.chmod(address, 0o666)
            ready.settimeout(_START_SECONDS)
            process = subprocess.Popen(
                self._command(self._one("ExecStart")),
                env=self._environment() | {"NOTIFY_SOCKET": address},
                cwd=self._one("WorkingDirectory"),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            while "READY=1" not in ready.recv(4096).decode().splitlines():
                assert process.poll() is None, self.log.read_text()
        self._pid_file.parent.mkdir(exist_ok=True)
        self._pid_file.write_text(str(process.pid))

    def reload(self) -> None:
        """What a reload does."""
        for command in self._all("ExecReload"):
            self._run(command.replace("$MAINPID", self._pid_file.read_text()))

    def status(self) -> None:
        """Raises OSError if it does not run."""
        os.kill(int(self._pid_file.read_text()), 0)
        print(f"{self.name} is active")

    def _own_folder(self, folder: Path, mode: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(folder, self._one("User"), self._one("Group"))
        folder.chmod(mode)

    def _run(self, command: str) -> None:
        subprocess.run(self._command(command), env=self._environment(), check=True)

    def _command(self, command: str) -> list[str]:
        """The words of a command, as the unit's user unless it begins with `+`."""
        if command.startswith("+"):
            return shlex.split(command[1:])
        user, group = self._one("User"), self._one("Group")
        return ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--", *shlex.split(command)]

    def _environment(self) -> dict[str, str]:
        found = {"PATH": os.environ["PATH"]}
        pairs = self._all("Environment")
        for file in self._all("EnvironmentFile"):
            if not file.startswith("-") or Path(file[1:]).exists():
                lines = Path(file.removeprefix("-")).read_text().splitlines()
                pairs += [line for line in lines if line.strip() and line[0] not in "#;"]
        return found | {name: "".join(shlex.split(value)) for name, _, value in (pair.partition("=") for pair in pairs)}

    def _all(self, key: str) -> list[str]:
        return [value for known, value in self._lines if known == key]

    def _one(self, key: str) -> str:
        (value,) = self._all(key)
        return value


def _named(words: list[str]) -> list[Unit]:
    names = []
    for word in words:
        running = [path.name for path in _RUNNING.glob("*")] if _RUNNING.is_dir() else []
        names += sorted(name for name in running if fnmatch(name, word)) if "*" in word else [word]
    assert names, f"no such units: {words}"
    return [Unit(name) for name in names]


def main(action: str, words: list[str]) -> None:
    """Do it to each; an exception ends with status 1."""
    if action == "daemon-reload":
        return
    for unit in _named([word for word in words if not word.startswith("-")]):
        if action == "enable":
            unit.start()
        elif action == "logs":
            unit.status()
            print(unit.log.read_text())
        else:
            getattr(unit, action)()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

"""The official SDKs as clients, each a process in an environment of its own.

The SDKs clash with each other and are no dependency of the gateway, hence the environments, which
setup.sh makes. Owns the processes and what passes between them and a test; expects nothing.
"""

import json
import os
import queue
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / ".venv-sdk"
JOB_TIMEOUT_SECONDS = 60

Telling = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sdk:
    """One official SDK in one version; `credential_header` is where it sends its `api_key`."""

    name: str
    command: tuple[str, ...]
    credential_header: str


def _python(major: int, credential_header: str) -> Sdk:
    interpreter = ENVIRONMENTS / f"python-{major}" / "bin" / "python"
    command = (str(interpreter), "-W", "ignore", str(HERE / "client.py"))
    return Sdk(f"python-{major}", command, credential_header)


SDKS = (
    _python(0, "x-api-key"),
    _python(1, "x-api-key"),
    _python(2, "authorization"),
    Sdk("typescript", ("node", str(HERE / "node" / "client.mjs")), "authorization"),
)


class SdkProcess:
    """A client program that does one job after the other; used by one thread.

    A thread of its own reads the answers, so that waiting for one is bounded.
    """

    def __init__(self, sdk: Sdk, home: Path) -> None:
        self.sdk = sdk
        self._errors = home / f"{sdk.name}.stderr"
        # Nothing else of the environment: SDKs read ANTHROPIC_*, proxies and files under HOME.
        environ = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONUTF8": "1"}
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                sdk.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environ,
                encoding="utf-8",
            )
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def tell(self, mode: str, base_url: str, credential: str, **options: object) -> Telling:
        """Does one job; `options` are the further members of a job that README.md lists."""
        job = {"mode": mode, "base_url": base_url, "credential": credential, **options}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._answers.get(timeout=JOB_TIMEOUT_SECONDS)
        assert answer, f"{self.sdk.name} ended: {self._errors.read_text()[-2000:]}"
        telling: Telling = json.loads(answer)
        return telling

    def stop(self) -> None:
        """Ends the process; it has nothing to lose."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait(timeout=JOB_TIMEOUT_SECONDS)
        self._reader.join(timeout=JOB_TIMEOUT_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")  # the end, for whoever waits

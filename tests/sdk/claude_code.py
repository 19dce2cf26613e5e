"""Claude Code as a client: run without a terminal, in a home of its own.

Owns its command and environment; expects nothing.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent / "claude-code" / "node_modules" / "@anthropic-ai"
TIMEOUT_SECONDS = 90
NOWHERE = "http://127.0.0.1:9"  # the discard port: what would leave this machine fails at once


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run has shown."""

    status: int
    output: str
    errors: str


class ClaudeCode:
    """The installed program. Each run has a folder of its own, so none knows of another."""

    def __init__(self) -> None:
        (self._program,) = PROGRAMS.glob("claude-code-*/claude")  # npm has installed this platform's alone

    def run(self, base_url: str, token: str, home: Path, *arguments: str) -> Ended:
        """Ask it one thing. Raises subprocess.TimeoutExpired if it does not end, and has then ended it."""
        work = home / "work"
        work.mkdir()
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home / "claude"),
            "ANTHROPIC_BASE_URL": base_url,
            "ANTHROPIC_AUTH_TOKEN": token,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "HTTPS_PROXY": NOWHERE,
            "NO_PROXY": "127.0.0.1",
        }
        ended = subprocess.run(
            [str(self._program), "--print", "hello", *arguments],
            cwd=work,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT_SECONDS,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

"""A root of a test's own, with the machine's programs: what deploy/ and docs/ do to `/etc` and `/opt` is done in there.

bubblewrap makes it. Everything of the machine's is read-only; what a command is to write to, the test binds there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/run", "/opt")


def run(command: Sequence[str], options: Sequence[str] = (), first: str = "", **environ: str) -> str:
    """What a command prints, with these of bubblewrap's options besides; `first` goes before the usual PATH.

    Raises AssertionError if it fails. Whatever it has started ends with it.
    """
    binary = shutil.which("bwrap")
    assert binary is not None, "these tests need bwrap: apt-get install bubblewrap"
    machine = [word for place in (*PROGRAMS, "/etc", sys.base_prefix, sys.prefix) for word in _shown(place)]
    given = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    path = ":".join(filter(None, (first, "/usr/sbin:/usr/bin:/sbin:/bin")))
    done = subprocess.run(
        [
            *(binary, "--die-with-parent", "--new-session", "--unshare-pid", "--tmpfs", "/tmp", *machine),
            *("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm"),
            *(*options, "--", *command),
        ],
        env=given | environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def writable(place: str, folder: Path) -> list[str]:
    """Options that put a folder of the test's at a path, on a way that every user may go."""
    return [*_way_to(place), "--bind", str(folder), place]


def as_root() -> list[str]:
    """Options that make a test's user root in there; none are needed by root itself."""
    return [] if os.geteuid() == 0 else ["--unshare-user", "--uid", "0", "--gid", "0"]


def _shown(place: str) -> list[str]:
    return [*_way_to(place), "--ro-bind-try", place, place]


def _way_to(place: str) -> list[str]:
    return [word for above in reversed(Path(place).parents[:-1]) for word in ("--perms", "0755", "--dir", str(above))]

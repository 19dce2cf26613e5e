"""A program that runs many `gateway tokens` commands at once, each in a process of its own.

    python -m tests.unit.tokens_at_once FILE '[["make", "ann"], ["revoke", "bob"]]'

It prints a JSON list of [status, output] in the commands' order. A program because it forks, which a process with
threads, such as a test's, must not; and because to import the gateway in every process would take the commands apart.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

from gateway.cli import main


def run_at_once(file: str, commands: list[list[str]]) -> list[tuple[int, str]]:
    """Start all, let them go at the same moment, and wait for their ends."""
    waits, goes = os.pipe()
    outputs = [tempfile.TemporaryFile("w+") for _ in commands]  # noqa: SIM115  # closed at this process's end
    children = []
    for command, output in zip(commands, outputs, strict=True):
        child = os.fork()
        if not child:
            os.close(goes)
            os.read(waits, 1)  # until the other end is closed
            os.dup2(output.fileno(), sys.stdout.fileno())
            status = main(["tokens", "--file", file, *command])
            sys.stdout.flush()
            os._exit(status)
        children.append(child)
    os.close(goes)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [
        (status, os.pread(output.fileno(), 10_000, 0).decode())
        for status, output in zip(statuses, outputs, strict=True)
    ]


if __name__ == "__main__":
    print(json.dumps(run_at_once(sys.argv[1], json.loads(sys.argv[2]))))

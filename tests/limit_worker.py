"""A process that enters and settles with many threads, and tells a judge who is inside.

Owns: the words on the judge's pipe. Each is four bytes, so that the kernel keeps it whole: whose word it is, and `+`
for a request that was let in, `-` for one that is about to be settled, `!` for a refusal, `$` for one that was settled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from gateway.config.limit_rules import Limited, Limits
from gateway.limits import link_words, statements
from gateway.limits.counters import MachineCounters
from gateway.limits.link import Link
from gateway.limits.shared_limiter import SharedLimiter
from gateway.protocol.errors import GatewayError, LimitReached

RESEARCH = "research"
PATIENT_SECONDS = 30.0  # a busy machine is no reason to go on without the lock, or the server
PICODOLLARS = 7


class Judge:
    """Reads what workers tell, and knows who is inside. `most` is how many were inside at once."""

    def __init__(self) -> None:
        self._read_fd, self.write_fd = os.pipe()
        self.inside: dict[int, int] = {}
        self.most = self.refused = self.entered = self.settled = 0
        self._lock = threading.Lock()  # guards the numbers
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, number: int, word: str) -> None:
        os.write(self.write_fd, b"%3d" % number + word.encode())

    def close(self) -> None:
        os.close(self.write_fd)
        self._thread.join(10)
        os.close(self._read_fd)

    def _run(self) -> None:
        while said := os.read(self._read_fd, 4):
            number, word = int(said[:3]), chr(said[3])
            with self._lock:
                if word == "+":
                    self.entered += 1
                    self.inside[number] = self.inside.get(number, 0) + 1
                    self.most = max(self.most, sum(self.inside.values()))
                elif word == "-":
                    self.inside[number] -= 1
                elif word == "!":
                    self.refused += 1
                elif word == "$":
                    self.settled += 1
                elif word == "x":
                    self.inside[number] = 0


class Worker:
    """One such process."""

    def __init__(
        self, judge: Judge, number: int, folder: Path, *, limit: int, threads: int, url: str = "", hold_ms: float = 1.0
    ) -> None:
        self._judge = judge
        self._number = number
        words = [judge.write_fd, number, folder, limit, threads, url or "-", hold_ms]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.limit_worker", *map(str, words)],
            stdin=subprocess.PIPE,
            pass_fds=[judge.write_fd],
        )

    def kill(self) -> None:
        """SIGKILL. The judge is told while it is stopped, so that nobody comes in its place before that."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)
        self._judge.say(self._number, "x")
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def stop(self) -> None:
        """Let it settle what runs, and end."""
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            assert self._process.wait(60) == 0


def main(words: Sequence[str]) -> None:
    write_fd, number, folder, limit, threads, url, hold_ms = words
    # A busy machine is late to tell what it runs, and the others must not forget it meanwhile.
    statements.HEARD_SECONDS = PATIENT_SECONDS
    link_words._LASTS_MICROSECONDS = round(PATIENT_SECONDS * 1e6)
    counters = MachineCounters(Path(folder), patience_seconds=PATIENT_SECONDS)
    link = None if url == "-" else Link(url, counters, ask_seconds=PATIENT_SECONDS)
    limiter = SharedLimiter(counters, link)
    limiter.start()
    who = [Limited("group", RESEARCH, Limits(concurrent=int(limit)))]
    is_over = threading.Event()

    def say(word: str) -> None:
        os.write(int(write_fd), b"%3d" % int(number) + word.encode())

    def run() -> None:
        while not is_over.is_set():
            try:
                admitted = limiter.enter(who, costs=True, is_own=False)
            except LimitReached:
                say("!")
                time.sleep(float(hold_ms) / 1000)
                continue
            except GatewayError:
                continue
            say("+")
            time.sleep(float(hold_ms) / 1000)
            say("-")
            admitted.settle(1, PICODOLLARS)
            say("$")

    running = [threading.Thread(target=run) for _ in range(int(threads))]
    for thread in running:
        thread.start()
    sys.stdin.read()
    is_over.set()
    for thread in running:
        thread.join()
    limiter.close()


if __name__ == "__main__":
    main(sys.argv[1:])

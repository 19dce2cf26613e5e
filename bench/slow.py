"""Thousands who take their time, and whether others are served meanwhile: `make bench-slow`.

One worker with default settings. First so many whole answers, each of which takes the upstream 20 s; then clients that
are slow with their heads, with their bodies, and with reading, all at once. Meanwhile `/healthz` is asked, and in the
second part a whole message, one after the other.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

from bench.wording import WHOLE
from tests.harness import GatewayProcess

ANSWERS, ANSWER_SECONDS = 2000, 20.0
SLOW, SLOW_READERS, SLOW_SECONDS = 1000, 100, 15.0  # a reader keeps 8 MB
_BODY = b'{"model":"claude-simulated","max_tokens":8,"messages":[{"role":"user","content":"%b"}]}'
_HEAD = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_LARGE_BYTES = 8 * 1024 * 1024  # more than the kernel's buffers hold for who does not read
_LARGE = b'{"id":"msg_1","type":"message","content":[{"type":"text","text":"%b"}]}' % (b"x" * _LARGE_BYTES)


def request(text: bytes = b"hi") -> bytes:
    """A whole message."""
    body = _BODY % text
    return _HEAD % len(body) + body


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What is asked says how it is answered: late, largely, or at once."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            body = await reader.readexactly(length)
            if b'"late"' in body:
                await asyncio.sleep(ANSWER_SECONDS)
            large = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_LARGE)
            writer.write(large + _LARGE if b'"large"' in body else WHOLE)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _serve(told: Connection) -> None:
    async def run() -> None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=4096)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def status_of(port: int, asked: bytes) -> int:
    """Ask, read all of the answer, and return its status; 0 if there is none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(asked)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(length)
        return int(head[9:12])
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0
    finally:
        writer.close()


class Probe:
    """Asks for something again and again, and keeps how long each answer took, in milliseconds."""

    def __init__(self, port: int, asked: bytes) -> None:
        self.milliseconds: list[float] = []
        self.failed = 0
        self._port, self._asked = port, asked
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            began_at = time.perf_counter()
            self.failed += await status_of(self._port, self._asked) != 200
            self.milliseconds.append((time.perf_counter() - began_at) * 1000)
            await asyncio.sleep(0.02)

    def figures(self) -> str:
        """The percentiles so far."""
        self._task.cancel()
        cuts = statistics.quantiles(self.milliseconds, n=100)
        count = len(self.milliseconds)
        return f"{count} asked, {self.failed} failed, p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms"


async def late_answers(port: int) -> None:
    """Many whole answers, each of which takes its time."""
    health = Probe(port, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    began_at = time.perf_counter()
    asking: list[Awaitable[int]] = []
    for _ in range(ANSWERS):
        asking.append(asyncio.ensure_future(status_of(port, request(b"late"))))
        await asyncio.sleep(0.002)
    statuses = await asyncio.gather(*asking)
    seconds = time.perf_counter() - began_at
    print(f"{ANSWERS} answers of {ANSWER_SECONDS:.0f} s: {statuses.count(200)} came, in {seconds:.1f} s in all")
    print(f"/healthz meanwhile: {health.figures()}")


async def slow_clients(port: int) -> None:
    """Many who are slow with each of what a client can be slow with."""
    asked = request(b"large")
    begun: dict[str, Callable[[asyncio.StreamWriter], None]] = {
        "heads": lambda writer: writer.write(asked[:20]),
        "bodies": lambda writer: writer.write(asked[:-10]),
        "readers": lambda writer: writer.write(asked),
    }
    writers = []
    for what, begin in begun.items():
        for _ in range(SLOW_READERS if what == "readers" else SLOW):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            begin(writer)
            writers.append(writer)
            await asyncio.sleep(0.001)
    probes = {
        "/healthz": Probe(port, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        "a whole message": Probe(port, request()),
    }
    await asyncio.sleep(SLOW_SECONDS)
    print(f"{SLOW} slow heads, as many slow bodies, {SLOW_READERS} slow readers:")
    for name, probe in probes.items():
        print(f"{name} meanwhile: {probe.figures()}")
    for writer in writers:
        writer.transport.abort()


def main() -> None:
    """Measure both, each with a fresh gateway."""
    ours, theirs = multiprocessing.Pipe()
    upstream = multiprocessing.Process(target=_serve, args=(theirs,), daemon=True)
    upstream.start()
    upstream_port: int = ours.recv()
    try:
        for part in (late_answers, slow_clients):
            settings = {
                "workers": "1",
                "threads": None,
                "max_requests": None,
                "head_timeout_seconds": "60",
                "drain_seconds": "1",
            }
            gateway = GatewayProcess(f"http://127.0.0.1:{upstream_port}", ["sk-a"], **settings)
            try:
                asyncio.run(part(gateway.port))
            finally:
                gateway.stop()
    finally:
        upstream.terminate()


if __name__ == "__main__":
    main()

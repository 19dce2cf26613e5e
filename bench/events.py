"""What an event of a stream costs the gateway: `make bench-events`.

In one process, without gunicorn's loop: so many streams are open through the application, the poller and real sockets.
In each round the upstream sends every stream one event, and the poller passes it on. Told are an event's time, that
of sending it and of reading it at its end included, and its instructions, as valgrind counts them.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

from gunicorn.config import Config

from bench.callgrind import of_one
from gateway.config.loader import load_settings
from gateway.runtime.client_socket import ClientSocket
from gateway.server.answer import Answer
from gateway.server.parking import Parking
from gateway.server.server_response import PromptResponse
from gateway.server.serving import ServingWorker
from gateway.web.app import create_app
from gateway.web.service import Gateway

BODY = b'{"model":"claude-opus-5","max_tokens":8,"stream":true,"messages":[{"role":"user","content":"hi"}]}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_1\r\ntransfer-encoding: chunked\r\n\r\n"
START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"claude-opus-5","content":[],"usage":{"input_tokens":8,"output_tokens":1}}}\n\n'
)
DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word after word "}}\n\n'
)

COUNTED_STREAMS = 20


def chunk(data: bytes) -> bytes:
    """A chunk as it goes over the wire."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Worker(ServingWorker):
    """As much of a worker as goes on with parked responses."""

    def __init__(self) -> None:
        self.alive = True


class Stream:
    """One open stream: the client's end and the upstream's."""

    def __init__(self, application: Any, worker: Worker, listener: socket.socket) -> None:
        accepted, self.client = socket.socketpair()
        ours = ClientSocket.adopt(accepted)
        ours.setblocking(False)
        request = SimpleNamespace(method="POST", version=(1, 1), should_close=lambda: False)
        connection = SimpleNamespace(sock=ours, client=("127.0.0.1", 1))
        answer = Answer(cast(Any, connection), request, PromptResponse(request, ours, Config()), environ(ours))
        answer.begin(application)
        worker._parking.park(answer)
        while worker._parking._new or worker._parking._due:
            worker._parking._round()
        self.upstream = listener.accept()[0]
        self.upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def environ(client: ClientSocket) -> dict[str, Any]:
    """A request as the worker hands it over."""
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/messages",
        "RAW_URI": "/v1/messages",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(BODY)),
        "HTTP_HOST": "localhost",
        "HTTP_ANTHROPIC_VERSION": "2023-06-01",
        "gunicorn.socket": client,
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(BODY),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.version": (1, 0),
    }


class Place:
    """A gateway with so many open streams."""

    def __init__(self, count: int) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        settings = {"GATEWAY_API_KEYS": "sk-a", "HOME": "/nonexistent", "GATEWAY_MAX_REQUESTS": str(count)}
        settings["GATEWAY_UPSTREAM_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        gateway = Gateway(load_settings(settings, lambda _: b""))
        gateway.lifecycle.serve()
        application = create_app(gateway).extensions["pausing"]
        pool = ThreadPoolExecutor(1)
        worker = Worker()
        self._parking = worker._parking = Parking(
            worker.go_on, lambda work: pool.submit(work).result(), gateway.lifecycle
        )
        self._streams = [Stream(application, worker, listener) for _ in range(count)]
        self.play(HEAD + chunk(START))

    def play(self, data: bytes) -> None:
        """Send every stream this, and wait until it is at its end."""
        for stream in self._streams:
            stream.upstream.send(data)
        for stream in self._streams:
            while True:
                with contextlib.suppress(BlockingIOError):
                    if stream.client.recv(65536, socket.MSG_DONTWAIT):
                        break
                self._parking._round()


def main() -> None:
    """Measure, or be what is measured."""
    if len(sys.argv) > 1:
        place = Place(COUNTED_STREAMS)
        for _ in range(int(sys.argv[1])):
            place.play(chunk(DELTA))
        return
    for count in (100, 1000):
        place, rounds = Place(count), 30_000 // count
        before = os.times()
        for _ in range(rounds):
            place.play(chunk(DELTA))
        user, system = (
            (now - then) / count / rounds * 1e6 for now, then in zip(os.times()[:2], before[:2], strict=True)
        )
        print(f"{count} streams: {user:.1f} us of the program and {system:.1f} us of the kernel an event")
    one_round = of_one(lambda rounds: [sys.executable, "-m", "bench.events", str(rounds)], 20, 120)
    print(f"{one_round / COUNTED_STREAMS:.0f} instructions of the program an event")


if __name__ == "__main__":
    main()

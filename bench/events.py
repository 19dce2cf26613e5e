"""What an event of a stream costs the gateway, counted: `python -m bench.events STREAMS ROUNDS`.

In this process, without gunicorn's loop: so many streams are open through the application, the poller and real sockets;
in each round the upstream sends every stream one event, and the poller passes it on. For counting instructions under
valgrind (`--tool=callgrind`), and for looking where they go. With `TIMED=1` it prints the time of an event instead, what
this file itself needs for sending and reading included.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

from gunicorn.config import Config

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


def main() -> None:
    """Open the streams, and send so many events to each."""
    count, rounds = int(sys.argv[1]), int(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = {"GATEWAY_API_KEYS": "sk-a", "HOME": "/nonexistent", "GATEWAY_UPSTREAM_URL": url}
    settings["GATEWAY_MAX_REQUESTS"] = str(count)
    gateway = Gateway(load_settings(settings, lambda _: b""))
    gateway.lifecycle.serve()
    application = create_app(gateway).extensions["pausing"]
    worker = Worker()
    pool = ThreadPoolExecutor(1)
    worker._parking = parking = Parking(worker.go_on, lambda work: pool.submit(work).result(), gateway.lifecycle)
    if os.environ.get("TRACED"):
        tracemalloc.start()
    streams = [Stream(application, worker, listener) for _ in range(count)]
    event = chunk(DELTA)

    def play(data: bytes) -> None:
        for stream in streams:
            stream.upstream.send(data)
        for stream in streams:
            while True:
                with contextlib.suppress(BlockingIOError):
                    if stream.client.recv(65536, socket.MSG_DONTWAIT):
                        break
                parking._round()

    play(HEAD + chunk(START))
    if os.environ.get("TRACED"):
        print(tracemalloc.get_traced_memory()[0] / count)
        for line in tracemalloc.take_snapshot().statistics("lineno")[:45]:
            print(line.size // count, line.count // count, str(line.traceback)[-70:])
        return
    before = os.times()
    for _ in range(rounds):
        play(event)
    if os.environ.get("TIMED"):
        after = os.times()
        user_us, system_us = ((now - then) / count / rounds * 1e6 for now, then in zip(after[:2], before[:2], strict=True))
        print(f"{user_us:.1f} us of the program's and {system_us:.1f} us of the kernel's an event")


if __name__ == "__main__":
    main()

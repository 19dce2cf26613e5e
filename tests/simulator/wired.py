"""What the simulator's tests share: plans taken apart, and a client that speaks raw HTTP."""

from __future__ import annotations

import json
import socket
import ssl
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gateway.simulator import SeenRequest, Simulator
from gateway.simulator.charge import Charge
from gateway.simulator.playbook import parse_script
from gateway.simulator.steps import Send, Step

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Wired:
    """An answer as it stands on the wire, taken apart."""

    status: int
    headers: list[tuple[str, str]]
    raw_body: bytes

    def header(self, name: str) -> str:
        return next((value for known, value in self.headers if known == name), "")

    @property
    def body(self) -> bytes:
        """Out of its chunks and its content coding; as much as came."""
        is_chunked = self.header("transfer-encoding") == "chunked"
        body = dechunk(self.raw_body)[0] if is_chunked else self.raw_body
        bits = {"gzip": 31, "deflate": 15}.get(self.header("content-encoding"))
        return zlib.decompressobj(wbits=bits).decompress(body) if bits else body

    @property
    def is_complete(self) -> bool:
        """Whether the framing says that the body has ended."""
        if self.header("transfer-encoding") == "chunked":
            return dechunk(self.raw_body)[1]
        return len(self.raw_body) == int(self.header("content-length") or -1)

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[tuple[str, Any]]:
        """Name and data of every whole event."""
        text = self.body.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        return [event for block in text.split("\n\n")[:-1] if (event := _event(block))]


def _event(block: str) -> tuple[str, Any] | None:
    fields = [line.partition(":") for line in block.split("\n") if not line.startswith(":")]
    data = "\n".join(value.removeprefix(" ") for name, _, value in fields if name == "data")
    names = [value.removeprefix(" ") for name, _, value in fields if name == "event"]
    return (names[-1], json.loads(data)) if data else None


def dechunk(raw: bytes) -> tuple[bytes, bool]:
    """The data of the whole chunks, and whether the last chunk was among them."""
    body = b""
    while b"\r\n" in raw:
        size, _, raw = raw.partition(b"\r\n")
        try:
            length = int(size, 16)
        except ValueError:
            return body, False
        if length == 0:
            return body, raw == b"\r\n"
        body += raw[:length]
        if len(raw) < length + 2:
            return body, False
        raw = raw[length + 2 :]
    return body, False


def answer_of(raw: bytes) -> Wired:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    return Wired(int(first.split(" ")[1]), headers, body)


def request_of(
    *,
    stream: bool = True,
    method: str = "POST",
    path: str = "/v1/messages",
    query: str = "",
    version: str = "HTTP/1.1",
    **fields: Any,
) -> SeenRequest:
    body = json.dumps({"model": "claude-x", "stream": stream, **fields}).encode()
    body = body if method == "POST" else b""
    return SeenRequest(7, "sk-a", method, path, query, [], body, 0.0, 1_800_000_000.0, version)


def steps_of(text: str, request: SeenRequest | None = None) -> list[Step]:
    """What it does on the wire."""
    return [step for step in _plan(text, request) if not isinstance(step, Charge)]


def charges_of(text: str, request: SeenRequest | None = None) -> list[Charge]:
    """What it charges, one after the other."""
    return [step for step in _plan(text, request) if isinstance(step, Charge)]


def _plan(text: str, request: SeenRequest | None) -> Iterator[Step]:
    [(behaviour, _)] = parse_script(text).steps
    return behaviour.plan(request or request_of())


def plan_of(text: str, request: SeenRequest | None = None) -> tuple[Wired, list[Step]]:
    """The answer that a behaviour plans, and every step that is no send."""
    steps = steps_of(text, request)
    sent = b"".join(step.data for step in steps if isinstance(step, Send))
    return answer_of(sent), [step for step in steps if not isinstance(step, Send)]


class Client:
    """A raw connection to a simulator."""

    def __init__(self, simulator: Simulator) -> None:
        host, _, port = simulator.url.partition("://")[2].rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS)
        if simulator.ca_file:
            context = ssl.create_default_context(cafile=simulator.ca_file)
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost", suppress_ragged_eofs=False)

    def ask(
        self,
        key: str = "sk-a",
        *,
        stream: bool = False,
        path: str = "/v1/messages",
        method: str = "POST",
        extra: str = "",
        body: bytes | None = None,
    ) -> None:
        if body is None:
            body = json.dumps({"model": "claude-x", "stream": stream}).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: simulator\r\nX-Api-Key: {key}\r\n{extra}"
        self.socket.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def read_answer(self) -> Wired:
        """One whole answer on a connection that stays open."""
        raw = b""
        while b"\r\n\r\n" not in raw or not answer_of(raw).is_complete:
            raw += self.read_some()
        return answer_of(raw)

    def read_some(self) -> bytes:
        data = self.socket.recv(65536)
        assert data, "closed too early"
        return data

    def read_to_end(self) -> tuple[bytes, str]:
        """All that comes until the peer ends, and how it ended: `closed`, `ragged` or `reset`."""
        raw = b""
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return raw, "reset"
            except ssl.SSLError:
                return raw, "ragged"
            if not data:
                return raw, "closed"
            raw += data

    def close(self) -> None:
        self.socket.close()

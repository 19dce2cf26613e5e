"""Calls to the upstream.

Owns: turning a client's request into the upstream's, with a credential: here alone a key is revealed, or what a client
brought. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import cast

from requests import PreparedRequest
from requests.exceptions import RequestException
from requests.structures import CaseInsensitiveDict

from gateway.access.credential import AuthHeader
from gateway.protocol.headers import Headers
from gateway.runtime.pause import Pause, complete
from gateway.upstream.adapter import SocketAdapter
from gateway.upstream.dialer import Route
from gateway.upstream.reply import Reply, translation_of
from gateway.upstream.watch import Watch


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of the upstream, whichever credential pays. `target` is a path with its query string.

    `may_stream` tells calls whose answer may be a stream of events from those that have only whole ones;
    `is_looked_into`, those of which every event has to be decoded.
    """

    method: str
    target: str
    headers: Headers = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    may_stream: bool = False
    is_looked_into: bool = False


class Upstream:
    """One Anthropic-compatible upstream, over kept connections.

    `read_idle_seconds` bounds the upstream's silence, before the head as after it.
    """

    def __init__(self, route: Route, read_idle_seconds: float) -> None:
        self._base_url = route.url
        self._read_idle_seconds = read_idle_seconds
        self._adapter = SocketAdapter(route)

    def send(self, call: Call, credentials: Sequence[AuthHeader], watch: Watch) -> Reply:
        """Send a call and read the answer's head. Raises UpstreamError, ClientGone, Stopping."""
        return complete(self.exchange(call, credentials, watch))

    def exchange(self, call: Call, credentials: Sequence[AuthHeader], watch: Watch) -> Generator[Pause, None, Reply]:
        """As `send`, but yields a Pause wherever that would wait."""
        request = self._prepared(call, credentials)
        try:
            response = yield from self._adapter.exchange(request, self._read_idle_seconds, watch)
        except RequestException as error:
            raise translation_of(error) from error
        return Reply(response, watch, self._read_idle_seconds)

    def _prepared(self, call: Call, credentials: Sequence[AuthHeader]) -> PreparedRequest:
        headers = dict(call.headers)
        headers["accept-encoding"] = "identity"
        for credential in credentials:
            headers[credential.name] = credential.scheme + credential.secret.reveal()
        request = PreparedRequest()
        request.method = call.method
        request.url = self._base_url + call.target
        request.headers = cast("CaseInsensitiveDict[str]", headers)  # lower-case names in a plain dict
        request.body = call.body
        return request

    def drop_stale(self) -> None:
        """Close connections that have been idle for too long."""
        self._adapter.drop_stale()

    def close(self) -> None:
        """Close the idle connections; exchanges under way end undisturbed."""
        self._adapter.close()

    def __repr__(self) -> str:
        return f"<Upstream {self._base_url}>"

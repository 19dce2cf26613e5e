"""Reading requests' heads: gunicorn's own parser, which is not asked twice about the same line.

Owns: the parser of a connection, and what a worker remembers of the heads it has read. A parser belongs to
whoever has the connection, `KnownLines` to all threads.

Nearly every line of a head has been there before, from this client or another. gunicorn parses and checks each once;
found again, it means the same. A head in which anything is wrong, or not one line a field, gunicorn reads as a whole:
what is accepted, and what is refused with which words, stays its decision alone.

What it buys: a head of Claude Code's 20 lines takes 195,000 instructions instead of 711,000, and 27 us instead of 69
(bench/RESULTS.md, "What the shortcuts buy").
"""

from __future__ import annotations

from functools import partial
from typing import Any

from gunicorn.config import Config
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.http.message import RFC9110_5_3_SINGLETON_FIELDS, HeaderPolicy, Request
from gunicorn.http.parser import RequestParser

Header = tuple[str, str]

_MOST_LINES = 1024
_LONGEST_LINE_BYTES = 256

# Fields that repeat and never hold a secret. gunicorn's policy looks at none of them, but for the repetition of some.
_REMEMBERED = frozenset(
    {
        *("HOST", "CONNECTION", "USER-AGENT", "ACCEPT", "ACCEPT-ENCODING", "ACCEPT-LANGUAGE", "CONTENT-TYPE"),
        *("ANTHROPIC-VERSION", "ANTHROPIC-BETA", "ANTHROPIC-DANGEROUS-DIRECT-BROWSER-ACCESS", "X-APP"),
        *("X-STAINLESS-ARCH", "X-STAINLESS-ASYNC", "X-STAINLESS-HELPER-METHOD", "X-STAINLESS-LANG", "X-STAINLESS-OS"),
        *("X-STAINLESS-PACKAGE-VERSION", "X-STAINLESS-RETRY-COUNT", "X-STAINLESS-RUNTIME"),
        *("X-STAINLESS-RUNTIME-VERSION", "X-STAINLESS-TIMEOUT"),
    }
)


def read_once(config: Config) -> None:
    """Have a configuration that changes no more answer by plain attributes.

    gunicorn looks every value up in its settings each time, some twenty for a request. What is a property or method of
    Config stays so.
    """
    vars(config).update({name: setting.get() for name, setting in config.settings.items()})


class KnownLines:
    """Lines of heads, as bytes, and what gunicorn made of them; forgotten all at once when they become too many.

    Of one configuration, as that decides what gunicorn accepts. Any thread: every step is one of a dict's own, and a
    race forgets or remembers a line too many.
    """

    def __init__(self, config: Config) -> None:
        self._remembered = _REMEMBERED.difference(config.secure_scheme_headers)
        self.headers: dict[bytes, Header] = {}
        self.request_lines: dict[bytes, tuple[Any, ...]] = {}

    def remember_header(self, line: bytes, header: Header) -> None:
        """Keep an accepted header line, if it is of those that repeat."""
        if header[0] in self._remembered:
            _keep(self.headers, line, header)

    def remember_request_line(self, line: bytes, parts: tuple[Any, ...]) -> None:
        """Keep an accepted request line; not with a query, which may be anything."""
        if b"?" not in line:
            _keep(self.request_lines, line, parts)


def _keep(known: dict[bytes, Any], line: bytes, meaning: Any) -> None:
    if len(line) <= _LONGEST_LINE_BYTES:
        if len(known) >= _MOST_LINES:
            known.clear()
        known[line] = meaning


class KnownRequest(Request):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's Request, with the lines that are known already not parsed again."""

    method: str
    uri: str
    path: str
    query: str
    fragment: str
    version: tuple[int, int]

    def __init__(self, known: KnownLines, trust: Any, *arguments: Any) -> None:
        self._known = known
        self._trust = trust
        super().__init__(*arguments)  # parses
        self._ends_connection: bool = super().should_close()

    def should_close(self) -> bool:
        """Whether the connection ends with this request; asked several times for each."""
        return self.must_close or self._ends_connection

    def parse_request_line(self, line_bytes: bytes) -> None:
        """Set what the request line says; raise as gunicorn does."""
        known = self._known.request_lines.get(line_bytes)
        if known is None:
            super().parse_request_line(line_bytes)
            known = (self.method, self.uri, self.path, self.query, self.fragment, self.version)
            self._known.remember_request_line(line_bytes, known)
        else:
            self.method, self.uri, self.path, self.query, self.fragment, self.version = known

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> list[Header]:
        """The fields of a head, or of trailers; raise as gunicorn does."""
        headers = None if from_trailer else self._plain_headers(data)
        whole: list[Header] = super().parse_headers(data, from_trailer) if headers is None else headers
        return whole

    def _plain_headers(self, data: bytes) -> list[Header] | None:
        """The fields, where every line stands for itself and nothing is wrong with any; else None."""
        lines = data.split(b"\r\n")
        if len(lines) > self.limit_request_fields:
            return None
        known = [self._known.headers.get(line) for line in lines]
        parsed = self._parse_new([line for line, header in zip(lines, known, strict=True) if header is None])
        if parsed is None:
            return None
        new = iter(parsed)
        headers = [header or next(new) for header in known]
        names = [name for name, _ in headers]
        if any(names.count(name) > 1 for name in RFC9110_5_3_SINGLETON_FIELDS):
            return None
        return headers

    def _parse_new(self, lines: list[bytes]) -> list[Header] | None:
        """What lines come to that were not known; None where gunicorn objects, drops a field or joins a folded one."""
        if not lines:
            return []
        try:
            headers: list[Header] = super().parse_headers(b"\r\n".join(lines))
        except ParseException:
            return None  # it need not be what is wrong first: a known line can be, beside others
        if len(headers) != len(lines):
            return None
        for line, header in zip(lines, headers, strict=True):
            self._known.remember_header(line, header)
        return headers

    def _peer_trusted_for_forwarded(self) -> Any:
        return self._trust


class HeadParser(RequestParser):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's parser of a connection's requests, which makes them of known lines."""

    def __init__(self, known: KnownLines, config: Config, client: Any, address: Any) -> None:
        super().__init__(config, client, address)
        policy = HeaderPolicy()
        policy.cfg, policy.peer_addr = config, address
        self.mesg_class = partial(KnownRequest, known, policy._peer_trusted_for_forwarded())

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Whether the body is read to its end, by this call at the latest: gunicorn calls it twice for each.

        A thread that had to wait for its turn must not miss a deadline when nothing is left to read.
        """
        body = self.mesg.body if self.mesg else None
        if body is not None and isinstance(body.reader, LengthReader) and not body.reader.length and not body.failed:
            return True
        return bool(super().finish_body(deadline, max_bytes))

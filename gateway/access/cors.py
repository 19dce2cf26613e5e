"""What web pages of other origins may do here, as their browsers are told.

Owns: the answers of the CORS protocol (https://fetch.spec.whatwg.org/#http-cors-protocol). Pure; any thread. It lets
nobody in: a page needs a token as everybody does. A browser's own credentials, a cookie or the password of the status
page, are never allowed, so what a page may ask with is what its user has given it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gateway.protocol.headers import Headers

ANY_ORIGIN = "*"

_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_METHODS = "GET, HEAD, POST"
# How long a browser may remember a preflight's answer.
_REMEMBERED_SECONDS = 600
# Older browsers do not know the `*`.
_EXPOSED = "request-id, retry-after, retry-after-ms, x-should-retry, anthropic-organization-id, *"
# Not for pages: they say whom the keys belong to and how much is asked.
_OPERATORS_PATHS = ("/metrics", "/status")


def is_for_pages(path: str) -> bool:
    """Whether other origins' pages may have the answers of a path at all: of the operators' they may not."""
    return not path.startswith(_OPERATORS_PATHS)


def answer_headers(origins: Sequence[str], origin: str | None) -> Headers:
    """What every answer says, errors included, to a request with that `Origin`."""
    if ANY_ORIGIN in origins:
        return [("access-control-allow-origin", ANY_ORIGIN), ("access-control-expose-headers", _EXPOSED)]
    vary = ("vary", "Origin")  # or a cache would give one origin's answer to another
    if origin is None or origin not in origins:
        return [vary]
    return [("access-control-allow-origin", origin), ("access-control-expose-headers", _EXPOSED), vary]


def unread_answer_headers(origins: Sequence[str]) -> Headers:
    """The same for a request whose head could not be read, as far as that goes: where only one answer is possible."""
    return answer_headers(origins, origins[0]) if len(origins) == 1 else []


def preflight_headers(origins: Sequence[str], headers: Mapping[str, str]) -> Headers | None:
    """What the answer to a preflight says besides; None if an OPTIONS request with these headers is none of an allowed
    origin. `headers` have lower-case names.

    Any header may be sent: what is not for the upstream stops here in any case.
    """
    origin = headers.get("origin")
    if "access-control-request-method" not in headers or origin is None:
        return None
    if origin not in origins and ANY_ORIGIN not in origins:
        return None
    answer = [
        ("access-control-allow-methods", _METHODS),
        ("access-control-max-age", str(_REMEMBERED_SECONDS)),
        ("vary", "Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]
    wanted = headers.get("access-control-request-headers", "").strip()
    if _NAMES.fullmatch(wanted):
        answer.append(("access-control-allow-headers", wanted))
    # A page of the internet that asks a private address, https://wicg.github.io/private-network-access/.
    if headers.get("access-control-request-private-network") == "true":
        answer.append(("access-control-allow-private-network", "true"))
    return answer

"""Where a request comes from, by the word of the proxy in front of the gateway.

Owns: whose word is taken, and in which form. Pure: values in, an Origin out; any thread. A client can write any
header, so what stands in them counts only if a trusted proxy sent the request; it is used in the log, never to let
anybody in.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from gateway.protocol.headers import REQUEST_ID_HEADER

_ADDRESS_HEADER = "x-forwarded-for"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_SCOPE = re.compile(r"[A-Za-z0-9._-]{1,15}")  # `ipaddress` takes anything; an interface has a name, or a number

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Origin:
    """The client's address, and the id that the proxy's log has for the request (None if no proxy gave one)."""

    address: str
    request_id: str | None


def origin_of(peer: str, headers: Mapping[str, str], trusted: Sequence[Network]) -> Origin:
    """Whose request came from `peer`, an address or, from a Unix socket, an empty text; `headers` are in lower case.

    Of several forwarded addresses the last counts: that one the proxy itself has seen.
    """
    if peer and not _is_among(peer, trusted):
        return Origin(peer, None)
    told = headers.get(_ADDRESS_HEADER, "").rpartition(",")[2].strip()
    given_id = headers.get(REQUEST_ID_HEADER, "")
    return Origin(
        told if _address(told) is not None else peer or "a socket",
        given_id if _REQUEST_ID.fullmatch(given_id) else None,
    )


def _is_among(peer: str, trusted: Sequence[Network]) -> bool:
    address = _address(peer)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # a socket that listens on both kinds writes them so
    return address is not None and any(address in network for network in trusted)


@lru_cache(maxsize=1024)  # reading an address takes longer than comparing it, and the same ones come again
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    scope = getattr(address, "scope_id", None)
    return address if scope is None or _SCOPE.fullmatch(scope) else None

"""Paths as clients write them, and what a client meant that wrote one wrongly.

Owns: which spelling of a path is served: its own alone. What sits in front of the gateway and closes a path to the
world (`/metrics`, say) closes one spelling of it; another that is served all the same would be a way around. Pure; any
thread.
"""

from __future__ import annotations

import re

_ABSOLUTE = re.compile(r"https?://[^/?#]*(?=/)", re.IGNORECASE)
_API = r"/v1/(?:messages(?:/count_tokens)?|models(?:/[^/]+)?)"
_MEANT = re.compile(rf"(?P<surplus>.*?)(?P<path>{_API})")
_WITHOUT_V1 = re.compile(r"/messages(?:/count_tokens)?|/models(?:/[^/]+)?")


def written_path(target: str) -> str:
    """The path of a request's target, as it came: nothing is decoded or resolved.

    A target may name the server, too (RFC 9112 section 3.2.2).
    """
    path = target.partition("?")[0]
    return path if path.startswith("/") else _ABSOLUTE.sub("", path, count=1)


def advice(path: str) -> str | None:
    """What is to be changed in the base URL of a client that asks for this path, which is not served; else None.

    Clients put the API's paths behind a base URL. Some want it to end in `/v1`, most do not, and none says so when it
    gets a 404: Claude Code then blames the model.
    """
    meant = _MEANT.fullmatch(re.sub("/+", "/", path).rstrip("/"))
    if meant is not None:
        surplus, right = meant["surplus"], meant["path"]
        if surplus:
            return f"the path is {right}: drop {surplus} from the end of the base URL"
        if path != right:
            return f"the path is {right}: drop the slash too many, at the end of the base URL or of the path"
    if path.startswith("/v1/v1/"):
        return "the path begins with /v1 twice: drop /v1 from the end of the base URL"
    if _WITHOUT_V1.fullmatch(path):
        return f"the path is /v1{path}: add /v1 to the base URL"
    return None

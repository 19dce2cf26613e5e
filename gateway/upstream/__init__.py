"""The upstream: connections to it, exchanges over them, and answers being read.

`client.Upstream` is what the rest of the gateway sees; below it `adapter` speaks requests' transport interface
over the sockets of `connections`, which `dialer` has connected.
"""

from gateway.upstream.client import Call, Upstream
from gateway.upstream.reply import Reply

__all__ = ["Call", "Reply", "Upstream"]

"""A certificate authority and a certificate for this machine, made anew at each start."""

import ssl
from pathlib import Path

_NAMES = ("localhost", "127.0.0.1", "::1")


class TlsUnavailableError(RuntimeError):
    """trustme is not installed."""


def server_context(ca_file: Path, host: str) -> ssl.SSLContext:
    """A context for serving as this machine; writes the authority's certificate to `ca_file`.

    Raises: TlsUnavailableError, OSError.
    """
    try:
        import trustme
    except ImportError as error:
        raise TlsUnavailableError("TLS needs the package trustme: pip install 'messages-gateway[simulate]'") from error
    authority = trustme.CA()
    certificate = authority.issue_cert(*_NAMES, *([] if host in _NAMES else [host]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    ca_file.parent.mkdir(parents=True, exist_ok=True)
    authority.cert_pem.write_to_path(str(ca_file))
    return context

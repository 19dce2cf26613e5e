"""Messages Gateway: a self-hosted gateway for the Anthropic Messages API."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask

try:
    __version__ = version("messages-gateway")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0.0.0"


def create_app(*arguments: Any, **options: Any) -> Flask:
    """The WSGI application, for `gunicorn -c gunicorn.conf.py 'gateway:create_app()'`; see `gateway.web.app`."""
    from gateway.web.app import create_app as create

    return create(*arguments, **options)

"""The gateway's application, which cannot be built while the file that FAILING_FILE names is there."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from flask import Flask

import gateway

BUILT = "the application is built"


def create_app() -> Flask:
    """Fail at the end, when all threads of a start run."""
    app = gateway.create_app()
    if Path(os.environ["FAILING_FILE"]).exists():
        raise RuntimeError("the file is there")
    logging.getLogger(__name__).warning(BUILT)
    return app

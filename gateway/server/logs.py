"""Where the log's lines go, and which there are: the gateway's own, the server's, other libraries'.

Owns: the loggers' set-up, for a master and the workers it forks. Everything goes to standard error, the
access log's lines too: one a request, from a logger of its own, so that `gateway` itself stays quiet while all is well.
"""

from __future__ import annotations

import logging
import logging.config
import threading
import time
from typing import Any

from gunicorn.glogging import Logger

from gateway.config.settings import Settings
from gateway.telemetry.log_format import JsonFormatter, TextFormatter

log = logging.getLogger("gateway.logs")

ACCESS_LOGGER = "gateway.access"
_EXPORTER_QUIET_SECONDS = 60.0


class Discretion(logging.Filter):
    """Keeps gunicorn from quoting what clients sent: a head that breaks off holds credentials as any other does."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace parser errors by their names; every record passes."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                type(arg).__name__ if type(arg).__module__ == "gunicorn.http.errors" else arg for arg in record.args
            )
        return True


class Sparing(logging.Filter):
    """Lets one record pass, and then none for a minute: a collector that is down says so with every batch."""

    def __init__(self, quiet_seconds: float = _EXPORTER_QUIET_SECONDS) -> None:
        super().__init__()
        self._quiet_seconds = quiet_seconds
        self._quiet_until_at = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes. Handlers call this one thread at a time or not; a line too many does no harm."""
        now = time.monotonic()
        if now < self._quiet_until_at:
            return False
        self._quiet_until_at = now + self._quiet_seconds
        return True


class TextLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's logger in its own form, wherever the command line sends its lines, but made safe."""

    def setup(self, cfg: Any) -> None:
        """Set up as gunicorn does, but for the form."""
        super().setup(cfg)
        self._give(self.error_log, TextFormatter(self.error_fmt, self.datefmt))
        self._give(self.access_log, TextFormatter(self.access_fmt))

    def _give(self, log: logging.Logger, form: logging.Formatter) -> None:
        for handler in log.handlers:
            handler.setFormatter(form)


class JsonLogger(TextLogger):
    """gunicorn's logger with JSON lines."""

    def _give(self, log: logging.Logger, form: logging.Formatter) -> None:
        super()._give(log, JsonFormatter())


def server_logger(settings: Settings) -> type[TextLogger]:
    """The class of gunicorn's logger."""
    return JsonLogger if settings.log_format == "json" else TextLogger


def _thread_ended(failed: threading.ExceptHookArgs) -> None:
    """What nobody caught in a thread is a record as any other; Python itself would print it as it is."""
    if failed.exc_type is SystemExit:
        return
    name = failed.thread.name if failed.thread is not None else "that is gone"
    log.error(
        "the thread %s ended by an exception, and what it did is not done any more", name, exc_info=failed.exc_value
    )


def configure(settings: Settings) -> None:
    """Log to standard error in the form that is set; gunicorn's own lines quote no request.

    Tracing's libraries are heard where they fail to deliver, and there sparingly; elsewhere they may quote a client's
    header or the collector's credentials, and are not heard at all.
    """
    logging.getLogger("gunicorn.error").addFilter(Discretion())
    threading.excepthook = _thread_ended
    logging.captureWarnings(True)
    own = {"handlers": ["stderr"], "propagate": False}
    exporter = {"level": "WARNING", "handlers": ["exporter"], "propagate": False}
    form = (
        "gateway.telemetry.log_format.JsonFormatter"
        if settings.log_format == "json"
        else "gateway.telemetry.log_format.TextFormatter"
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": form}},
            "filters": {"sparing": {"()": Sparing}},
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": "line"},
                "others": {"class": "logging.StreamHandler", "formatter": "line", "level": "WARNING"},
                "exporter": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["sparing"]},
            },
            "root": {"handlers": ["others"]},
            "loggers": {
                "gateway": own | {"level": settings.log_level.upper()},
                ACCESS_LOGGER: own | {"level": "INFO" if settings.has_access_log else "CRITICAL"},
                "opentelemetry": {"level": "CRITICAL"},
                "opentelemetry.exporter": exporter,
                "opentelemetry.sdk": exporter,
            },
        }
    )

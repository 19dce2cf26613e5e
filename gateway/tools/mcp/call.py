"""A call under way, between the request that waits for it and the loop that runs it.

Owns: the descriptor and the one outcome of a call. Both threads touch it. Whoever is first settles a call:
its result, its time limit, or the request that closes it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from gateway.protocol.outcomes import ToolOutcome
from gateway.tools.tool_results import UNREADABLE, text_content
from gateway.tools.toolbox import ToolResult

log = logging.getLogger(__name__)

_CANCELLED = "The call was cancelled."


def failed(outcome: ToolOutcome, told: str) -> Callable[[], ToolResult]:
    """How a call ends without a result of its tool's: with these words for the model."""
    return lambda: ToolResult(outcome, text_content(told))


class Call:
    """Implements `toolbox.ToolCall`. `cancel` is called, from any thread, if it is closed before it has ended."""

    def __init__(self, cancel: Callable[[Call], None]) -> None:
        self._cancel = cancel
        self._lock = threading.Lock()  # guards all below
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._make_result: Callable[[], ToolResult] | None = None
        self._result: ToolResult | None = None

    def fileno(self) -> int:
        """The descriptor; -1 once it is closed."""
        return self._descriptor

    def settle(self, make_result: Callable[[], ToolResult]) -> bool:
        """Say how it ends, unless that is said already; `make_result` is called in the thread that asks for it."""
        with self._lock:
            if self._make_result is not None:
                return False
            self._make_result = make_result
            if self._descriptor >= 0:
                os.eventfd_write(self._descriptor, 1)
            return True

    def result(self) -> ToolResult:
        """The result; of a call that has not ended, that it was cancelled."""
        if self._result is None:
            self._result = self._made()
        return self._result

    def close(self) -> None:
        """Free the descriptor, and cancel a call that still runs."""
        if self.settle(failed(ToolOutcome.CANCELLED, _CANCELLED)):
            self._cancel(self)
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _made(self) -> ToolResult:
        make_result = self._make_result or failed(ToolOutcome.CANCELLED, _CANCELLED)
        try:
            return make_result()
        except Exception as error:  # noqa: BLE001  # whatever a server has sent, the request goes on
            log.warning("a tool's result cannot be read: %s", type(error).__name__)
            return ToolResult(ToolOutcome.FAILED, text_content(UNREADABLE))

    def __repr__(self) -> str:
        return f"<Call {'ended' if self._make_result is not None else 'running'}>"

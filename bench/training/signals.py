"""Holds signals back while a training step is under way."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

DEFERRED = (signal.SIGINT, signal.SIGTERM)


class DeferredSignals:
    """Within the context, the first SIGINT or SIGTERM waits for `deliver`.

    A `KeyboardInterrupt` in the middle of an optimizer step leaves weights that are half old and half
    new. Waiting for the step to end makes every interruption resumable without loss. A second signal is
    handed on at once. Outside the main thread, where Python cannot install handlers, it does nothing.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._pending: tuple[int, FrameType | None] | None = None

    @property
    def pending(self) -> bool:
        """Whether a signal waits."""
        return self._pending is not None

    def __enter__(self) -> DeferredSignals:
        if threading.current_thread() is threading.main_thread():
            for number in DEFERRED:
                # A handler that was not installed from Python cannot be called back: leave it alone.
                if signal.getsignal(number) is not None:
                    self._previous[number] = signal.signal(number, self._hold)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        if exception[0] is None:
            self.deliver()

    def deliver(self) -> None:
        """Hands a waiting signal to the handler that was installed before."""
        if self._pending is not None:
            (number, frame), self._pending = self._pending, None
            self._hand_on(number, frame)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            self._hand_on(number, frame)
        else:
            self._pending = (number, frame)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._previous.get(number, signal.getsignal(number))
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

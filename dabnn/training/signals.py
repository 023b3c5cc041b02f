"""Let a run that is asked to stop finish its step and save first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether the process was asked to terminate."""

    def __init__(self) -> None:
        """Start without a request."""
        self.received = False


@contextmanager
def catch_sigterm() -> Iterator[StopRequest]:
    """Turn SIGTERM into a flag inside a ``with`` block, then restore the previous handler.

    Outside the main thread, where Python allows no handlers, the flag is never set.
    """
    request = StopRequest()

    def handler(number: int, frame: FrameType | None) -> None:
        request.received = True

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = signal.signal(signal.SIGTERM, handler) or signal.SIG_DFL  # None: it was not set from Python
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, previous)

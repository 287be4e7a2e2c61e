"""How a service manager ends the commands that run for ever."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable


def stop_when_told(also: Callable[[], None] = lambda: None) -> threading.Event:
    """An event that SIGTERM or SIGINT sets; ``also`` is called then, to wake who waits.

    Only for the main thread, which alone may set signal handlers.
    """
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        also()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return stop

"""The loop's share of a busy core (setpriority(2): on Linux nice is a thread's own)."""

from __future__ import annotations

import contextlib
import os
import threading

_GIVES_WAY = 10
"""A quarter of a core's time, or less, beside somebody who wants all of it."""


class Priority:
    """Of the thread that makes it, which is the only one to use it.

    What is started while it is lowered stays as low for good: steps are not done meanwhile.
    """

    def __init__(self) -> None:
        self._thread = threading.get_native_id()
        self._usual = os.getpriority(os.PRIO_PROCESS, self._thread)
        self._lowered = False
        self._may = self._can_come_back()

    def lower(self) -> None:
        """Let others go first until ``restore``; not where there would be no way back."""
        if self._may and not self._lowered:
            os.setpriority(os.PRIO_PROCESS, self._thread, self._usual + _GIVES_WAY)
            self._lowered = True

    def restore(self) -> None:
        """As it was."""
        if self._lowered:
            os.setpriority(os.PRIO_PROCESS, self._thread, self._usual)
            self._lowered = False

    def _can_come_back(self) -> bool:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._thread, self._usual - 1)
            os.setpriority(os.PRIO_PROCESS, self._thread, self._usual)
            return True
        return False

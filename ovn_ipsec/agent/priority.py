"""The loop's share of a busy core (setpriority(2): on Linux nice is a thread's own)."""

from __future__ import annotations

import os
from functools import cached_property

_GIVES_WAY = 10
"""A quarter of a core's time, or less, beside somebody who wants all of it."""
_THIS_THREAD = 0


class Priority:
    """Of the thread that uses it, which is always the same.

    What is started while it is lowered stays as low for good: steps are not done meanwhile.
    """

    def __init__(self) -> None:
        self._usual: int | None = None
        """What it was before it was lowered; None: it is not."""

    def lower(self) -> None:
        """Let others go first until ``restore``; not where there would be no way back."""
        if self._usual is None and self._can_come_back:
            self._usual = os.getpriority(os.PRIO_PROCESS, _THIS_THREAD)
            os.setpriority(os.PRIO_PROCESS, _THIS_THREAD, self._usual + _GIVES_WAY)

    def restore(self) -> None:
        """As it was."""
        if self._usual is not None:
            os.setpriority(os.PRIO_PROCESS, _THIS_THREAD, self._usual)
            self._usual = None

    @cached_property
    def _can_come_back(self) -> bool:
        usual = os.getpriority(os.PRIO_PROCESS, _THIS_THREAD)
        try:
            os.setpriority(os.PRIO_PROCESS, _THIS_THREAD, usual - 1)
        except OSError:
            return False
        os.setpriority(os.PRIO_PROCESS, _THIS_THREAD, usual)
        return True

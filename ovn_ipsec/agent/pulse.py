"""The sign of life of the agent's loop."""

from __future__ import annotations

import time


class Pulse:
    """When the loop last got on. One thread beats, any may read."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()

    @property
    def last_s(self) -> float:
        """On the monotonic clock."""
        return self._last_s

    def beat(self) -> None:
        """The loop turns, or a long tick begins another call."""
        self._last_s = time.monotonic()

"""What is to be done and when: each name once, however often it is put in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from heapq import heappop, heappush

_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 30.0


class WorkQueue:
    """Names, for several workers, of whom never two have the same."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        """When each name's turn is; an entry of the heap that says otherwise is void."""
        self._working: set[str] = set()
        self._failures: dict[str, int] = {}

    def put(self, name: str, after_s: float = 0.0) -> None:
        """Have this done; an earlier turn that it has already stays."""
        with self._changed:
            self._put(name, after_s)

    def take(self, longest_s: float) -> str | None:
        """The next name whose turn it is, for ``done`` or ``again``; None when there is none."""
        deadline = self._clock() + longest_s
        with self._changed:
            while True:
                now = self._clock()
                name = self._next(now)
                if name is not None:
                    self._working.add(name)
                    return name
                if now >= deadline:
                    return None
                turn = self._heap[0][0] if self._heap else deadline
                self._changed.wait(max(0.001, min(turn, deadline) - now))

    def done(self, name: str) -> None:
        """This needs no more attempt, whatever was put in meanwhile."""
        with self._changed:
            self._working.discard(name)
            self._due.pop(name, None)
            self._failures.pop(name, None)

    def again(self, name: str, after_s: float | None = None) -> None:
        """This failed: another attempt later, ever later unless the time is given."""
        with self._changed:
            self._working.discard(name)
            failures = self._failures[name] = self._failures.get(name, 0) + 1
            wait_s = min(_FIRST_WAIT_S * 2 ** min(failures - 1, 10), _LONGEST_WAIT_S)
            self._put(name, wait_s if after_s is None else after_s)

    def _put(self, name: str, after_s: float) -> None:
        turn = self._clock() + after_s
        if turn < self._due.get(name, float("inf")):
            self._due[name] = turn
            heappush(self._heap, (turn, name))
            self._changed.notify()

    def _next(self, now: float) -> str | None:
        waiting = []
        found = None
        while self._heap and self._heap[0][0] <= now:
            turn, name = heappop(self._heap)
            if self._due.get(name) != turn:
                continue
            if name in self._working:
                waiting.append((turn, name))
                continue
            del self._due[name]
            found = name
            break
        for item in waiting:
            heappush(self._heap, item)
        return found

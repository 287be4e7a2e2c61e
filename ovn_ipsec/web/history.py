"""Plaintext packets that guards met, over time, in bounded memory. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

SLOT_S = 60
SLOTS = 120
"""Two hours, a bar a minute."""


@dataclass(slots=True)
class DropHistory:
    """Increments per node and slot; nodes that met nothing take no memory."""

    _slots: deque[tuple[int, dict[str, int]]] = field(default_factory=lambda: deque(maxlen=SLOTS))
    _last: dict[str, int] = field(default_factory=dict)

    def note(self, node: str, at_s: float, total: int) -> None:
        """``total`` of the node's counters at this Unix time; the first is where it begins.

        A total below the last one is of a new table: all of it is new.
        """
        before = self._last.get(node)
        self._last[node] = total
        met = 0 if before is None else total - before if total >= before else total
        slot = int(at_s // SLOT_S)
        if not self._slots or self._slots[-1][0] < slot:
            self._slots.append((slot, {}))
        if met:
            counts = self._slots[-1][1]
            counts[node] = counts.get(node, 0) + met

    def keep_only(self, nodes: frozenset[str]) -> None:
        """Forget the counters of nodes that are not asked any more."""
        self._last = {node: total for node, total in self._last.items() if node in nodes}

    def bars(self, now_s: float, node: str | None = None) -> tuple[int, ...]:
        """Packets in each of the last ``SLOTS`` slots, the oldest first; of one node or of all."""
        newest = int(now_s // SLOT_S)
        counts = dict.fromkeys(range(newest - SLOTS + 1, newest + 1), 0)
        for slot, met in self._slots:
            if slot in counts:
                counts[slot] = sum(met.values()) if node is None else met.get(node, 0)
        return tuple(counts.values())

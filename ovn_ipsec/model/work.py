"""What the agent has counted since it began to live. Counters only grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Durations:
    """How often something was done, and how long all of it together took."""

    count: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0

    def with_one(self, took_s: float) -> Durations:
        """One more."""
        return Durations(self.count + 1, self.total_s + took_s, max(self.longest_s, took_s))


@dataclass(frozen=True, slots=True)
class Work:
    """The agent's counters at one moment."""

    ticks: Durations = Durations()
    applies: Durations = Durations()
    """Ticks that had something to do: the time for its steps."""
    rekeys: int = 0
    """Child SAs that took the place of one of the same connection."""
    bytes_in: int = 0
    bytes_out: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    """Cause -> how often a tunnel began to be down for it."""
    xfrm_errors: Mapping[str, int] = field(default_factory=dict)
    """The kernel's own counters of IPsec packets that it dropped (/proc/net/xfrm_stat)."""

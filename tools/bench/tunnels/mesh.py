"""A full mesh whose agents all start at once."""

from __future__ import annotations

import itertools
import time

from tools.bench.tunnels.stage import IKE, PSK, STATES_OF_A_TUNNEL, soon
from tools.lab.lab import Lab

_QUIET_S = 20.0


def measure_mesh(lab: Lab, size: int, limit_s: float, values: dict[str, float]) -> None:
    """Fills ``values``: seconds until every pair is encrypted, and states beyond the needed ones.

    Raises TimeoutError after ``limit_s``; ``missing`` then tells how many states were not there.
    """
    nodes = lab.overlay(*(f"n{number}" for number in range(size)))
    for one, other in itertools.combinations(nodes, 2):
        lab.connect(one, other, psk=PSK, ipsec_ike=IKE)
    for node in nodes:
        node.start_pluto()
    needed = STATES_OF_A_TUNNEL * (size - 1)
    began = time.monotonic()
    for node in nodes:
        node.start_agent("--guard-on-unknown=enforce", wait=False)

    def counts() -> list[int]:
        return [node.sa_count() for node in nodes]

    try:
        soon(lambda: min(counts()) >= needed, limit_s, f"{size} nodes encrypted")
    finally:
        values["missing"] = sum(max(0, needed - count) for count in counts())
    values["up_s"] = round(time.monotonic() - began, 1)
    time.sleep(_QUIET_S)
    values["extra_states"] = sum(counts()) - size * needed

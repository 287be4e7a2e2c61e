"""Brings the snapshot and pluto's log together: why is something not up?"""

from __future__ import annotations

from ovn_ipsec.drivers.pluto_log import PlutoLog
from ovn_ipsec.model.evidence import Evidence
from ovn_ipsec.model.snapshot import Snapshot, TunnelStatus
from ovn_ipsec.plan.memory import Memory
from ovn_ipsec.status.causes import diagnose


class Diagnosis:
    """Explains each snapshot, and does nothing when neither it nor the log has changed."""

    def __init__(self, log: PlutoLog) -> None:
        self._log = log
        self._explained: tuple[tuple[TunnelStatus, ...], Evidence] | None = None

    def explain(self, snapshot: Snapshot, generation: str, now_s: float) -> Snapshot:
        """The snapshot with causes. ``generation``: of the pluto that runs, empty for none."""
        wanted = any(not tunnel.up for tunnel in snapshot.tunnels)
        evidence = self._log.read(generation, now_s, wanted=wanted)
        before = self._explained
        if (
            before is None
            or snapshot.tunnels is not before[0]
            or evidence != before[1]
            # The same again, which is news to readiness.
            or evidence.unauthenticated_s != before[1].unauthenticated_s
        ):
            snapshot = diagnose(snapshot, evidence)
            self._explained = (snapshot.tunnels, evidence)
        return snapshot


def silent_tunnels(memory: Memory) -> frozenset[str]:
    """Into which nothing has come although traffic goes out, fresh child SAs notwithstanding."""
    return frozenset(
        name
        for name, tunnel in memory.tunnels.items()
        if tunnel.renewals and tunnel.inbound_seen is not None and tunnel.inbound_seen[0] == 0
    )

"""Counts what snapshots show to have happened between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ovn_ipsec.model.snapshot import ActiveConnection, Snapshot, TunnelStatus
from ovn_ipsec.model.work import Work


class Tally:
    """Compares each snapshot with the one before."""

    def __init__(self) -> None:
        self._work = Work()
        self._tunnels: tuple[TunnelStatus, ...] | None = None
        self._connections: Mapping[str, ActiveConnection] = {}
        self._causes: Mapping[str, str] = {}

    def note_apply(self, took_s: float) -> None:
        """Steps were applied."""
        self._work = replace(self._work, applies=self._work.applies.with_one(took_s))

    def note_tick(self, snapshot: Snapshot, took_s: float, xfrm_errors: Mapping[str, int]) -> Work:
        """A tick has ended with this snapshot; the counters now."""
        work = replace(
            self._work, ticks=self._work.ticks.with_one(took_s), xfrm_errors=xfrm_errors
        )
        if snapshot.tunnels is not self._tunnels:
            work = self._compare(snapshot.tunnels, work)
        self._work = work
        return work

    def _compare(self, tunnels: tuple[TunnelStatus, ...], work: Work) -> Work:
        first, self._tunnels = self._tunnels is None, tunnels
        now = {active.name: active for tunnel in tunnels for active in tunnel.connections}
        causes = {tunnel.name: str(tunnel.cause.code) for tunnel in tunnels if tunnel.cause}
        rekeys, bytes_in, bytes_out = work.rekeys, work.bytes_in, work.bytes_out
        for name, active in now.items():
            before = self._connections.get(name)
            if before is not None and before.spi_in == active.spi_in:
                # pluto may know less than before for a moment; counters never fall.
                bytes_in += max(0, active.bytes_in - before.bytes_in)
                bytes_out += max(0, active.bytes_out - before.bytes_out)
            elif not first:
                # What was there when the agent began is not its to count.
                rekeys += before is not None
                bytes_in += active.bytes_in
                bytes_out += active.bytes_out
        failures = dict(work.failures)
        for name, code in causes.items():
            if self._causes.get(name) != code:
                failures[code] = failures.get(code, 0) + 1
        self._connections, self._causes = now, causes
        return replace(
            work, rekeys=rekeys, bytes_in=bytes_in, bytes_out=bytes_out, failures=failures
        )

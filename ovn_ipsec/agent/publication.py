"""What the agent tells: the snapshot that queries are answered from, and the log of changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from ovn_ipsec.agent.clock import wall_clock
from ovn_ipsec.agent.diagnosis import Diagnosis, silent_tunnels
from ovn_ipsec.agent.journal import Journal
from ovn_ipsec.agent.observation import read
from ovn_ipsec.agent.tally import Tally
from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.drivers.pluto_log import PlutoLog
from ovn_ipsec.drivers.xfrm import read_errors
from ovn_ipsec.model.conns import Desired, InstalledTunnel, Observed, ObservedIke, Unobserved
from ovn_ipsec.model.enrolment import Enrolment
from ovn_ipsec.model.snapshot import SaDetail, Snapshot
from ovn_ipsec.model.steps import Outcome
from ovn_ipsec.plan import Memory
from ovn_ipsec.sources.enrolment import read_enrolment
from ovn_ipsec.status.snapshot import redate, take_snapshot

_log = logging.getLogger(__name__)

COUNT_S = 5.0
"""How old the counters of a snapshot may be."""


class Publication:
    """The last snapshot, which any thread may read; all methods are of the loop's thread."""

    def __init__(self, log: PlutoLog, guard: Nftables) -> None:
        self.snapshot = Snapshot(time.monotonic(), wall_clock())
        self._guard = guard
        self._diagnosis = Diagnosis(log)
        self._journal = Journal()
        self._tally = Tally()
        self._counted_at_s = 0.0
        self._xfrm_errors: Mapping[str, int] = {}
        self._enrolment: Enrolment | None = None
        self._stumbled = ""
        self._records: Mapping[str, InstalledTunnel] = {}
        """As last read: what cannot be read is not gone."""

    def note_steps(self, outcomes: Sequence[Outcome], now_s: float) -> None:
        """Tell the log what was done."""
        self._journal.note_steps(outcomes, now_s)

    def note_apply(self, took_s: float) -> None:
        """Steps for tunnels were applied."""
        self._tally.note_apply(took_s)

    def count(self, now_s: float, certificate: str | None, *, forced: bool) -> None:
        """Read what changes without an event: the guard's and the kernel's counters, and what the
        enroller says of ``certificate``."""
        if forced or now_s - self._counted_at_s >= COUNT_S:
            self._counted_at_s = now_s
            read(self._guard.counters)
            self._xfrm_errors = read_errors()
            self._enrolment = read_enrolment(certificate)

    def publish(
        self,
        desired: Desired,
        observed: Observed,
        installed: Mapping[str, InstalledTunnel] | Unobserved,
        memory: Memory,
        seen_at_s: float,
        seen_at: datetime,
    ) -> None:
        """What was seen before the steps, and dated so: steps may take long."""
        if not isinstance(installed, Unobserved):
            self._records = installed
        errors = {
            name: error for name in desired.tunnels if (error := memory.error_of(name)) is not None
        }
        problems = (*desired.problems, *memory.node_errors(), *self._undropped(desired, memory))
        taken = take_snapshot(
            replace(desired, problems=problems),
            observed,
            records=self._records,
            errors=errors,
            silent=silent_tunnels(memory),
            previous=self.snapshot,
            now_s=seen_at_s,
            wall=seen_at,
        )
        taken = replace(
            taken,
            details=self.snapshot.details,
            details_at_s=self.snapshot.details_at_s,
            work=self.snapshot.work,
            enrolment=self._enrolment,
            ike_error=memory.step_error("ike"),
            credential_error=memory.step_error("credential:"),
        )
        self.snapshot = self._diagnosis.explain(taken, generation_of(observed), seen_at_s)
        self._journal.note_snapshot(self.snapshot)

    def _undropped(self, desired: Desired, memory: Memory) -> Iterator[str]:
        """Connections that nobody wants any more, of a revoked peer even, and that stay."""
        for name in self._records:
            wanted, error = desired.tunnels.get(name), memory.error_of(name)
            if error is not None and (wanted is None or wanted.withdrawn):
                yield f"tunnel {name}: its connections are to be dropped and are not: {error}"

    def confirm(self, observed: Observed, seen_at_s: float, seen_at: datetime) -> None:
        """The same was seen again, so that only counters and reasons may be others."""
        again = redate(self.snapshot, observed, seen_at_s, seen_at)
        self.snapshot = self._diagnosis.explain(again, generation_of(observed), seen_at_s)
        if self.snapshot.tunnels is not again.tunnels:
            self._journal.note_causes(self.snapshot)

    def add_details(self, details: Mapping[str, SaDetail], read_at_s: float) -> None:
        """What a refresh has read besides."""
        self.snapshot = replace(self.snapshot, details=details, details_at_s=read_at_s)

    def finish(self, took_s: float) -> None:
        """The tick that published or confirmed has ended."""
        work = self._tally.note_tick(self.snapshot, took_s, self._xfrm_errors)
        self.snapshot = replace(self.snapshot, work=work, enrolment=self._enrolment)
        self._stumbled = ""

    def stumble(self, error: Exception) -> None:
        """The agent failed inside: say so in the snapshot, and once in the log, with its trace."""
        said = f"{type(error).__name__}: {error}"
        if said != self._stumbled:
            _log.exception("The agent failed inside and tries again")
        self._stumbled = said
        problem = "the agent failed inside and tries again; its log says where"
        if problem not in self.snapshot.problems:
            problems = (*self.snapshot.problems, problem)
            self.snapshot = replace(self.snapshot, problems=problems)


def generation_of(observed: Observed) -> str:
    """Which pluto runs; empty for none."""
    ike = observed.ike
    return ike.generation if isinstance(ike, ObservedIke) and ike.running else ""

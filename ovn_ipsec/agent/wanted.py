"""What the sources ask for: OVSDB, certificate files and routes, built into one Desired."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from ovn_ipsec.agent.clock import wall_clock
from ovn_ipsec.desired.build import Policy, build
from ovn_ipsec.desired.overlay import TunnelRows, addresses_to_look_up
from ovn_ipsec.model.conns import (
    Desired,
    Guard,
    GuardPort,
    GuardTuple,
    InstalledCredential,
    InstalledTunnel,
    Unobserved,
)
from ovn_ipsec.model.facts import Facts, PkiFact
from ovn_ipsec.sources.addresses import LocalAddresses
from ovn_ipsec.sources.certificates import CertificateFiles, CredentialPaths
from ovn_ipsec.sources.ovsdb import OvsdbSource

REBUILD_S = 60.0
"""Certificates begin and cease to be valid without an event."""
ROUTE_SETTLE_S = 1.0
"""A route that goes and comes back meanwhile changes nothing: another source address would have
every tunnel without `local_ip` replaced, and replaced back."""
STILL_CLOSED_S = 300.0
"""A row leaves OVSDB before vswitchd has taken its tunnel from the datapath, which goes on sending
by its flows: for milliseconds, or until a vswitchd that is being restarted is back."""


class Wanted:
    """Reads the sources for the agent's loop, and builds anew only what has changed."""

    def __init__(
        self,
        ovsdb: OvsdbSource,
        certificates: CertificateFiles,
        addresses: LocalAddresses,
        policy: Policy,
    ) -> None:
        self._ovsdb = ovsdb
        self._certificates = certificates
        self._addresses = addresses
        self._policy = policy
        self.pki = PkiFact()
        """As last read."""
        self.check_files_at_s = time.monotonic()
        """When the certificate files are to be looked at again."""
        self.routes_due_at_s: float | None = None
        """When to look addresses up again; None while no route has changed."""
        self._sources_of_routes: dict[str, str | None] = {}
        self._rows = TunnelRows()
        self._still_closed_until_s: dict[GuardPort | GuardTuple, float] = {}
        """What rows that are gone had closed in the guard."""
        self._built: tuple[object, float, Desired] | None = None
        """What it was built from, when it is stale, and the result."""

    def files_changed(self) -> bool:
        """Whether certificate files differ from what the last build saw (a few stat(2) calls)."""
        if time.monotonic() < self.check_files_at_s:
            return False
        return self._read_files() != self.pki

    def routes_changed(self) -> float:
        """Addresses are stale; returns when they will be looked up, on the monotonic clock."""
        if self.routes_due_at_s is None:
            self.routes_due_at_s = time.monotonic() + ROUTE_SETTLE_S
        return self.routes_due_at_s

    def build(
        self,
        installed: Mapping[str, InstalledTunnel] | Unobserved,
        credentials: tuple[InstalledCredential, ...],
        guard: Guard | None,
    ) -> Desired:
        """What is wanted now; while OVSDB is not in sync only that ``guard`` stays."""
        if self.routes_due_at_s is not None and time.monotonic() >= self.routes_due_at_s:
            self.routes_due_at_s = None
            self._sources_of_routes = {}
        if not self._ovsdb.in_sync:
            problem = self._ovsdb.problem
            return Desired(guard=guard, problems=(problem,) if problem else ())
        node, tunnels = self._ovsdb.snapshot()
        self.pki = self._read_files()
        looked_up = addresses_to_look_up(tunnels)
        known = self._sources_of_routes
        known |= self._addresses.lookup(looked_up - known.keys())
        self._sources_of_routes = {end: known[end] for end in looked_up}
        facts = Facts(
            in_sync=True,
            node=node,
            tunnels=tunnels,
            pki=self.pki,
            local_addresses=self._sources_of_routes,
            now=wall_clock(),
        )
        records = {} if isinstance(installed, Unobserved) else installed
        incumbents = {name: each.peer_name for name, each in records.items()}
        desired = self._build(facts, incumbents, credentials, guard)
        if not self._ovsdb.problem:
            return desired
        return replace(desired, problems=(*desired.problems, self._ovsdb.problem))

    def _read_files(self) -> PkiFact:
        now = time.monotonic()
        node, tunnels = self._ovsdb.snapshot()
        pki = self._certificates.snapshot(CredentialPaths.from_ovsdb(node, tunnels), now)
        self.check_files_at_s = now + self._certificates.next_check_s
        return pki

    def _build(
        self,
        facts: Facts,
        incumbents: Mapping[str, str | None],
        credentials: tuple[InstalledCredential, ...],
        guard: Guard | None,
    ) -> Desired:
        timeless = (replace(facts, now=None), incumbents, credentials)
        now = time.monotonic()
        if self._built is None or self._built[0] != timeless or now >= self._built[1]:
            before = self._closed_by_rows(guard)
            kept = {entry: at for entry, at in self._still_closed_until_s.items() if now < at}
            desired = build(
                facts,
                self._policy,
                incumbents=incumbents,
                installed=credentials,
                rows=self._rows,
                still_closed=before | kept.keys(),
            )
            closed = kept | dict.fromkeys(before, now + STILL_CLOSED_S)
            until_s = {
                entry: at for entry, at in closed.items() if entry not in desired.closed_by_rows
            }
            self._still_closed_until_s = until_s
            self._built = (timeless, min([now + REBUILD_S, *until_s.values()]), desired)
        return self._built[2]

    def _closed_by_rows(self, guard: Guard | None) -> frozenset[GuardPort | GuardTuple]:
        """As of the last build; at first those of the last run."""
        if self._built is not None:
            return self._built[2].closed_by_rows
        # Its ports may have been the operator's choice, which may have changed.
        return guard.closed_peers if guard is not None else frozenset()

"""Puts wanted and observed state together into what the status tells. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_address

from ovn_ipsec.model.conns import (
    ANY_LOCAL,
    ChildSa,
    Desired,
    Ends,
    InstalledTunnel,
    KernelPolicy,
    KernelState,
    Observed,
    ObservedGuard,
    ObservedIke,
    Selector,
    TunnelConfig,
    Unobserved,
    WantedTunnel,
    connection_name,
)
from ovn_ipsec.model.policies import expected_policies
from ovn_ipsec.model.snapshot import (
    ActiveConnection,
    GuardStatus,
    IkeStatus,
    Snapshot,
    Stale,
    Subject,
    TunnelState,
    TunnelStatus,
)

SILENCE_S = 3.0
"""A peer that does not reply for so long is silent; one that is there replies in milliseconds,
and in a second when its processors are busy."""


def take_snapshot(
    desired: Desired,
    observed: Observed,
    *,
    records: Mapping[str, InstalledTunnel],
    errors: Mapping[str, str],
    silent: Set[str] = frozenset(),
    previous: Snapshot | None,
    now_s: float,
    wall: datetime,
) -> Snapshot:
    """The state of the node after a tick; why something is not up adds ``causes.diagnose``.

    ``records``: tunnel -> what is installed now (after the tick's steps).
    ``errors``: tunnel -> text of its last failed step; a tunnel whose last steps went well is
    absent. ``silent``: tunnels into which nothing comes although traffic goes out.
    ``previous`` provides the last good values of what could not be observed this time;
    ``Snapshot.stale`` then tells so, with the time at which they were read.
    """
    old = {} if previous is None else {status.name: status for status in previous.tunnels}
    seen = observed.ike if isinstance(observed.ike, ObservedIke) else None
    names = [*desired.tunnels, *sorted(records.keys() - desired.tunnels.keys())]
    kernel = _Kernel(seen) if seen else None
    first = None if previous is None else previous.first_complete_s
    ike = _IkeSas(seen) if seen else None
    tunnels = []
    for name in names:
        wanted, before, record = desired.tunnels.get(name), old.get(name), records.get(name)
        status = _judge(name, wanted, record, before)
        ends = _to_be_up(wanted, record)
        expected = _connections(status, ends)
        lost: frozenset[str] = frozenset()
        if kernel is not None:
            own = _own(record)
            children = kernel.children(own)
            status = _with_observed(status, wanted, own, children, kernel)
            if ends is not None:
                lost = kernel.lost(children, ends, expected)
            if name in silent:
                status = replace(status, silent=True)
        elif before is not None:
            lost = frozenset(before.missing)
            status = replace(
                status,
                policies=before.policies,
                states=before.states,
                connections=before.connections,
                ike_up=before.ike_up,
                negotiating=before.negotiating,
                unoriented=before.unoriented,
                silent=before.silent,
            )
        missing, error = _missing(status, expected, lost), errors.get(name)
        if missing or error is not None:
            status = replace(status, error=error, missing=missing)
        if ike is not None:
            status = _with_peer(status, expected, before, ike, now_s, first_look=first is None)
            status = _with_silence(status, expected, ike, before, previous, now_s)
        elif before is not None:
            status = _as_before(status, before)
        tunnels.append(status)
    if first is None and desired.complete and seen is not None:
        first = now_s
    return Snapshot(
        taken_at_s=now_s,
        taken_at=wall,
        complete=desired.complete,
        tunnels=tuple(tunnels),
        ike=_ike(observed.ike, previous, now_s),
        guard=_guard(observed.guard, previous, now_s),
        problems=desired.problems,
        stale=_stale(observed, previous),
        guard_wanted=desired.guard.mode if desired.guard else None,
        certificate=desired.certificate,
        first_complete_s=first,
    )


def redate(snapshot: Snapshot, now_s: float, wall: datetime) -> Snapshot:
    """The same state, found unchanged now."""
    ike, guard = snapshot.ike, snapshot.guard
    stale = {item.subject for item in snapshot.stale}
    return replace(
        snapshot,
        taken_at_s=now_s,
        taken_at=wall,
        ike=replace(ike, read_at_s=now_s) if ike and Subject.IKE not in stale else ike,
        guard=replace(guard, read_at_s=now_s) if guard and Subject.GUARD not in stale else guard,
    )


def _judge(
    name: str,
    wanted: WantedTunnel | None,
    record: InstalledTunnel | None,
    before: TunnelStatus | None,
) -> TunnelStatus:
    version = 0 if record is None else record.version
    if wanted is None:
        view = None if before is None else before.view
        return TunnelStatus(name, version, TunnelState.REMOVED, view)
    if wanted.config is None:
        state = TunnelState.INVALID
    else:
        state = TunnelState.INIT if record is None else TunnelState.CONFIGURED
    return TunnelStatus(
        name,
        version,
        state,
        wanted.view,
        reason=wanted.problem,
        withdrawn=wanted.withdrawn,
        warnings=wanted.warnings,
    )


class _Kernel:
    """Policies and SAs, found by address or tunnel: 1000 tunnels must not cost 1000 scans."""

    def __init__(self, seen: ObservedIke) -> None:
        self.with_ike = {sa.connection for sa in seen.ike_sas if sa.established}
        self.negotiating = {sa.connection for sa in seen.ike_sas if not sa.established}
        self.unoriented = seen.unoriented
        self._children: dict[str, ChildSa] = {}
        for child in sorted(seen.children, key=lambda child: child.serial):
            self._children[child.connection] = child
        self._known = seen.policies
        self._policies: dict[str, list[KernelPolicy]] = {}
        self._states: dict[str, list[KernelState]] = {}
        self._spis: set[int | None] = {state.spi for state in seen.states}
        for policy in sorted(seen.policies, key=_policy_order):
            for address in {_address(policy.src), _address(policy.dst)}:
                self._policies.setdefault(address, []).append(policy)
        for state in seen.states:
            for address in {_address(state.src), _address(state.dst)}:
                self._states.setdefault(address, []).append(state)

    def children(self, connections: Iterable[str]) -> dict[str, ChildSa]:
        """The newest child SA of each of these that has one."""
        return {name: self._children[name] for name in connections if name in self._children}

    def lost(
        self, children: Mapping[str, ChildSa], ends: Ends, expected: Mapping[str, Selector]
    ) -> frozenset[str]:
        """Those whose states or policies the kernel has not: pluto does not notice a flush."""
        up = {name: children[name] for name in expected if name in children}
        here = (ends.local,) if ends.local != ANY_LOCAL else self._towards(ends.remote)
        return frozenset(
            name
            for name, child in up.items()
            if not {child.spi_in, child.spi_out} - {None} <= self._spis
            or not any(
                self._known.issuperset(expected_policies(local, ends.remote, expected[name]))
                for local in here
            )
        )

    def _towards(self, remote: str) -> set[str]:
        """Addresses of this node: what of a record of the original's that names none may be."""
        found = self._policies.get(_address(remote), ())
        return {_address(policy.src) for policy in found if policy.direction == "out"}

    def policies(self, remote: str, config: TunnelConfig | None) -> tuple[KernelPolicy, ...]:
        found = self._policies.get(_address(remote), ())
        return tuple(policy for policy in found if _belongs(policy, config))

    def states(self, remote: str, config: TunnelConfig | None) -> tuple[KernelState, ...]:
        found = self._states.get(_address(remote), ())
        return tuple(
            state for state in found if state.selector is None or _belongs(state.selector, config)
        )


class _IkeSas:
    """What pluto tells of connections and IKE SAs, by connection."""

    def __init__(self, seen: ObservedIke) -> None:
        self.loaded = seen.loaded
        self._answering = {sa.connection for sa in seen.ike_sas if sa.answered}
        self._waiting = {sa.connection for sa in seen.ike_sas if not sa.answered}

    def answers(self, connections: Iterable[str]) -> bool:
        return not self._answering.isdisjoint(connections)

    def waits(self, connections: Iterable[str]) -> bool:
        return not self._waiting.isdisjoint(connections)


def _with_peer(
    status: TunnelStatus,
    names: Collection[str],
    before: TunnelStatus | None,
    ike: _IkeSas,
    now_s: float,
    *,
    first_look: bool,
) -> TunnelStatus:
    """What is known of the peer while nothing, or not all, is up with it."""
    answering = bool(status.missing) and ike.answers(names)
    heard_s = now_s if answering else before.answered_at_s if before else None
    there_before = before is not None and before.encrypted_before
    if first_look:
        there_before = bool(status.connections or status.states)
    encrypted_before = there_before and not status.encrypted
    unloaded = tuple(name for name in names if name not in ike.loaded)
    if not (unloaded or answering or heard_s is not None or encrypted_before):
        return status
    return replace(
        status,
        unloaded=unloaded,
        answering=answering,
        answered_at_s=heard_s,
        encrypted_before=encrypted_before,
    )


def _with_silence(
    status: TunnelStatus,
    names: Collection[str],
    ike: _IkeSas,
    before: TunnelStatus | None,
    previous: Snapshot | None,
    now_s: float,
) -> TunnelStatus:
    """How long nothing has been heard of the peer.

    pluto forgets at once an IKE SA that the peer refuses, and keeps one that nobody answers
    until its retransmit-timeout (15 s): that is how the two are told apart.
    """
    if status.encrypted or not status.missing:
        return status
    since_s = silent_at_s = lost_at_s = refused_at_s = None
    if before is not None and previous is not None:
        lost_at_s = now_s if before.encrypted else before.lost_at_s
        since_s, silent_at_s = before.unanswered_since_s, before.silent_at_s
        refused_at_s = before.refused_at_s
        if since_s is not None and previous.taken_at_s - since_s >= SILENCE_S:
            silent_at_s = previous.taken_at_s
    if not ike.waits(names) or status.answering:
        since_s = None
    elif since_s is None:
        since_s = now_s
    return replace(
        status,
        unanswered_since_s=since_s,
        silent_at_s=silent_at_s,
        lost_at_s=lost_at_s,
        refused_at_s=refused_at_s,
    )


def _as_before(status: TunnelStatus, before: TunnelStatus) -> TunnelStatus:
    return replace(
        status,
        unanswered_since_s=before.unanswered_since_s,
        silent_at_s=before.silent_at_s,
        lost_at_s=before.lost_at_s,
        refused_at_s=before.refused_at_s,
        unloaded=before.unloaded,
        answering=before.answering,
        answered_at_s=before.answered_at_s,
        encrypted_before=before.encrypted_before,
    )


def _policy_order(policy: KernelPolicy) -> tuple[str, str, str, str, int, int]:
    ports = (policy.sport or 0, policy.dport or 0)
    return (policy.direction, policy.src, policy.dst, policy.protocol, *ports)


@lru_cache(maxsize=4096)
def _address(text: str) -> str:
    """Without prefix length, in the one canonical spelling; anything else as it is."""
    bare = text.partition("/")[0]
    try:
        return str(ip_address(bare))
    except ValueError:
        return bare


def _belongs(policy: KernelPolicy, config: TunnelConfig | None) -> bool:
    """Whether a policy (or a SA's selector) between the right hosts is this tunnel's."""
    if config is None:
        return True
    ends = {_address(policy.src), _address(policy.dst)}
    if ends != {_address(config.local), _address(config.remote)}:
        return False
    if policy.protocol != config.protocol:
        return False
    return config.port is None or config.port in (policy.sport, policy.dport)


def _with_observed(
    status: TunnelStatus,
    wanted: WantedTunnel | None,
    own: Set[str],
    children: Mapping[str, ChildSa],
    kernel: _Kernel,
) -> TunnelStatus:
    config = None if wanted is None else wanted.config
    remote = config.remote if config else status.view.remote_ip if status.view else ""
    return replace(
        status,
        policies=kernel.policies(remote, config),
        states=kernel.states(remote, config),
        connections=tuple(
            ActiveConnection(name, _line(child), child.bytes_in, child.bytes_out, child.add_time)
            for name, child in sorted(children.items())
        ),
        ike_up=not own.isdisjoint(kernel.with_ike),
        negotiating=not own.isdisjoint(kernel.negotiating),
        unoriented=not own.isdisjoint(kernel.unoriented),
    )


def _line(child: ChildSa) -> str:
    traffic = f"Traffic: ESPin={child.bytes_in}B ESPout={child.bytes_out}B"
    return child.line or f'000 #{child.serial}: "{child.connection}" {traffic}'


def _own(record: InstalledTunnel | None) -> frozenset[str]:
    """Connections of a tunnel; before this tick's steps also those that its record replaces."""
    return frozenset() if record is None else record.connections | record.replaced


def _to_be_up(wanted: WantedTunnel | None, record: InstalledTunnel | None) -> Ends | None:
    """What the installed connections have to be up for: what is wanted, or, of a row that cannot
    be had, what is kept."""
    if wanted is None or record is None or wanted.withdrawn:
        return None
    return wanted.config or record.ends


def _connections(status: TunnelStatus, ends: Ends | None) -> dict[str, Selector]:
    """Those that have to be up."""
    if ends is None:
        return {}
    selectors = ends.selectors().items()
    return {
        connection_name(status.name, role, status.version): selector
        for role, selector in selectors
    }


def _missing(status: TunnelStatus, expected: Iterable[str], lost: Set[str]) -> tuple[str, ...]:
    up = {connection.name for connection in status.connections} - lost
    return tuple(name for name in expected if name not in up)


def _ike(
    observed: ObservedIke | Unobserved, previous: Snapshot | None, now_s: float
) -> IkeStatus | None:
    if isinstance(observed, Unobserved):
        return None if previous is None else previous.ike
    return IkeStatus(
        running=observed.running,
        version=observed.version,
        read_at_s=now_s,
        policies=tuple(sorted(observed.policies, key=_policy_order)),
        states=observed.states,
    )


def _guard(
    observed: ObservedGuard | Unobserved, previous: Snapshot | None, now_s: float
) -> GuardStatus | None:
    if isinstance(observed, Unobserved):
        return None if previous is None else previous.guard
    return GuardStatus(
        present=observed.present,
        intact=observed.intact,
        mode=observed.mode,
        counters=observed.counters,
        read_at_s=now_s,
    )


def _stale(observed: Observed, previous: Snapshot | None) -> tuple[Stale, ...]:
    subjects = (
        (Subject.IKE, observed.ike),
        (Subject.INSTALLED, observed.installed),
        (Subject.CREDENTIALS, observed.credentials),
        (Subject.GUARD, observed.guard),
    )
    return tuple(
        Stale(subject, seen.reason, _last_read_s(subject, previous))
        for subject, seen in subjects
        if isinstance(seen, Unobserved)
    )


def _last_read_s(subject: Subject, previous: Snapshot | None) -> float | None:
    """When a subject was last read: with the previous snapshot, unless stale already then."""
    if previous is None:
        return None
    for stale in previous.stale:
        if stale.subject is subject:
            return stale.read_at_s
    return previous.taken_at_s

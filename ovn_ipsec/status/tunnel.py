"""What the status tells of one tunnel, out of what is wanted, recorded and seen of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ovn_ipsec.model.conns import (
    ANY_LOCAL,
    ChildSa,
    Ends,
    InstalledTunnel,
    ObservedIke,
    Selector,
    TunnelConfig,
    WantedTunnel,
    connection_name,
)
from ovn_ipsec.model.kernel import KernelPolicy, KernelState, bare_address
from ovn_ipsec.model.snapshot import ActiveConnection, Snapshot, TunnelState, TunnelStatus

SILENCE_S = 3.0
"""A peer that does not reply for so long is silent; one that is there replies in milliseconds,
and in a second when its processors are busy."""


class Look:
    """pluto and the kernel, seen at ``now_s``, found by address or connection."""

    def __init__(self, seen: ObservedIke, previous: Snapshot | None, now_s: float) -> None:
        self._seen = seen
        self.now_s = now_s
        self.previous_at_s = None if previous is None else previous.taken_at_s
        self.first = previous is None or previous.first_complete_s is None
        """Nothing complete has been seen before."""
        self.loaded, self.unoriented = seen.loaded, seen.unoriented
        self.with_ike = {sa.connection for sa in seen.ike_sas if sa.established}
        self.negotiating = {sa.connection for sa in seen.ike_sas if not sa.established}
        self.answering = {sa.connection for sa in seen.ike_sas if sa.answered}
        self.waiting = {sa.connection for sa in seen.ike_sas if not sa.answered}

    def children(self, connections: Iterable[str]) -> dict[str, ChildSa]:
        """The newest child SA of each of these that has one."""
        found = {name: self._seen.children_of(name) for name in connections}
        return {name: children[-1] for name, children in found.items() if children}

    def lost(
        self, children: Mapping[str, ChildSa], ends: Ends, expected: Mapping[str, Selector]
    ) -> frozenset[str]:
        """Those of which the kernel has not all."""
        up = {name: children[name] for name in expected if name in children}
        here = (ends.local,) if ends.local != ANY_LOCAL else self._towards(ends.remote)
        return frozenset(
            name
            for name, child in up.items()
            if not any(
                self._seen.in_kernel(child, local, ends.remote, expected[name]) for local in here
            )
        )

    def _towards(self, remote: str) -> set[str]:
        """Addresses of this node: what of a record of the original's that names none may be."""
        found = self._seen.kernel.policies_of(remote)
        return {bare_address(policy.src) for policy in found if policy.direction == "out"}

    def policies(self, remote: str, config: TunnelConfig | None) -> tuple[KernelPolicy, ...]:
        """Those of a tunnel to ``remote``; without a ``config`` all between the two hosts."""
        found = self._seen.kernel.policies_of(remote)
        return tuple(policy for policy in found if _belongs(policy, config))

    def states(self, remote: str, config: TunnelConfig | None) -> tuple[KernelState, ...]:
        """As ``policies``."""
        found = self._seen.kernel.states_of(remote)
        return tuple(
            state for state in found if state.selector is None or _belongs(state.selector, config)
        )


def judge(
    name: str,
    wanted: WantedTunnel | None,
    record: InstalledTunnel | None,
    before: TunnelStatus | None,
    look: Look | None,
    *,
    error: str | None,
    silent: bool,
) -> TunnelStatus:
    """The tunnel's status, without its cause.

    ``before`` is what it was; without a ``look``, because pluto or the kernel could not be read,
    what was seen of it then stays.
    """
    version = 0 if record is None else record.version
    view = wanted.view if wanted else before.view if before else None
    ends = _to_be_up(wanted, record)
    expected = _connections(name, version, ends)
    if look is None:
        row = before or TunnelStatus(name, version, TunnelState.INIT, view)
        return replace(
            row,
            version=version,
            state=_state(wanted, record),
            view=view,
            reason=wanted.problem if wanted else None,
            withdrawn=wanted is not None and wanted.withdrawn,
            error=error,
            warnings=wanted.warnings if wanted else (),
            missing=_missing(expected, row.connections, row.missing),
            cause=None,
        )
    own = _own(record)
    config = None if wanted is None else wanted.config
    remote = config.remote if config else view.remote_ip if view else ""
    children = look.children(own)
    connections = tuple(
        ActiveConnection(
            name=each,
            line=_line(child),
            bytes_in=child.bytes_in,
            bytes_out=child.bytes_out,
            add_time=child.add_time,
            spi_in=child.spi_in,
        )
        for each, child in sorted(children.items())
    )
    lost = look.lost(children, ends, expected) if ends is not None else ()
    missing = _missing(expected, connections, lost)
    encrypted = bool(connections) and not missing
    states = look.states(remote, config)
    answering = bool(missing) and not look.answering.isdisjoint(expected)
    heard_s = look.now_s if answering else before.answered_at_s if before else None
    there = bool(connections or states) if look.first else before and before.encrypted_before
    silence = _Silence()
    if missing:
        waits = not look.waiting.isdisjoint(expected) and not answering
        silence = _silence(before, look, waits=waits)
    return TunnelStatus(
        name,
        version,
        _state(wanted, record),
        view,
        reason=wanted.problem if wanted else None,
        withdrawn=wanted is not None and wanted.withdrawn,
        error=error,
        warnings=wanted.warnings if wanted else (),
        policies=look.policies(remote, config),
        states=states,
        connections=connections,
        missing=missing,
        ike_up=not own.isdisjoint(look.with_ike),
        negotiating=not own.isdisjoint(look.negotiating),
        unoriented=not own.isdisjoint(look.unoriented),
        silent=silent,
        unloaded=tuple(each for each in expected if each not in look.loaded),
        answering=answering,
        answered_at_s=heard_s,
        unanswered_since_s=silence.since_s,
        silent_at_s=silence.at_s,
        lost_at_s=silence.lost_at_s,
        refused_at_s=silence.refused_at_s,
        encrypted_before=bool(there) and not encrypted,
    )


@dataclass(frozen=True, slots=True)
class _Silence:
    """Since when nothing has been heard of a peer, as ``TunnelStatus`` has it."""

    since_s: float | None = None
    at_s: float | None = None
    lost_at_s: float | None = None
    refused_at_s: float | None = None


def _silence(before: TunnelStatus | None, look: Look, *, waits: bool) -> _Silence:
    """Of a tunnel that is not up; ``waits``: pluto has had no reply to its first message.

    pluto forgets at once an IKE SA that the peer refuses, and keeps one that nobody answers
    until its retransmit-timeout (15 s): that is how the two are told apart.
    """
    if before is None or look.previous_at_s is None:
        return _Silence(since_s=look.now_s if waits else None)
    since_s, at_s = before.unanswered_since_s, before.silent_at_s
    if since_s is not None and look.previous_at_s - since_s >= SILENCE_S:
        at_s = look.previous_at_s
    if not waits:
        since_s = None
    elif since_s is None:
        since_s = look.now_s
    lost_at_s = look.now_s if before.encrypted else before.lost_at_s
    return _Silence(since_s, at_s, lost_at_s, before.refused_at_s)


def _state(wanted: WantedTunnel | None, record: InstalledTunnel | None) -> TunnelState:
    if wanted is None:
        return TunnelState.REMOVED
    if wanted.config is None:
        return TunnelState.INVALID
    return TunnelState.INIT if record is None else TunnelState.CONFIGURED


def _own(record: InstalledTunnel | None) -> frozenset[str]:
    """Connections of a tunnel; before this tick's steps also those that its record replaces."""
    return frozenset() if record is None else record.connections | record.replaced


def _to_be_up(wanted: WantedTunnel | None, record: InstalledTunnel | None) -> Ends | None:
    """What the installed connections have to be up for: what is wanted, or, of a row that cannot
    be had, what is kept."""
    if wanted is None or record is None or wanted.withdrawn:
        return None
    return wanted.config or record.ends


def _connections(name: str, version: int, ends: Ends | None) -> dict[str, Selector]:
    """Those that have to be up."""
    if ends is None:
        return {}
    selectors = ends.selectors().items()
    return {connection_name(name, role, version): selector for role, selector in selectors}


def _missing(
    expected: Iterable[str], connections: Iterable[ActiveConnection], lost: Iterable[str]
) -> tuple[str, ...]:
    up = {connection.name for connection in connections}.difference(lost)
    return tuple(name for name in expected if name not in up)


def _belongs(policy: KernelPolicy, config: TunnelConfig | None) -> bool:
    """Whether a policy (or a SA's selector) between the right hosts is this tunnel's."""
    if config is None:
        return True
    ends = {bare_address(policy.src), bare_address(policy.dst)}
    if ends != {bare_address(config.local), bare_address(config.remote)}:
        return False
    if policy.protocol != config.protocol:
        return False
    return config.port is None or config.port in (policy.sport, policy.dport)


def _line(child: ChildSa) -> str:
    traffic = f"Traffic: ESPin={child.bytes_in}B ESPout={child.bytes_out}B"
    return child.line or f'000 #{child.serial}: "{child.connection}" {traffic}'

"""Judges what was found: PASS or FAIL, with the reason. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ovn_ipsec.model.conns import (
    Guard,
    GuardCounters,
    GuardMode,
    GuardPort,
    GuardTuple,
    ObservedGuard,
    Protocol,
)
from ovn_ipsec.model.kernel import KernelPolicy, KernelState
from ovn_ipsec.status.overview import Overview, PeerRow
from ovn_ipsec.verify.packets import Captured, Flow, Kind, canonical
from ovn_ipsec.verify.ways import Probed, Way

CLOSED = frozenset({GuardMode.ENFORCE, GuardMode.ENFORCE_ALWAYS})
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was proven, or not."""

    name: str
    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """What is known without believing the agent, but for which tunnels there have to be."""

    overview: Overview
    guard: ObservedGuard
    met: tuple[GuardCounters, GuardCounters]
    """Packets without IPsec that the guard met: before and after the capture."""
    policies: Collection[KernelPolicy]
    states: Sequence[KernelState]
    seconds: float
    captured: Captured = field(default_factory=Captured)
    exempt: Collection[GuardTuple] = ()
    """What the guard lets pass because a row has no IPsec option."""
    probed: Mapping[Way, Probed] | None = None
    """None: nobody asked for probes."""


def judge(found: Found) -> tuple[Check, ...]:
    """Every check, in the order in which people read them."""
    tunnels = [_tunnel(row, found) for row in found.overview.rows]
    probes = [] if found.probed is None else _probes(found, found.probed)
    lacking = [check for check in (_none(found), _plain_rows(found)) if check is not None]
    return (_guard(found.guard), *tunnels, *lacking, *probes, _sent(found), _received(found))


def tunnel_ports(policies: Collection[KernelPolicy]) -> frozenset[int]:
    """The UDP ports that policies protect."""
    ports = {port for policy in policies for port in (policy.sport, policy.dport)}
    return frozenset(port for port in ports if port is not None)


def guarded_ports(guard: Guard | None) -> frozenset[int]:
    """The UDP ports that the guard in force looks at; None: none is."""
    if guard is None:
        return frozenset()
    entries: list[GuardPort | GuardTuple] = [*guard.closed_ports, *guard.closed_peers]
    entries += guard.exempt
    return frozenset(
        entry.port for entry in entries if entry.protocol is Protocol.UDP and entry.port
    )


def _guard(guard: ObservedGuard) -> Check:
    if not guard.present:
        return Check("guard", ok=False, reason="its nftables table is absent")
    if not guard.intact:
        return Check("guard", ok=False, reason="its nftables table was changed by somebody else")
    if guard.mode not in CLOSED:
        return Check("guard", ok=False, reason=f"its mode is {guard.mode}: it drops nothing")
    return Check("guard", ok=True, reason=f"its table is in force, mode {guard.mode}")


def _tunnel(row: PeerRow, found: Found) -> Check:
    name = f"tunnel {row.tunnel}"
    if not row.encrypted:
        return Check(name, ok=False, reason=row.cause or f"it is {row.state}")
    peer = canonical(row.address)
    mine = [
        policy
        for policy in found.policies
        if peer in (_host(policy.src), _host(policy.dst)) and policy.direction in ("in", "out")
    ]
    if (lack := _lacking(mine, peer)) is not None:
        return Check(name, ok=False, reason=lack)
    ends = {(_host(state.src) == peer, _host(state.dst) == peer) for state in found.states}
    if (True, False) not in ends or (False, True) not in ends:
        return Check(name, ok=False, reason=f"the kernel lacks an ESP state with {row.address}")
    into, out = (found.captured.counts[Flow(peer, Kind.ESP, sent)] for sent in (False, True))
    return Check(
        name, ok=True, reason=f"policies and states are there; ESP packets: {into} in, {out} out"
    )


def _lacking(policies: Sequence[KernelPolicy], peer: str) -> str | None:
    """What is missing of the policies that cover a tunnel both ways; None when all are there."""
    out = {(p.protocol, p.sport, p.dport) for p in policies if p.direction == "out"}
    into = {(p.protocol, p.dport, p.sport) for p in policies if p.direction == "in"}
    if not out:
        return f"the kernel has no policy towards {peer}"
    if out != into:
        return f"policies towards {peer} and from it do not match"
    for protocol, sport, dport in out:
        # gre has one pair; of UDP, each end's port is to be covered as destination and source.
        if (protocol, dport, sport) not in out:
            return f"no policy towards {peer} for {protocol} from port {dport} to port {sport}"
    return None


def _probes(found: Found, probed: Mapping[Way, Probed]) -> list[Check]:
    checks = []
    for row in found.overview.rows:
        peer, name = canonical(row.address), f"probe {row.tunnel}"
        ways = {way: told for way, told in probed.items() if way.peer == peer}
        if not ways:
            why = f"not sent: the kernel has no policy towards {row.address}"
            checks.append(Check(name, ok=False, reason=why))
            continue
        esp = found.captured.counts[Flow(peer, Kind.ESP, True)]
        each = [_probe(way, told, esp) for way, told in ways.items()]
        ok = all(good for good, _ in each)
        checks.append(Check(name, ok=ok, reason="; ".join(sorted(text for _, text in each))))
    return checks


def _probe(way: Way, probed: Probed, esp: int) -> tuple[bool, str]:
    where = way.protocol if way.port is None else f"{way.protocol} port {way.port}"
    if not probed.sent:
        return False, f"none could be sent to {where}: {probed.error or 'no time'}"
    if esp < probed.sent:
        return False, f"{probed.sent} sent to {where}, but {esp} ESP packets left for {way.peer}"
    if not probed.back:
        return False, (
            f"{probed.sent} left as ESP to {where}, none came back: the peer answers only while "
            "ovn-ipsec verify --probe runs there, too"
        )
    return True, (
        f"{probed.back} of {probed.sent} to {where} came back through it, the fastest in "
        f"{probed.best_s * 1000:.1f} ms"
    )


def _none(found: Found) -> Check | None:
    if found.overview.rows:
        return None
    return Check("tunnels", ok=False, reason="none asks for IPsec: nothing here is encrypted")


def _plain_rows(found: Found) -> Check | None:
    """Plain by design is not encrypted either."""
    if not found.exempt:
        return None
    _, by_design = _left_in_clear(found)
    peers = sorted({entry.remote for entry in found.exempt}, key=lambda peer: -by_design[peer])
    told = _listed([f"{peer} ({by_design[peer]} packets)" for peer in peers])
    why = f"their rows have no IPsec option, so they are in clear: to {told}"
    return Check("tunnels without IPsec", ok=False, reason=why)


def _sent(found: Found) -> Check:
    """By the capture, which sees what the guard drops no more."""
    name = "nothing leaves in clear"
    known = {canonical(row.address) for row in found.overview.rows}
    left, by_design = _left_in_clear(found)
    problems = []
    if left:
        peers = [
            f"{count} to {peer}" + ("" if peer in known else ", to which no row asks for IPsec")
            for peer, count in sorted(left.items())
        ]
        problems.append(f"tunnel packets left in clear: {_listed(peers)}")
    if by_design:
        problems.append(
            f"{by_design.total()} tunnel packets left in clear by rows without IPsec option"
        )
    if found.captured.lost:
        problems.append(
            f"not proven: {found.captured.lost} packets came faster than they could be looked at"
        )
    if problems:
        return Check(name, ok=False, reason="; ".join(problems))
    dropped = found.met[1].out_packets - found.met[0].out_packets
    held = f"; the guard dropped {dropped}" if dropped > 0 else ""
    return Check(name, ok=True, reason=f"no tunnel packet in {found.seconds:g} s{held}")


def _left_in_clear(found: Found) -> tuple[Counter[str], Counter[str]]:
    """Peer -> packets: against what is wanted, and by rows that the guard exempts."""
    exempt = {(entry.remote, entry.port) for entry in found.exempt}
    left, by_design = Counter[str](), Counter[str]()
    for flow, count in found.captured.counts.items():
        if flow.sent and flow.kind is Kind.PLAIN:
            counts = by_design if (flow.peer, flow.port) in exempt else left
            counts[flow.peer] += count
    return left, by_design


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _received(found: Found) -> Check:
    """By the guard's counter: only behind decapsulation is it known what came in clear."""
    came = found.met[1].in_packets - found.met[0].in_packets
    name = "nothing comes in clear"
    if came > 0:
        return Check(name, ok=False, reason=f"the guard met {came} tunnel packets without IPsec")
    return Check(name, ok=True, reason=f"the guard met none in {found.seconds:g} s")


def _host(prefix: str) -> str:
    return canonical(prefix.partition("/")[0])

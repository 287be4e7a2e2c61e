"""What the fail-closed guard must say, from the tunnel rows alone.

Whatever is wrong with a row that asks for IPsec, it closes all that it may send to: certificates,
keys and conflicts play no part here. Only a plain row with a literal address opens anything.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ovn_ipsec.desired.invalid import Invalid
from ovn_ipsec.desired.options import shown
from ovn_ipsec.desired.overlay import DEFAULT_PORTS, IKE_PORTS, tunnel_port, wants_ipsec
from ovn_ipsec.model.conns import Guard, GuardMode, GuardPort, GuardTuple, Protocol
from ovn_ipsec.model.facts import Facts, TunnelFact

GENEVE = GuardPort(Protocol.UDP, 6081)
"""Closed to and from everybody, always."""

_WHOLE_MARK = 0xFFFFFFFF
_MARK = re.compile(r"(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})(?:/(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}))?")


@dataclass(frozen=True, slots=True)
class GuardRules:
    """The guard, and what there is to say about it."""

    guard: Guard
    invalid: Mapping[str, str] = field(default_factory=dict)
    """Interface -> why neither IPsec nor the guard can keep its packets from going in clear."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """Interface -> what the guard does with a row that does not say all it should."""
    problems: tuple[str, ...] = ()
    """Of the node as a whole."""
    closed_by_rows: frozenset[GuardPort | GuardTuple] = frozenset()
    """What is closed because there is a row with an IPsec option that sends to it."""


def build_guard(
    facts: Facts,
    *,
    mode: GuardMode,
    guard_ports: frozenset[GuardPort],
    allow_plain: frozenset[GuardPort] = frozenset(),
    allow_hw_offload: bool = False,
    still_closed: Collection[GuardPort | GuardTuple] = (),
) -> GuardRules:
    """The guard for these rows.

    ``guard_ports`` are closed to everybody besides udp/6081. ``allow_plain`` opens udp/6081 (to
    all but the peers of rows with IPsec) while a row without IPsec has no literal ``remote_ip``.
    ``still_closed``: what was closed for rows that may be gone by now, from OVSDB and not yet from
    the datapath; only a row without IPsec that sends there opens it.
    """
    asking: list[TunnelFact] = []
    plain: list[TunnelFact] = []
    warnings: dict[str, str] = {}
    ports_of_rows: set[GuardPort] = set()
    by_kind: dict[tuple[str, str | None], set[str]] = {}
    for tunnel in facts.tunnels:
        if not wants_ipsec(tunnel):
            plain.append(tunnel)
            continue
        asking.append(tunnel)
        options = tunnel.options
        kind = tunnel.type, options.get("dst_port")
        remote = _literal_to_close(options.get("remote_ip", ""))
        if remote is None:
            some = _reached_ports(*kind)
            ports_of_rows |= some
            warnings[tunnel.name] = (
                f"asks for IPsec without a numeric options:remote_ip, so {_named(some)} is "
                "closed to everybody; set the address of the peer"
            )
        else:
            by_kind.setdefault(kind, set()).add(remote)
    reached = [(_reached_ports(*kind), remotes) for kind, remotes in by_kind.items()]
    ports = {GENEVE, *guard_ports, *ports_of_rows}
    ports |= {entry for entry in still_closed if isinstance(entry, GuardPort)}
    exempt: set[GuardTuple] = set()
    if mode is not GuardMode.ENFORCE_ALWAYS:
        ports -= _opened(plain, allow_plain - guard_ports)
        exempt = _exempt(plain, reached, ports, warnings)
    # What is closed to everybody need not be closed to each peer: nothing exempts those, and
    # the table of a cluster that is all Geneve stays as small as that.
    closed_peers = {
        GuardTuple(remote, port.protocol, port.port)
        for some, remotes in reached
        for port in some - ports
        for remote in remotes
    }
    closed_by_rows = frozenset(ports_of_rows | closed_peers)
    closed_peers |= _unclaimed(still_closed, plain, ports)
    problems: list[str] = []
    guard = Guard(
        mode=mode,
        closed_ports=frozenset(ports),
        closed_peers=frozenset(closed_peers),
        exempt=frozenset(exempt),
        skb_mark=_skb_mark(facts.node.other_config.get("ipsec_skb_mark"), problems),
    )
    invalid = _out_of_reach(asking, facts.node.other_config, allow_hw_offload)
    return GuardRules(guard, invalid, warnings, tuple(problems), closed_by_rows)


def _unclaimed(
    still_closed: Collection[GuardPort | GuardTuple],
    plain: Iterable[TunnelFact],
    ports: Collection[GuardPort],
) -> set[GuardTuple]:
    """What is still closed to one peer, of no port that is closed to everybody."""
    tuples = {entry for entry in still_closed if isinstance(entry, GuardTuple)}
    if not tuples:
        return tuples
    claimed = {
        (_literal(tunnel.options.get("remote_ip", "")), _plain_port(tunnel)) for tunnel in plain
    }
    return {
        entry
        for entry in tuples
        if (port := GuardPort(entry.protocol, entry.port)) not in ports
        and (entry.remote, port) not in claimed
    }


def _exempt(
    plain: Iterable[TunnelFact],
    reached: Collection[tuple[Collection[GuardPort], Collection[str]]],
    ports: set[GuardPort],
    warnings: dict[str, str],
) -> set[GuardTuple]:
    """The tuples of plain rows that a closed port would cut; what rows with IPsec reach wins."""
    exempt: set[GuardTuple] = set()
    for tunnel in plain:
        port = _plain_port(tunnel)
        if port is None:
            continue
        remote = _literal(tunnel.options.get("remote_ip", ""))
        local_text = tunnel.options.get("local_ip", "")
        local = None if local_text in ("", "flow") else _literal(local_text)
        if remote is None or (local_text not in ("", "flow") and local is None):
            if port in ports:
                warnings[tunnel.name] = (
                    f"has no IPsec option and no numeric addresses: {_named([port])} stays closed "
                    "for it; it cannot be protected (allow it by naming the port in --allow-plain)"
                )
        elif any(port in some and remote in remotes for some, remotes in reached):
            warnings[tunnel.name] = (
                f"has no IPsec option, but another tunnel to {remote} has: {_named([port])} to "
                "and from that address stays closed outside IPsec"
            )
        elif port in ports and (local is None or (":" in local) == (":" in remote)):
            exempt.add(GuardTuple(remote, port.protocol, port.port, local))
    return exempt


def _opened(plain: Iterable[TunnelFact], allowed: frozenset[GuardPort]) -> set[GuardPort]:
    """The allowed ports that a row without IPsec and without a literal address needs."""
    needed = {
        _plain_port(tunnel)
        for tunnel in plain
        if _literal(tunnel.options.get("remote_ip", "")) is None
    }
    return set(allowed) & needed


def _plain_port(tunnel: TunnelFact) -> GuardPort | None:
    """What a row without IPsec may open; None: it says no port."""
    try:
        return GuardPort(*tunnel_port(tunnel.type, tunnel.options.get("dst_port")))
    except Invalid:
        return None


@lru_cache(maxsize=256)
def _reached_ports(kind: str, dst_port: str | None) -> frozenset[GuardPort]:
    """All that a row with an IPsec option may send to; with a bad port, also its type's own."""
    if kind not in DEFAULT_PORTS:
        return frozenset()
    try:
        return frozenset({GuardPort(*tunnel_port(kind, dst_port))})
    except Invalid:
        protocol, usual = DEFAULT_PORTS[kind]
    # vswitchd reads the number at the start of the text (atoi(3)). IKE must not be closed.
    number = re.match(r"\s*\+?([0-9]{1,9})", dst_port or "", re.ASCII)
    guessed = int(number[1]) & 0xFFFF if number else 0
    ports = {usual} if guessed in IKE_PORTS | {0} else {usual, guessed}
    return frozenset(GuardPort(protocol, port) for port in ports)


def _out_of_reach(
    asking: Iterable[TunnelFact], other_config: Mapping[str, str], allow_hw_offload: bool
) -> dict[str, str]:
    """Rows whose packets may never pass netfilter and XFRM."""
    offload = other_config.get("hw-offload", "").lower() == "true" and not allow_hw_offload
    invalid: dict[str, str] = {}
    for tunnel in asking:
        if tunnel.datapath_type == "netdev":
            invalid[tunnel.name] = (
                "userspace datapath: neither IPsec nor guard applies; move the port to a bridge "
                "with datapath_type=system"
            )
        elif offload:
            invalid[tunnel.name] = (
                "hw-offload=true: offloaded packets may bypass IPsec and guard; set "
                "other_config:hw-offload=false, or accept it with --allow-hw-offload"
            )
    return invalid


def _skb_mark(text: str | None, problems: list[str]) -> tuple[int, int] | None:
    """``value/mask`` or ``value`` (ovs-vswitchd.conf.db(5), other_config:ipsec_skb_mark)."""
    if text is None:
        return None
    found = _MARK.fullmatch(text)
    value = _number(found[1]) if found else 0
    mask = _number(found[2]) if found and found[2] else _WHOLE_MARK
    if found is None or max(value, mask) > _WHOLE_MARK or value & mask != value:
        problems.append(
            f"other_config:ipsec_skb_mark={shown(text)} is not VALUE/MASK of a packet mark with "
            "VALUE inside MASK, such as 0/1: it has no effect"
        )
        return None
    return value, mask


def _number(text: str) -> int:
    """Decimal or 0x; a leading zero is decimal here, whatever C makes of it."""
    return int(text, 16) if text[:2].lower() == "0x" else int(text)


@lru_cache(maxsize=4096)
def _literal(text: str) -> str | None:
    """The one spelling of a numeric address (RFC 5952, IPv4-mapped as IPv4), or None.

    No packet shows a scope: without it an address stands for more, which only closing may do.
    """
    return _spelled(text, scope_dropped=False)


@lru_cache(maxsize=4096)
def _literal_to_close(text: str) -> str | None:
    """The same for an address that is to be closed."""
    return _spelled(text, scope_dropped=True)


def _spelled(text: str, *, scope_dropped: bool) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if address.scope_id is not None:
            return str(ipaddress.IPv6Address(int(address))) if scope_dropped else None
    return str(address)


def _named(ports: Iterable[GuardPort]) -> str:
    ordered = sorted(ports, key=lambda port: (port.protocol, port.port or 0))
    return (
        " and ".join(
            port.protocol.value if port.port is None else f"{port.protocol.value}/{port.port}"
            for port in ordered
        )
        or "no port"
    )

"""The guard's table as nft's JSON objects (libnftables-json(5)): what a Guard means. Pure.

How a packet goes: ``out`` (postrouting) and ``in`` (input) pick the packets of tunnel protocols
and hand them to ``judge_out`` (by way of ``own_out``) or ``judge_in``, which let pass what IPsec
covers and what is exempt. The rest ends in ``uncovered_out`` or ``uncovered_in``, counted and,
when enforcing, dropped. What the node only forwards passes: nested clusters use the same ports.
``errors_out`` looks at what sockets of the node send, the kernel's for ICMP errors among them.

Each hook costs every packet of a tunnel, and twice, because ESP passes it once more. So there is
one on the way out, the last: the output hook would not see that source NAT, which looks the policy
up anew, has sent a packet past ESP. And whether IPsec covers a packet is asked of tunnel packets
only: asked first, of ESP too, it costs nearly twice as much (the lab, 6.1). That it does is what a
rule accepts: where the kernel cannot tell, no rule for "it does not" would match.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ovn_ipsec.model.conns import Guard, GuardMode, GuardPort, GuardTuple, Protocol

FAMILY = "inet"
TABLE = "ovn_ipsec"
HELD_TABLE = "ovn_ipsec_held"
"""The same rules once more, in a table that belongs to a live process (``flags owner``)."""

Json = dict[str, Any]

OWNED: Json = {"flags": ["owner", "persist"]}
"""Of a table that only the process which made it can change, and that outlives it."""

ENFORCING = (GuardMode.ENFORCE, GuardMode.ENFORCE_ALWAYS)
_NUMBERS = {Protocol.UDP: 17, Protocol.TCP: 6, Protocol.GRE: 47}
PROTOCOLS = {number: protocol for protocol, number in _NUMBERS.items()}
_WHOLE_MARK = 0xFFFFFFFF

# Ports that a tunnel of OVS has when its row names none: what skb_mark is about.
_USUAL_PORTS = frozenset(
    {
        GuardPort(Protocol.UDP, 6081),
        GuardPort(Protocol.UDP, 4789),
        GuardPort(Protocol.TCP, 7471),
        GuardPort(Protocol.GRE, None),
    }
)

# Kinds of device whose packets are tunnel packets that this node made (rtnl_link_ops).
_TUNNEL_KINDS = ["geneve", "gre", "gretap", "ip6gre", "ip6gretap", "vxlan"]

_CHAINS = ("uncovered_out", "uncovered_in", "judge_out", "judge_in", "own_out", "errors_out")

# After every source NAT (100), and after whatever else may rewrite a packet.
_LAST = 300
# Before source NAT of the input hook (100), which would hide the peer's address.
_INPUT = 0

_L4PROTO: Json = {"meta": {"key": "l4proto"}}
_DPORT: Json = {"payload": {"protocol": "th", "field": "dport"}}
_ACCEPT: Json = {"accept": None}


def table_objects(guard: Guard, table: str) -> Iterator[tuple[str, Json]]:
    """(kind, body) of everything in the table, in an order in which nft accepts it.

    Raises ValueError: the guard is off (then there is no table) or not written canonically.
    """
    _check(guard)
    own = {"family": FAMILY, "table": table}
    yield "table", {"family": FAMILY, "name": table}
    for counter in ("uncovered_out", "uncovered_in"):
        yield "counter", own | {"name": counter}
    guarded = _guarded(guard)
    sets = _sets(guard)
    for set_name, (set_type, elements) in sets.items():
        yield "set", own | {"name": set_name, "type": set_type, "elem": elements}
    for chain in _CHAINS:
        yield "chain", own | {"name": chain}
    for chain, hook, priority in (("out", "postrouting", _LAST), ("in", "input", _INPUT)):
        place = {"type": "filter", "hook": hook, "prio": priority, "policy": "accept"}
        yield "chain", own | {"name": chain} | place
    for chain, rule in _rules(guard, sets.keys(), guarded):
        yield "rule", own | {"chain": chain} | rule


def element_changes(old: Guard, new: Guard, table: str) -> list[Json] | None:
    """Commands that make a table of ``old`` one of ``new``; None: not by its sets' elements alone.

    Such a change costs what changes, and leaves the counters as they are. Raises ValueError as
    ``table_objects`` does.
    """
    _check(new)
    if _frame(old) != _frame(new):
        return None
    commands: list[Json] = []
    for kind, before, after in (
        ("closed", old.closed_peers, new.closed_peers),
        ("exempt", old.exempt, new.exempt),
    ):
        for verb, entries in (("delete", before - after), ("add", after - before)):
            elements: dict[str, list[Any]] = {}
            for entry in entries:
                shape = _shape_of(entry)
                elements.setdefault(shape.set_name(kind), []).append(shape.element(entry))
            for name, some in elements.items():
                own = {"family": FAMILY, "table": table, "name": name, "elem": some}
                commands.append({verb: {"element": own}})
    return commands


def _frame(guard: Guard) -> object:
    """All that a table of this guard consists of but the elements of its sets of tuples."""
    shapes = {("closed", _shape_of(entry)) for entry in guard.closed_peers}
    shapes |= {("exempt", _shape_of(entry)) for entry in guard.exempt}
    return guard.mode, guard.skb_mark, guard.closed_ports, _guarded(guard), shapes


def _rules(
    guard: Guard, sets: Collection[str], guarded: Collection[GuardPort]
) -> Iterator[tuple[str, Json]]:
    """(chain, rule) of the whole table."""
    yield "judge_in", {"expr": [_COVERED_IN, _ACCEPT]}
    for direction in ("out", "in"):
        yield f"uncovered_{direction}", _verdict(guard, direction)
        for expr in _judge(guard, direction, sets):
            yield f"judge_{direction}", {"expr": expr}
    judge_out: Json = {"goto": {"target": "judge_out"}}
    yield "own_out", {"expr": [_COVERED_OUT, _ACCEPT]}
    for sender in (SENT_BY_A_SOCKET, _match({"meta": {"key": "iifkind"}}, {"set": _TUNNEL_KINDS})):
        yield "own_out", {"expr": [sender, judge_out]}
    for chain, target in (("out", "own_out"), ("in", "judge_in")):
        for pick in _picks(guarded):
            yield chain, {"expr": [pick, {"goto": {"target": target}}]}
    yield "out", {"expr": [SENT_BY_A_SOCKET, {"goto": {"target": "errors_out"}}]}
    yield "errors_out", {"expr": [_COVERED_OUT, _ACCEPT]}
    for expr in _quoting_errors(guarded):
        yield "errors_out", {"expr": expr}


def _picks(guarded: Collection[GuardPort]) -> Iterator[Json]:
    """What tells packets of tunnel protocols, one match each."""
    for protocol in (Protocol.UDP, Protocol.TCP):
        if ports := _ports(guarded, protocol):
            yield _match({"payload": {"protocol": str(protocol), "field": "dport"}}, ports)
    if any(port.protocol is Protocol.GRE for port in guarded):
        yield GRE_OF_ANYBODY


def _ports(guarded: Collection[GuardPort], protocol: Protocol) -> Any:
    """The right side of a match; None: there are none."""
    ports = sorted(port.port or 0 for port in guarded if port.protocol is protocol)
    return {"set": ports} if len(ports) > 1 else next(iter(ports), None)


def _verdict(guard: Guard, direction: str) -> Json:
    words = [f"mode={guard.mode}"]
    if guard.skb_mark is not None:
        words.append("mark={:#x}/{:#x}".format(*guard.skb_mark))
    verdict: Json = {"drop": None} if guard.mode in ENFORCING else _ACCEPT
    return {
        "comment": " ".join(words),
        "expr": [{"counter": f"uncovered_{direction}"}, verdict],
    }


def _judge(guard: Guard, direction: str, sets: Collection[str]) -> Iterator[list[Json]]:
    """The rules for one tunnel packet that IPsec does not cover, first match decides."""
    uncovered = {"goto": {"target": f"uncovered_{direction}"}}
    if guard.skb_mark is not None and direction == "out":
        # The mark is what OpenFlow puts on packets that leave; nothing marks what comes in.
        value, mask = guard.skb_mark
        mark: Json = {"meta": {"key": "mark"}}
        if mask == _WHOLE_MARK:
            yield [_match(mark, value), uncovered]
        elif mask:
            yield [_match({"&": [mark, mask]}, value), uncovered]
        else:
            yield [uncovered]
    for kind, verdict in (("closed", uncovered), ("exempt", _ACCEPT)):
        if kind == "exempt" and guard.mode is GuardMode.ENFORCE_ALWAYS:
            continue
        for shape in SHAPES:
            if shape.set_name(kind) in sets:
                yield [*shape.matches(kind, direction), verdict]
    if any(port.protocol is not Protocol.GRE for port in guard.closed_ports):
        yield [_match(_concat(_L4PROTO, _DPORT), "@closed_ports"), uncovered]
    if GuardPort(Protocol.GRE, None) in guard.closed_ports:
        yield [GRE_OF_ANYBODY, uncovered]


def _quoting_errors(guarded: Collection[GuardPort]) -> Iterator[list[Json]]:
    """ICMP errors in clear that quote a tunnel packet (RFC 792, RFC 4443 section 3).

    When nobody listens on the tunnel's port, the kernel answers a packet that came in ESP with a
    port unreachable in clear that quotes up to 548 (IPv6: 1232) bytes of it.
    """
    for family, types, proto_bit, dport_bit in (
        # Bits from the ICMP header: 8 bytes of it, then the quoted IP header.
        ("icmp", [3, 11, 12], 8 * (8 + 9), 8 * (8 + 20 + 2)),
        ("icmpv6", [1, 2, 3, 4], 8 * (8 + 6), 8 * (8 + 40 + 2)),
    ):
        for protocol, number in _NUMBERS.items():
            ports = _ports(guarded, protocol)
            if ports is None:
                continue
            expr = [
                _match({"payload": {"protocol": family, "field": "type"}}, {"set": types}),
                _match({"payload": {"base": "th", "offset": proto_bit, "len": 8}}, number),
            ]
            if protocol is not Protocol.GRE:
                dport = {"payload": {"base": "th", "offset": dport_bit, "len": 16}}
                expr.append(_match(dport, ports))
            yield [*expr, {"goto": {"target": "uncovered_out"}}]


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of set: tuples of one address family, with ports or without, local or any."""

    version: int
    gre: bool
    local: bool

    def set_name(self, kind: str) -> str:
        tail = "_local" if self.local else ""
        return f"{kind}_{'gre' if self.gre else 'l4'}{tail}_{self.version}"

    def set_type(self) -> str | list[str]:
        address = f"ipv{self.version}_addr"
        parts = [address] + [address] * self.local
        if not self.gre:
            parts += ["inet_proto", "inet_service"]
        return parts if len(parts) > 1 else parts[0]

    def element(self, entry: GuardTuple) -> Any:
        parts: list[Any] = [entry.remote]
        if self.local:
            parts.append(entry.local)
        if not self.gre:
            parts += [_NUMBERS[entry.protocol], entry.port]
        return {"concat": parts} if len(parts) > 1 else parts[0]

    def read(self, element: Any) -> GuardTuple:
        parts = list(element["concat"]) if isinstance(element, dict) else [element]
        remote = packet_address(parts.pop(0))
        local = packet_address(parts.pop(0)) if self.local else None
        if self.gre:
            return GuardTuple(remote, Protocol.GRE, None, local)
        return GuardTuple(remote, PROTOCOLS[parts[0]], int(parts[1]), local)

    def matches(self, kind: str, direction: str) -> list[Json]:
        ip = "ip" if self.version == 4 else "ip6"
        far, near = ("daddr", "saddr") if direction == "out" else ("saddr", "daddr")
        fields: list[Json] = [{"payload": {"protocol": ip, "field": far}}]
        if self.local:
            fields.append({"payload": {"protocol": ip, "field": near}})
        if self.gre:
            found = _match(_concat(*fields), f"@{self.set_name(kind)}")
            return [GRE_OF_ANYBODY, found]
        return [_match(_concat(*fields, _L4PROTO, _DPORT), f"@{self.set_name(kind)}")]


SHAPES = [
    Shape(version, gre, local)
    for version in (4, 6)
    for gre in (False, True)
    for local in (False, True)
]


def _shape_of(entry: GuardTuple) -> Shape:
    version = 6 if ":" in entry.remote else 4
    return Shape(version, entry.protocol is Protocol.GRE, entry.local is not None)


def _sets(guard: Guard) -> dict[str, tuple[str | list[str], list[Any]]]:
    """Name -> (type, elements) of every set; none is empty."""
    sets: dict[str, tuple[str | list[str], list[Any]]] = {}
    if closed := _port_elements(guard.closed_ports):
        sets["closed_ports"] = (["inet_proto", "inet_service"], closed)
    for kind, entries in (("closed", guard.closed_peers), ("exempt", guard.exempt)):
        for entry in entries:
            shape = _shape_of(entry)
            _, elements = sets.setdefault(shape.set_name(kind), (shape.set_type(), []))
            elements.append(shape.element(entry))
    return sets


def _port_elements(ports: Iterable[GuardPort]) -> list[Any]:
    return [
        {"concat": [_NUMBERS[port.protocol], port.port]}
        for port in ports
        if port.protocol is not Protocol.GRE
    ]


def _guarded(guard: Guard) -> frozenset[GuardPort]:
    """Every protocol and port that any rule is about."""
    named = guard.closed_peers | guard.exempt
    ports = guard.closed_ports | {GuardPort(entry.protocol, entry.port) for entry in named}
    return ports | _USUAL_PORTS if guard.skb_mark is not None else ports


def _match(left: Json, right: Any) -> Json:
    return {"match": {"op": "==", "left": left, "right": right}}


def _concat(*fields: Json) -> Json:
    return {"concat": list(fields)} if len(fields) > 1 else fields[0]


_COVERED_OUT = _match({"rt": {"key": "ipsec"}}, True)
_COVERED_IN = _match({"meta": {"key": "ipsec"}}, True)
GRE_OF_ANYBODY = _match(_L4PROTO, _NUMBERS[Protocol.GRE])
# In postrouting (from Linux 5.7 on) a packet's device of origin is none when a socket of this node
# sent it, the tunnel's when a tunnel did, else the one through which it came in.
SENT_BY_A_SOCKET = _match({"meta": {"key": "iif"}}, 0)


def packet_address(text: str) -> str:
    """As packets show it, in the one spelling (RFC 5952); IPv4-mapped ones become IPv4.

    Raises ValueError: not a numeric address, or one with a scope, which no packet shows.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text}: an address with a scope cannot be matched in a packet")
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
    return str(address)


def _check(guard: Guard) -> None:
    if guard.mode is GuardMode.OFF:
        raise ValueError("a guard that is off has no table")
    for port in guard.closed_ports:
        _check_port(port)
    for entry in guard.closed_peers | guard.exempt:
        _check_port(GuardPort(entry.protocol, entry.port))
        ends = [entry.remote] if entry.local is None else [entry.remote, entry.local]
        for end in ends:
            if packet_address(end) != end:
                raise ValueError(f"{end}: must be written {packet_address(end)}")
        if len({":" in end for end in ends}) > 1:
            raise ValueError(f"{entry}: addresses of two families")
    if guard.skb_mark is not None:
        value, mask = guard.skb_mark
        if value & mask != value or not 0 <= mask <= _WHOLE_MARK:
            raise ValueError(f"mark {value:#x}/{mask:#x} matches no packet")


def _check_port(port: GuardPort) -> None:
    if (port.protocol is Protocol.GRE) != (port.port is None):
        raise ValueError(f"{port}: udp and tcp have a port, gre has none")
    if port.port is not None and not 0 < port.port <= 0xFFFF:
        raise ValueError(f"{port}: no such port")

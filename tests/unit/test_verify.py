"""What verify says of what it finds."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from ovn_ipsec.verify import filters
from ovn_ipsec.verify.checks import Check, Found, guarded_ports, judge, tunnel_ports
from ovn_ipsec.verify.packets import Captured, Flow, Kind, Packet, canonical, classify
from ovn_ipsec.verify.ways import Probed, Way, parse_probe, probe_ways

HERE, PEER = "192.0.2.1", "192.0.2.7"
ROW = PeerRow("tun", "b", PEER, "encrypted", True, True, 1, 1, "", None, None, 0, 0)


def policy(src: str, dst: str, sport: int | None, dport: int | None, way: str) -> KernelPolicy:
    return KernelPolicy(f"{src}/32", f"{dst}/32", "udp", sport, dport, way)


POLICIES = frozenset(
    {
        policy(HERE, PEER, None, 6081, "out"),
        policy(PEER, HERE, 6081, None, "in"),
        policy(HERE, PEER, 6081, None, "out"),
        policy(PEER, HERE, None, 6081, "in"),
    }
)
STATES = (KernelState(HERE, PEER, 1), KernelState(PEER, HERE, 2))
NONE_MET = (GuardCounters(5, 5), GuardCounters(5, 5))
GOOD = Found(
    Overview((ROW,), (), (), None),
    ObservedGuard(True, True, GuardMode.ENFORCE),
    NONE_MET,
    POLICIES,
    STATES,
    5.0,
    Captured(Counter({Flow(PEER, Kind.ESP, True): 9, Flow(PEER, Kind.PLAIN, False, 6081): 3})),
)


def failed(found: Found) -> list[Check]:
    return [check for check in judge(found) if not check.ok]


def test_encrypted_node_passes_every_check_with_its_reasons() -> None:
    assert failed(GOOD) == []
    assert [check.name for check in judge(GOOD)] == [
        "guard",
        "tunnel tun",
        "nothing leaves in clear",
        "nothing comes in clear",
    ]
    assert "0 in, 9 out" in judge(GOOD)[1].reason


def clear(sent: dict[str, int], port: int | None = 6081) -> Captured:
    return Captured(Counter({Flow(peer, Kind.PLAIN, True, port): n for peer, n in sent.items()}))


@pytest.mark.parametrize(
    ("found", "name", "reason"),
    [
        (replace(GOOD, guard=ObservedGuard(False, False)), "guard", "absent"),
        (replace(GOOD, guard=ObservedGuard(True, False, GuardMode.ENFORCE)), "guard", "changed"),
        (replace(GOOD, guard=ObservedGuard(True, True, GuardMode.AUDIT)), "guard", "audit"),
        (replace(GOOD, states=STATES[:1]), "tunnel tun", "ESP state"),
        (replace(GOOD, policies=frozenset()), "tunnel tun", "no policy towards"),
        (
            replace(GOOD, captured=clear({PEER: 2})),
            "nothing leaves in clear",
            f"2 to {PEER}",
        ),
        (
            replace(GOOD, captured=clear({"192.0.2.9": 2})),
            "nothing leaves in clear",
            "2 to 192.0.2.9, to which no row asks for IPsec",
        ),
        (
            replace(GOOD, captured=replace(GOOD.captured, lost=17)),
            "nothing leaves in clear",
            "not proven: 17 packets came faster",
        ),
        (
            replace(GOOD, exempt=[GuardTuple("192.0.2.9", Protocol.UDP, 6081)]),
            "tunnels without IPsec",
            "no IPsec option, so they are in clear: to 192.0.2.9 (0 packets)",
        ),
        (
            replace(GOOD, overview=Overview((), (), (), None)),
            "tunnels",
            "none asks for IPsec: nothing here is encrypted",
        ),
        (
            replace(GOOD, met=(GuardCounters(0, 1), GuardCounters(0, 4))),
            "nothing comes in clear",
            "met 3",
        ),
        (
            replace(
                GOOD,
                overview=Overview(
                    (replace(ROW, encrypted=False, state="down", cause="no answer"),), (), (), None
                ),
            ),
            "tunnel tun",
            "no answer",
        ),
    ],
)
def test_each_lack_fails_its_own_check(found: Found, name: str, reason: str) -> None:
    (check,) = failed(found)
    assert check.name == name
    assert reason in check.reason


def test_packets_of_a_row_without_ipsec_option_have_a_line_of_their_own_and_fail_both() -> None:
    """What another row protects to the same peer is no matter of the row without."""
    exempt = [GuardTuple("192.0.2.9", Protocol.UDP, 4789), GuardTuple(PEER, Protocol.GRE, None)]
    sent = clear({"192.0.2.9": 10}, 4789)
    told = {c.name: c for c in failed(replace(GOOD, captured=sent, exempt=exempt))}
    assert set(told) == {"tunnels without IPsec", "nothing leaves in clear"}
    assert told["tunnels without IPsec"].reason.endswith(
        f"to 192.0.2.9 (10 packets), {PEER} (0 packets)"
    )
    leaving = told["nothing leaves in clear"].reason
    assert leaving == "10 tunnel packets left in clear by rows without IPsec option"
    both = replace(GOOD, captured=clear({"192.0.2.9": 3, PEER: 1}, 6081), exempt=exempt)
    (leaving,) = [c.reason for c in failed(both) if c.name == "nothing leaves in clear"]
    assert leaving.startswith(f"tunnel packets left in clear: 1 to {PEER}, 3 to 192.0.2.9")


def test_what_leaves_in_clear_names_ten_peers_and_counts_the_rest() -> None:
    (check,) = failed(replace(GOOD, captured=clear({f"192.0.3.{n}": 1 for n in range(25)})))
    assert check.reason.count("1 to ") == 10
    assert check.reason.endswith("and 15 more")


@pytest.mark.parametrize(
    "spelled", ["fd00::9", "FD00::9", "fd00:0:0::9", "fd00::9%eth0", "::ffff:192.0.2.7"]
)
def test_address_is_the_same_however_the_row_spells_it(spelled: str) -> None:
    one = canonical(spelled)
    assert one in ("fd00::9", PEER)
    here, bits = ("fd00::1", 128) if ":" in one else (HERE, 32)
    way = KernelPolicy(f"{here}/{bits}", f"{one}/{bits}", "udp", None, 6081, "out")
    assert probe_ways([way], {spelled}) == {Way(here, one, "udp", 6081)}
    row = replace(ROW, address=spelled)
    found = replace(GOOD, overview=Overview((row,), (), (), None), captured=clear({one: 2}))
    (leaving,) = [c for c in failed(found) if c.name == "nothing leaves in clear"]
    assert leaving.reason == f"tunnel packets left in clear: 2 to {one}"


def test_what_is_no_address_stays_as_it_is() -> None:
    assert canonical("flow") == "flow" and canonical("") == ""


def test_ports_that_the_guard_looks_at_are_captured() -> None:
    guard = Guard(
        GuardMode.ENFORCE,
        frozenset({GuardPort(Protocol.UDP, 6081), GuardPort(Protocol.TCP, 7471)}),
        frozenset({GuardTuple(PEER, Protocol.UDP, 7000)}),
        frozenset({GuardTuple("192.0.2.9", Protocol.GRE, None)}),
    )
    assert guarded_ports(guard) == {6081, 7000}
    assert guarded_ports(None) == frozenset()


@pytest.mark.parametrize("lost", sorted(POLICIES, key=repr))
def test_any_missing_policy_fails_the_tunnel(lost: KernelPolicy) -> None:
    (check,) = failed(replace(GOOD, policies=POLICIES - {lost}))
    assert check.name == "tunnel tun"


def test_gre_needs_one_policy_each_way() -> None:
    both = {
        replace(policy(HERE, PEER, None, None, "out"), protocol="gre"),
        replace(policy(PEER, HERE, None, None, "in"), protocol="gre"),
    }
    assert failed(replace(GOOD, policies=both)) == []
    assert tunnel_ports(both) == frozenset()
    assert tunnel_ports(POLICIES) == {6081}


WAY = Way(HERE, PEER, "udp", 6081)


def test_only_what_a_policy_covers_is_probed() -> None:
    gre = KernelPolicy("2001:db8:0::1/128", "2001:db8::7/128", "gre", None, None, "out")
    other = policy(HERE, "192.0.2.8", None, 6081, "out")
    assert probe_ways(POLICIES | {gre, other}, {PEER, "2001:db8::7"}) == {
        WAY,
        Way("2001:db8::1", "2001:db8::7", "gre", None),
    }
    assert probe_ways(frozenset(), {PEER}) == frozenset()


@pytest.mark.parametrize(
    ("probed", "ok", "reason"),
    [
        ({WAY: Probed(sent=9, back=7, best_s=0.0123)}, True, "7 of 9 to udp port 6081 came back"),
        ({WAY: Probed(sent=9)}, False, "9 left as ESP to udp port 6081, none came back"),
        ({WAY: Probed(sent=10, back=10)}, False, "10 sent to udp port 6081, but 9 ESP packets"),
        ({WAY: Probed(error="Operation not permitted")}, False, "Operation not permitted"),
        ({}, False, f"not sent: the kernel has no policy towards {PEER}"),
    ],
)
def test_probe_passes_only_when_it_left_as_esp_and_came_back(
    probed: dict[Way, Probed], ok: bool, reason: str
) -> None:
    checks = {check.name: check for check in judge(replace(GOOD, probed=probed))}
    assert checks["probe tun"].ok is ok
    assert reason in checks["probe tun"].reason


@given(st.binary(max_size=60))
def test_what_is_no_probe_is_taken_for_none(payload: bytes) -> None:
    assert parse_probe(payload) is None


def ipv4(protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20, 0, fragment, 64, protocol, 0)
    return head + ip_address(HERE).packed + ip_address(PEER).packed + payload


def udp(sport: int, dport: int, payload: bytes = b"") -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (ipv4(50, b"spi"), Kind.ESP),
        (ipv4(17, udp(33333, 6081)), Kind.PLAIN),
        (ipv4(17, udp(6081, 33333)), None),
        (ipv4(17, udp(33333, 6082)), None),
        (ipv4(47, b""), Kind.PLAIN),
        (ipv4(17, udp(4500, 4500, b"\0\0\0\1more")), Kind.ESP),
        (ipv4(17, udp(4500, 4500, b"\0\0\0\0ike.")), None),
        (ipv4(17, udp(4500, 4500, b"\xff")), None),
        (ipv4(17, udp(33333, 6081), fragment=100), None),
        (ipv4(6, b"x" * 20), None),
    ],
)
def test_packets_are_told_apart(packet: bytes, kind: Kind | None) -> None:
    port = 6081 if kind is Kind.PLAIN and packet[9] == 17 else None
    assert classify(packet, {6081}) == (Packet(kind, HERE, PEER, port) if kind else None)


def test_ipv6_packets_are_told_apart_also_behind_a_fragment_header() -> None:
    ends = ip_address("2001:db8::1").packed + ip_address("2001:db8::7").packed
    told = Packet(Kind.PLAIN, "2001:db8::1", "2001:db8::7", 6081)
    head = struct.pack("!IHBB", 6 << 28, 0, 17, 64) + ends
    assert classify(head + udp(1, 6081), {6081}) == told
    head = struct.pack("!IHBB", 6 << 28, 0, 44, 64) + ends
    first, later = struct.pack("!BBHI", 17, 0, 1, 7), struct.pack("!BBHI", 17, 0, 0x101, 7)
    assert classify(head + first + udp(1, 6081), {6081}) == told
    assert classify(head + later + udp(1, 6081), {6081}) is None


@given(st.binary(max_size=120))
def test_no_packet_is_an_error(packet: bytes) -> None:
    classify(packet, {6081})


def passes(steps: list[filters.Step], packet: bytes) -> bool:
    """Whether the kernel lets it through: a socket of another kind has the same filters."""
    into, out = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with into, out:
        filters.attach(out, steps)
        with contextlib.suppress(PermissionError):  # what a filter leaves is one
            into.send(packet)
        out.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            return out.recv(2000) == packet
    return False


def ipv6(protocol: int, payload: bytes) -> bytes:
    ends = ip_address("2001:db8::1").packed + ip_address("2001:db8::7").packed
    return struct.pack("!IHBB", 6 << 28, 0, protocol, 64) + ends + payload


FRAGMENT = struct.pack("!BBHI", 17, 0, 1, 7)
PORTS = (6081, 4789, *range(7000, 7300))
SEEN = [
    form(protocol, payload)
    for form in (ipv4, ipv6)
    for protocol, payload in [
        (50, b"spi.seq.data"),
        (47, b"some.gre.bytes"),
        (17, udp(33333, 6081, b"geneve")),
        (17, udp(33333, 7299, b"geneve")),
        (17, udp(4500, 1024, b"spi.seq.data")),
        (17, udp(1024, 4500, b"spi.seq.data")),
    ]
] + [ipv6(44, FRAGMENT + udp(1, 6081)), b"\x46" + ipv4(17, b"opt." + udp(1, 4789))[1:]]
UNSEEN = [
    form(protocol, payload)
    for form in (ipv4, ipv6)
    for protocol, payload in [(6, b"x" * 20), (17, udp(6081, 9)), (17, udp(9, 7300)), (1, b"ping")]
] + [b"", b"\x45", b"\x60" * 41]


@pytest.mark.parametrize("packet", SEEN)
def test_filter_leaves_no_packet_that_is_counted(packet: bytes) -> None:
    assert classify(packet, PORTS) is not None
    assert passes(filters.tunnels(PORTS), packet)


@pytest.mark.parametrize("packet", UNSEEN)
def test_filter_leaves_what_nobody_looks_at(packet: bytes) -> None:
    assert classify(packet, PORTS) is None
    assert not passes(filters.tunnels(PORTS), packet)


@given(
    st.sampled_from([*SEEN, *UNSEEN]),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4),
)
def test_whatever_is_counted_passes_the_filter(
    packet: bytes, changes: list[tuple[int, int]]
) -> None:
    changed = bytearray(packet)
    for at, value in changes:
        if at < len(changed):
            changed[at] = value
    if classify(bytes(changed), PORTS) is not None:
        assert passes(filters.tunnels(PORTS), bytes(changed))


def test_more_ports_than_a_filter_can_hold_let_everything_pass() -> None:
    assert passes(filters.tunnels(range(1, 3000)), UNSEEN[0])

"""What verify says of what it finds."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.model.conns import (
    GuardCounters,
    GuardMode,
    KernelPolicy,
    KernelState,
    ObservedGuard,
)
from ovn_ipsec.status.overview import Overview, PeerRow
from ovn_ipsec.verify.checks import Check, Found, judge, tunnel_ports
from ovn_ipsec.verify.packets import Kind, classify
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
    {(PEER, Kind.ESP, True): 9, (PEER, Kind.PLAIN, False): 3},
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


@pytest.mark.parametrize(
    ("found", "name", "reason"),
    [
        (replace(GOOD, guard=ObservedGuard(False, False)), "guard", "absent"),
        (replace(GOOD, guard=ObservedGuard(True, False, GuardMode.ENFORCE)), "guard", "changed"),
        (replace(GOOD, guard=ObservedGuard(True, True, GuardMode.AUDIT)), "guard", "audit"),
        (replace(GOOD, states=STATES[:1]), "tunnel tun", "ESP state"),
        (replace(GOOD, policies=frozenset()), "tunnel tun", "no policy towards"),
        (
            replace(GOOD, counts={(PEER, Kind.PLAIN, True): 2}),
            "nothing leaves in clear",
            f"2 to {PEER}",
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
    assert classify(packet, {6081}) == ((kind, HERE, PEER) if kind else None)


def test_ipv6_packets_are_told_apart_also_behind_a_fragment_header() -> None:
    ends = ip_address("2001:db8::1").packed + ip_address("2001:db8::7").packed
    told = (Kind.PLAIN, "2001:db8::1", "2001:db8::7")
    head = struct.pack("!IHBB", 6 << 28, 0, 17, 64) + ends
    assert classify(head + udp(1, 6081), {6081}) == told
    head = struct.pack("!IHBB", 6 << 28, 0, 44, 64) + ends
    first, later = struct.pack("!BBHI", 17, 0, 1, 7), struct.pack("!BBHI", 17, 0, 0x101, 7)
    assert classify(head + first + udp(1, 6081), {6081}) == told
    assert classify(head + later + udp(1, 6081), {6081}) is None


@given(st.binary(max_size=120))
def test_no_packet_is_an_error(packet: bytes) -> None:
    classify(packet, {6081})

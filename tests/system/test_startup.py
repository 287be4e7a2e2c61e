"""A tunnel comes up, in whatever order its ends are started, and never in clear."""

from __future__ import annotations

import time

import pytest

from tests.system.pairs import PSK, UP_TIMEOUT_S, settle, start_closed, wait_encrypted
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pcap import Kind

pytestmark = pytest.mark.system


def _tunnel_to(node: Node, peer: Node, **options: str) -> None:
    node.add_tunnel(f"tun-{peer.name}", peer.ipv4, **{"psk": PSK, **options})


@pytest.mark.parametrize("first", ["a", "b"])
def test_one_end_configured_long_before_the_other(lab: Lab, first: str) -> None:
    a, b = lab.overlay("a", "b")
    one, other = (a, b) if first == "a" else (b, a)
    for node in (one, other):
        node.start_pluto()
        start_closed(node)
    since = lab.wire.mark()
    with lab.traffic(a, b) as traffic:
        _tunnel_to(one, other)
        settle(8)
        _tunnel_to(other, one)
        traffic.wait_flowing(UP_TIMEOUT_S)
    assert lab.wire.count(Kind.PLAINTEXT, since=since) == 0
    assert lab.wire.count(Kind.ESP, since=since) > 0


def test_ports_exist_before_agent_and_pluto_but_after_the_guard(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    for node in (a, b):
        node.guard("apply", "--guard-on-unknown=enforce")
    since = lab.wire.mark()
    with lab.traffic(a, b) as traffic:
        lab.connect(a, b, psk=PSK)
        settle(3)
        for node in (a, b):
            start_closed(node)  # it starts pluto, too
        traffic.wait_flowing(UP_TIMEOUT_S)
    assert lab.wire.count(Kind.PLAINTEXT, since=since) == 0


def test_tunnel_over_ipv6(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    for node in (a, b):
        node.start_pluto()
        start_closed(node)
    since = lab.wire.mark()
    with lab.traffic(a, b) as traffic:
        lab.connect(a, b, ipv6=True, psk=PSK)
        traffic.wait_flowing(UP_TIMEOUT_S)
    assert lab.wire.count(Kind.PLAINTEXT, since=since) == 0
    assert lab.wire.count(Kind.ESP, since=since, src=a.ipv6, dst=b.ipv6) > 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param("vxlan", {}, marks=pytest.mark.slow, id="vxlan"),
        pytest.param("gre", {}, id="gre"),
        pytest.param("geneve", {"dst_port": "6099"}, marks=pytest.mark.slow, id="custom-port"),
    ],
)
def test_other_tunnel_types_are_encrypted(lab: Lab, kind: str, options: dict[str, str]) -> None:
    if "dst_port" in options:
        lab.wire.watch_port(int(options["dst_port"]))
    a, b = lab.overlay("a", "b")
    flags = ("--guard-ports=udp/4789,gre,udp/6099",)
    for node in (a, b):
        node.start_pluto()
        start_closed(node, *flags)
    since = lab.wire.mark()
    with lab.traffic(a, b) as traffic:
        lab.connect(a, b, kind, ipv6=False, psk=PSK, **options)
        traffic.wait_flowing(UP_TIMEOUT_S)
    assert lab.wire.count(Kind.PLAINTEXT, since=since) == 0
    assert lab.wire.count(Kind.ESP, since=since) > 0


def test_both_ends_at_once_converge_like_the_floor(lab: Lab) -> None:
    """The floor: the same two connections given to both plutos by hand, one side initiating."""
    a, b = lab.overlay("a", "b")
    for node in (a, b):
        node.start_pluto()
    floor_s = _by_hand(a, b)
    for node in (a, b):
        start_closed(node)
    settle(3)
    lab.connect(a, b, psk=PSK)
    start = time.monotonic()
    with lab.traffic(a, b) as traffic:
        traffic.wait_flowing(UP_TIMEOUT_S)
        took_s = time.monotonic() - start
    assert took_s <= 1.5 * floor_s + 3, f"{took_s:.1f} s, the floor is {floor_s:.1f} s"
    settle(2)
    for node in (a, b):
        wait_encrypted(node, 1)
        assert node.sa_count() == 4


def _by_hand(a: Node, b: Node) -> float:
    """Seconds from writing the connections to four SAs on both nodes; leaves nothing behind."""
    start = time.monotonic()
    for node, peer in ((a, b), (b, a)):
        common = (
            f"  left={node.ipv4}\n  right={peer.ipv4}\n  type=transport\n  authby=secret\n"
            "  ikev2=yes\n  ike=aes_gcm256-sha2_256\n  esp=aes_gcm256\n  auto=add\n"
            "  leftupdown=%disabled\n"
        )
        node.write_file(
            "/etc/ipsec.d/floor.conf",
            f"conn floor-in\n{common}  leftprotoport=udp/6081\n  rightprotoport=udp\n"
            f"conn floor-out\n{common}  leftprotoport=udp\n  rightprotoport=udp/6081\n",
        )
        node.write_file(
            "/etc/ipsec.d/floor.secrets", f'{node.ipv4} {peer.ipv4} : PSK "{PSK[:7]}"\n', 0o600
        )
        node.whack("--rereadsecrets")
        node.load_connections("floor-in", "floor-out")
    for name in ("floor-in", "floor-out"):
        a.whack("--name", name, "--asynchronous", "--initiate", check=False)
    while a.sa_count() < 4 or b.sa_count() < 4:
        assert time.monotonic() - start < UP_TIMEOUT_S, "the floor itself does not come up"
        time.sleep(0.1)
    took_s = time.monotonic() - start
    for node in (a, b):
        for name in ("floor-in", "floor-out"):
            node.whack("--name", name, "--delete", check=False)
        node.path("/etc/ipsec.d/floor.conf").unlink()
        node.path("/etc/ipsec.d/floor.secrets").unlink()
        node.whack("--rereadsecrets")
    return took_s

"""The lab itself: its wire sees plaintext, ESP and fragments, and its nodes do what they say."""

from __future__ import annotations

import time

import pytest

from tools.lab import forge
from tools.lab.container import wait_until
from tools.lab.lab import Lab
from tools.lab.monitor import ORIGINAL_LOG
from tools.lab.node import Node
from tools.lab.pcap import Kind

pytestmark = pytest.mark.system

_CONNECTIONS = """
conn %default
    type=transport
    authby=secret
    ike=aes_gcm256-sha2_256
    esp=aes_gcm256
    leftupdown=%disabled
    left={local}
    right={remote}

conn in
    leftprotoport=udp/6081
    rightprotoport=udp

conn out
    leftprotoport=udp
    rightprotoport=udp/6081
"""


def _configure_psk(node: Node, peer: Node) -> None:
    """Connections by hand, as the original lays them out."""
    node.write_file("/etc/ipsec.conf", _CONNECTIONS.format(local=node.ipv4, remote=peer.ipv4))
    secret = f'{node.ipv4} {peer.ipv4} : PSK "correct horse battery"\n'
    node.write_file("/etc/ipsec.secrets", secret, 0o600)
    node.start_pluto()
    node.load_connections("in", "out")


def _encrypt(a: Node, b: Node) -> None:
    """Bring both connections up from `a`; returns when both nodes have their four states."""
    for node, peer in ((a, b), (b, a)):
        _configure_psk(node, peer)
    for name in ("in", "out"):
        a.whack("--asynchronous", "--name", name, "--initiate", check=False)
    wait_until(lambda: a.sa_count() == b.sa_count() == 4, 30, "four states on both nodes")


@pytest.mark.parametrize(
    ("kind", "outer_ipv6"),
    [("geneve", False), ("geneve", True), ("vxlan", False), ("vxlan", True), ("gre", False)],
)
def test_plain_tunnel_is_seen_in_clear(lab: Lab, kind: str, outer_ipv6: bool) -> None:
    a, b = lab.overlay("a", "b")
    lab.connect(a, b, kind, ipv6=outer_ipv6)
    with lab.traffic(a, b) as traffic, lab.traffic(a, b, ipv6=True) as inner_ipv6:
        traffic.wait_flowing(10)
        inner_ipv6.wait_flowing(10)
        since, start = lab.wire.mark(), time.monotonic()
        time.sleep(1)
        # No promise of OVS on a busy machine; what the lab must do is carry a steady stream.
        assert traffic.lost(start) <= 2
        assert all(flow.received > 10 for flow in traffic.stats(start).values())
    ends = (
        ((a.ipv6, b.ipv6), (b.ipv6, a.ipv6))
        if outer_ipv6
        else ((a.ipv4, b.ipv4), (b.ipv4, a.ipv4))
    )
    for src, dst in ends:
        assert lab.wire.count(Kind.PLAINTEXT, since=since, src=src, dst=dst) > 20
    assert lab.wire.count(Kind.ESP) == 0


def test_port_of_one_scenario_counts_as_tunnel(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    lab.connect(a, b, dst_port="6999")
    with lab.traffic(a, b) as traffic:
        traffic.wait_flowing(10)
        assert lab.wire.count(Kind.PLAINTEXT) == 0
        lab.wire.watch_port(6999)
        assert lab.wire.count(Kind.PLAINTEXT, src=a.ipv4) > 0


def test_large_tunnel_packets_are_plaintext_in_every_fragment(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    lab.connect(a, b, df_default="false")
    for node in (a, b):
        node.run(["ip", "link", "set", "eth0", "mtu", "1300"])
    since = lab.wire.mark()
    assert a.run(["ping", "-M", "dont", "-c", "2", "-w", "8", "-s", "1300", b.inner_ipv4])
    packets = lab.wire.packets(Kind.PLAINTEXT, since=since, src=a.ipv4, dst=b.ipv4)
    assert sum(packet.is_later_fragment for packet in packets) >= 2
    assert len(packets) >= 4
    assert lab.wire.count(Kind.OTHER, since=since) == 0


def test_connections_turn_a_tunnel_into_esp(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    lab.connect(a, b)
    with lab.traffic(a, b) as traffic:
        traffic.wait_flowing(10)
        assert lab.wire.count(Kind.PLAINTEXT) > 0
        _encrypt(a, b)
        since, start = lab.wire.mark(), time.monotonic()
        traffic.wait_flowing(10, start)
        time.sleep(1)
        assert traffic.lost(start) == 0
        assert lab.wire.count(Kind.PLAINTEXT, since=since) == 0
        for src, dst in ((a, b), (b, a)):
            assert lab.wire.count(Kind.ESP, since=since, src=src.ipv4, dst=dst.ipv4) > 10
    assert lab.wire.count(Kind.IKE) >= 4
    assert "udp" in a.xfrm_policy()


def test_pluto_dies_in_each_of_its_ways(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    lab.connect(a, b)
    _encrypt(a, b)

    a.kill_pluto()
    assert not a.pluto_runs()
    assert a.sa_count() == 4, "a killed pluto leaves the kernel as it is"
    a.start_pluto()

    b.shutdown_pluto(leave_state=True)
    assert b.sa_count() == 4
    a.shutdown_pluto()
    b.start_pluto()
    b.shutdown_pluto()
    assert not a.pluto_runs()
    assert not b.pluto_runs()


def test_packaged_unit_is_replayed(lab: Lab) -> None:
    """What systemd does on a restart and after a crash, with the distribution's own unit."""
    a, b = lab.overlay("a", "b")
    lab.connect(a, b)
    _encrypt(a, b)

    a.ipsec_restart()
    assert a.pluto_runs()
    assert a.sa_count() == 0
    assert "shutting down" in a.pluto_log()

    b.crash_pluto()
    assert b.pluto_runs()
    assert b.sa_count() == 0, "ExecStopPost or the next start flushes XFRM"


@pytest.mark.parametrize("ipv6", [False, True])
def test_forged_packet_reaches_a_node_without_guard(lab: Lab, ipv6: bool) -> None:
    a, b = lab.overlay("a", "b")
    mallory = lab.host("mallory")
    lab.connect(a, b, ipv6=ipv6)
    listener = b.listen(b.inner_ipv4, forge.INNER_PORT)
    received = b.received_packets("tun-a")

    lab.forge(mallory, b, a, b"whole", ipv6=ipv6, count=5)
    lab.forge(mallory, b, a, b"fragmented" * 20, ipv6=ipv6, fragment_bytes=128, count=5)

    wait_until(lambda: listener.count(b"whole") == 5, 5, "whole packets arrive")
    wait_until(lambda: listener.count(b"fragmented") == 5, 5, "fragmented packets arrive")
    # The port has counted them; a's own neighbour discovery may have come in between.
    assert b.received_packets("tun-a") >= received + 10
    seen = lab.wire.packets(Kind.PLAINTEXT, src=a.ipv6 if ipv6 else a.ipv4)
    forged = [packet for packet in seen if packet.source_mac == mallory.address.mac]
    assert len(forged) == 5 + 5 * 3
    assert sum(packet.is_later_fragment for packet in forged) == 5 * 2


def test_ovn_carries_traffic_between_chassis(lab: Lab) -> None:
    a, b = lab.node("a"), lab.node("b")
    ovn = lab.ovn(a, b)
    ovn.add_switch("ls0")
    for node in (a, b):
        lab.plug(ovn, "ls0", node)
    ovn.wait_chassis()
    assert a.ping(b.inner_ipv4, timeout_s=10)
    assert lab.wire.count(Kind.PLAINTEXT, src=a.ipv4, dst=b.ipv4) > 0


# Slow: the original may wait for its own whack for minutes. What it does beside ours is in the
# required tier by test_interop and test_drop_in.
@pytest.mark.slow
def test_original_monitor_encrypts_with_psk(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    for node in (a, b):
        node.start_pluto()
        node.start_original_monitor("--no-restart-ike-daemon")
    # One after the other: of two that begin at once some cross, and stay half a tunnel for good.
    a.add_tunnel("tun-b", b.ipv4, psk="correct horse battery")
    wait_until(lambda: '"tun-b-out-1"' in a.whack("--status"), 30, "connections on the first node")
    time.sleep(5)
    b.add_tunnel("tun-a", a.ipv4, psk="correct horse battery")
    with lab.traffic(a, b) as traffic:
        wait_until(lambda: a.sa_count() >= 4 and b.sa_count() >= 4, 90, "states on both nodes")
        since, start = lab.wire.mark(), time.monotonic()
        traffic.wait_flowing(20, start)
        time.sleep(1)
        assert lab.wire.count(Kind.ESP, since=since, src=a.ipv4) > 10
    # Not asked through its socket: it is deaf while a whack of its own hangs.
    assert "Tunnel tun-b appeared in OVSDB" in a.read_file(ORIGINAL_LOG)

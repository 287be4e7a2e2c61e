"""The guard on a real kernel: no tunnel packet in clear, either way, whatever its form.

SAs are set by hand where the question is one of netfilter and XFRM alone.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ovn_ipsec.drivers.nftables_rules import TABLE
from ovn_ipsec.drivers.nftables_text import parse_listing, render_guard
from ovn_ipsec.model.conns import (
    Guard,
    GuardCounters,
    GuardMode,
    GuardPort,
    GuardTuple,
    Protocol,
)
from tools.lab import forge
from tools.lab.host import Host
from tools.lab.lab import Lab
from tools.lab.netns import socket_in
from tools.lab.node import Node
from tools.lab.pcap import Kind

pytestmark = pytest.mark.system

ZERO = GuardCounters(0, 0)
CUSTOM_PORT = 7000
_DESTINATION_OPTIONS = 60
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Way:
    """A kind of tunnel over one address family."""

    kind: str
    port: GuardPort
    ipv6: bool = False
    dst_port: str | None = None

    def address(self, host: Host) -> str:
        return host.ipv6 if self.ipv6 else host.ipv4

    def wrapped(self, src: str, dst: str, inner: bytes) -> tuple[int, bytes]:
        """(IP protocol, what follows the IP header) of a tunnel packet."""
        if self.kind == "gre":
            return 47, forge.gre(inner)
        body = forge.vxlan(inner) if self.kind == "vxlan" else forge.geneve(inner)
        assert self.port.port is not None
        return 17, forge.udp(src, dst, self.port.port, body)


def _udp(port: int) -> GuardPort:
    return GuardPort(Protocol.UDP, port)


# OVS's gre ports have no IPv6 on the kernel datapath.
WAYS = {
    "geneve": Way("geneve", _udp(6081)),
    "geneve-ipv6": Way("geneve", _udp(6081), ipv6=True),
    "vxlan": Way("vxlan", _udp(4789)),
    "vxlan-ipv6": Way("vxlan", _udp(4789), ipv6=True),
    "gre": Way("gre", GuardPort(Protocol.GRE, None)),
    "custom-port": Way("geneve", _udp(CUSTOM_PORT), dst_port=str(CUSTOM_PORT)),
}


@dataclass
class Scene:
    """Two nodes with a tunnel between them, and a third host on their wire."""

    lab: Lab
    a: Node
    b: Node
    attacker: Host
    way: Way

    def guard(self, *nodes: Node, exempt: bool = False) -> None:
        """Close all that the row of the tunnel closes; or exempt its tuple."""
        for node in nodes:
            peer = self.b if node is self.a else self.a
            entry = GuardTuple(self.way.address(peer), self.way.port.protocol, self.way.port.port)
            closed = frozenset({_udp(6081)})
            guard = Guard(GuardMode.ENFORCE, closed, closed_peers=frozenset({entry}))
            if exempt:
                closed |= {self.way.port}
                guard = Guard(GuardMode.ENFORCE, closed, exempt=frozenset({entry}))
            node.run(["nft", "-j", "-f", "-"], stdin=render_guard(guard, ZERO))

    def open(self, *nodes: Node) -> None:
        for node in nodes:
            node.nft("-f", "-", ruleset=f"add table inet {TABLE}\ndelete table inet {TABLE}\n")

    def met(self, node: Node) -> GuardCounters:
        listed = node.run(["nft", "-j", "-n", "list", "table", "inet", TABLE])
        return parse_listing(listed).counters

    def secure(self) -> None:
        """ESP in transport mode for the tunnel's packets, both ways."""
        ends = [self.way.address(node) for node in (self.a, self.b)]
        prefix = 128 if self.way.ipv6 else 32
        port = self.way.port.port
        what = f"proto {self.way.port.protocol}" + (f" dport {port}" if port else "")
        states = "".join(
            f"xfrm state add src {src} dst {dst} proto esp spi {spi:#x} reqid 1 mode transport "
            f"aead rfc4106(gcm(aes)) 0x{'11' * 20} 128\n"
            for spi, (src, dst) in enumerate((ends, ends[::-1]), start=0x1001)
        )
        for node, (local, remote) in ((self.a, ends), (self.b, ends[::-1])):
            policies = "".join(
                f"xfrm policy add src {src}/{prefix} dst {dst}/{prefix} {what} dir {direction} "
                f"tmpl src {src} dst {dst} proto esp reqid 1 mode transport\n"
                for direction, src, dst in (("out", local, remote), ("in", remote, local))
            )
            node.run(["ip", "-batch", "-"], stdin=states + policies)

    def forged_delivered(self, fragment_bytes: int | None, *, options_first: bool = False) -> int:
        """Of 5 packets that the attacker sends to a in b's name, how many a's overlay gets."""
        marker = b"forged %d " % next(_numbers) + b"x" * 300
        src, dst = self.way.address(self.b), self.way.address(self.a)
        inner = forge.inner_frame(
            self.b.inner_mac, self.a.inner_mac, self.b.inner_ipv4, self.a.inner_ipv4, marker
        )
        protocol, body = self.way.wrapped(src, dst, inner)
        if options_first:
            # Six bytes of padding (RFC 8200 section 4.6), then what we want to hide.
            body = struct.pack("!BB", protocol, 0) + b"\x01\x04\0\0\0\0" + body
            protocol = _DESTINATION_OPTIONS
        listener = self.a.listen(self.a.inner_ipv4, 7777)
        for _ in range(5):
            packets = forge.packets(src, dst, protocol, body, fragment_bytes, next(_numbers))
            macs = self.attacker.address.mac, self.a.address.mac
            self.attacker.inject(forge.frames(*macs, packets))
            time.sleep(0.05)
        time.sleep(0.3)
        delivered = listener.count(marker)
        listener.close()
        return delivered


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Lab, Node, Node, Host]]:
    """One pair of nodes for all tests of this file: starting OVS is what takes time."""
    with Lab() as lab:
        lab.wire.watch_port(CUSTOM_PORT)
        a, b = lab.overlay("a", "b")
        yield lab, a, b, lab.host("c")


@pytest.fixture
def scene(pair: tuple[Lab, Node, Node, Host], request: pytest.FixtureRequest) -> Iterator[Scene]:
    lab, a, b, attacker = pair
    way: Way = getattr(request, "param", WAYS["geneve"])
    options = {"dst_port": way.dst_port} if way.dst_port else {}
    made = Scene(lab, a, b, attacker, way)
    lab.connect(a, b, way.kind, ipv6=way.ipv6, **options)
    try:
        with lab.traffic(a, b) as traffic:
            traffic.wait_flowing(10)  # in clear: what follows could fail
        yield made
    finally:
        made.open(a, b)
        for node, peer in ((a, b), (b, a)):
            node.vsctl("--if-exists", "del-port", f"tun-{peer.name}")
            node.flush_xfrm("state")
            node.flush_xfrm("policy")


every_way = pytest.mark.parametrize("scene", WAYS.values(), ids=WAYS.keys(), indirect=True)


@every_way
def test_nothing_leaves_in_clear_without_sa_and_all_flows_in_esp_with_one(scene: Scene) -> None:
    scene.guard(scene.a, scene.b)
    since = scene.lab.wire.mark()
    with scene.lab.traffic(scene.a, scene.b) as traffic:
        time.sleep(0.6)
        assert not any(flow.received for flow in traffic.stats().values())
        assert scene.lab.wire.count(Kind.ESP, since=since) == 0
        assert scene.met(scene.a).out_packets > 5
        scene.secure()
        traffic.wait_flowing(10)
        dropped = scene.met(scene.a), scene.met(scene.b)
        start = time.monotonic()
        time.sleep(0.6)
        assert traffic.lost(start) == 0
    assert (scene.met(scene.a), scene.met(scene.b)) == dropped
    assert scene.lab.wire.count(Kind.PLAINTEXT, since=since) == 0
    assert scene.lab.wire.count(Kind.ESP, since=since) > 20


@every_way
def test_forged_plaintext_is_not_delivered_whole_or_in_fragments(scene: Scene) -> None:
    forms = (None, 256, 8)
    assert all(scene.forged_delivered(form) for form in forms)
    scene.guard(scene.a)
    assert [scene.forged_delivered(form) for form in forms] == [0, 0, 0]
    assert scene.met(scene.a).in_packets >= 15
    scene.secure()  # nor when there is an SA that it did not come through
    assert [scene.forged_delivered(form) for form in forms] == [0, 0, 0]


@pytest.mark.parametrize("scene", [WAYS["geneve-ipv6"]], ids=["geneve-ipv6"], indirect=True)
def test_forged_plaintext_behind_ipv6_options_is_not_delivered(scene: Scene) -> None:
    assert all(scene.forged_delivered(form, options_first=True) for form in (None, 256))
    scene.guard(scene.a)
    # In 8-byte fragments the first one shows no UDP header (RFC 7112).
    forms = (None, 256, 16, 8)
    assert [scene.forged_delivered(form, options_first=True) for form in forms] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "scene", [WAYS["geneve-ipv6"], WAYS["gre"]], ids=["geneve-ipv6", "gre"], indirect=True
)
def test_exempt_plain_tunnel_passes(scene: Scene) -> None:
    scene.guard(scene.a, scene.b, exempt=True)
    with scene.lab.traffic(scene.a, scene.b) as traffic:
        traffic.wait_flowing(10)
    assert scene.forged_delivered(256)
    assert scene.met(scene.a) == ZERO


@pytest.mark.parametrize(
    "scene", [WAYS["geneve"], WAYS["vxlan-ipv6"]], ids=["geneve", "vxlan-ipv6"], indirect=True
)
def test_source_nat_lets_nothing_out_in_clear(scene: Scene) -> None:
    """NAT changes the source, no policy matches any more, and ESP would be skipped."""
    ip, other, bits = ("ip6", "fd09::77", 64) if scene.way.ipv6 else ("ip", "10.9.7.7", 16)
    scene.secure()
    scene.a.run(
        ["ip", "addr", "add", f"{other}/{bits}", "dev", "eth0", *(["nodad"] * (bits == 64))]
    )
    nat = f"{ip} saddr {scene.way.address(scene.a)} snat {ip} to {other}"
    chain = f"chain x {{\ntype nat hook postrouting priority 100\n{nat}\n}}"
    scene.a.nft("-f", "-", ruleset=f"table inet nat {{\n{chain}\n}}\n")
    try:
        leaked = []
        for guarded in (False, True):
            if guarded:
                scene.guard(scene.a)
            since = scene.lab.wire.mark()
            with scene.lab.traffic(scene.a, scene.b):
                time.sleep(0.6)
            leaked.append(scene.lab.wire.count(Kind.PLAINTEXT, since=since))
    finally:
        scene.a.nft("delete", "table", "inet", "nat")
        scene.a.run(["ip", "addr", "del", f"{other}/{bits}", "dev", "eth0"])
    assert leaked[0] > 5
    assert leaked[1] == 0


@pytest.mark.parametrize(
    "scene", [WAYS["geneve"], WAYS["gre"]], ids=["geneve", "gre"], indirect=True
)
def test_icmp_error_quotes_nothing_that_came_in_esp(scene: Scene) -> None:
    """Without a tunnel port the kernel answers with a port unreachable, in clear."""
    scene.secure()
    scene.b.delete_tunnel("tun-a")
    quoted = []
    for guarded in (False, True):
        if guarded:
            scene.guard(scene.a, scene.b)
        time.sleep(1.1)  # ICMP errors are rate-limited
        since = scene.lab.wire.mark()
        sender = scene.a.datagram_socket(scene.a.inner_ipv4)
        for _ in range(5):
            sender.sendto(b"very secret words", (scene.b.inner_ipv4, 9))
            time.sleep(0.05)
        sender.close()
        time.sleep(0.2)
        sent = scene.lab.wire.packets(since=since)
        quoted.append(sum(b"very secret words" in packet.payload for packet in sent))
    assert quoted[0] > 0
    assert quoted[1] == 0


def test_esp_that_must_be_fragmented_passes(scene: Scene) -> None:
    """IPv4 alone: over IPv6 the kernel drops a tunnel packet that does not fit."""
    for node, peer in ((scene.a, "b"), (scene.b, "a")):
        node.set_interface(f"tun-{peer}", "options:df_default=false")
        node.vsctl("set", "interface", "br0", "mtu_request=2400")
    scene.secure()
    arrived = []
    for guarded in (False, True):
        if guarded:
            scene.guard(scene.a, scene.b)
        # Not IP inside: for that the kernel would rather tell the sender of a smaller MTU.
        frame = forge.experimental_frame(scene.a.inner_mac, scene.b.inner_mac, b"x" * 1900)
        overlay = socket_in(scene.b.netns, socket.AF_PACKET, socket.SOCK_RAW)
        overlay.bind(("br0", forge.EXPERIMENTAL))
        overlay.setblocking(False)
        since = scene.lab.wire.mark()
        scene.a.inject([frame] * 5, device="br0")
        time.sleep(0.5)
        arrived.append(_waiting(overlay).count(frame))
        overlay.close()
        assert scene.lab.wire.count(since=since, src=scene.way.address(scene.a)) >= 10
    for node in (scene.a, scene.b):
        node.vsctl("set", "interface", "br0", "mtu_request=1400")
    assert arrived == [5, 5]
    assert scene.met(scene.a) == scene.met(scene.b) == ZERO


def test_bfd_is_up_in_esp_and_silent_without(scene: Scene) -> None:
    scene.guard(scene.a, scene.b)
    for node, peer in ((scene.a, "b"), (scene.b, "a")):
        node.set_interface(f"tun-{peer}", "bfd:enable=true", "bfd:min_rx=200", "bfd:min_tx=200")
    since = scene.lab.wire.mark()
    time.sleep(1)
    assert 'forwarding="true"' not in _bfd(scene.a)
    scene.secure()
    deadline = time.monotonic() + 15
    while 'forwarding="true"' not in _bfd(scene.a):
        assert time.monotonic() < deadline, _bfd(scene.a)
        time.sleep(0.2)
    assert scene.lab.wire.count(Kind.PLAINTEXT, since=since) == 0


def _waiting(receiver: socket.socket) -> list[bytes]:
    received: list[bytes] = []
    while True:
        try:
            received.append(receiver.recv(65535))
        except BlockingIOError:
            return received


def _bfd(node: Node) -> str:
    return node.vsctl("get", "interface", "tun-b", "bfd_status")

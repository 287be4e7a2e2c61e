"""One underlay network with its tap, and the hosts on it."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tools.lab import forge
from tools.lab.container import LAB_DIRECTORY, LabError
from tools.lab.host import Host, UnderlayAddress
from tools.lab.node import Node
from tools.lab.ovn import Ovn
from tools.lab.ovs import InnerAddress
from tools.lab.pcap import GENEVE_PORT
from tools.lab.traffic import Traffic
from tools.lab.wire import Wire

_UNDERLAY_IPV4 = IPv4Address("10.9.0.0")
_UNDERLAY_IPV6 = IPv6Address("fd09::")
# A default route is what libreswan resolves %defaultroute with; nothing is behind it.
_GATEWAYS = {"gateway_ipv4": "10.9.255.254", "gateway_ipv6": "fd09::ffff"}
_BROADCAST = "10.9.255.255"
_INNER_IPV4 = IPv4Address("10.77.0.0")
_INNER_IPV6 = IPv6Address("fd77::")
_numbers = itertools.count(1)

AnyHost = TypeVar("AnyHost", bound=Host)

open_labs: list[Lab] = []
"""Those that run now, for who must describe a failure without knowing the scenario."""

_UNDERLAY_SETUP = """
link set lo up
link add br0 type bridge forward_delay 0 mcast_snooping 0
link set br0 mtu {mtu}
addr add {gateway_ipv4}/16 brd + dev br0
addr add {gateway_ipv6}/64 dev br0 nodad
link set br0 up
"""
_ATTACH = """
link add {port} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {pid}
link set {port} master br0 up
"""
_ADDRESSES = """
addr add {ipv4}/16 brd + dev eth0
addr add {ipv6}/64 dev eth0 nodad
link set eth0 up
route add default via {gateway_ipv4}
route add default via {gateway_ipv6}
"""


class Lab:
    """A context manager: everything that it started is gone at its end, files too.

    `mtu` is that of the underlay, in bytes.
    """

    def __init__(self, *, mtu: int = 1500) -> None:
        self._mtu = mtu
        self._directory = LAB_DIRECTORY / str(next(_numbers))
        self._directory.mkdir(parents=True)
        self._hosts: dict[str, Host] = {}
        self._traffic: list[Traffic] = []
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            raise LabError("no network namespace for the underlay")
        self._netns = Path(f"/proc/{self._holder.pid}/ns/net")
        self._ip_in_underlay(_UNDERLAY_SETUP.format(mtu=mtu, **_GATEWAYS))
        self.wire = Wire(self._netns, _BROADCAST, self._directory / "wire.pcap")
        open_labs.append(self)

    def host(self, name: str) -> Host:
        """A new host without any daemon, such as an attacker."""
        return self._attach(Host(name, self._directory / name, self._next_address()))

    def node(self, name: str) -> Node:
        """A new node with nothing started yet."""
        return self._attach(Node(name, self._directory / name, self._next_address()))

    def overlay(self, *names: str) -> list[Node]:
        """New nodes with Open vSwitch, a bridge each and overlay addresses; no tunnels yet."""
        nodes = [self.node(name) for name in names]
        for node in nodes:
            node.start_ovs()
            node.add_bridge(inner=self.inner_address(node))
        self.introduce(nodes)
        return nodes

    def introduce(self, nodes: Iterable[Node]) -> None:
        """Make each node know the others' overlay neighbours for good."""
        for one, other in itertools.permutations(nodes, 2):
            one.know_inner(other)

    def inner_address(self, host: Host) -> InnerAddress:
        """The overlay address that goes with a host."""
        number = int(host.address.ipv4) - int(_UNDERLAY_IPV4)
        return InnerAddress(
            str(_INNER_IPV4 + number), str(_INNER_IPV6 + number), f"02:77:00:00:00:{number:02x}"
        )

    def connect(
        self, a: Node, b: Node, kind: str = "geneve", *, ipv6: bool = False, **options: str
    ) -> None:
        """A tunnel port on each side, named ``tun-PEER``, with the same options."""
        for one, other in ((a, b), (b, a)):
            remote = other.ipv6 if ipv6 else other.ipv4
            one.add_tunnel(f"tun-{other.name}", remote, kind, **options)

    def traffic(self, a: Node, b: Node, *, rate_hz: float = 20, ipv6: bool = False) -> Traffic:
        """Start datagrams both ways; `ipv6` is about the overlay."""
        traffic = Traffic(a, b, rate_hz=rate_hz, ipv6=ipv6)
        self._traffic.append(traffic)
        return traffic

    def forge(
        self,
        attacker: Host,
        target: Node,
        claimed: Node,
        marker: bytes,
        *,
        ipv6: bool = False,
        fragment_bytes: int | None = None,
        count: int = 1,
    ) -> None:
        """Have `attacker` send Geneve packets in clear to `target` in the name of `claimed`.

        Whether they got through its tunnel port into the overlay shows
        ``target.listen(target.inner_ipv4, forge.INNER_PORT)``. tools.lab.forge has the parts for
        other forgeries.
        """
        src, dst = (claimed.ipv6, target.ipv6) if ipv6 else (claimed.ipv4, target.ipv4)
        inner = forge.inner_frame(
            claimed.inner_mac, target.inner_mac, claimed.inner_ipv4, target.inner_ipv4, marker
        )
        body = forge.udp(src, dst, GENEVE_PORT, forge.geneve(inner))
        packets = forge.packets(src, dst, socket.IPPROTO_UDP, body, fragment_bytes)
        frames = forge.frames(attacker.address.mac, target.address.mac, packets)
        for _ in range(count):
            attacker.inject(frames)

    def ovn(self, *chassis: Node) -> Ovn:
        """An OVN whose databases run on a new host ``central``, with these chassis joined."""
        ovn = Ovn(self.host("central"))
        for node in chassis:
            ovn.join(node)
        return ovn

    def plug(self, ovn: Ovn, switch: str, node: Node) -> None:
        """A logical port for a node: an internal port with the node's overlay address."""
        ovn.plug(switch, node, self.inner_address(node))

    @property
    def nodes(self) -> list[Node]:
        return [host for host in self._hosts.values() if isinstance(host, Node)]

    def dump(self, target: Path) -> None:
        """Everything that explains what happened: each node's logs and state, and the capture."""
        target.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            node.dump(target / node.name)
        self.wire.mark()
        shutil.copy(self.wire.capture, target / "wire.pcap")

    def detach(self, host: Host) -> None:
        """Pull a host's cable."""
        self._ip_in_underlay(f"link set {_port(host)} down\n")

    def reattach(self, host: Host) -> None:
        """Plug it in again."""
        self._ip_in_underlay(f"link set {_port(host)} up\n")

    def close(self) -> None:
        """Stop everything; LabError if the capture had lost a packet."""
        open_labs.remove(self)
        for traffic in self._traffic:
            traffic.close()
        for host in self._hosts.values():
            host.stop()
        try:
            self.wire.close()
        finally:
            self._holder.kill()
            self._holder.wait()
            if self._holder.stdout is not None:
                self._holder.stdout.close()
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _attach(self, host: AnyHost) -> AnyHost:
        if host.name in self._hosts:
            host.remove()
            raise LabError(f"two hosts named {host.name}")
        self._hosts[host.name] = host
        attach = _ATTACH.format(
            port=_port(host), mac=host.address.mac, mtu=self._mtu, pid=host.pid
        )
        self._ip_in_underlay(attach)
        addresses = _ADDRESSES.format(ipv4=host.ipv4, ipv6=host.ipv6, **_GATEWAYS)
        host.run(["ip", "-batch", "-"], stdin=addresses)
        return host

    def _next_address(self) -> UnderlayAddress:
        number = len(self._hosts) + 1
        return UnderlayAddress(
            _UNDERLAY_IPV4 + number, _UNDERLAY_IPV6 + number, f"02:09:00:00:00:{number:02x}"
        )

    def _ip_in_underlay(self, batch: str) -> None:
        argv = ["nsenter", f"--net={self._netns}", "ip", "-batch", "-"]
        subprocess.run(argv, input=batch, text=True, check=True)


def _port(host: Host) -> str:
    return f"p-{host.name}"[:15]

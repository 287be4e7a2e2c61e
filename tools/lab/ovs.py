"""Open vSwitch on a host: its daemons, bridges and tunnel ports."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.lab.container import LabError
from tools.lab.host import PATIENT, Host

OVSDB = "unix:/run/openvswitch/db.sock"

INNER_MTU_BYTES = 1400
"""Fits a 1500 byte underlay with Geneve, ESP and UDP encapsulation over IPv6."""

# Before that the kernel's monotonic clock makes OVS count zero cores and start no handlers.
_EARLIEST_VSWITCHD_UPTIME_S = 10.5

_START = """
set -e
ovsdb-server /etc/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock \
    --remote=db:Open_vSwitch,Open_vSwitch,manager_options \
    --private-key=db:Open_vSwitch,SSL,private_key --certificate=db:Open_vSwitch,SSL,certificate \
    --bootstrap-ca-cert=db:Open_vSwitch,SSL,ca_cert \
    --pidfile --detach --no-chdir --log-file=/var/log/openvswitch/ovsdb-server.log
ovs-vsctl --no-wait init -- set Open_vSwitch . "external-ids:system-id=$1" \
    "external-ids:hostname=$1" external-ids:rundir=/run/openvswitch
"""
_START_VSWITCHD = [
    "ovs-vswitchd",
    OVSDB,
    "--pidfile",
    "--detach",
    "--no-chdir",
    "--log-file=/var/log/openvswitch/ovs-vswitchd.log",
]


@dataclass(frozen=True, slots=True)
class InnerAddress:
    """An address of a host inside the overlay."""

    ipv4: str
    ipv6: str
    mac: str


class OvsHost(Host):
    """A host that can run Open vSwitch with the kernel's datapath."""

    inner: InnerAddress | None = None
    """Set once the host has an interface in the overlay."""

    @property
    def inner_ipv4(self) -> str:
        return self._inner().ipv4

    @property
    def inner_ipv6(self) -> str:
        return self._inner().ipv6

    @property
    def inner_mac(self) -> str:
        return self._inner().mac

    def start_ovsdb(self, system_id: str | None = None) -> None:
        """Start ovsdb-server alone; `system_id` is the node's name unless given."""
        self.run(["sh", "-c", _START, "sh", system_id or self.name])

    def start_ovs(self, system_id: str | None = None) -> None:
        """Start ovsdb-server and ovs-vswitchd; returns when both serve."""
        self.start_ovsdb(system_id)
        self.start_vswitchd()

    def start_vswitchd(self) -> None:
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        time.sleep(max(0.0, _EARLIEST_VSWITCHD_UPTIME_S - uptime_s))
        self.run(_START_VSWITCHD)

    def vsctl(self, *arguments: str) -> str:
        """``ovs-vsctl``; waits until ovs-vswitchd has applied the change."""
        return self.run(["ovs-vsctl", PATIENT, "--timeout=60", *arguments], timeout_s=90)

    def add_bridge(self, name: str = "br0", *, inner: InnerAddress | None = None) -> None:
        """A bridge that learns and floods; with `inner`, its own port has that overlay address."""
        commands = ["add-br", name, "--", "set", "bridge", name, "fail-mode=standalone"]
        if inner is not None:
            commands += [f'other-config:hwaddr="{inner.mac}"', *_internal_port(name, inner)]
        self.vsctl(*commands)
        if inner is not None:
            self._address_inner_port(name, inner)

    def add_inner_port(
        self,
        bridge: str,
        port: str,
        inner: InnerAddress,
        *,
        external_ids: Mapping[str, str] | None = None,
    ) -> None:
        """Give the host an overlay address on a new internal port of a bridge."""
        ids = [f"external_ids:{key}={value}" for key, value in (external_ids or {}).items()]
        self.vsctl("add-port", bridge, port, *_internal_port(port, inner), *ids)
        self._address_inner_port(port, inner)

    def _address_inner_port(self, port: str, inner: InnerAddress) -> None:
        batch = (
            f"link set {port} up\n"
            f"addr add {inner.ipv4}/16 dev {port}\n"
            f"addr add {inner.ipv6}/64 dev {port} nodad\n"
        )
        self.run(["ip", "-batch", "-"], stdin=batch)
        self.inner = inner
        self._inner_port = port

    def know_inner(self, peer: OvsHost) -> None:
        """A permanent neighbour entry, so that healing times are not those of ARP or ND."""
        where = f"lladdr {peer.inner_mac} dev {self._inner_port} nud permanent\n"
        batch = "".join(
            f"neigh replace {address} {where}" for address in (peer.inner_ipv4, peer.inner_ipv6)
        )
        self.run(["ip", "-batch", "-"], stdin=batch)

    def add_tunnel(
        self,
        name: str,
        remote_ip: str,
        kind: str = "geneve",
        *,
        bridge: str = "br0",
        **options: str,
    ) -> None:
        """A tunnel port; `options` become options:KEY=VALUE (psk, local_ip, dst_port, ...).

        Tunnel ports are `protected`: they do not forward to each other, so that a full mesh on
        one bridge has no loops.
        """
        pairs = [f"options:{key}={_quoted(value)}" for key, value in options.items()]
        self.vsctl(
            *("add-port", bridge, name, "--", "set", "port", name, "protected=true"),
            *("--", "set", "interface", name, f"type={kind}"),
            *(f"options:remote_ip={_quoted(remote_ip)}", *pairs),
        )

    def delete_tunnel(self, name: str) -> None:
        self.vsctl("del-port", name)

    def set_interface(self, name: str, *settings: str) -> None:
        """``ovs-vsctl set interface NAME COLUMN[:KEY]=VALUE ...``"""
        self.vsctl("set", "interface", name, *settings)

    def received_packets(self, port: str) -> int:
        """Packets that a tunnel port handed to its bridge, up to the moment of the call."""
        # Tunnel ports are counted when revalidators read the datapath's flows.
        self.ovs_appctl("ovs-vswitchd", "revalidator/wait")
        bridge = self.vsctl("iface-to-br", port).strip()
        return rx_packets(self.run(["ovs-ofctl", PATIENT, "dump-ports", bridge, port]))

    def ovs_appctl(self, target: str, *arguments: str, timeout_s: float = 20) -> str:
        """``ovs-appctl -t TARGET ...``; CommandError when the target answers with an error."""
        return self.run(["ovs-appctl", PATIENT, "-t", target, *arguments], timeout_s=timeout_s)

    def _inner(self) -> InnerAddress:
        if self.inner is None:
            raise LabError(f"{self.name} has no overlay interface yet")
        return self.inner


def _internal_port(name: str, inner: InnerAddress) -> list[str]:
    """The part of an ovs-vsctl transaction that shapes an internal port."""
    shape = ["type=internal", f'mac="{inner.mac}"', f"mtu_request={INNER_MTU_BYTES}"]
    return ["--", "set", "interface", name, *shape]


def _quoted(value: str) -> str:
    """An OVSDB string atom, whatever characters it has."""
    return json.dumps(value)


def rx_packets(dump_ports: str) -> int:
    """The count in the text of ``ovs-ofctl dump-ports BRIDGE PORT``."""
    found = re.search(r"\brx pkts=(\d+)", dump_ports)
    if found is None:
        raise LabError(f"no packet count in {dump_ports}")
    return int(found.group(1))

"""OVN: the central databases with northd on one host, ovn-controller on each chassis."""

from __future__ import annotations

from tools.lab.container import wait_until
from tools.lab.host import PATIENT, Host
from tools.lab.node import Node
from tools.lab.ovs import OVSDB, InnerAddress

_SOUTHBOUND_PORT = 6642

_START_CENTRAL = """
set -e
for db in nb sb; do
    ovsdb-tool create /var/lib/ovn/ovn${db}_db.db /usr/share/ovn/ovn-${db}.ovsschema
done
ovsdb-server /var/lib/ovn/ovnnb_db.db --remote=punix:/run/ovn/ovnnb_db.sock \
    --unixctl=/run/ovn/ovnnb_db.ctl --pidfile=/run/ovn/ovnnb_db.pid --detach --no-chdir \
    --log-file=/var/log/ovn/ovsdb-server-nb.log
ovsdb-server /var/lib/ovn/ovnsb_db.db --remote=punix:/run/ovn/ovnsb_db.sock \
    --remote=ptcp:$1:0.0.0.0 --unixctl=/run/ovn/ovnsb_db.ctl --pidfile=/run/ovn/ovnsb_db.pid \
    --detach --no-chdir --log-file=/var/log/ovn/ovsdb-server-sb.log
ovn-nbctl --timeout=20 init
ovn-sbctl --timeout=20 init
ovn-northd --ovnnb-db=unix:/run/ovn/ovnnb_db.sock --ovnsb-db=unix:/run/ovn/ovnsb_db.sock \
    --pidfile --detach --no-chdir --log-file=/var/log/ovn/ovn-northd.log
"""

_START_CONTROLLER = [
    "ovn-controller",
    OVSDB,
    "--pidfile",
    "--detach",
    "--no-chdir",
    "--log-file=/var/log/ovn/ovn-controller.log",
]


class Ovn:
    """One OVN deployment."""

    def __init__(self, central: Host) -> None:
        self.central = central
        central.run(["sh", "-c", _START_CENTRAL, "sh", str(_SOUTHBOUND_PORT)])

    def nbctl(self, *arguments: str) -> str:
        """``ovn-nbctl``; with ``--wait=hv`` it returns when every chassis has caught up."""
        return self.central.run(["ovn-nbctl", PATIENT, "--timeout=60", *arguments], timeout_s=90)

    def join(self, node: Node, *, encapsulation: str = "geneve") -> None:
        """Start ovn-controller on a node (and Open vSwitch, unless it runs)."""
        if not node.path("/run/openvswitch/ovs-vswitchd.pid").exists():
            node.start_ovs()
        remote = f"tcp:{self.central.ipv4}:{_SOUTHBOUND_PORT}"
        settings = {
            "ovn-remote": remote,
            "ovn-encap-type": encapsulation,
            "ovn-encap-ip": node.ipv4,
        }
        pairs = [f'external-ids:{key}="{value}"' for key, value in settings.items()]
        node.vsctl("set", "Open_vSwitch", ".", *pairs)
        node.run(_START_CONTROLLER)

    def add_switch(self, switch: str) -> None:
        self.nbctl("ls-add", switch)

    def plug(self, switch: str, node: Node, address: InnerAddress) -> None:
        """A logical port of a switch, bound to an internal port of the node's br-int."""
        port = f"{switch}-{node.name}"
        addresses = f"{address.mac} {address.ipv4} {address.ipv6}"
        self.nbctl("lsp-add", switch, port, "--", "lsp-set-addresses", port, addresses)
        wait_until(
            lambda: "br-int" in node.vsctl("list-br").split(), 30, f"{node.name} has br-int"
        )
        node.add_inner_port("br-int", f"in-{node.name}", address, external_ids={"iface-id": port})

    def set_ipsec(self, enabled: bool) -> None:
        """``nb_global ipsec``: ovn-controller then asks for IPsec on each tunnel it makes."""
        self.nbctl("set", "nb_global", ".", f"ipsec={str(enabled).lower()}")

    def wait_chassis(self) -> None:
        """Until every chassis has applied everything that the northbound database says."""
        self.nbctl("--wait=hv", "sync")

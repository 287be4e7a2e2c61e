"""A node of a cluster: Open vSwitch, pluto, and an agent that watches them."""

from __future__ import annotations

from pathlib import Path

from tools.lab.monitor import MonitorHost
from tools.lab.ovs import OvsHost
from tools.lab.pluto import PlutoHost

_REPORTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ip-address", ("ip", "-s", "address")),
    ("xfrm-state", ("ip", "-s", "xfrm", "state", "list", "nokeys")),
    ("xfrm-policy", ("ip", "-s", "xfrm", "policy", "list", "nosock")),
    ("xfrm-stat", ("cat", "/proc/net/xfrm_stat")),
    ("nft", ("nft", "list", "ruleset")),
    ("ovs-vsctl-show", ("ovs-vsctl", "--timeout=5", "show")),
    ("datapath", ("ovs-appctl", "-t", "ovs-vswitchd", "dpctl/show", "-s")),
    ("whack-status", ("/usr/libexec/ipsec/whack", "--status")),
    ("tunnels-show", ("ovs-appctl", "-T", "5", "-t", "ovs-monitor-ipsec", "tunnels/show")),
    ("ipsec-status", ("ovs-appctl", "-T", "5", "-t", "ovs-monitor-ipsec", "ipsec/status")),
    ("processes", ("ps", "axfww", "-o", "pid,ppid,etime,time,args")),
)


class Node(OvsHost, PlutoHost, MonitorHost):
    """One chassis."""

    def logs(self) -> dict[str, str]:
        """The text of every file below /var/log, by path."""
        root = self.path("/var/log")
        found = {}
        for path in sorted(root.rglob("*")):
            if path.is_file():
                found[f"/var/log/{path.relative_to(root)}"] = path.read_text(errors="replace")
        return found

    def dump(self, target: Path) -> None:
        """Write logs, configuration and live state to a directory, for people who look later."""
        target.mkdir(parents=True, exist_ok=True)
        for name, text in self.logs().items():
            (target / name.removeprefix("/var/log/").replace("/", "-")).write_text(text)
        for name in ("/etc/ipsec.conf", "/etc/openvswitch/conf.db"):
            (target / Path(name).name).write_text(self.read_file(name))
        for path in self.path("/etc/ipsec.d").glob("*.conf"):
            (target / path.name).write_text(path.read_text(errors="replace"))
        for name, argv in _REPORTS:
            try:
                text = self.attempt(argv, timeout_s=15).stdout
            except TimeoutError as error:
                text = f"{error}\n"
            (target / f"{name}.txt").write_text(text)

"""The stage of every measurement: a hub, and a second node that plays all of its peers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tools.bench.tunnels.database import BRIDGE, Database
from tools.bench.tunnels.sa_events import SaEvents
from tools.lab.container import wait_until
from tools.lab.lab import Lab
from tools.lab.node import Node

PSK = "bench bench bench bench"
OTHER_PSK = "another secret for one tunnel"
IKE = "aes_gcm256-sha2_256-dh31"
"""Cheap for an emulated core, which otherwise needs minutes for the key exchanges alone."""
ESP = "aes_gcm256"
SAS_TO_A_PEER = 2
STATES_OF_A_TUNNEL = 2 * SAS_TO_A_PEER
"""Two child SAs, each one state in and one out."""
_SYSCTLS = Path("/proc/sys/net")
_UDP = {"in": ("udp/6081", "udp"), "out": ("udp", "udp/6081")}


def addresses(network: int, count: int) -> list[str]:
    """Of peers: ``count`` addresses from 10.9.<network>.1 on, 200 to a network."""
    return [f"10.9.{network + index // 200}.{index % 200 + 1}" for index in range(count)]


class Stage:
    """A hub without a monitor yet, and peers whose pluto answers and never asks."""

    def __init__(self, lab: Lab, alive: Sequence[str], dead: Sequence[str]) -> None:
        self.alive, self.dead = list(alive), list(dead)
        # All are neighbours of one link. From 1,024 on, the kernel as it is loses living ones, and
        # what is sent to dead ones fills a socket's buffer, in which pluto then waits for ARP.
        for level in (3, 2, 1):
            (_SYSCTLS / f"ipv4/neigh/default/gc_thresh{level}").write_text("16384")
        (_SYSCTLS / "core/wmem_default").write_text("8388608")
        self.hub, self.peers = lab.overlay("hub", "peers")
        batch = "".join(f"addr add {address}/16 dev eth0\n" for address in alive)
        self.peers.run(["ip", "-batch", "-"], stdin=batch)
        text = "".join(
            render_connection(f"p{number}-{role}", address, self.hub.ipv4, role, "add")
            for number, address in enumerate(self.alive)
            for role in _UDP
        )
        self.peers.write_file("/etc/ipsec.conf", f"config setup\n\n{text}", 0o600)
        write_secret(self.peers)
        self.peers.start_pluto(open_files=1024 + 2 * len(self.alive))
        names = [f"p{number}-{role}" for number in range(len(self.alive)) for role in _UDP]
        self.peers.load_connections(*names)

    def add_ports(self, remotes: Iterable[str]) -> None:
        """Tunnel ports without IPsec: Open vSwitch's own work on them is not measured."""
        remotes = list(remotes)
        for start in range(0, len(remotes), 100):
            words: list[str] = []
            for remote in remotes[start : start + 100]:
                name = port_name(remote)
                words += ["--", "add-port", BRIDGE, name]
                words += ["--", "set", "port", name, "protected=true"]
                words += ["--", "set", "interface", name, "type=geneve"]
                words += [f"options:remote_ip={remote}", "options:key=flow"]
            self.hub.vsctl("--no-wait", *words[1:])

    def encrypt(self, remotes: Iterable[str], psk: str = PSK) -> None:
        """Ask for IPsec on these ports, or for another secret, in one transaction."""
        options = {"psk": psk, "ipsec_ike": IKE}
        with Database(self.hub) as database:
            database.set_options({port_name(remote): options for remote in remotes})

    def remove(self, remote: str) -> None:
        """Take the port away."""
        with Database(self.hub) as database:
            database.remove_port(port_name(remote))

    def loaded(self) -> int:
        """Connections that the hub's pluto was ever given, as its log has it.

        To ask pluto would keep it from loading.
        """
        return self.hub.pluto_log().count(": added IKEv2 connection")

    def spis(self, remote: str) -> set[int]:
        """Of the hub's SAs to this peer, which pluto installs together with those from it."""
        ends = ["src", self.hub.ipv4, "dst", remote]
        lines = self.hub.run(["ip", "xfrm", "state", "list", "nokeys", *ends]).splitlines()
        found = {int(line.split(" spi ")[1].split()[0], 16) for line in lines if " spi 0x" in line}
        return found - {0}

    def wait_up(self, events: SaEvents, tunnels: int, timeout_s: float) -> None:
        """Until the hub's kernel has every SA of so many tunnels, since there were none."""
        wanted = STATES_OF_A_TUNNEL * tunnels
        events.wait(lambda: len(events.alive) >= wanted, timeout_s, f"{tunnels} tunnels up")


def soon(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait, and be late by a twentieth of the time at most. TimeoutError names ``what``."""
    wait_until(condition, timeout_s, what, late_share=1 / 20)


def port_name(remote: str) -> str:
    """A port's name for its remote address."""
    return "t" + remote.removeprefix("10.9.").replace(".", "x")


def render_connection(name: str, left: str, right: str, role: str, auto: str) -> str:
    """One half of a tunnel as every monitor writes it (ipsec.conf(5)).

    Without pluto's updown scripts, which do nothing for such a connection and take ten times as
    long as pluto itself.
    """
    mine, theirs = _UDP[role]
    return (
        f"conn {name}\n\tleft={left}\n\tright={right}\n\tleftprotoport={mine}\n"
        f"\trightprotoport={theirs}\n\ttype=transport\n\tauthby=secret\n\tikev2=insist\n"
        f"\tleftupdown=%disabled\n"
        f"\tike={IKE}\n\tesp={ESP}\n\tauto={auto}\n\n"
    )


def write_secret(node: Node, changed: tuple[str, str] | None = None) -> None:
    """One secret for everybody, but for one tunnel, given by its ends (ipsec.secrets(5))."""
    special = f'{" ".join(changed)} : PSK "{OTHER_PSK}"\n' if changed else ""
    node.write_file("/etc/ipsec.secrets", f'{special}%any %any : PSK "{PSK}"\n', 0o600)


def outside_pid(node: Node, inside: int) -> int:
    """The process number, as seen from outside, of a process of the node."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
            numbers = next(line for line in text.splitlines() if line.startswith("NSpid:")).split()
            same_node = (status.with_name("ns") / "net").readlink() == node.netns.readlink()
        except OSError:  # it has just ended
            continue
        if len(numbers) == 3 and numbers[-1] == str(inside) and same_node:
            return int(numbers[1])
    raise LookupError(f"{node.name}: no process {inside}")


def cpu_s(pid: int) -> float:
    """User and system seconds, those of its ended children included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")


def own_cpu_s(pid: int) -> float:
    """Of its living threads alone, to the nanosecond (Linux, scheduler/sched-stats)."""
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(stat.read_text().split()[0]) for stat in stats) / 1e9


def rss_mb(pid: int) -> float:
    """Resident memory (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"process {pid}: no VmRSS")

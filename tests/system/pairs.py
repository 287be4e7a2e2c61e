"""Two nodes with one encrypted tunnel and steady traffic, for scenarios that disturb it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tools.lab.container import wait_until
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pcap import Kind
from tools.lab.traffic import Traffic
from tools.lab.wire import Mark

PSK = "correct horse 'battery' staple"
UP_TIMEOUT_S = 40.0
"""Until a fresh tunnel carries traffic."""


@dataclass
class Pair:
    """A lab with nodes a and b. Everything is counted from before the first tunnel port."""

    lab: Lab
    a: Node
    b: Node
    traffic: Traffic
    since: Mark

    def node(self, name: str) -> Node:
        return {"a": self.a, "b": self.b}[name]

    def peer(self, node: Node) -> Node:
        return self.b if node is self.a else self.a

    def assert_no_plaintext(self, since: Mark | None = None) -> None:
        """Not one tunnel packet in clear on the wire since then (default: ever)."""
        leaked = self.lab.wire.packets(Kind.PLAINTEXT, since=since or self.since)
        assert leaked == []

    def heals_within(self, limit_s: float, since_s: float) -> float:
        """Traffic that was sent after ``since_s`` arrives both ways in time."""
        took_s = self.traffic.wait_flowing(limit_s + 15, since_s)
        assert took_s <= limit_s, f"healed only after {took_s:.1f} s"
        return took_s


@contextmanager
def encrypted_pair(lab: Lab, *flags: str) -> Iterator[Pair]:
    """Agents first, then tunnels, then traffic: as a cluster is installed."""
    a, b = lab.overlay("a", "b")
    for node in (a, b):
        node.start_pluto()
        # The scenarios themselves stop and start pluto, as systemd would.
        start_closed(node, "--no-restart-ike-daemon", *flags)
    since = lab.wire.mark()
    with lab.traffic(a, b) as traffic:
        lab.connect(a, b, psk=PSK)
        traffic.wait_flowing(UP_TIMEOUT_S)
        yield Pair(lab, a, b, traffic, since)


def start_closed(node: Node, *flags: str) -> None:
    """The agent as on a cluster that was installed with IPsec: no packet in clear, ever."""
    node.start_agent("--guard-on-unknown=enforce", *flags)


def wait_at_rest(*nodes: Node, children: int = 2, timeout_s: float = 90.0) -> dict[str, set[str]]:
    """Until each node has had the same child SAs, this many, for five seconds; returns them.

    pluto revives connections by itself some seconds after a failure, which may leave a duplicate
    for a while; what happens to SAs at rest is then due to the scenario.
    """
    seen: dict[str, set[str]] = {}
    since = time.monotonic()

    def at_rest() -> bool:
        nonlocal seen, since
        now = {node.name: sa_serials(node) for node in nodes}
        if now != seen:
            seen, since = now, time.monotonic()
        quiet_s = time.monotonic() - since
        return quiet_s >= 5 and all(len(serials) == children for serials in seen.values())

    wait_until(at_rest, timeout_s, "child SAs at rest", interval_s=0.5)
    return seen


def sa_serials(node: Node) -> set[str]:
    """pluto's serial numbers of established child SAs."""
    lines = node.whack("--trafficstatus").splitlines()
    return {line.split("#", 1)[1].split(":", 1)[0] for line in lines if "type=ESP" in line}


def wait_encrypted(node: Node, tunnels: int, timeout_s: float = UP_TIMEOUT_S) -> None:
    """Until the agent itself says that this many tunnels have both connections active."""

    def active() -> bool:
        shown = node.appctl("tunnels/show")
        return shown.count("esp.") + shown.count("Traffic:") >= tunnels and "Not up" not in shown

    wait_until(active, timeout_s, f"{node.name} shows {tunnels} tunnels up", interval_s=0.5)


def settle(seconds: float) -> None:
    """Let things happen for a while; named, so that bare sleeps stand out in scenarios."""
    time.sleep(seconds)

"""``make demo``: two OVN chassis talk through ESP, are disturbed, and are watched on the wire."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tools.lab.identity import CERTIFICATE, install_identity, write_identity
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pcap import Kind
from tools.lab.pki import Authority
from tools.lab.traffic import Traffic
from tools.lab.wire import Mark

_UP_TIMEOUT_S = 90.0


def main() -> int:
    """Tell the story; 0 only if not one tunnel packet was in clear and every step healed."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    say("an OVN central and two chassis, nb_global ipsec=true, certificates of one CA")
    with Lab() as lab:
        authority = Authority.create()
        since = lab.wire.mark()
        a, b = _cluster(lab, authority, say)
        with lab.traffic(a, b) as traffic:
            traffic.wait_flowing(_UP_TIMEOUT_S)
            say("traffic flows over the logical switch, both ways")
            print(a.appctl("tunnels/show"))
            good = _story(lab, a, authority, traffic, since, say)
        esp, clear = lab.wire.count(Kind.ESP, since=since), _in_clear(lab, since)
        say(f"on the wire since before the first tunnel port: {esp} ESP, {clear} in clear")
    return 0 if good and clear == 0 and esp > 0 else 1


def _cluster(lab: Lab, authority: Authority, say: Callable[[str], None]) -> tuple[Node, Node]:
    ovn = lab.ovn()
    ovn.set_ipsec(True)
    a, b = lab.node("a"), lab.node("b")
    for node in (a, b):
        node.start_ovs()
        install_identity(node, authority.issue(node.name), authority)
        node.start_pluto()
        node.start_agent("--guard-on-unknown=enforce")
        ovn.join(node)
        say(f"chassis {node.name} ({node.ipv4}): Open vSwitch, OVN, pluto and the agent run")
    ovn.add_switch("net")
    for node in (a, b):
        ovn.plug("net", node, lab.inner_address(node))
    lab.introduce([a, b])
    ovn.wait_chassis()
    return a, b


def _story(
    lab: Lab,
    node: Node,
    authority: Authority,
    traffic: Traffic,
    since: Mark,
    say: Callable[[str], None],
) -> bool:
    """Disturb one chassis in four ways; whether traffic came back each time, nothing in clear."""
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("pluto is killed, and started again", lambda: _kill_pluto(node)),
        ("the agent is restarted", node.restart_agent),
        ("the certificate is renewed", lambda: write_identity(node, authority.issue(node.name))),
        ("the certificate is removed", node.path(CERTIFICATE).unlink),
    )
    good = True
    for what, act in steps:
        start = time.monotonic()
        act()
        time.sleep(3)
        traffic.wait_flowing(_UP_TIMEOUT_S)
        lost, clear = traffic.lost(start), _in_clear(lab, since)
        say(f"{what}: {lost} packets lost, {clear} in clear")
        good = good and clear == 0
    return good


def _kill_pluto(node: Node) -> None:
    node.kill_pluto()
    time.sleep(1)
    node.start_pluto()


def _in_clear(lab: Lab, since: Mark) -> int:
    return lab.wire.count(Kind.PLAINTEXT, since=since)


if __name__ == "__main__":
    sys.exit(main())

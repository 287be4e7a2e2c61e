"""A tunnel that goes: nothing of it leaves in clear, however long Open vSwitch takes."""

from __future__ import annotations

import re
import signal

import pytest

from tests.system.pairs import PSK, settle, start_closed, wait_encrypted
from tools.lab.container import wait_until
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pcap import Kind

pytestmark = pytest.mark.system

UP_S = 30.0


def test_deleted_row_sends_nothing_in_clear_while_vswitchd_stands_still(lab: Lab) -> None:
    """udp/4789 is closed to this one peer only, and the datapath goes on sending by its flows."""
    a, b = lab.overlay("a", "b")
    for node in (a, b):
        node.start_pluto()
        start_closed(node)
    lab.connect(a, b, "vxlan", psk=PSK)
    with lab.traffic(a, b) as traffic:
        traffic.wait_flowing(UP_S)
        wait_encrypted(a, 1)
        since = lab.wire.mark()
        a.kill_all(signal.SIGSTOP, "ovs-vswitchd")
        try:
            a.vsctl("--no-wait", "del-port", "tun-b")
            wait_until(lambda: a.sa_count() == 0, 10, "the SAs are gone")
            before = dropped(a)
            settle(3)
            assert dropped(a) > before + 20
        finally:
            a.kill_all(signal.SIGCONT, "ovs-vswitchd")
    assert lab.wire.count(Kind.PLAINTEXT, since=since, src=a.ipv4) == 0


def dropped(node: Node) -> int:
    """Packets that the node would have sent in clear, whichever of the guard's tables met them."""
    counters = node.nft("list", "counters")
    met = re.findall(r"counter uncovered_out \{\s*packets ([0-9]+)", counters)
    assert met
    return sum(map(int, met))

"""A pod of the DaemonSet is replaced under traffic: pluto leaves its states behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.system.pairs import Pair, encrypted_pair, settle, wait_at_rest
from tools.lab.container import wait_until
from tools.lab.lab import Lab

# Slow: the peer's probes have to run out.
pytestmark = [pytest.mark.system, pytest.mark.slow]

PROBE = "ESTABLISHED_IKE_SA: retransmission"
PROBED_OUT = "timeout exceeded after"


@pytest.fixture
def pair(lab: Lab) -> Iterator[Pair]:
    with encrypted_pair(lab) as running:
        yield running


@pytest.mark.parametrize("end", ["a", "b"])
def test_pluto_replaced_while_its_peer_probes_costs_no_packet(
    pair: Pair, end: str, record_property: Callable[[str, object], None]
) -> None:
    """The probe belongs to an IKE SA that is gone, and runs out although there is a newer one."""
    node = pair.node(end)
    peer = pair.peer(node)
    wait_at_rest(pair.a, pair.b)
    before = len(peer.pluto_log())
    start = time.monotonic()
    node.shutdown_pluto(leave_state=True)
    wait_until(lambda: PROBE in peer.pluto_log()[before:], 40, "the peer probes")
    node.start_pluto()
    wait_until(lambda: PROBED_OUT in peer.pluto_log()[before:], 60, "the probe runs out")
    settle(5)
    lost = pair.traffic.lost(start)
    record_property("lost", lost)
    wait_at_rest(pair.a, pair.b)
    # What is under way when a child SA takes over from another; of 20 a second both ways.
    # libreswan 5 flushes the kernel's SAs when it starts.
    assert lost <= (2 if "Libreswan 4" in node.run(["ipsec", "--version"]) else 20)
    pair.assert_no_plaintext()


def test_replaced_pod_sends_nothing_in_clear_and_interrupts_nobody_for_long(
    pair: Pair, record_property: Callable[[str, object], None]
) -> None:
    for node in (pair.a, pair.b):
        wait_at_rest(pair.a, pair.b)
        start = time.monotonic()
        node.kill_agent(signal.SIGTERM)
        node.shutdown_pluto(leave_state=True)
        settle(2)
        assert pair.traffic.lost(start) == 0, "the kernel alone carries the tunnel"
        node.start_pluto()
        node.start_agent(*node.agent_flags)
        pair.traffic.wait_flowing(30)
        settle(20)
        lost = pair.traffic.lost(start)
        record_property(f"lost_{node.name}", lost)
        assert lost <= 20  # half a second of both directions
    pair.assert_no_plaintext()

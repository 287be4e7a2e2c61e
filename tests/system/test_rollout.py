"""A pod of the DaemonSet is replaced under traffic: pluto leaves its states behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.system.pairs import Pair, encrypted_pair, settle, wait_at_rest
from tools.lab.lab import Lab

# Slow: only where the agent is back before the peer's probes begin (a machine with other work is
# too slow). The peer's pluto 4.10 cuts the tunnel when the probes of the IKE SA that is gone run
# out, also when there is a newer one.
pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture
def pair(lab: Lab) -> Iterator[Pair]:
    with encrypted_pair(lab) as running:
        yield running


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
        settle(10)
        lost = pair.traffic.lost(start)
        record_property(f"lost_{node.name}", lost)
        assert lost <= 20  # half a second of both directions
    pair.assert_no_plaintext()

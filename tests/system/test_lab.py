"""The lab itself: its wire sees plaintext, ESP and fragments, and its nodes do what they say."""

from __future__ import annotations

import time

import pytest

from tools.lab.lab import Lab
from tools.lab.pcap import Kind

pytestmark = pytest.mark.system


@pytest.mark.parametrize("kind", ["geneve"])
def test_plain_tunnel_is_seen_in_clear(lab: Lab, kind: str) -> None:
    a, b = lab.overlay("a", "b")
    lab.connect(a, b, kind)
    since = lab.wire.mark()
    with lab.traffic(a, b) as traffic:
        traffic.wait_flowing(10)
        start = time.monotonic()
        time.sleep(1)
        assert traffic.lost(start) == 0
        stats = traffic.stats()
    assert all(flow.received > 10 for flow in stats.values())
    for src, dst in ((a, b), (b, a)):
        assert lab.wire.count(Kind.PLAINTEXT, since=since, src=src.ipv4, dst=dst.ipv4) > 10
    assert lab.wire.count(Kind.ESP) == 0

"""The peer runs the distribution's own ovs-monitor-ipsec, unmodified."""

from __future__ import annotations

import time

import pytest

from tests.system.pairs import PSK, settle, start_closed
from tools.lab.container import wait_until
from tools.lab.identity import install_identity, install_peer_certificate
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pcap import Kind
from tools.lab.pki import Authority, self_signed
from tools.lab.traffic import Traffic

pytestmark = pytest.mark.system

CONVERGE_S = 120.0
"""The original reconciles every 15 s or never, and runs four shells for each event."""


@pytest.mark.parametrize(
    ("authentication", "first"),
    [
        ("psk", "ours"),
        ("ca-signed", "original"),
        pytest.param("psk", "original", marks=pytest.mark.slow),
        pytest.param("self-signed", "ours", marks=pytest.mark.slow),
        pytest.param("self-signed", "original", marks=pytest.mark.slow),
        pytest.param("ca-signed", "ours", marks=pytest.mark.slow),
    ],
)
def test_tunnel_with_the_original_comes_up(lab: Lab, authentication: str, first: str) -> None:
    a, b = lab.overlay("a", "b")
    options = _prepare(a, b, authentication)
    starts = {"ours": lambda: _start_ours(a), "original": b.start_original_monitor}
    starts[first]()
    other = "original" if first == "ours" else "ours"
    tunnels = {
        "ours": lambda: a.add_tunnel("tun-b", b.ipv4, **options["a"]),
        "original": lambda: b.add_tunnel("tun-a", a.ipv4, **options["b"]),
    }
    since = lab.wire.mark()
    tunnels[first]()
    settle(2)
    starts[other]()
    tunnels[other]()
    with lab.traffic(a, b) as traffic:
        traffic.wait_flowing(CONVERGE_S)
        # The original may leave duplicates that come and go for a while.
        wait_until(lambda: _nothing_lost(traffic), 90, "three seconds without a lost packet")
    assert lab.wire.count(Kind.ESP, since=since, src=a.ipv4) > 0
    assert lab.wire.count(Kind.PLAINTEXT, since=since, src=a.ipv4) == 0, "we sent in clear"


def _nothing_lost(traffic: Traffic) -> bool:
    start = time.monotonic()
    settle(3)
    return traffic.lost(start) == 0


def _start_ours(node: Node) -> None:
    node.start_pluto()
    start_closed(node)


def _prepare(a: Node, b: Node, authentication: str) -> dict[str, dict[str, str]]:
    """Identities and files on both nodes; the options of the two rows."""
    if authentication == "psk":
        plain = PSK.replace("'", "")  # the original's secrets file cannot hold every key
        return {"a": {"psk": plain}, "b": {"psk": plain}}
    if authentication == "self-signed":
        pairs = {node.name: self_signed(node.name) for node in (a, b)}
        options = {}
        for node, peer in ((a, b), (b, a)):
            install_identity(node, pairs[node.name])
            path = install_peer_certificate(node, peer.name, pairs[peer.name])
            options[node.name] = {"remote_cert": path}
        return options
    authority = Authority.create()
    for node in (a, b):
        install_identity(node, authority.issue(node.name), authority)
    return {"a": {"remote_name": "b"}, "b": {"remote_name": "a"}}

"""OVN as users run it: `nb_global ipsec=true`, CA-signed certificates, a logical switch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.pairs import UP_TIMEOUT_S, Pair, settle, start_closed
from tools.lab.container import wait_until
from tools.lab.identity import CERTIFICATE, install_identity, write_identity
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pcap import Kind
from tools.lab.pki import Authority

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create()


@pytest.fixture(scope="module")
def cluster(authority: Authority) -> Iterator[Pair]:
    """Two chassis with ipsec=true from the start, and traffic over a logical switch."""
    with Lab() as lab:
        ovn = lab.ovn()
        ovn.set_ipsec(True)
        a, b = lab.node("a"), lab.node("b")
        since = lab.wire.mark()
        for node in (a, b):
            node.start_ovs()
            install_identity(node, authority.issue(node.name), authority)
            node.start_pluto()
            start_closed(node)
            ovn.join(node)
        ovn.add_switch("net")
        for node in (a, b):
            ovn.plug("net", node, lab.inner_address(node))
        lab.introduce([a, b])
        ovn.wait_chassis()
        with lab.traffic(a, b) as traffic:
            traffic.wait_flowing(UP_TIMEOUT_S)
            yield Pair(lab, a, b, traffic, since)


def test_logical_switch_is_encrypted_from_the_first_packet(cluster: Pair) -> None:
    cluster.assert_no_plaintext()
    for src, dst in ((cluster.a, cluster.b), (cluster.b, cluster.a)):
        assert cluster.lab.wire.count(Kind.ESP, src=src.ipv4, dst=dst.ipv4) > 0
    assert "(CONFIGURED)" in cluster.a.appctl("tunnels/show")


@pytest.mark.parametrize("what", ["pluto-killed", "agent-restarted", "renewed", "removed"])
def test_story_goes_on_without_a_packet_in_clear(
    cluster: Pair, authority: Authority, what: str
) -> None:
    node = cluster.a
    if what == "pluto-killed":
        node.kill_pluto()
        settle(1)
        node.start_pluto()
    elif what == "agent-restarted":
        node.restart_agent()
    elif what == "renewed":
        write_identity(node, authority.issue(node.name))
    else:
        node.path(CERTIFICATE).unlink()
    settle(3)
    cluster.traffic.wait_flowing(30)
    cluster.assert_no_plaintext()


def test_enabling_ipsec_closes_at_once_and_disabling_opens_only_then(lab: Lab) -> None:
    ovn = lab.ovn()
    a, b = lab.node("a"), lab.node("b")
    authority = Authority.create()
    for node in (a, b):
        node.start_ovs()
        install_identity(node, authority.issue(node.name), authority)
        node.start_pluto()
        node.start_agent()
        ovn.join(node)
    ovn.add_switch("net")
    for node in (a, b):
        ovn.plug("net", node, lab.inner_address(node))
    lab.introduce([a, b])
    ovn.wait_chassis()
    with lab.traffic(a, b) as traffic:
        traffic.wait_flowing(UP_TIMEOUT_S)  # in clear: rows without an IPsec option
        assert lab.wire.count(Kind.PLAINTEXT) > 0
        ovn.set_ipsec(True)
        for node in (a, b):
            _wait_for_tunnel(node)
        closed = lab.wire.mark()
        traffic.wait_flowing(UP_TIMEOUT_S)
        settle(2)
        assert lab.wire.count(Kind.PLAINTEXT, since=closed) == 0
        assert lab.wire.count(Kind.ESP, since=closed) > 0
        ovn.set_ipsec(False)
        traffic.wait_flowing(UP_TIMEOUT_S)
        ovn.wait_chassis()
        settle(5)
        opened = lab.wire.mark()
        traffic.wait_flowing(UP_TIMEOUT_S)
        settle(1)
        assert lab.wire.count(Kind.PLAINTEXT, since=opened) > 0


def _wait_for_tunnel(node: Node) -> None:
    """Until the agent has seen a row with an IPsec option; the guard is closed by then."""
    wait_until(
        lambda: "Interface name: ovn-" in node.appctl("tunnels/show"),
        UP_TIMEOUT_S,
        f"{node.name} has seen the option",
    )

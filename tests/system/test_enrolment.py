"""Nodes with certificates of our own authority: they enrol, renew, roll over and are revoked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from cryptography import x509

from tests.system.pairs import UP_TIMEOUT_S, sa_serials, settle, start_closed, wait_at_rest
from tools.lab.authority import (
    AuthorityHost,
    certificate_in_use,
    restart_enrolling,
    roots_in_use,
    start_enrolling,
    stop_enrolling,
)
from tools.lab.container import wait_until
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pcap import Kind
from tools.lab.traffic import Traffic

pytestmark = pytest.mark.system

ENROLLED_S = 120.0


@contextmanager
def cluster(
    lab: Lab, authority: AuthorityHost, *names: str, key_type: str = "p256"
) -> Iterator[list[Node]]:
    """Nodes that have enrolled, with a full mesh of tunnels; no packet ever goes in clear."""
    authority.start()
    nodes = lab.overlay(*names)
    for node in nodes:
        start_enrolling(node, authority, key_type=key_type)
        node.start_pluto()
        start_closed(node, "--no-restart-ike-daemon")
    _wait_each(nodes, lambda node: certificate_in_use(node) is not None, ENROLLED_S, "enrolled")
    since = lab.wire.mark()
    for one in nodes:
        for other in nodes:
            if one is not other:
                one.add_tunnel(f"tun-{other.name}", other.ipv4, remote_name=other.name)
    yield nodes
    assert lab.wire.count(Kind.PLAINTEXT, since=since) == 0


def _wait_each(
    nodes: Iterable[Node], condition: Callable[[Node], bool], timeout_s: float, what: str
) -> None:
    for node in nodes:
        wait_until(partial(condition, node), timeout_s, f"{node.name}: {what}")


def _serials(nodes: Iterable[Node]) -> dict[str, set[str]]:
    return {node.name: sa_serials(node) for node in nodes}


def _wait_flowing(*flows: Traffic) -> None:
    for traffic in flows:
        traffic.wait_flowing(2 * UP_TIMEOUT_S)


def test_authority_that_is_down_stops_nothing_and_a_revoked_node_is_cut_off_in_seconds(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    authority = AuthorityHost(lab.host("ca"), "--key", "p256")
    with cluster(lab, authority, "a", "b", "c") as (a, b, c):
        authority.stop()
        with lab.traffic(a, b) as first, lab.traffic(b, c) as second:
            _wait_flowing(first, second)
            wait_at_rest(a, b, c, children=4)
            start = time.monotonic()
            settle(15)
            # pluto itself may come back to a failure of the start and add a child SA.
            assert all(len(serials) >= 4 for serials in _serials((a, b, c)).values())
            assert (first.lost(start), second.lost(start)) == (0, 0)
            authority.start()
            _wait_each((a, b), _follows_deny_list, 90, "enrolment has recovered")
            authority.command("revoke", "c")
            told = time.monotonic()
            wait_until(lambda: len(sa_serials(b)) == 2, 10, "b has cut c off")
            wait_until(lambda: len(sa_serials(a)) == 2, told + 10 - time.monotonic(), "so has a")
            cut_off = time.monotonic()
            record_property("cut_off_s", round(cut_off - told, 1))
            settle(5)
            assert {flow.received for flow in second.stats(cut_off).values()} == {0}
            assert "peer c is revoked" in b.appctl("tunnels/show")
            assert first.lost(start) == 0


def _follows_deny_list(node: Node) -> bool:
    """Whether the node is in touch with the authority, after it was not."""
    log = node.read_file("/var/log/openvswitch/enroll.log").splitlines()
    said = [line for line in log if "Deny-list:" in line]
    return bool(said) and "in order again" in said[-1]


@pytest.mark.slow
def test_renewals_under_traffic_lose_no_packet_and_keep_every_sa(lab: Lab) -> None:
    life_s = 60
    authority = AuthorityHost(lab.host("ca"), "--key", "p256", "--leaf-life", str(life_s))
    with cluster(lab, authority, "a", "b", "c") as nodes:
        a, b, c = nodes
        with lab.traffic(a, b) as first, lab.traffic(b, c) as second:
            _wait_flowing(first, second)
            before, start = wait_at_rest(*nodes, children=4), time.monotonic()
            seen = {node.name: {_serial(node)} for node in nodes}
            while time.monotonic() < start + 3 * life_s:
                settle(5)
                for node in nodes:
                    seen[node.name].add(_serial(node))
            assert all(len(serials) > 3 for serials in seen.values()), seen
            assert _serials(nodes) == before
            assert (first.lost(start), second.lost(start)) == (0, 0)
        for node in nodes:
            node.ipsec_restart()  # every IKE SA is authenticated anew
        with lab.traffic(a, b) as first, lab.traffic(b, c) as second:
            _wait_flowing(first, second)


@pytest.mark.slow
def test_authority_rolls_over_by_itself_while_one_node_is_away(lab: Lab) -> None:
    flags = ("--key", "p256", "--leaf-life", "300", "--settle", "30")
    authority = AuthorityHost(lab.host("ca"), *flags)
    with cluster(lab, authority, "a", "b", "c") as nodes:
        a, b, c = nodes
        (old,) = roots_in_use(a)
        with lab.traffic(a, b) as first, lab.traffic(b, c) as second:
            _wait_flowing(first, second)
            wait_at_rest(a, b, c, children=4)
            start = time.monotonic()
            _leave(lab, c)
            authority.command("rotate-ca", "start")
            _wait_each((a, b), lambda node: len(roots_in_use(node)) == 2, 90, "trusts both roots")
            wait_until(lambda: _rollover(authority)["waiting_for"] == ["c"], 60, "only c lags")
            settle(30)
            assert _rollover(authority)["phase"] == "published"
            _come_back(lab, c, authority)
            _wait_flowing(second)
            back, kept = time.monotonic(), wait_at_rest(a, b, c, children=4)
            _wait_each(nodes, lambda node: _rolled_over(node, old), 240, "only the new root")
            assert _serials(nodes) == kept
            assert first.lost(start) == 0
            assert second.lost(back) == 0
            for node in nodes:
                node.ipsec_restart()  # from here on only the new root authenticates anybody
            _wait_flowing(first, second)


def _rollover(authority: AuthorityHost) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(authority.command("rotate-ca", "status", "--json"))
    return state


def _rolled_over(node: Node, old: x509.Certificate) -> bool:
    certificate, roots = certificate_in_use(node), roots_in_use(node)
    if certificate is None or len(roots) != 1 or roots[0] == old:
        return False
    certificate.verify_directly_issued_by(roots[0])
    return True


def _leave(lab: Lab, node: Node) -> None:
    """As a machine that loses its power."""
    lab.detach(node)
    stop_enrolling(node)
    node.kill_agent(9)
    node.kill_pluto()


def _come_back(lab: Lab, node: Node, authority: AuthorityHost) -> None:
    lab.reattach(node)
    node.start_pluto()
    start_closed(node, "--no-restart-ike-daemon")
    restart_enrolling(node, authority)


def _serial(node: Node) -> int:
    certificate = certificate_in_use(node)
    assert certificate is not None
    return certificate.serial_number


@pytest.mark.slow
@pytest.mark.parametrize(
    ("root", "leaf", "shown"),
    [
        ("rsa-3072", "rsa-3072", "'3072-bit RSASSA-PSS"),
        ("p256", "p256", "'P-256 ECDSA"),
        ("p384", "p384", "'P-384 ECDSA"),
        ("rsa-3072", "p384", "'P-384 ECDSA"),
    ],
)
def test_every_kind_of_key_authenticates(lab: Lab, root: str, leaf: str, shown: str) -> None:
    authority = AuthorityHost(lab.host("ca"), "--key", root)
    with (
        cluster(lab, authority, "a", "b", key_type=leaf) as (a, b),
        lab.traffic(a, b) as traffic,
    ):
        _wait_flowing(traffic)
        logs = a.read_file("/var/log/pluto.log") + b.read_file("/var/log/pluto.log")
        assert f"authenticated peer {shown}" in logs

"""A cluster changes its CA while traffic flows: trust both, reissue, trust the new one alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.system.pairs import UP_TIMEOUT_S, Pair, sa_serials, settle, start_closed, wait_at_rest
from tools.lab.container import wait_until
from tools.lab.identity import CA_CERT, install_identity, write_identity
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pki import Authority
from tools.lab.pki import Pair as IssuedPair

pytestmark = [pytest.mark.system, pytest.mark.slow]

OLD = Authority.create("old root")
NOTICED_S = 40.0


@pytest.fixture
def pair(lab: Lab) -> Iterator[Pair]:
    a, b = lab.overlay("a", "b")
    for node in (a, b):
        install_identity(node, OLD.issue(node.name), OLD)
        node.start_pluto()
        start_closed(node, "--no-restart-ike-daemon")  # the scenario restarts pluto
    since = lab.wire.mark()
    with lab.traffic(a, b) as traffic:
        a.add_tunnel("tun-b", b.ipv4, remote_name="b")
        b.add_tunnel("tun-a", a.ipv4, remote_name="a")
        traffic.wait_flowing(UP_TIMEOUT_S)
        yield Pair(lab, a, b, traffic, since)


@pytest.mark.parametrize("subject", ["new root", "old root"], ids=["new-name", "same-name"])
def test_ca_changes_without_a_lost_packet_and_the_new_one_authenticates(
    pair: Pair, subject: str
) -> None:
    new = Authority.create(subject)
    with _nothing_lost(pair):
        for node in (pair.a, pair.b):
            node.write_file(CA_CERT, (OLD.pem + new.pem).decode())
        for node in (pair.a, pair.b):
            _wait_listed(node, "--listcacerts", new.pair)
        _reissue(pair.a, new)
    pair.a.ipsec_restart()  # the new certificate against the old one, each end trusts both
    pair.traffic.wait_flowing(UP_TIMEOUT_S)
    with _nothing_lost(pair):
        _reissue(pair.b, new)
        for node in (pair.a, pair.b):
            node.write_file(CA_CERT, new.pem.decode())
        for node in (pair.a, pair.b):
            _wait_only_root(node, new.pair)
    for node in (pair.a, pair.b):
        node.ipsec_restart()  # from here on nothing but the new root authenticates anybody
    pair.traffic.wait_flowing(UP_TIMEOUT_S)
    pair.assert_no_plaintext()


@contextmanager
def _nothing_lost(pair: Pair) -> Iterator[None]:
    before, start = wait_at_rest(pair.a, pair.b), time.monotonic()
    yield
    settle(2)
    assert {node.name: sa_serials(node) for node in (pair.a, pair.b)} == before
    assert pair.traffic.lost(start) == 0


def _reissue(node: Node, authority: Authority) -> None:
    renewed = authority.issue(node.name)
    write_identity(node, renewed)
    _wait_listed(node, "--listcerts", renewed)


def _wait_listed(node: Node, listing: str, wanted: IssuedPair) -> None:
    serial = f"{wanted.certificate.serial_number:x}"
    what = f"{node.name}: {listing} has {serial}"
    wait_until(lambda: serial in node.whack(listing).lower().replace(":", ""), NOTICED_S, what)


def _wait_only_root(node: Node, wanted: IssuedPair) -> None:
    serial = f"{wanted.certificate.serial_number:x}"

    def alone() -> bool:
        argv = ["certutil", "-L", "-d", "sql:/var/lib/ipsec/nss", "-n", "ovs_cert_cacert"]
        shown = node.run(argv, check=False).lower().replace(":", "").split("serial number")
        return len(shown) == 2 and serial in "".join(shown[1].split()[:2])

    wait_until(alone, NOTICED_S, f"{node.name}: NSS has no other root")

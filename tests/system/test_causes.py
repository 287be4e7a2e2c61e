"""Each cause is produced with real nodes and recognised on them, by what status says.

One pair of nodes serves all scenarios: each adds its tunnel, or puts the nodes out of order, and
mends what it has done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

from tests.system.pairs import start_closed
from tools.lab.container import PROJECT, wait_until
from tools.lab.identity import (
    CA_CERT,
    CA_CRL,
    CERTIFICATE,
    PRIVATE_KEY,
    install_identity,
    write_identity,
)
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pki import Authority, key_pem, make_key

pytestmark = pytest.mark.system

WITHIN_S = 75.0
PSK = "long enough to be no warning"
NSS = "/var/lib/ipsec/nss"


@dataclass
class Cluster:
    """Nodes a and b, without tunnels between scenarios."""

    lab: Lab
    a: Node
    b: Node
    authority: Authority

    @contextmanager
    def tunnel(self, a: Mapping[str, str], b: Mapping[str, str] | None) -> Iterator[None]:
        """A tunnel with these options on each side; None: no such row."""
        ends = [(self.a, "tun-b", self.b.ipv4, a), (self.b, "tun-a", self.a.ipv4, b)]
        try:
            for node, name, remote, options in ends:
                if options is not None:
                    node.add_tunnel(name, remote, **options)
            yield
        finally:
            for node, name, _remote, options in ends:
                if options is not None:
                    node.delete_tunnel(name)

    def await_causes(self, node: Node, *expected: str) -> None:
        """Until the node's tunnel is down for one of these causes, by what status prints."""
        seen: list[str] = []

        def told() -> bool:
            code, status = ask(node)
            causes = [tunnel["cause"] for tunnel in status["tunnels"] if tunnel["cause"]]
            seen[:] = [cause["code"] for cause in causes]
            assert code == 3 or not causes
            return any(c["code"] in expected and c["text"] and c["remedy"] for c in causes)

        try:
            wait_until(told, WITHIN_S, f"{node.name}: {expected}", interval_s=0.5)
        except TimeoutError as error:
            raise AssertionError(f"{node.name} says {seen} instead of {expected}") from error


def ask(node: Node) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of ``ovn-ipsec status``."""
    argv = [sys.executable, "-m", "ovn_ipsec.cli", "status", "--json", "--cached"]
    done = node.attempt(argv, environment={"PYTHONPATH": str(PROJECT)}, timeout_s=60)
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    authority = Authority.create()
    with Lab() as lab:
        a, b = lab.overlay("a", "b")
        for node in (a, b):
            install_identity(node, authority.issue(node.name), authority)
            node.start_pluto()
            start_closed(node, "--no-restart-ike-daemon")
        yield Cluster(lab, a, b, authority)


@contextmanager
def dropping(node: Node, match: str) -> Iterator[None]:
    """The node loses what comes in and matches."""
    chain = f"chain i {{\n type filter hook input priority -10\n {match} drop\n}}"
    node.nft("-f", "-", ruleset=f"table inet lost {{\n{chain}\n}}\n")
    try:
        yield
    finally:
        node.nft("delete", "table", "inet", "lost")


@dataclass(frozen=True)
class Case:
    """The rows of both sides, what b loses, and the causes that each side may name."""

    a: dict[str, str]
    b: dict[str, str] | None
    on_a: tuple[str, ...]
    on_b: tuple[str, ...] = ()
    lost: str = ""


SAME = {"psk": PSK}
CASES = {
    "other-psk": Case(
        SAME, {"psk": "quite another long key"}, ("psk-mismatch",), ("psk-mismatch",)
    ),
    "silent": Case(SAME, SAME, ("peer-silent",), lost="udp dport 500"),
    "not-at-the-peer": Case(SAME, None, ("no-proposal-chosen",)),
    "other-ike": Case(
        SAME,
        {"psk": PSK, "ipsec_ike": "aes_gcm256-sha2_512"},
        ("no-proposal-chosen",),
        ("no-proposal-chosen",),
    ),
    "other-esp": Case(
        SAME,
        {"psk": PSK, "ipsec_esp": "aes256-sha2_512"},
        ("no-proposal-chosen",),
        ("no-proposal-chosen",),
    ),
    "other-port": Case(SAME, {"psk": PSK, "dst_port": "6082"}, ("selectors-unacceptable",)),
    "filtered-4500": Case(
        {"psk": PSK, "ipsec_encapsulation": "yes"},
        {"psk": PSK, "ipsec_encapsulation": "yes"},
        ("ike-filtered",),
        lost="udp dport 4500",
    ),
    # The exchange type of IKE's header (RFC 7296, section 3.1), behind UDP's: 35 is IKE_AUTH.
    "lost-ike-auth": Case(
        {"remote_name": "b"}, {"remote_name": "a"}, ("mtu",), lost="udp dport 500 @th,208,8 35"
    ),
    "other-name": Case(
        {"remote_name": "b"},
        {"remote_name": "elsewhere"},
        ("rejected-by-peer", "peer-not-authenticated"),
        ("peer-name-mismatch", "peer-not-authenticated"),
    ),
}


SLOW = {"other-psk", "silent", "filtered-4500", "lost-ike-auth"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES],
)
def test_rows_that_do_not_fit_together_are_explained(cluster: Cluster, name: str) -> None:
    case = CASES[name]
    lost = dropping(cluster.b, case.lost) if case.lost else nullcontext()
    with lost, cluster.tunnel(case.a, case.b):
        cluster.await_causes(cluster.a, *case.on_a)
        if case.on_b:
            cluster.await_causes(cluster.b, *case.on_b)


@pytest.mark.slow
def test_peer_of_another_authority_is_explained_on_both_sides(cluster: Cluster) -> None:
    other = Authority.create("another CA")
    install_identity(cluster.b, other.issue("b"), other)
    try:
        with cluster.tunnel({"remote_name": "b"}, {"remote_name": "a"}):
            told = ("peer-certificate-untrusted", "rejected-by-peer", "peer-certificate-refused")
            cluster.await_causes(cluster.a, *told)
            cluster.await_causes(cluster.b, *told)
    finally:
        install_identity(cluster.b, cluster.authority.issue("b"), cluster.authority)


@pytest.mark.parametrize(
    "code",
    [
        "certificate-expired",
        "certificate-not-yet-valid",
        "clock-skew",
        "certificate-unreadable",
        "certificate-unfit",
    ],
)
def test_own_certificate_that_cannot_be_used_is_explained(cluster: Cluster, code: str) -> None:
    node, issue = cluster.a, cluster.authority.issue
    day_s = 86400
    if code == "certificate-expired":
        write_identity(node, issue("a", starts_in_s=-7200, lasts_s=3600))
    elif code == "certificate-not-yet-valid":
        write_identity(node, issue("a", starts_in_s=10 * day_s))
    elif code == "clock-skew":
        write_identity(node, issue("a", starts_in_s=3600))
    elif code == "certificate-unreadable":
        node.write_file(CERTIFICATE, "not a certificate\n")
    else:
        node.write_file(PRIVATE_KEY, key_pem(make_key()).decode(), 0o600)
    try:
        with cluster.tunnel({"remote_name": "b"}, None):
            cluster.await_causes(node, code)
    finally:
        write_identity(node, issue("a"))


def test_missing_certificate_is_explained(cluster: Cluster) -> None:
    node = cluster.a
    node.vsctl("--no-wait", "clear", "Open_vSwitch", ".", "other_config")
    try:
        with cluster.tunnel({"remote_name": "b"}, None):
            cluster.await_causes(node, "certificate-missing")
    finally:
        pairs = {"certificate": CERTIFICATE, "private_key": PRIVATE_KEY, "ca_cert": CA_CERT}
        settings = [f"other_config:{key}={path}" for key, path in pairs.items()]
        node.vsctl("--no-wait", "set", "Open_vSwitch", ".", *settings)


def test_revoked_peer_is_explained(cluster: Cluster) -> None:
    node = cluster.a
    node.write_file(CA_CRL, cluster.authority.crl(denied=["b"], number=1).decode())
    node.vsctl("--no-wait", "set", "Open_vSwitch", ".", f"other_config:ca_crl={CA_CRL}")
    with cluster.tunnel({"remote_name": "b"}, {"remote_name": "a"}):
        cluster.await_causes(node, "peer-revoked")
        node.write_file(CA_CRL, cluster.authority.crl(number=2).decode())
        wait_until(lambda: ask(node)[0] == 0, WITHIN_S, "the peer is admitted again")
    node.vsctl("--no-wait", "remove", "Open_vSwitch", ".", "other_config", "ca_crl")


def test_pluto_that_is_down_is_explained_on_both_sides(cluster: Cluster) -> None:
    cluster.b.shutdown_pluto()
    try:
        with cluster.tunnel(SAME, SAME):
            cluster.await_causes(cluster.b, "ike-daemon-down")
            cluster.await_causes(cluster.a, "peer-not-listening")
    finally:
        cluster.b.start_pluto()


@pytest.mark.slow
def test_pulled_cable_is_explained(cluster: Cluster) -> None:
    cluster.lab.detach(cluster.b)
    try:
        with cluster.tunnel(SAME, SAME):
            cluster.await_causes(cluster.a, "peer-unreachable", "peer-silent")
    finally:
        cluster.lab.reattach(cluster.b)


@pytest.mark.slow
def test_filtered_esp_is_explained_although_sas_are_up(cluster: Cluster) -> None:
    with (
        dropping(cluster.a, "meta l4proto esp"),
        cluster.tunnel(SAME, SAME),
        cluster.lab.traffic(cluster.a, cluster.b),
    ):
        cluster.await_causes(cluster.a, "esp-filtered")


def test_broken_nss_database_is_explained(cluster: Cluster) -> None:
    with cluster.tunnel({"remote_name": "b"}, None):
        cluster.await_causes(cluster.a, "no-proposal-chosen")
        cluster.a.run(["mount", "-t", "tmpfs", "-o", "ro", "none", NSS])
        try:
            cluster.await_causes(cluster.a, "nss-broken")
        finally:
            cluster.a.run(["umount", NSS])


def test_all_is_well_in_the_end_and_verify_proves_it(cluster: Cluster) -> None:
    with cluster.tunnel(SAME, SAME), cluster.lab.traffic(cluster.a, cluster.b):
        wait_until(lambda: ask(cluster.a)[0] == 0, WITHIN_S, "everything is encrypted")
        summary = ask(cluster.a)[1]["summary"]
        assert summary["all_encrypted"] is True
        assert (summary["tunnels_encrypted"], summary["tunnels_total"]) == (1, 1)
        argv = [sys.executable, "-m", "ovn_ipsec.cli", "verify", "--json", "--seconds=3"]
        done = cluster.a.attempt(argv, environment={"PYTHONPATH": str(PROJECT)}, timeout_s=90)
        assert done.returncode == 0, done.stdout

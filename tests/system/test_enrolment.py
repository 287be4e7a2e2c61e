"""Nodes that get their certificates from our own authority, and renew them under traffic."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from tests.system.pairs import UP_TIMEOUT_S, sa_serials, settle, start_closed, wait_at_rest
from tools.lab.container import wait_until
from tools.lab.host import Host
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pcap import Kind

pytestmark = [pytest.mark.system, pytest.mark.slow]

PROJECT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
STATE = "/etc/ovn-ipsec-ca"
TOKEN = "/etc/ovn-ipsec-token"
LEAF_LIFE_S = 60
PORT = 8443


class AuthorityHost:
    """The authority on a host of its own, as an operator runs it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._command("init", "--key", "p256", "--leaf-life", str(LEAF_LIFE_S))
        self.url = f"https://{host.ipv4}:{PORT}"

    def start(self) -> None:
        argv = self._argv("serve", "--name", self._host.ipv4, "--address", self._host.ipv4)
        with self._host.path("/var/log/ovn-ipsec-ca.log").open("a") as log:
            self._host.popen([*argv, "--port", str(PORT)], stdout=log, environment=ENVIRONMENT)

    def stop(self) -> None:
        self._host.kill_all(9, "ca.cli serve")

    def token(self, chassis: str) -> str:
        said = self._command("token", chassis).splitlines()  # the rest is for people
        return next(line for line in said if line.startswith(f"{chassis}."))

    def _command(self, action: str, *words: str) -> str:
        return self._host.run(self._argv(action, *words), environment=ENVIRONMENT)

    def _argv(self, action: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "ca.cli", action, "--state", STATE, *words]


@pytest.fixture
def authority(lab: Lab) -> Iterator[AuthorityHost]:
    yield AuthorityHost(lab.host("ca"))


def _enroll(node: Node, authority: AuthorityHost) -> None:
    node.vsctl("--no-wait", "set", "open_vswitch", ".", f"external_ids:system-id={node.name}")
    node.write_file(TOKEN, authority.token(node.name), 0o600)
    argv = [sys.executable, "-m", "ovn_ipsec.cli", "enroll", "--url", authority.url]
    argv += ["--token-file", TOKEN, "--key-type", "p256", "--verbose"]
    argv += ["--directory", "/etc/ovn-ipsec-identity", "unix:/run/openvswitch/db.sock"]
    with node.path("/var/log/openvswitch/enroll.log").open("a") as log:
        node.popen(argv, stdout=log, environment=ENVIRONMENT)


def _certificate(node: Node) -> x509.Certificate | None:
    config = node.vsctl("get", "open_vswitch", ".", "other_config")
    if "certificate=" not in config:
        return None
    path = node.vsctl("get", "open_vswitch", ".", "other_config:certificate").strip().strip('"')
    return x509.load_pem_x509_certificate(node.read_file(path).encode())


def test_three_nodes_enrol_by_token_and_renew_under_traffic(
    lab: Lab, authority: AuthorityHost
) -> None:
    authority.start()
    nodes = lab.overlay("a", "b", "c")
    for node in nodes:
        _enroll(node, authority)
        node.start_pluto()
        start_closed(node, "--no-restart-ike-daemon")
    for node in nodes:
        wait_until(partial(_has_certificate, node), 120, f"{node.name} has a certificate")
    a, b, c = nodes
    since = lab.wire.mark()
    for one, other in ((a, b), (b, a), (a, c), (c, a), (b, c), (c, b)):
        one.add_tunnel(f"tun-{other.name}", other.ipv4, remote_name=other.name)
    with lab.traffic(a, b) as first, lab.traffic(b, c) as second:
        for traffic in (first, second):
            traffic.wait_flowing(2 * UP_TIMEOUT_S)
        before = wait_at_rest(*nodes, children=4)
        names = {node.name: _certificate(node) for node in nodes}
        start = time.monotonic()
        settle(2 * LEAF_LIFE_S)
        authority.stop()
        settle(LEAF_LIFE_S / 2)
        authority.start()
        wait_until(lambda: all(_is_fresh(node) for node in nodes), LEAF_LIFE_S, "renewed again")
        assert {node.name: sa_serials(node) for node in nodes} == before
        assert (first.lost(start), second.lost(start)) == (0, 0)
        for node in nodes:
            assert _certificate(node) != names[node.name]
    assert lab.wire.count(Kind.PLAINTEXT, since=since) == 0


def _has_certificate(node: Node) -> bool:
    return _certificate(node) is not None


def _is_fresh(node: Node) -> bool:
    """Whether the certificate was made in the last third of its life."""
    certificate = _certificate(node)
    assert certificate is not None
    left_s = certificate.not_valid_after_utc.timestamp() - time.time()
    return left_s > 2 * LEAF_LIFE_S / 3

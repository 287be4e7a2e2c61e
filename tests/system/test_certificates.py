"""CA-signed tunnels through the life of their certificates: renewed, removed, broken, mended."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.system.pairs import UP_TIMEOUT_S, Pair, sa_serials, settle, start_closed, wait_at_rest
from tools.lab.container import wait_until
from tools.lab.identity import (
    CA_CRL,
    CERTIFICATE,
    PRIVATE_KEY,
    install_identity,
    write_identity,
)
from tools.lab.lab import Lab
from tools.lab.pki import Authority, key_pem, make_key

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create()


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Iterator[Pair]:
    with Lab() as lab:
        a, b = lab.overlay("a", "b")
        for node in (a, b):
            install_identity(node, authority.issue(node.name), authority)
            node.start_pluto()
            start_closed(node, "--no-restart-ike-daemon")  # the scenarios restart pluto
        since = lab.wire.mark()
        with lab.traffic(a, b) as traffic:
            a.add_tunnel("tun-b", b.ipv4, remote_name="b")
            b.add_tunnel("tun-a", a.ipv4, remote_name="a")
            traffic.wait_flowing(UP_TIMEOUT_S)
            yield Pair(lab, a, b, traffic, since)


def test_renewed_certificate_loses_no_packet_and_is_used_next(
    pair: Pair, authority: Authority
) -> None:
    before, start = wait_at_rest(pair.a)["a"], time.monotonic()
    renewed = authority.issue("a")
    write_identity(pair.a, renewed)
    serial = f"{renewed.certificate.serial_number:x}"
    wait_until(lambda: _listed(pair, serial), 30, "pluto has the renewed certificate")
    settle(2)
    assert sa_serials(pair.a) == before
    assert pair.traffic.lost(start) == 0
    pair.a.ipsec_restart()  # every IKE SA is authenticated anew
    pair.traffic.wait_flowing(UP_TIMEOUT_S)
    pair.assert_no_plaintext()


@pytest.mark.parametrize("what", ["removed", "corrupt", "mismatching", "expired"])
def test_bad_certificate_is_named_and_working_sas_are_kept(
    pair: Pair, authority: Authority, what: str
) -> None:
    pair.traffic.wait_flowing(UP_TIMEOUT_S)
    before, start = wait_at_rest(pair.a)["a"], time.monotonic()
    good = authority.issue("a")
    if what == "removed":
        pair.a.path(CERTIFICATE).unlink()
    elif what == "corrupt":
        pair.a.write_file(CERTIFICATE, "not a certificate\n")
    elif what == "mismatching":
        pair.a.write_file(PRIVATE_KEY, key_pem(make_key()).decode(), 0o600)
    else:
        write_identity(pair.a, authority.issue("a", starts_in_s=-7200, lasts_s=3600))
    wait_until(lambda: "INVALID" in _state(pair), 40, "the tunnel is INVALID")
    assert {"expired": "expired", "mismatching": "match"}.get(what, "cert") in _state(pair)
    settle(2)
    assert sa_serials(pair.a) == before
    assert pair.traffic.lost(start) == 0
    write_identity(pair.a, good)
    wait_until(lambda: "CONFIGURED" in _state(pair), 40, "the tunnel is valid again")
    settle(2)
    assert pair.traffic.lost(start) == 0
    pair.assert_no_plaintext()


def test_revoked_peer_is_cut_off_without_plaintext_and_comes_back_when_admitted(
    pair: Pair, authority: Authority
) -> None:
    pair.a.write_file(CA_CRL, authority.crl(number=1).decode())
    pair.a.vsctl("--no-wait", "set", "Open_vSwitch", ".", f"other_config:ca_crl={CA_CRL}")
    pair.traffic.wait_flowing(UP_TIMEOUT_S)
    wait_at_rest(pair.a)
    pair.a.write_file(CA_CRL, authority.crl(denied=["b"], number=2).decode())
    wait_until(lambda: not sa_serials(pair.a), 10, "the SAs of the revoked peer are gone")
    cut_off = time.monotonic()
    wait_until(lambda: "tun-b-" not in pair.a.whack("--status"), 5, "so are the connections")
    wait_until(lambda: "peer b is revoked" in _state(pair), 10, "the reason is shown")
    pair.a.path(CA_CRL).unlink()  # neither this nor b's own attempts admit it again
    settle(10)
    assert {flow.received for flow in pair.traffic.stats(cut_off).values()} == {0}
    assert not sa_serials(pair.a)
    assert "peer b is revoked" in _state(pair)
    pair.a.write_file(CA_CRL, authority.crl(number=3).decode())
    pair.traffic.wait_flowing(UP_TIMEOUT_S)
    pair.assert_no_plaintext()


def _state(pair: Pair) -> str:
    shown = pair.a.appctl("tunnels/show")
    return next(line for line in shown.splitlines() if line.startswith("Interface name: tun-b"))


def _listed(pair: Pair, serial: str) -> bool:
    listed = pair.a.whack("--listcerts").lower().replace(":", "")
    return serial in listed

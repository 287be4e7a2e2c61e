"""Facts -> Desired: what the parts come to together."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from ovn_ipsec.desired.build import Policy, build
from ovn_ipsec.model.conns import CertificateAuth, InstalledCredential, WantedTunnel
from ovn_ipsec.model.facts import (
    CertificateFact,
    Facts,
    NodeFact,
    PkiFact,
    PrivateKeyFact,
    TunnelFact,
)

_NOW = datetime(2030, 1, 1, tzinfo=UTC)
_PSK = TunnelFact("p", "geneve", {"remote_ip": "192.0.2.2", "psk": "sixteen bytes key"})
_CA_SIGNED = TunnelFact("c", "geneve", {"remote_ip": "192.0.2.3", "remote_name": "b"})
_PLAIN = TunnelFact("x", "geneve", {"remote_ip": "192.0.2.4"})
_CA = CertificateFact("/ca", pem="CA", fingerprint="ca", subject="CN=ca", issuer="CN=ca",
                      is_ca=True)  # fmt: skip
_PKI = PkiFact(
    certificate=CertificateFact(
        "/cert", pem="CERT", common_name="a", dns_names=("a",), fingerprint="f",
        public_key_hash="k", key_type="rsa", subject="CN=a", issuer="CN=ca",
    ),
    private_key=PrivateKeyFact("/key", public_key_hash="k"),
    ca_cert=replace(_CA, chain=(_CA,)),
    issued_by_ca=True,
)  # fmt: skip
_FACTS = Facts(
    in_sync=True,
    tunnels=(_CA_SIGNED, _PSK, _PLAIN),
    pki=_PKI,
    local_addresses={"192.0.2.2": "192.0.2.1", "192.0.2.3": "192.0.2.1"},
    now=_NOW,
)


def _tunnels(
    facts: Facts, installed: tuple[InstalledCredential, ...] = ()
) -> dict[str, WantedTunnel]:
    return dict(build(facts, Policy(), frozenset(), installed).tunnels)


def test_rows_with_an_ipsec_option_are_wanted_each_with_its_authentication() -> None:
    desired = build(_FACTS, Policy(), frozenset(), ())
    assert {name: tunnel.problem for name, tunnel in desired.tunnels.items()} == {
        "c": None,
        "p": None,
    }
    config = desired.tunnels["c"].config
    assert config is not None
    assert config.auth == CertificateAuth("a", "b", "ovs_certkey_a")
    assert dict(config.keywords)["rightca"] == "%any"
    assert {credential.nickname for credential in desired.credentials} == {
        "ovs_certkey_a",
        "ovs_cert_cacert",
    }
    assert desired.complete


def test_without_certificates_psk_tunnels_work_and_the_node_has_no_problem() -> None:
    desired = build(replace(_FACTS, pki=PkiFact(), tunnels=(_PSK,)), Policy(), frozenset(), ())
    assert desired.tunnels["p"].problem is None
    assert desired.problems == ()


def test_bad_certificate_stops_its_tunnels_alone_and_keeps_what_is_installed() -> None:
    bad = replace(_PKI, certificate=CertificateFact("/cert", problem="'/cert' is empty; copy it"))
    facts = replace(_FACTS, pki=bad)
    entry = InstalledCredential("ovs_certkey_a", "f", True, "u,u,u", False)
    desired = build(facts, Policy(), frozenset(), (entry,))
    assert "'/cert' is empty" in (desired.tunnels["c"].problem or "")
    assert desired.tunnels["p"].problem is None
    assert "ovs_certkey_a" in desired.keep_credentials


def test_foreign_root_in_nss_narrows_the_issuer() -> None:
    foreign = InstalledCredential("corporate root", "9", False, "CT,,", True)
    config = _tunnels(_FACTS, (foreign,))["c"].config
    assert config is not None
    assert dict(config.keywords)["rightca"] == "%same"


def test_hardware_offload_raises_an_alarm_on_every_tunnel_unless_accepted() -> None:
    facts = replace(_FACTS, node=NodeFact({"hw-offload": "true"}))
    desired = build(facts, Policy(), frozenset(), ())
    assert len(desired.problems) == 1
    assert all("hw-offload" in tunnel.warnings[0] for tunnel in desired.tunnels.values())
    accepted = build(facts, Policy(allow_hw_offload=True), frozenset(), ())
    assert accepted.problems == ()
    assert all(tunnel.warnings == () for tunnel in accepted.tunnels.values())


def test_same_facts_give_the_same_digests_and_another_route_does_not_leak_in() -> None:
    first, again = _tunnels(_FACTS), _tunnels(_FACTS)
    assert first == again
    moved = replace(_FACTS, local_addresses={"192.0.2.2": "192.0.2.1", "192.0.2.3": "192.0.2.77"})
    assert _tunnels(moved)["p"] == first["p"]
    assert _tunnels(moved)["c"] != first["c"]

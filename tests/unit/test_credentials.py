"""Certificate files judged against each other and the clock."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.desired.credentials import (
    CA_NICKNAME,
    CredentialVerdict,
    judge_credentials,
    name_problem,
    right_ca,
)
from ovn_ipsec.model.conns import Credential, CredentialKind, InstalledCredential, Secret
from ovn_ipsec.model.facts import CertificateFact, PkiFact, PrivateKeyFact

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def certificate(
    name: str = "left", path: str = "/cert.pem", issuer: str = "CN=ca"
) -> CertificateFact:
    return CertificateFact(
        path=path,
        pem=f"pem of {name} by {issuer}",
        common_name=name,
        dns_names=(name,),
        fingerprint=f"fingerprint of {name} by {issuer}",
        public_key_hash=f"key of {name}",
        key_type="rsa",
        issuer=issuer,
        subject=f"CN={name}",
        not_before=NOW - DAY,
        not_after=NOW + 365 * DAY,
    )


def authority(*names: str) -> CertificateFact:
    chain = tuple(
        replace(certificate(name, "/ca.pem", f"CN={name}"), is_ca=True, not_after=NOW + 900 * DAY)
        for name in names
    )
    return replace(chain[0], chain=chain)


def key(name: str = "left") -> PrivateKeyFact:
    return PrivateKeyFact("/key.pem", pem=Secret("secret"), public_key_hash=f"key of {name}")


GOOD = PkiFact(certificate(), key(), authority("ca"), {}, issued_by_ca=True)
INSTALLED = ("ovs_certkey_left", CA_NICKNAME, "ovs_cert_right", "foreign")


def judge(pki: PkiFact) -> CredentialVerdict:
    return judge_credentials(pki, NOW, INSTALLED)


def test_good_files_are_the_node_and_its_ca() -> None:
    verdict = judge(GOOD)
    assert verdict == CredentialVerdict(
        credentials=(
            Credential(
                CA_NICKNAME, CredentialKind.CA, "pem of ca by CN=ca", "fingerprint of ca by CN=ca"
            ),
            Credential(
                "ovs_certkey_left",
                CredentialKind.NODE,
                "pem of left by CN=ca",
                "fingerprint of left by CN=ca",
                Secret("secret"),
            ),
        ),
        local_name="left",
        local_nickname="ovs_certkey_left",
    )


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (replace(GOOD, certificate=None), "no certificate: set other_config:certificate"),
        (replace(GOOD, certificate=CertificateFact("/c", "'/c' is empty")), "'/c' is empty"),
        (replace(GOOD, private_key=None), "no private key"),
        (replace(GOOD, private_key=PrivateKeyFact("/k", "'/k' is encrypted")), "is encrypted"),
        (replace(GOOD, private_key=key("other")), "'/key.pem' does not match"),
        (replace(GOOD, certificate=replace(certificate(), not_after=NOW - DAY)), "expired 2026"),
        (replace(GOOD, certificate=replace(certificate(), not_before=NOW + DAY)), "not valid bef"),
        (replace(GOOD, certificate=replace(certificate(), common_name="")), "no single common"),
        (replace(GOOD, issued_by_ca=False), "not signed by a CA of '/ca.pem'"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_bad_identity_is_told_and_keeps_the_last_good_entry(broken: PkiFact, reason: str) -> None:
    verdict = judge(broken)
    assert verdict.problem is not None and reason in verdict.problem
    assert (verdict.local_name, verdict.local_nickname) == (None, None)
    assert verdict.keep == {"ovs_certkey_left"}
    assert [c.kind for c in verdict.credentials] == [CredentialKind.CA]


@pytest.mark.parametrize(
    ("ca_cert", "reason"),
    [
        (None, "set other_config:ca_cert"),
        (CertificateFact("/ca", "'/ca' cannot be read"), "cannot be read"),
        (replace(GOOD, ca_cert=authority("ca")).ca_cert, None),
    ],
    ids=["none", "unreadable", "good"],
)
def test_missing_ca_blocks_only_ca_signed_peers_and_stays_installed(
    ca_cert: CertificateFact | None, reason: str | None
) -> None:
    verdict = judge(replace(GOOD, ca_cert=ca_cert, issued_by_ca=reason is None))
    assert verdict.problem is None
    assert verdict.local_name == "left"
    assert (reason or "") in (verdict.ca_problem or "")
    assert (verdict.ca_problem is None) == (reason is None)
    assert verdict.keep == (set() if reason is None else {CA_NICKNAME})


def test_bundle_gives_each_ca_once_and_refuses_what_is_none() -> None:
    bundle = authority("old", "new", "old")
    leaf = certificate("leaf", "/ca.pem", "CN=new")
    gone = replace(bundle.chain[0], fingerprint="gone", not_after=NOW - DAY)
    verdict = judge(replace(GOOD, ca_cert=replace(bundle, chain=(*bundle.chain, leaf, gone))))
    roots = [c.fingerprint for c in verdict.credentials if c.kind is CredentialKind.CA]
    assert roots == ["fingerprint of old by CN=old", "fingerprint of new by CN=new"]
    assert [("is not a CA" in w, "expired" in w) for w in verdict.warnings] == [
        (True, False),
        (False, True),
    ]


def test_certificate_without_its_name_as_dns_name_is_refused_before_peers_do() -> None:
    verdict = judge(replace(GOOD, certificate=replace(certificate(), dns_names=("other",))))
    assert verdict.problem is None
    assert verdict.ca_problem is not None and "subjectAltName DNS:left" in verdict.ca_problem


def test_self_signed_node_needs_no_ca_and_pins_its_peers() -> None:
    own = certificate(issuer="CN=left")
    right = certificate("right", "/right.pem", "CN=right")
    verdict = judge(PkiFact(own, key(), None, {"/right.pem": right}))
    assert verdict.problem is None and verdict.ca_problem is not None
    assert verdict.peers["/right.pem"].nickname == "ovs_cert_right"
    assert {c.nickname for c in verdict.credentials} == {"ovs_certkey_left", "ovs_cert_right"}


@pytest.mark.parametrize("whose", ["left", "right"])
def test_certificate_of_a_node_named_as_ca_too_is_wanted_under_one_nickname_only(
    whose: str,
) -> None:
    own = certificate(issuer="CN=left")
    right = certificate("right", "/right.pem", "CN=right")
    both = replace(certificate(whose, "/ca.pem", f"CN={whose}"), is_ca=True)
    ca = replace(both, chain=(both,))
    verdict = judge(PkiFact(own, key(), ca, {"/right.pem": right}, issued_by_ca=whose == "left"))
    fingerprints = [c.fingerprint for c in verdict.credentials]
    assert len(fingerprints) == len(set(fingerprints)) == 2
    assert verdict.problem is None and "a node's own" in (verdict.ca_problem or "")
    assert all(peer.problem is None for peer in verdict.peers.values())


def test_bad_peer_certificates_concern_their_own_tunnels_alone() -> None:
    expired = replace(certificate("old", "/old", "CN=old"), not_after=NOW - DAY)
    remote = {
        "/good": certificate("good", "/good", "CN=good"),
        "/gone": CertificateFact("/gone", "'/gone' cannot be read"),
        "/old": expired,
        "/own": certificate("left", "/own", "CN=x"),
        "/twin1": certificate("twin", "/twin1", "CN=1"),
        "/twin2": certificate("twin", "/twin2", "CN=2"),
        "/reserved": certificate("cacert", "/reserved", "CN=cacert"),
        "/spare": certificate("cacert-0badcafe", "/spare", "CN=cacert-0badcafe"),
    }
    verdict = judge(replace(GOOD, remote_certificates=remote))
    good = [path for path, peer in verdict.peers.items() if peer.problem is None]
    assert good == ["/good"]
    assert "cannot be read" in (verdict.peers["/gone"].problem or "")
    assert "'/twin2'" in (verdict.peers["/twin1"].problem or "")
    assert verdict.keep == {"ovs_cert_right"}  # might be the one of /gone
    assert verdict.problem is None


def test_credentials_go_when_no_tunnel_wants_them_any_more() -> None:
    verdict = judge_credentials(PkiFact(), NOW, INSTALLED, certificates_wanted=False)
    assert verdict.keep == set()
    assert judge(PkiFact()).keep == {"ovs_certkey_left", CA_NICKNAME}


def test_near_expiry_is_warned_of() -> None:
    soon = replace(certificate(), not_after=NOW + 3 * DAY)
    (warning,) = judge(replace(GOOD, certificate=soon)).warnings
    assert "expires 2026-06-04" in warning


NAMES = [
    "2dc40cb7-845e-4326-9d1d-340f9961d76c",
    "compute-0.example.org",
    "ovn_worker2",
    "A" * 64,
    "7",
]
HOSTILE = [
    "",
    "A" * 65,
    "a\nleftupdown=/bin/sh",
    'a"b',
    "a'b",
    "a,OU=x",
    "a=b",
    "%any",
    "a%fromcert",
    "a\0b",
    "-rf",
    ".hidden",
    "a b",
    "@left",
    "token:nick",
    "n\u00f6de",
    "a/../b",
    "left\n",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_ovn_gives_are_accepted(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_common_name_is_refused_and_shown_harmlessly(name: str) -> None:
    verdict = judge(replace(GOOD, certificate=replace(certificate(), common_name=name)))
    assert verdict.problem is not None
    assert verdict.problem.isprintable() and verdict.problem.isascii()
    assert verdict.keep == {"ovs_certkey_left"}


@given(st.text())
def test_no_name_that_is_accepted_can_leave_its_place_in_a_config(name: str) -> None:
    if name_problem(name) is None:
        assert re.fullmatch(r"[\x21-\x7e]{1,64}", name)
        assert not set(name) & set("\"'\\%#@:=,;/ (){}[]<>|&$`*?!~^+")
        assert not name.startswith("-")


def entry(nickname: str, fingerprint: str, is_root: bool) -> InstalledCredential:
    return InstalledCredential(nickname, fingerprint, False, "CT,,", is_root)


def test_right_ca_names_the_issuer_only_beside_a_foreign_root() -> None:
    ours = judge(GOOD).credentials
    root = entry(CA_NICKNAME, "fingerprint of ca by CN=ca", True)
    assert right_ca(ours, [root]) == "%any"
    assert right_ca(ours, [root, entry("corporate", "x", False)]) == "%any"
    assert right_ca(ours, [root, entry("corporate", "x", True)]) == "%same"
    for peer in ("ovs_cert_right", "ovs_cert_cacertain"):
        assert right_ca(ours, [root, entry(peer, "x", True)]) == "%same"

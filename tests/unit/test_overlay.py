"""Rows -> wanted tunnels: authentication, ends, lead, and a reason for each bad row."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings

from ovn_ipsec.desired.conflicts import settle_conflicts
from ovn_ipsec.desired.credentials import CredentialVerdict, PeerVerdict
from ovn_ipsec.desired.options import TABLE
from ovn_ipsec.desired.overlay import (
    Surroundings,
    addresses_to_look_up,
    build_tunnel,
    wants_ipsec,
)
from ovn_ipsec.model.conns import (
    CertificateAuth,
    Protocol,
    PskAuth,
    Secret,
    TunnelConfig,
    WantedTunnel,
)
from ovn_ipsec.model.facts import TunnelFact
from tests.unit import rows

_PSK = "a key of more than sixteen bytes"
_VERDICT = CredentialVerdict(
    local_name="node-a",
    local_nickname="ovs_certkey_node-a",
    peers={
        "/b.pem": PeerVerdict("ovs_cert_node-b", "node-b"),
        "/bad.pem": PeerVerdict(problem="/bad.pem: not a certificate; copy it again"),
    },
)
_AROUND = Surroundings(
    credentials=_VERDICT,
    rightca="%any",
    local_addresses={
        "192.0.2.2": "192.0.2.1",
        "192.0.2.1": "192.0.2.1",
        "2001:db8::2": "2001:db8::1",
        "198.51.100.1": None,
        "203.0.113.9": "192.0.2.1",
    },
)


def _row(type_: str = "geneve", /, **options: str) -> TunnelFact:
    return TunnelFact("t1", type_, options)


def _config(row: TunnelFact, around: Surroundings = _AROUND) -> TunnelConfig:
    wanted = build_tunnel(row, around)
    assert wanted.problem is None
    assert wanted.config is not None
    return wanted.config


def test_psk_row_becomes_the_originals_connection() -> None:
    assert _config(_row(remote_ip="192.0.2.2", psk=_PSK)) == TunnelConfig(
        protocol=Protocol.UDP,
        port=6081,
        local="192.0.2.1",
        remote="192.0.2.2",
        auth=PskAuth(Secret(_PSK)),
        keywords=(
            ("ikev2", "yes"),
            ("leftupdown", "%disabled"),
            ("dpddelay", "10s"),
            ("retransmit-timeout", "15s"),
            ("dpdaction", "clear"),
            ("ike", "aes_gcm256-sha2_256"),
            ("esp", "aes_gcm256"),
        ),
        lead=True,
    )


def test_ca_signed_row_names_the_peer_and_the_issuer_rule() -> None:
    config = _config(_row(remote_ip="192.0.2.2", remote_name="node-b"))
    assert config.auth == CertificateAuth("node-a", "node-b", "ovs_certkey_node-a")
    assert dict(config.keywords)["rightca"] == "%any"


def test_self_signed_row_takes_the_name_from_the_certificate() -> None:
    config = _config(_row(remote_ip="192.0.2.2", remote_cert="/b.pem"))
    assert config.auth == CertificateAuth(
        "node-a", "node-b", "ovs_certkey_node-a", "ovs_cert_node-b"
    )
    assert "rightca" not in dict(config.keywords)


def test_ecdsa_key_is_named_for_certificates_alone() -> None:
    around = replace(_AROUND, credentials=replace(_VERDICT, key_is_ecdsa=True))
    signed = _config(_row(remote_ip="192.0.2.2", remote_name="node-b"), around)
    assert dict(signed.keywords)["authby"] == "ecdsa"
    assert "authby" not in dict(_config(_row(remote_ip="192.0.2.2", psk=_PSK), around).keywords)


def test_row_option_overrides_a_default_and_is_written_once() -> None:
    config = _config(
        _row(remote_ip="192.0.2.2", psk=_PSK, ipsec_ike="aes256-sha2_256-dh19", ipsec_dpddelay="5")
    )
    keys = [key for key, _ in config.keywords]
    assert len(keys) == len(set(keys))
    assert dict(config.keywords)["ike"] == "aes256-sha2_256-dh19"
    assert dict(config.keywords)["dpddelay"] == "5s"


def test_default_crypto_leaves_only_what_the_row_asks_for() -> None:
    around = replace(_AROUND, use_default_crypto=True)
    config = _config(_row(remote_ip="192.0.2.2", psk=_PSK, ipsec_esp="aes_gcm128"), around)
    assert "ike" not in dict(config.keywords)
    assert dict(config.keywords)["esp"] == "aes_gcm128"


@pytest.mark.parametrize(
    ("type_", "options", "protocol", "port"),
    [
        ("vxlan", {}, Protocol.UDP, 4789),
        ("vxlan", {"dst_port": "8472"}, Protocol.UDP, 8472),
        ("geneve", {"dst_port": "6082"}, Protocol.UDP, 6082),
        ("gre", {"dst_port": "77"}, Protocol.GRE, None),
        ("stt", {}, Protocol.TCP, 7471),
    ],
)
def test_tunnel_type_and_dst_port_choose_the_selectors(
    type_: str, options: dict[str, str], protocol: Protocol, port: int | None
) -> None:
    config = _config(_row(type_, remote_ip="192.0.2.2", psk=_PSK, **options))
    assert (config.protocol, config.port) == (protocol, port)


def test_ipv6_ends_are_written_in_one_form() -> None:
    around = replace(_AROUND, local_addresses={"2001:DB8:0::2": "2001:db8::1"})
    wanted = build_tunnel(_row(remote_ip="2001:DB8:0::2", psk=_PSK), around)
    assert wanted.config is not None
    assert (wanted.config.local, wanted.config.remote) == ("2001:db8::1", "2001:db8::2")
    assert wanted.view.address_family == "IPv6"


def test_view_keeps_the_rows_words_and_hides_the_key() -> None:
    wanted = build_tunnel(_row(remote_ip="192.0.2.2", psk=_PSK, ipsec_esp="aes_gcm128"), _AROUND)
    assert wanted.view.local_ip == "%defaultroute"
    assert wanted.view.psk_set
    assert wanted.view.options == {"esp": "aes_gcm128"}
    assert _PSK not in repr(wanted)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_row(psk=_PSK), "options:remote_ip is not set"),
        (_row(psk=_PSK, remote_ip="flow"), "remote_ip=flow"),
        (_row(psk=_PSK, remote_ip="peer.example"), "not a numeric address"),
        (_row(psk=_PSK, remote_ip="224.0.0.1"), "is multicast"),
        (_row(psk=_PSK, remote_ip="ff02::1"), "is multicast"),
        (_row(psk=_PSK, remote_ip="::"), "not the address of a node"),
        (_row(psk=_PSK, remote_ip="127.0.0.1"), "a loopback address"),
        (_row(psk=_PSK, remote_ip="fe80::1"), "is link-local"),
        (_row(psk=_PSK, remote_ip="fe80::1%eth0"), "is link-local"),
        (_row(psk=_PSK, remote_ip="::ffff:192.0.2.2"), "IPv4 address in IPv6 form"),
        (_row(psk=_PSK, remote_ip="192.0.2.1"), "this node's own address"),
        (_row(psk=_PSK, remote_ip="198.51.100.1"), "no route to options:remote_ip"),
        (_row(psk=_PSK, remote_ip="198.51.100.99"), "no route to options:remote_ip"),
        (_row(psk=_PSK, remote_ip="192.0.2.2", local_ip="2001:db8::1"), "different families"),
        (_row(psk=_PSK, remote_ip="192.0.2.2", local_ip="203.0.113.9"), "not an address of this"),
        (_row(psk=_PSK, remote_ip="192.0.2.2", local_ip="flow"), "local_ip=flow"),
        (_row(psk=_PSK, remote_ip="192.0.2.2", dst_port="0"), "dst_port='0' is not a port"),
        (_row(psk=_PSK, remote_ip="192.0.2.2", dst_port="6081\n"), "is not a port"),
        (_row(psk=_PSK, remote_ip="192.0.2.2", dst_port="4500"), "IKE's own port"),
        (_row(psk="", remote_ip="192.0.2.2"), "options:psk is empty"),
        (_row(psk="s3cret\nline", remote_ip="192.0.2.2"), "control character"),
        (_row(psk="s3cret\0", remote_ip="192.0.2.2"), "control character"),
        (_row(psk=_PSK, remote_ip="192.0.2.2", remote_name="node-b"), "keep only one way"),
        (_row(remote_ip="192.0.2.2", remote_name=""), "options:remote_name is empty"),
        (
            _row(remote_ip="192.0.2.2", remote_name="%any"),
            "options:remote_name '%any' may hold only",
        ),
        (_row(remote_ip="192.0.2.2", remote_name="x" * 65), "at most 64"),
        (_row(remote_ip="192.0.2.2", remote_name="NODE-A"), "this node's own"),
        (_row(remote_ip="192.0.2.2", remote_cert="/c.pem"), "has not been read"),
        (_row(remote_ip="192.0.2.2", remote_cert="/bad.pem"), "/bad.pem: not a certificate"),
        (_row(remote_ip="192.0.2.2", remote_cert="/b.pem", remote_name="c"), "is not the name in"),
        (_row("lisp", remote_ip="192.0.2.2", psk=_PSK), "type 'lisp' cannot be protected"),
        (replace(_row(psk=_PSK, remote_ip="192.0.2.2"), name="t" * 300), "its name cannot"),
        (replace(_row(psk=_PSK, remote_ip="192.0.2.2"), name="%default"), "its name cannot"),
        (
            replace(_row(psk=_PSK, remote_ip="192.0.2.2"), datapath_type="netdev"),
            "userspace datapath: neither IPsec nor guard applies",
        ),
    ],
)
def test_bad_row_is_invalid_with_its_reason(row: TunnelFact, reason: str) -> None:
    wanted = build_tunnel(row, _AROUND)
    assert wanted.config is None
    assert wanted.problem is not None
    assert reason in wanted.problem
    assert wanted.problem.startswith("interface ")
    assert "s3cret" not in wanted.problem


def test_credential_problem_stops_certificate_tunnels_alone() -> None:
    expired = "/cert.pem: expired; renew it"
    verdict = replace(_VERDICT, local_name=None, problem=expired, ca_problem=expired)
    around = replace(_AROUND, credentials=verdict)
    assert build_tunnel(_row(remote_ip="192.0.2.2", psk=_PSK), around).problem is None
    for options in ({"remote_name": "node-b"}, {"remote_cert": "/b.pem"}):
        problem = build_tunnel(_row(remote_ip="192.0.2.2", **options), around).problem
        assert problem == "interface t1: /cert.pem: expired; renew it"


def test_missing_ca_stops_ca_signed_tunnels_alone() -> None:
    around = replace(_AROUND, credentials=replace(_VERDICT, ca_problem="no CA; set ca_cert"))
    assert build_tunnel(_row(remote_ip="192.0.2.2", remote_cert="/b.pem"), around).problem is None
    problem = build_tunnel(_row(remote_ip="192.0.2.2", remote_name="node-b"), around).problem
    assert problem == "interface t1: no CA; set ca_cert"


def test_short_psk_only_warns() -> None:
    wanted = build_tunnel(_row(remote_ip="192.0.2.2", psk="swordfish"), _AROUND)
    assert wanted.problem is None
    assert len(wanted.warnings) == 1


def test_plain_rows_and_empty_addresses_are_not_looked_up() -> None:
    facts = [
        _row(remote_ip="192.0.2.2"),
        _row(remote_ip="192.0.2.3", psk="", local_ip="192.0.2.1"),
        _row(remote_name="x", remote_ip=""),
    ]
    assert [wants_ipsec(row) for row in facts] == [False, True, True]
    assert addresses_to_look_up(facts) == {"192.0.2.3", "192.0.2.1"}


def _end(local: str, remote: str, local_name: str, options: dict[str, str]) -> TunnelConfig | None:
    around = Surroundings(
        CredentialVerdict(local_name=local_name, local_nickname=f"ovs_certkey_{local_name}"),
        local_addresses={remote: local},
    )
    return build_tunnel(TunnelFact("t", "geneve", {"remote_ip": remote, **options}), around).config


@settings(deadline=None)
@given(rows.ADDRESSES, rows.ADDRESSES, rows.NAMES, rows.NAMES)
def test_exactly_one_of_the_two_ends_leads(a: str, b: str, name_a: str, name_b: str) -> None:
    assume(ipaddress.ip_address(a).version == ipaddress.ip_address(b).version)
    for options_a, options_b in (
        ({"psk": _PSK}, {"psk": _PSK}),
        ({"remote_name": name_b}, {"remote_name": name_a}),
    ):
        end_a = _end(a, b, name_a, options_a)
        end_b = _end(b, a, name_b, options_b)
        if end_a is not None and end_b is not None:
            assert end_a.lead is not end_b.lead


_KEYWORDS = {option.key for option in TABLE} | {
    "ikev2",
    "dpdaction",
    "authby",
    "leftupdown",
    "rightca",
}
_VALUE = re.compile(r"[A-Za-z0-9_+,%-]+", re.ASCII)


@settings(deadline=None)
@given(rows.TUNNELS.filter(wants_ipsec))
def test_any_row_gives_a_config_or_a_reason_and_only_known_keywords(row: TunnelFact) -> None:
    wanted = build_tunnel(row, _AROUND)
    assert (wanted.config is None) == (wanted.problem is not None)
    for text in (wanted.problem or "", *wanted.warnings):
        assert text.isprintable()
    if wanted.config is not None:
        assert len(wanted.config.digest) == 64
        assert {key for key, _ in wanted.config.keywords} <= _KEYWORDS
        assert all(_VALUE.fullmatch(value) for _, value in wanted.config.keywords)


def _wanted(name: str, type_: str = "geneve", **options: str) -> WantedTunnel:
    row = TunnelFact(name, type_, {"remote_ip": "192.0.2.2", "psk": _PSK, **options})
    return build_tunnel(row, _AROUND)


def _problems(tunnels: list[WantedTunnel], incumbents: set[str]) -> dict[str, str | None]:
    settled = settle_conflicts({tunnel.name: tunnel for tunnel in tunnels}, incumbents)
    return {name: tunnel.problem for name, tunnel in settled.items()}


def test_of_two_rows_with_the_same_ends_the_installed_one_wins() -> None:
    tunnels = [_wanted("a"), _wanted("b", local_ip="192.0.2.1"), _wanted("c", dst_port="6082")]
    problems = _problems(tunnels, {"b", "zzz"})
    assert problems["b"] is None
    assert problems["c"] is None
    assert problems["a"] == (
        "interface a: interface b has the same ends already (udp port 6081 from 192.0.2.1 to "
        "192.0.2.2); remove one of the two"
    )


def test_of_two_new_rows_with_the_same_ends_the_first_by_name_wins() -> None:
    problems = _problems([_wanted("b"), _wanted("a")], set())
    assert problems["a"] is None
    assert "interface a has the same ends" in (problems["b"] or "")


def test_rows_whose_connections_would_share_a_name_are_told_apart() -> None:
    problems = _problems([_wanted("t"), _wanted("t-in", "gre")], set())
    assert problems["t"] is None
    assert "rename one of the two" in (problems["t-in"] or "")


def test_of_two_keys_for_one_pair_of_addresses_only_one_is_taken() -> None:
    key = "another key of 16"
    rows = [_wanted("a"), _wanted("b", "vxlan", psk=key), _wanted("c", "vxlan", dst_port="8472")]
    for first, refused in ({"a"}, ["b"]), ({"b"}, ["a", "c"]):
        problems = _problems(rows, first)
        assert [name for name, problem in problems.items() if problem] == refused
        (winner,) = first
        told = problems[refused[0]]
        assert f"interface {winner} has another options:psk from 192.0.2.1 to" in (told or "")
        assert key not in (told or "")


def test_invalid_row_stands_in_nobodys_way() -> None:
    problems = _problems([_wanted("a", ipsec_auto="start"), _wanted("b")], {"a"})
    assert problems["b"] is None
    assert "ipsec_auto" in (problems["a"] or "")

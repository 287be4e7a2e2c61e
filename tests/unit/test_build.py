"""Facts -> Desired: what the parts come to together."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from ovn_ipsec.desired.build import GUARD_KEY, Policy, build
from ovn_ipsec.desired.overlay import TunnelRows, wants_ipsec
from ovn_ipsec.model.conns import (
    CertificateAuth,
    GuardMode,
    GuardTuple,
    InstalledCredential,
    Protocol,
    WantedTunnel,
)
from ovn_ipsec.model.facts import (
    CertificateFact,
    Facts,
    NodeFact,
    PkiFact,
    TunnelFact,
)
from tests.unit import rows
from tests.unit.ca_signed import PKI

_NOW = datetime(2030, 1, 1, tzinfo=UTC)
_PSK = TunnelFact("p", "geneve", {"remote_ip": "192.0.2.2", "psk": "sixteen bytes key"})
_CA_SIGNED = TunnelFact("c", "geneve", {"remote_ip": "192.0.2.3", "remote_name": "b"})
_PLAIN = TunnelFact("x", "geneve", {"remote_ip": "192.0.2.4"})
_FACTS = Facts(
    in_sync=True,
    tunnels=(_CA_SIGNED, _PSK, _PLAIN),
    pki=PKI,
    local_addresses={"192.0.2.2": "192.0.2.1", "192.0.2.3": "192.0.2.1"},
    now=_NOW,
)


def _tunnels(
    facts: Facts, installed: tuple[InstalledCredential, ...] = ()
) -> dict[str, WantedTunnel]:
    return dict(build(facts, Policy(), {}, installed).tunnels)


def test_rows_with_an_ipsec_option_are_wanted_each_with_its_authentication() -> None:
    desired = build(_FACTS, Policy(), {}, ())
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
    desired = build(replace(_FACTS, pki=PkiFact(), tunnels=(_PSK,)), Policy(), {}, ())
    assert desired.tunnels["p"].problem is None
    assert desired.problems == ()


def test_bad_certificate_stops_its_tunnels_alone_and_keeps_what_is_installed() -> None:
    bad = replace(PKI, certificate=CertificateFact("/cert", problem="'/cert' is empty; copy it"))
    facts = replace(_FACTS, pki=bad)
    entry = InstalledCredential("ovs_certkey_a", "f", True, "u,u,u", False)
    desired = build(facts, Policy(), {}, (entry,))
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
    desired = build(facts, Policy(), {}, ())
    assert len(desired.problems) == 1
    assert all("hw-offload" in tunnel.warnings[0] for tunnel in desired.tunnels.values())
    accepted = build(facts, Policy(allow_hw_offload=True), {}, ())
    assert accepted.problems == ()
    assert all(tunnel.warnings == () for tunnel in accepted.tunnels.values())


def test_same_facts_give_the_same_digests_and_another_route_does_not_leak_in() -> None:
    first, again = _tunnels(_FACTS), _tunnels(_FACTS)
    assert first == again
    moved = replace(_FACTS, local_addresses={"192.0.2.2": "192.0.2.1", "192.0.2.3": "192.0.2.77"})
    assert _tunnels(moved)["p"] == first["p"]
    assert _tunnels(moved)["c"] != first["c"]


def test_guard_closes_protected_peers_and_waits_for_the_first_snapshot() -> None:
    vxlan = TunnelFact("v", "vxlan", {"remote_ip": "192.0.2.9", "psk": ""})
    facts = replace(_FACTS, tunnels=(vxlan, _PLAIN))
    desired = build(facts, Policy(), {}, ())
    assert desired.tunnels["v"].config is None
    assert desired.guard is not None
    assert GuardTuple("192.0.2.9", Protocol.UDP, 4789) in desired.guard.closed_peers
    assert desired.guard.exempt == {GuardTuple("192.0.2.4", Protocol.UDP, 6081)}
    assert build(replace(facts, in_sync=False), Policy(), {}, ()).guard is None


def test_plain_row_that_stays_closed_is_a_problem_of_the_node() -> None:
    flow = TunnelFact("f", "geneve", {"remote_ip": "flow"})
    problems = build(replace(_FACTS, tunnels=(flow,)), Policy(), {}, ()).problems
    assert len(problems) == 1
    assert problems[0].startswith("interface f has no IPsec option")


@settings(deadline=None)
@given(st.lists(rows.TUNNELS, unique_by=lambda tunnel: tunnel.name, max_size=6))
def test_any_rows_give_one_verdict_each_and_no_ends_twice(tunnels: list[TunnelFact]) -> None:
    desired = build(replace(_FACTS, tunnels=tuple(tunnels)), Policy(), {}, ())
    assert set(desired.tunnels) == {row.name for row in tunnels if wants_ipsec(row)}
    configs = []
    for wanted in desired.tunnels.values():
        assert (wanted.config is None) == (wanted.problem is not None)
        if wanted.config is not None:
            config = wanted.config
            configs.append((config.protocol, config.port, config.local, config.remote))
    assert len(configs) == len(set(configs))


_NODES = st.lists(
    st.builds(
        lambda tunnels, addresses, pki, policy: (
            replace(_FACTS, tunnels=tuple(tunnels), local_addresses=addresses, pki=pki),
            policy,
        ),
        st.lists(rows.TUNNELS, unique_by=lambda tunnel: tunnel.name, max_size=4),
        st.dictionaries(
            st.sampled_from(["192.0.2.2", "192.0.2.3"]), st.sampled_from([None, "192.0.2.1"])
        ),
        st.sampled_from([PKI, PkiFact()]),
        st.sampled_from([Policy(), Policy(use_default_crypto=True)]),
    ),
    min_size=2,
    max_size=4,
)


@settings(deadline=None)
@given(_NODES)
def test_rows_kept_from_the_last_build_change_nothing(nodes: list[tuple[Facts, Policy]]) -> None:
    kept = TunnelRows()
    (first, _), (second, policy), *_ = nodes
    mixed = (replace(second, tunnels=first.tunnels), policy)
    for facts, policy in [*nodes, nodes[-1], nodes[0], mixed]:
        assert build(facts, policy, {}, (), kept) == build(facts, policy, {}, ())


def test_guard_obeys_the_cluster_only_where_the_node_lets_it() -> None:
    told = replace(_FACTS, node=NodeFact(other_config={GUARD_KEY: "audit"}))

    def mode(facts: Facts, policy: Policy) -> GuardMode:
        guard = build(facts, policy, {}, ()).guard
        assert guard is not None
        return guard.mode

    following = Policy(guard_follow=True)
    assert mode(told, Policy()) is GuardMode.ENFORCE
    assert mode(told, following) is GuardMode.AUDIT
    assert mode(_FACTS, following) is GuardMode.ENFORCE
    strict = replace(following, guard_mode=GuardMode.ENFORCE_ALWAYS)
    assert mode(told, strict) is GuardMode.ENFORCE_ALWAYS
    off = replace(_FACTS, node=NodeFact(other_config={GUARD_KEY: "off"}))
    assert mode(off, following) is GuardMode.ENFORCE


def test_own_certificate_is_judged_where_one_is_named_or_needed() -> None:
    desired = build(_FACTS, Policy(), {}, ())
    assert desired.certificate is not None
    assert (desired.certificate.name, desired.certificate.problem) == ("a", None)
    bare = replace(_FACTS, pki=PkiFact())
    missing = build(bare, Policy(), {}, ()).certificate
    assert missing is not None and "no certificate" in (missing.problem or "")
    by_psk = replace(bare, tunnels=(_PSK, _PLAIN))
    assert build(by_psk, Policy(), {}, ()).certificate is None

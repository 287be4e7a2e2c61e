"""Whose tunnels are withdrawn because the peer is revoked, and whose are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ovn_ipsec.desired.build import Policy, build
from ovn_ipsec.model.conns import Desired, WantedTunnel
from ovn_ipsec.model.facts import (
    CertificateFact,
    Facts,
    PkiFact,
    RevocationFact,
    TunnelFact,
)
from tests.unit.ca_signed import CERTIFICATE, PKI

_NOW = datetime(2030, 1, 1, tzinfo=UTC)
_PEER = CertificateFact(
    "/c.pem",
    pem="C",
    common_name="c",
    dns_names=("c",),
    fingerprint="c",
    subject="CN=c",
    issuer="CN=c",
    serial=3,
)
_PKI = replace(
    PKI,
    certificate=replace(CERTIFICATE, serial=1),
    remote_certificates={"/c.pem": _PEER},
)


def _row(name: str, last: int, **options: str) -> TunnelFact:
    return TunnelFact(name, "geneve", {"remote_ip": f"192.0.2.{last}", **options})


_ROWS = (
    _row("tun-b", 2, remote_name="b"),
    _row("tun-c", 3, remote_cert="/c.pem"),
    _row("tun-p", 4, psk="sixteen bytes key"),
)


def _desired(
    lists: RevocationFact,
    rows: tuple[TunnelFact, ...] = _ROWS,
    incumbents: Mapping[str, str | None] | None = None,
    pki: PkiFact = _PKI,
) -> Desired:
    facts = Facts(
        in_sync=True,
        tunnels=rows,
        pki=replace(pki, revocation=lists),
        local_addresses={f"192.0.2.{last}": "192.0.2.1" for last in range(2, 9)},
        now=_NOW,
    )
    return build(facts, Policy(), incumbents or {}, ())


def _withdrawn(wanted: Desired) -> set[str]:
    return {name for name, tunnel in wanted.tunnels.items() if tunnel.withdrawn}


def _denied(*names: str) -> RevocationFact:
    return RevocationFact(denied=frozenset(names))


def _only(wanted: Desired) -> WantedTunnel:
    (tunnel,) = wanted.tunnels.values()
    return tunnel


def test_without_a_list_nothing_is_withdrawn() -> None:
    wanted = _desired(RevocationFact())
    assert _withdrawn(wanted) == set()
    assert all(tunnel.problem is None for tunnel in wanted.tunnels.values())
    assert wanted.problems == ()


def test_denied_peers_are_withdrawn_with_the_reason_and_psk_is_not_concerned() -> None:
    wanted = _desired(_denied("b", "c", "tun-p", "192.0.2.4"))
    assert _withdrawn(wanted) == {"tun-b", "tun-c"}
    for name in ("b", "c"):
        tunnel = wanted.tunnels[f"tun-{name}"]
        assert tunnel.config is None
        assert f"peer {name} is revoked" in (tunnel.problem or "")
    assert wanted.tunnels["tun-p"].config is not None


@pytest.mark.parametrize("spelling", ["Node-B", "NODE-B", "node-b.", "node-b"])
def test_spellings_that_pluto_takes_for_the_denied_name_are_withdrawn(spelling: str) -> None:
    wanted = _desired(_denied("node-b"), (_row("t", 2, remote_name=spelling),))
    assert _withdrawn(wanted) == {"t"}


def test_names_that_only_begin_like_the_denied_one_are_not_withdrawn() -> None:
    wanted = _desired(_denied("node"), (_row("t", 2, remote_name="node-b"),))
    assert _withdrawn(wanted) == set()


def test_revoked_serial_withdraws_the_certificate_of_that_issuer_alone() -> None:
    assert _withdrawn(_desired(RevocationFact(serials=frozenset({("CN=c", 3)})))) == {"tun-c"}
    assert _withdrawn(_desired(RevocationFact(serials=frozenset({("CN=ca", 3)})))) == set()
    assert _withdrawn(_desired(RevocationFact(serials=frozenset({("CN=c", 4)})))) == set()


def test_row_that_is_invalid_anyway_is_withdrawn_all_the_same() -> None:
    row = _row("t", 2, remote_name="b", ipsec_leftupdown="/bin/sh", psk="")
    assert _withdrawn(_desired(_denied("b"), (row,))) == {"t"}
    lost = replace(_PKI, certificate=CertificateFact("/cert", problem="'/cert' is empty"))
    assert _withdrawn(_desired(_denied("b"), pki=lost)) == {"tun-b"}


@pytest.mark.parametrize("options", [{"remote_name": "-"}, {"remote_cert": "/lost.pem"}])
def test_invalid_row_whose_connections_are_to_a_revoked_peer_is_withdrawn(
    options: dict[str, str],
) -> None:
    row = _row("t", 2, **options)
    tunnel = _only(_desired(_denied("b"), (row,), {"t": "B"}))
    assert tunnel.withdrawn
    assert (tunnel.problem or "").endswith("peer B, who is revoked")
    assert _withdrawn(_desired(_denied("b"), (row,), {"t": "c"})) == set()
    assert _withdrawn(_desired(_denied("b"), (row,), {"t": None})) == set()


def test_withdrawn_row_leaves_its_ends_to_another_row() -> None:
    rows = (_row("t1", 2, remote_name="b"), _row("t2", 2, remote_name="d"))
    wanted = _desired(_denied("b"), rows, {"t1": "b"})
    assert wanted.tunnels["t2"].config is not None


def test_guard_and_credentials_are_the_same_with_and_without_revocation() -> None:
    before, after = _desired(RevocationFact()), _desired(_denied("b", "c"))
    assert before.guard == after.guard
    assert before.credentials == after.credentials


@pytest.mark.parametrize(
    "lists", [_denied("a"), RevocationFact(serials=frozenset({("CN=ca", 1)}))]
)
def test_own_revocation_is_a_problem_of_the_node_and_withdraws_nothing(
    lists: RevocationFact,
) -> None:
    wanted = _desired(lists)
    assert "this node's certificate is revoked" in wanted.problems[0]
    assert _withdrawn(wanted) == set()


def test_list_past_its_end_counts_and_warns() -> None:
    lists = replace(_denied("b"), next_update=_NOW - timedelta(seconds=1))
    wanted = _desired(lists)
    assert _withdrawn(wanted) == {"tun-b"}
    assert "should have been replaced" in wanted.problems[0]
    assert _desired(replace(lists, next_update=_NOW)).problems == ()


def test_problems_of_the_file_are_shown_where_certificates_are_used() -> None:
    lists = RevocationFact(problems=("CRL '/crl': cannot be read",))
    assert _desired(lists).problems == lists.problems
    assert _desired(lists, _ROWS[2:]).problems == ()


def test_name_that_is_no_name_is_shown_escaped() -> None:
    tunnel = _only(_desired(_denied("b\x1b[2j"), (_row("t", 2, remote_name="b\x1b[2J"),)))
    assert tunnel.withdrawn
    assert "peer 'b\\x1b[2J' is revoked" in (tunnel.problem or "")

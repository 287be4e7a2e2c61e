"""Each way of not being up has one cause, and says what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.model.causes import Cause, CauseCode, Problem
from ovn_ipsec.model.conns import GuardMode, TunnelView
from ovn_ipsec.model.evidence import Evidence, Failure, Symptom
from ovn_ipsec.model.snapshot import (
    ActiveConnection,
    GuardStatus,
    IkeStatus,
    Snapshot,
    Stale,
    Subject,
    TunnelState,
    TunnelStatus,
)
from ovn_ipsec.status.causes import diagnose
from ovn_ipsec.status.json_report import json_tunnels
from ovn_ipsec.status.report import render_tunnels

REMOTE = "192.0.2.7"
VIEW = TunnelView(
    type="geneve",
    local_ip="192.0.2.1",
    remote_ip=REMOTE,
    address_family="IPv4",
    skb_mark=None,
    local_cert="/etc/keys/cert.pem",
    local_name="node-1",
    local_key="/etc/keys/key.pem",
    remote_cert=None,
    remote_name="node-7",
    ca_cert="/etc/keys/ca.pem",
    psk_set=False,
    options={},
    ofport=1,
    cfm_fault=None,
)
PSK_VIEW = replace(VIEW, psk_set=True, remote_name=None)
NAMES = ("ovn-7-in-1", "ovn-7-out-1")
DOWN = TunnelStatus("ovn-7", 1, TunnelState.CONFIGURED, VIEW, missing=NAMES)
UP = replace(
    DOWN, missing=(), connections=tuple(ActiveConnection(name, "", 1, 1) for name in NAMES)
)
GUARD = GuardStatus(True, True, GuardMode.ENFORCE, None, 0.0)
NODE = Snapshot(
    0.0,
    datetime(2026, 1, 2, tzinfo=UTC),
    complete=True,
    ike=IkeStatus(True, "4.10", 0.0),
    guard=GUARD,
)


def cause(
    tunnel: TunnelStatus, evidence: Evidence | None = None, node: Snapshot = NODE
) -> Cause | None:
    (told,) = diagnose(replace(node, tunnels=(tunnel,)), evidence or Evidence()).tunnels
    return told.cause


def code(
    tunnel: TunnelStatus, evidence: Evidence | None = None, node: Snapshot = NODE
) -> CauseCode | None:
    told = cause(tunnel, evidence, node)
    assert told is None or (told.text and told.remedy)
    return told.code if told else None


def log(symptom: Symptom, detail: str = "", key: str = "ovn-7") -> Evidence:
    return Evidence({key: Failure(symptom, detail)})


@pytest.mark.parametrize(
    ("symptom", "by_certificate", "by_psk"),
    [
        (Symptom.SILENT, "peer-silent", "peer-silent"),
        (Symptom.REFUSED, "peer-not-listening", "peer-not-listening"),
        (Symptom.UNREACHABLE, "peer-unreachable", "peer-unreachable"),
        (Symptom.AUTH_SILENT, "mtu", "ike-filtered"),
        (Symptom.REJECTED, "rejected-by-peer", "psk-mismatch"),
        (Symptom.PEER_REFUSED, "peer-not-authenticated", "peer-not-authenticated"),
        (Symptom.PSK_DIFFERS, "psk-mismatch", "psk-mismatch"),
        (Symptom.PSK_ABSENT, "psk-mismatch", "psk-mismatch"),
        (Symptom.ISSUER_UNKNOWN, "peer-certificate-untrusted", "peer-certificate-untrusted"),
        (Symptom.PEER_EXPIRED, "peer-certificate-expired", "peer-certificate-expired"),
        (Symptom.PEER_REVOKED, "peer-revoked", "peer-revoked"),
        (Symptom.PEER_NAME, "peer-name-mismatch", "peer-name-mismatch"),
        (Symptom.PEER_CERTIFICATE, "peer-certificate-refused", "peer-certificate-refused"),
        (Symptom.AUTH_METHOD, "auth-method-mismatch", "auth-method-mismatch"),
        (Symptom.OWN_KEY, "nss-broken", "nss-broken"),
        (Symptom.OWN_CERTIFICATE, "certificate-expired", "certificate-expired"),
        (Symptom.OFFER_REFUSED, "no-proposal-chosen", "no-proposal-chosen"),
        (Symptom.OFFER_UNMATCHED, "no-proposal-chosen", "no-proposal-chosen"),
        (Symptom.NO_CONNECTION, "no-proposal-chosen", "no-proposal-chosen"),
        (Symptom.SELECTORS_REFUSED, "selectors-unacceptable", "selectors-unacceptable"),
        (Symptom.SELECTORS_UNMATCHED, "selectors-unacceptable", "selectors-unacceptable"),
        (Symptom.KERNEL, "kernel-refused-sa", "kernel-refused-sa"),
    ],
)
def test_symptom_in_the_log_leads_to_its_cause(
    symptom: Symptom, by_certificate: str, by_psk: str
) -> None:
    assert code(DOWN, log(symptom)) == by_certificate
    assert code(replace(DOWN, view=PSK_VIEW), log(symptom)) == by_psk


def test_cause_names_what_the_log_named() -> None:
    told = cause(DOWN, log(Symptom.ISSUER_UNKNOWN, "CN=node-7"))
    assert told is not None
    assert "CN=node-7" in told.text and "/etc/keys/ca.pem" in told.text
    told = cause(DOWN, log(Symptom.OFFER_UNMATCHED, "1:ESP:ENCR=AES_CBC"))
    assert told is not None
    assert "1:ESP:ENCR=AES_CBC" in told.text and "ipsec_esp" in told.remedy


def test_log_of_another_tunnel_or_peer_says_nothing_of_this_one() -> None:
    assert code(DOWN, log(Symptom.PSK_DIFFERS, key="ovn-8")) is CauseCode.UNKNOWN
    assert code(DOWN, log(Symptom.NO_CONNECTION, key="@192.0.2.8")) is CauseCode.UNKNOWN
    assert code(DOWN, log(Symptom.NO_CONNECTION, key=f"@{REMOTE}")) == "no-proposal-chosen"


def test_without_a_log_the_cause_says_that_it_is_less_specific() -> None:
    blind = Evidence(problem="pluto's log /var/log/pluto.log cannot be read: No such file")
    told = cause(DOWN, blind)
    assert told is not None
    assert told.code is CauseCode.UNKNOWN
    assert "/var/log/pluto.log" in told.text
    told = cause(replace(DOWN, negotiating=True), blind)
    assert told is not None
    assert told.code is CauseCode.NEGOTIATING
    assert "/var/log/pluto.log" in told.remedy


def test_what_is_up_has_no_cause_unless_nothing_comes_in() -> None:
    assert code(UP, log(Symptom.PSK_DIFFERS)) is None
    assert code(replace(UP, silent=True)) is CauseCode.ESP_FILTERED


def test_reason_of_an_invalid_row_keeps_its_kind() -> None:
    reason = Problem(
        "interface x: certificate 'c' expired 2026-01-01; renew it", CauseCode.CERTIFICATE_EXPIRED
    )
    told = cause(replace(DOWN, state=TunnelState.INVALID, reason=reason, missing=()))
    assert told == Cause(
        CauseCode.CERTIFICATE_EXPIRED,
        "interface x: certificate 'c' expired 2026-01-01",
        "renew it",
    )
    plain = replace(DOWN, state=TunnelState.INVALID, reason="interface x: no; do y", missing=())
    assert code(plain) is CauseCode.ROW


STALE_IKE = Stale(Subject.IKE, "whack: no answer within 10 s", None)
STALE_NSS = Stale(Subject.CREDENTIALS, "certutil: exit code 255", None)


@pytest.mark.parametrize(
    ("tunnel", "node", "expected"),
    [
        (DOWN, replace(NODE, ike=IkeStatus(False, "", 0.0)), CauseCode.IKE_DOWN),
        (DOWN, replace(NODE, stale=(STALE_IKE,)), CauseCode.IKE_UNKNOWN),
        (DOWN, replace(NODE, stale=(STALE_NSS,)), CauseCode.NSS_BROKEN),
        (DOWN, replace(NODE, credential_error="certutil: no space"), CauseCode.NSS_BROKEN),
        (replace(DOWN, view=PSK_VIEW), replace(NODE, stale=(STALE_NSS,)), CauseCode.UNKNOWN),
        (replace(DOWN, error="addconn: exit code 1"), NODE, CauseCode.STEP_FAILED),
        (replace(DOWN, state=TunnelState.INIT, missing=()), NODE, CauseCode.INSTALLING),
        (replace(DOWN, unoriented=True), NODE, CauseCode.ADDRESS_ABSENT),
        (replace(UP, missing=NAMES[:1]), NODE, CauseCode.KERNEL_STATE_LOST),
        (replace(DOWN, ike_up=True), NODE, CauseCode.NEGOTIATING),
    ],
)
def test_what_the_node_knows_by_itself(
    tunnel: TunnelStatus, node: Snapshot, expected: CauseCode
) -> None:
    assert code(tunnel, node=node) is expected


def test_absent_guard_is_a_cause_of_the_node_and_touches_no_tunnel() -> None:
    open_node = replace(NODE, guard=GuardStatus(False, False, None, None, 0.0), tunnels=(UP,))
    told = diagnose(open_node, Evidence())
    assert [cause.code for cause in told.causes] == [CauseCode.GUARD_ABSENT]
    assert told.tunnels == (UP,)


def test_guard_that_is_off_by_choice_is_no_problem_and_one_that_cannot_be_read_is() -> None:
    absent = GuardStatus(False, False, None, None, 0.0)
    off = replace(NODE, guard=absent, guard_wanted=GuardMode.OFF)
    assert diagnose(off, Evidence()).causes == ()
    unread = replace(NODE, stale=(Stale(Subject.GUARD, "nft: exit code 1", None),))
    (told,) = diagnose(unread, Evidence()).causes
    assert told.code is CauseCode.GUARD_ABSENT and "nft: exit code 1" in told.text


def test_cause_is_told_by_text_and_json() -> None:
    told = diagnose(replace(NODE, tunnels=(DOWN,)), log(Symptom.SILENT))
    text = render_tunnels(told, 1.0) or ""
    assert "  Cause:          192.0.2.7 does not answer IKE\n" in text
    assert "  Remedy:         check that the node is up" in text
    assert '"cause": {"code": "peer-silent", "text": "192.0.2.7 does' in json.dumps(
        json_tunnels(told, 1.0)
    )


@given(
    st.sampled_from(list(Symptom)),
    st.text(max_size=40),
    st.sampled_from(list(TunnelState)),
    st.booleans(),
)
def test_whatever_is_not_up_has_exactly_one_cause(
    symptom: Symptom, detail: str, state: TunnelState, up: bool
) -> None:
    tunnel = replace(UP if up else DOWN, state=state)
    healthy = tunnel.up or state is TunnelState.REMOVED
    assert (code(tunnel, log(symptom, detail)) is None) == healthy

"""pluto's own words, recorded from two plutos that fail with each other, addresses changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.drivers.libreswan_log import MOST_FAILURES, Success, learn, parse_line
from ovn_ipsec.model.evidence import KEPT_S, Evidence, Symptom

LINES_4_10: tuple[tuple[str, Symptom | Success | None], ...] = (
    ("#1: STATE_V2_PARENT_I1: retransmission; will wait 0.5 seconds for response", None),
    ("#1: STATE_V2_PARENT_I1: retransmission; will wait 8 seconds for response", Symptom.SILENT),
    (
        "#1: STATE_V2_PARENT_I1: 15 second timeout exceeded after 5 retransmits.  No response"
        " (or no acceptable response) to our first IKEv2 message",
        Symptom.SILENT,
    ),
    (
        "#7: STATE_V2_ESTABLISHED_IKE_SA: 15 second timeout exceeded after 5 retransmits.  No"
        " response (or no acceptable response) to our IKEv2 message",
        Symptom.SILENT,
    ),
    (
        "#1: STATE_V2_PARENT_I2: retransmission; will wait 4 seconds for response",
        Symptom.AUTH_SILENT,
    ),
    (
        "#1: STATE_V2_PARENT_I2: 15 second timeout exceeded after 5 retransmits.  Possible"
        " authentication failure: no acceptable response to our first encrypted message",
        Symptom.AUTH_SILENT,
    ),
    (
        "#1: ERROR: asynchronous network error report on eth0 (192.0.2.1:500), complainant"
        " 192.0.2.2: Connection refused [errno 111, origin ICMP type 3 code 3 (not"
        " authenticated)]",
        Symptom.REFUSED,
    ),
    (
        "#1: ERROR: asynchronous network error report on eth0 (192.0.2.1:500), complainant"
        " 192.0.2.1: No route to host [errno 113, origin ICMP type 3 code 1 (not"
        " authenticated)]",
        Symptom.UNREACHABLE,
    ),
    (
        "#1: IKE SA authentication request rejected by peer: AUTHENTICATION_FAILED",
        Symptom.REJECTED,
    ),
    ("#1: encountered fatal error in state STATE_V2_PARENT_I2", None),
    ("#1: encountered fatal error in state STATE_V2_PARENT_I1", Symptom.OWN_KEY),
    (
        "#1: authentication failed: computed hash does not match hash received from peer"
        " ID_IPV4_ADDR '192.0.2.2'",
        Symptom.PSK_DIFFERS,
    ),
    ("#1: authentication failed: no PSK found for '192.0.2.2'", Symptom.PSK_ABSENT),
    (
        "#1: NSS: ERROR: IPsec certificate CN=left,O=ovn-ipsec lab invalid:"
        " SEC_ERROR_UNKNOWN_ISSUER: Peer's Certificate issuer is not recognized.",
        Symptom.ISSUER_UNKNOWN,
    ),
    (
        "#1: NSS: ERROR: IPsec certificate CN=left,O=ovn-ipsec lab invalid:"
        " SEC_ERROR_EXPIRED_CERTIFICATE: Peer's Certificate has expired.",
        Symptom.PEER_EXPIRED,
    ),
    (
        "#1: authentication failed: no certificate matched RSASSA-PSS with SHA2_512 and '@left'",
        Symptom.PEER_CERTIFICATE,
    ),
    (
        "#1: X509: authentication failed; peer certificate subjectAltName extension does not"
        " match ID_FQDN 'somebody'",
        Symptom.PEER_NAME,
    ),
    ("#1: authentication failed: peer authentication requires policy RSASIG", Symptom.AUTH_METHOD),
    (
        "#1: responding to IKE_AUTH message (ID 1) from 192.0.2.2:500 with encrypted notification"
        " AUTHENTICATION_FAILED",
        Symptom.PEER_REFUSED,
    ),
    (
        ": failed to add connection: left certificate 'ovs_certkey_left' is expired or not yet"
        " valid",
        Symptom.OWN_CERTIFICATE,
    ),
    (
        "#1: dropping unexpected IKE_SA_INIT message containing NO_PROPOSAL_CHOSEN notification;"
        " message payloads: N; missing payloads: SA,KE,Ni",
        Symptom.OFFER_REFUSED,
    ),
    ("#2: IKE_AUTH response rejected Child SA with NO_PROPOSAL_CHOSEN", Symptom.OFFER_REFUSED),
    (
        "#3: CREATE_CHILD_SA failed with error notification NO_PROPOSAL_CHOSEN",
        Symptom.OFFER_REFUSED,
    ),
    (
        "#2: no local proposal matches remote proposals"
        " 1:ESP:ENCR=AES_GCM_C_256;ESN=ENABLED;ESN=DISABLED",
        Symptom.OFFER_UNMATCHED,
    ),
    ("#2: IKE_AUTH response rejected Child SA with TS_UNACCEPTABLE", Symptom.SELECTORS_REFUSED),
    (
        "#3: CREATE_CHILD_SA failed with error notification TS_UNACCEPTABLE",
        Symptom.SELECTORS_REFUSED,
    ),
    (
        "#2: No IKEv2 connection found with compatible Traffic Selectors",
        Symptom.SELECTORS_UNMATCHED,
    ),
    (
        "#1: initiator established IKE SA; authenticated peer using authby=secret and"
        " ID_IPV4_ADDR '192.0.2.2'",
        Success.IKE,
    ),
    (
        "#2: responder established Child SA using #1; IPsec transport [192.0.2.1-192.0.2.1:0-65535"
        " 17] -> [192.0.2.2-192.0.2.2:6081-6081 17] {ESP/ESN=>0x1 <0x2 xfrm=AES_GCM_16_256-NONE"
        " DPD=active}",
        Success.CHILD,
    ),
    ("#3: deleting established Child SA using IKE SA #1", None),
    ("#1: sent IKE_SA_INIT request to 192.0.2.2:500", None),
)
LINES_5_2: tuple[tuple[str, Symptom | Success | None], ...] = (
    ("#1: IKE_SA_INIT_I: retransmission; will wait 1 seconds for response", None),
    ("#1: IKE_SA_INIT_I: retransmission; will wait 4 seconds for response", Symptom.SILENT),
    ("#1: IKE_AUTH_I: retransmission; will wait 8 seconds for response", Symptom.AUTH_SILENT),
    (
        "#1: IKE_AUTH_I: 15 second timeout exceeded after 5 retransmits.  Possible"
        " authentication failure: no acceptable response to our first encrypted message",
        Symptom.AUTH_SILENT,
    ),
    (
        "#1: ignoring IKE_SA_INIT response containing NO_PROPOSAL_CHOSEN notification (Message ID"
        " 0; message payloads N, missing SA,KE,Ni)",
        Symptom.OFFER_REFUSED,
    ),
    ("#1: encountered fatal error in state IKE_SA_INIT_IR", Symptom.OWN_KEY),
    ("#1: encountered fatal error in state IKE_SA_INIT_R", None),
    ("#1: encountered fatal error in state IKE_AUTH_I", None),
    (
        "#2: no IKEv2 connection found with compatible Traffic Selectors",
        Symptom.SELECTORS_UNMATCHED,
    ),
    (
        "#1: responder established IKE SA; authenticated peer certificate '@left' and 2048-bit"
        " RSASSA-PSS with SHA2_512 digital signature issued by 'CN=ca one'",
        Success.IKE,
    ),
    (
        "#4: initiator established Child SA using #1; IPsec transport"
        " [192.0.2.1/32/UDP===192.0.2.2/32/UDP/6081] {ESP/ESN=>0x1 <0x2"
        " xfrm=AES_GCM_16_256-NONE-DH19 DPD=active}",
        Success.CHILD,
    ),
)
DATED = "Nov  2 09:31:18.360969: "
REJECTED = '"t-out-1" #1: IKE SA authentication request rejected by peer: AUTHENTICATION_FAILED'
DIFFERS = (
    '"t-in-1" #2: authentication failed: computed hash does not match hash received from peer'
    " ID_IPV4_ADDR '192.0.2.2'"
)
SILENT = '"t-out-1" #3: IKE_SA_INIT_I: retransmission; will wait 8 seconds for response'


@pytest.mark.parametrize(("rest", "what"), LINES_4_10 + LINES_5_2)
@pytest.mark.parametrize("before", [DATED, "", "Nov  2 09:31:18 node pluto[77]: "])
def test_recorded_line_tells_its_symptom(rest: str, what: object, before: str) -> None:
    joint = "" if rest.startswith(":") else " "
    event = parse_line(f'{before}"ovn-b-0-out-1"{joint}{rest}')
    assert (event.what if event else None) is what
    assert event is None or event.key == "ovn-b-0"


@pytest.mark.parametrize(
    "line",
    [
        "packet from 192.0.2.2:500: ISAKMP_v2_IKE_SA_INIT message received on 192.0.2.1:500 but"
        " no suitable connection found with IKEv2 policy",
        "packet from 192.0.2.2:500: responding to IKE_SA_INIT request with Message ID 0 with"
        " unencrypted notification NO_PROPOSAL_CHOSEN, no suitable connection found with IKEv2"
        " policy",
    ],
)
def test_peer_without_connection_is_known_by_its_address(line: str) -> None:
    event = parse_line(DATED + line)
    assert event is not None
    assert (event.key, event.what) == ("@192.0.2.2", Symptom.NO_CONNECTION)


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (
            'ERROR: "t-out-1" #1: send on eth0 from 192.0.2.1:500 to 192.0.2.2:500 using UDP'
            " failed in STATE_V2_PARENT_I0: Network is unreachable (errno 101)",
            "Network is unreachable",
        ),
        (
            'ERROR: "t-out-1" #2: netlink response for Add SA esp.1141c860@192.0.2.1: Function'
            " not implemented (errno 38)",
            "Function not implemented (errno 38)",
        ),
    ],
)
def test_detail_is_what_the_kernel_said(line: str, detail: str) -> None:
    event = parse_line(DATED + line)
    assert event is not None
    assert (event.key, event.detail) == ("t", detail)


def test_vague_words_do_not_hide_telling_ones_until_these_are_old() -> None:
    evidence = learn(Evidence(), [DIFFERS, REJECTED, SILENT], 100.0)
    assert evidence.failures["t"].symptom is Symptom.PSK_DIFFERS
    assert evidence.failures["t"].detail == "ID_IPV4_ADDR '192.0.2.2'"
    assert learn(evidence, [SILENT], 100.0 + KEPT_S).failures == evidence.failures
    later = learn(evidence, [SILENT], 101.0 + KEPT_S)
    assert later.failures["t"].symptom is Symptom.SILENT


def test_failure_told_again_is_no_news_and_stays_young() -> None:
    once = learn(Evidence(), [DIFFERS], 0.0)
    again = learn(once, [DIFFERS], 50.0)
    assert again == once
    assert learn(again, [SILENT], KEPT_S + 10).failures["t"].symptom is Symptom.PSK_DIFFERS


def test_established_sas_disprove_what_they_can() -> None:
    ike = '"t-out-1" #5: initiator established IKE SA; authenticated peer using authby=secret'
    child = '"t-in-1" #6: initiator established Child SA using #5; IPsec transport'
    selectors = '"t-out-1" #2: IKE_AUTH response rejected Child SA with TS_UNACCEPTABLE'
    assert learn(Evidence(), [DIFFERS, ike], 0.0).failures == {}
    assert "t" in learn(Evidence(), [selectors, ike], 0.0).failures
    assert learn(Evidence(), [selectors, child], 0.0).failures == {}


def test_packets_from_anywhere_fill_no_memory() -> None:
    lines = [
        f"packet from 10.{n >> 8}.{n & 255}.1:500: no suitable connection found with IKEv2 policy"
        for n in range(MOST_FAILURES + 500)
    ]
    assert len(learn(Evidence(), lines, 0.0).failures) == MOST_FAILURES


_WORDS = st.sampled_from([line for line, _ in LINES_4_10 + LINES_5_2])


@given(st.text(max_size=80), _WORDS, st.text(max_size=80))
def test_any_line_is_read_without_error_and_bounded(head: str, words: str, tail: str) -> None:
    event = parse_line(f'{head}"{words}{tail}')
    assert event is None or len(event.detail) <= 200

"""Why a tunnel is not up: exactly one cause and one remedy for each. Pure.

What this node is sure of by itself comes first (its rows, files, programs), then what pluto's log
says, and at last what can be told without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ovn_ipsec.model.causes import Cause, CauseCode, code_of
from ovn_ipsec.model.conns import GuardMode
from ovn_ipsec.model.evidence import (
    UNAUTHENTICATED,
    Evidence,
    Failure,
    Symptom,
    connection_stem,
)
from ovn_ipsec.model.snapshot import Snapshot, Subject, TunnelState, TunnelStatus

Code = CauseCode

_PEER_LOOKS = "look at the same tunnel on the peer, which knows why"


def diagnose(snapshot: Snapshot, evidence: Evidence) -> Snapshot:
    """The snapshot with the cause of everything in it that is not as it should be."""
    node = _Node.of(snapshot, evidence)
    tunnels = tuple(_with_cause(tunnel, node) for tunnel in snapshot.tunnels)
    return replace(
        snapshot, tunnels=tunnels, causes=_node_causes(snapshot), log_problem=evidence.problem
    )


@dataclass(frozen=True, slots=True)
class _Node:
    """What concerns every tunnel of the node."""

    evidence: Evidence
    ike: Cause | None
    nss: Cause | None

    @classmethod
    def of(cls, snapshot: Snapshot, evidence: Evidence) -> _Node:
        return cls(evidence, _ike_cause(snapshot), _nss_cause(snapshot))


def _with_cause(tunnel: TunnelStatus, node: _Node) -> TunnelStatus:
    cause, refused_at_s = _cause(tunnel, node), _refused_at_s(tunnel, node.evidence)
    if (cause, refused_at_s) == (tunnel.cause, tunnel.refused_at_s):
        return tunnel
    return replace(tunnel, cause=cause, refused_at_s=refused_at_s)


def _refused_at_s(tunnel: TunnelStatus, evidence: Evidence) -> float | None:
    if tunnel.up or tunnel.state is not TunnelState.CONFIGURED:
        return None
    failure = _failure(tunnel, evidence)
    if failure is None or failure.symptom not in UNAUTHENTICATED:
        return tunnel.refused_at_s
    return max(failure.seen_s, tunnel.refused_at_s or failure.seen_s)


def _cause(tunnel: TunnelStatus, node: _Node) -> Cause | None:
    if tunnel.state is TunnelState.REMOVED:
        return None
    if tunnel.state is TunnelState.INVALID:
        return _row_cause(tunnel.reason or "")
    if tunnel.up:
        return _ESP_FILTERED if tunnel.silent else None
    if node.ike is not None:
        return node.ike
    if node.nss is not None and _by_certificate(tunnel):
        return node.nss
    if tunnel.error is not None:
        return _step_cause(tunnel.error)
    if tunnel.state is TunnelState.INIT:
        return Cause(Code.INSTALLING, "its connections are about to be loaded", "wait")
    if tunnel.unoriented:
        return Cause(
            Code.ADDRESS_ABSENT,
            f"no interface of this node has the address {_local(tunnel)}",
            "give the address to an interface, or correct options:local_ip",
        )
    if {connection.name for connection in tunnel.connections}.intersection(tunnel.missing):
        return Cause(
            Code.KERNEL_STATE_LOST,
            "the kernel has lost SAs that pluto believes in",
            "wait: the connections are replaced; find out who flushes XFRM",
        )
    return _talked(tunnel, node.evidence)


def _row_cause(reason: str) -> Cause:
    """Reasons are written as "what is wrong; what to do"."""
    text, _, remedy = reason.partition("; ")
    return Cause(code_of(reason), text or "no reason known", remedy or "correct the row")


def _step_cause(error: str) -> Cause:
    if "is expired or not yet valid" in error:
        return Cause(
            Code.CERTIFICATE_EXPIRED, error, "renew this node's certificate, or set its clock"
        )
    text, _, remedy = error.partition("; ")
    return Cause(Code.STEP_FAILED, text, remedy or "the agent tries again; see its log")


def _ike_cause(snapshot: Snapshot) -> Cause | None:
    if stale := snapshot.unread(Subject.IKE):
        return Cause(
            Code.IKE_UNKNOWN,
            f"pluto's state cannot be read: {stale.reason}",
            "look whether pluto hangs; restart it if so",
        )
    if snapshot.ike is not None and not snapshot.ike.running:
        why = f": {snapshot.ike_error}" if snapshot.ike_error else ""
        return Cause(
            Code.IKE_DOWN, f"pluto is not running{why}", "start it: systemctl start ipsec"
        )
    return None


def _nss_cause(snapshot: Snapshot) -> Cause | None:
    remedy = "check the NSS database (certutil -L -d sql:/var/lib/ipsec/nss), its disk and rights"
    if stale := snapshot.unread(Subject.CREDENTIALS):
        text = f"pluto's NSS database cannot be read: {stale.reason}"
        return Cause(Code.NSS_BROKEN, text, remedy)
    if snapshot.credential_error:
        text = f"pluto's NSS database cannot be changed: {snapshot.credential_error}"
        return Cause(Code.NSS_BROKEN, text, remedy)
    return None


def _node_causes(snapshot: Snapshot) -> tuple[Cause, ...]:
    causes = (_ike_cause(snapshot), _nss_cause(snapshot), _guard_cause(snapshot))
    return tuple(cause for cause in causes if cause is not None)


def _guard_cause(snapshot: Snapshot) -> Cause | None:
    if stale := snapshot.unread(Subject.GUARD):
        text = f"the guard's nftables table cannot be read: {stale.reason}"
        return Cause(Code.GUARD_ABSENT, text, "find out why nft fails on this node")
    guard = snapshot.guard
    if guard is None or (guard.present and guard.intact):
        return None
    if snapshot.guard_wanted is GuardMode.OFF:
        return None
    what = "is absent" if not guard.present else "was changed by somebody else"
    return Cause(
        Code.GUARD_ABSENT,
        f"the guard's nftables table {what}: tunnel packets may leave in clear",
        "wait for the agent to restore it; see its log for what nft says",
    )


_ESP_FILTERED = Cause(
    Code.ESP_FILTERED,
    "IKE is up and traffic goes out, but no ESP packet has ever come in",
    "let ESP (IP protocol 50; udp/4500 with NAT or encapsulation) pass between the two nodes",
)


def _talked(tunnel: TunnelStatus, evidence: Evidence) -> Cause:
    """What can be said when the connections are loaded and do not come up."""
    failure = _failure(tunnel, evidence)
    if failure is not None:
        return _CAUSES[failure.symptom](tunnel, failure.detail)
    if tunnel.negotiating or tunnel.ike_up:
        doing = "SAs are being negotiated" if tunnel.ike_up else "no IKE SA yet, negotiating"
        remedy = "wait some seconds"
        if evidence.problem is not None:
            remedy += f"; to learn more: {evidence.problem}"
        return Cause(Code.NEGOTIATING, doing, remedy)
    if evidence.problem is not None:
        text = f"no IKE SA, and the reason is not known: {evidence.problem}"
        return Cause(Code.UNKNOWN, text, "look into pluto's log on both nodes")
    return Cause(Code.UNKNOWN, "no IKE SA; pluto's log says nothing of it", _PEER_LOOKS)


def _failure(tunnel: TunnelStatus, evidence: Evidence) -> Failure | None:
    stem = connection_stem(f"{tunnel.name}-{tunnel.version}")
    own = evidence.failures.get(stem)
    asked = evidence.failures.get(f"@{_remote(tunnel)}")
    if own is None or (asked is not None and own.weight == 0):
        return asked or own
    return own


def _by_certificate(tunnel: TunnelStatus) -> bool:
    return tunnel.view is not None and not tunnel.view.psk_set


def _remote(tunnel: TunnelStatus) -> str:
    return tunnel.view.remote_ip if tunnel.view else "the peer"


def _local(tunnel: TunnelStatus) -> str:
    return tunnel.view.local_ip if tunnel.view else "of the tunnel"


def _peer_name(tunnel: TunnelStatus) -> str:
    return (tunnel.view.remote_name if tunnel.view else None) or "the peer"


def _silent(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.PEER_SILENT,
        f"{_remote(tunnel)} does not answer IKE",
        "check that the node is up and its pluto runs, and that udp/500 passes both ways",
    )


def _refused(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.PEER_NOT_LISTENING,
        f"{_remote(tunnel)} refuses IKE packets (ICMP): nothing listens on its port",
        "start pluto on the peer, or have its firewall accept udp/500 and udp/4500",
    )


def _unreachable(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.PEER_UNREACHABLE,
        f"no way to {_remote(tunnel)}: {detail}",
        "check that the peer is up, options:remote_ip, and the route to it",
    )


def _auth_silent(tunnel: TunnelStatus, detail: str) -> Cause:
    text = f"{_remote(tunnel)} answers the first IKE message and not the second (IKE_AUTH)"
    options = tunnel.view.options if tunnel.view else {}
    if _by_certificate(tunnel) and options.get("encapsulation") != "yes":
        return Cause(
            Code.MTU,
            f"{text}, a large one",
            "check the path's MTU and let udp/4500 and fragments pass",
        )
    return Cause(Code.IKE_FILTERED, text, "let udp/4500 pass both ways, also in between")


def _rejected(tunnel: TunnelStatus, detail: str) -> Cause:
    if not _by_certificate(tunnel):
        return Cause(
            Code.PSK_MISMATCH,
            f"{_remote(tunnel)} refuses this node's pre-shared key",
            "set the same options:psk on both ends",
        )
    own = tunnel.view.local_name if tunnel.view else None
    return Cause(
        Code.REJECTED_BY_PEER,
        f"{_peer_name(tunnel)} refuses this node's certificate ({own})",
        f"{_PEER_LOOKS}; its CA, its clock and its options:remote_name matter",
    )


def _peer_refused(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.PEER_NOT_AUTHENTICATED,
        f"{_remote(tunnel)} could not prove that it is {_peer_name(tunnel)}",
        "compare name, certificate and way of authentication (certificate, PSK) of both ends",
    )


def _psk_differs(tunnel: TunnelStatus, detail: str) -> Cause:
    text = f"the pre-shared key of {_remote(tunnel)} is another one"
    return Cause(Code.PSK_MISMATCH, text, "set the same options:psk on both ends")


def _psk_absent(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.PSK_MISMATCH,
        f"pluto has no pre-shared key for {_remote(tunnel)}",
        "look whether pluto reads the agent's secrets file (include in /etc/ipsec.secrets)",
    )


def _issuer_unknown(tunnel: TunnelStatus, detail: str) -> Cause:
    ca = (tunnel.view.ca_cert if tunnel.view else None) or "other_config:ca_cert"
    return Cause(
        Code.PEER_CERTIFICATE_UNTRUSTED,
        f"the peer's certificate {detail} is signed by a CA that is not in {ca}",
        "put the peer's CA into that file, or give the peer a certificate of this CA",
    )


def _peer_expired(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.PEER_CERTIFICATE_EXPIRED,
        f"the peer's certificate {detail} is expired or not yet valid by this node's clock",
        "renew it on the peer, and compare the clocks of both nodes",
    )


def _peer_name_mismatch(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.PEER_NAME_MISMATCH,
        f"the peer's certificate does not hold the name {detail}",
        "correct options:remote_name here, or the peer's certificate (subjectAltName DNS)",
    )


def _peer_certificate(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.PEER_CERTIFICATE_REFUSED,
        f"the peer's certificate is refused: {detail}",
        "give the peer a certificate of this node's CA, with its name as subjectAltName DNS",
    )


def _peer_revoked(tunnel: TunnelStatus, detail: str) -> Cause:
    text = f"the peer's certificate {detail} is revoked"
    return Cause(Code.PEER_REVOKED, text, "have the peer admitted again by the authority")


def _auth_method(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.AUTH_METHOD_MISMATCH,
        f"the peer authenticates in another way than this end asks for ({detail})",
        "use certificates with keys of one type (RSA or ECDSA), or a PSK, on both ends",
    )


def _own_key(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.NSS_BROKEN,
        "pluto cannot sign with this node's key",
        "look whether the key is in the NSS database (certutil -K -d sql:/var/lib/ipsec/nss)",
    )


def _own_certificate(tunnel: TunnelStatus, detail: str) -> Cause:
    text = f"pluto refuses this node's certificate {detail}: expired or not yet valid"
    return Cause(Code.CERTIFICATE_EXPIRED, text, "renew it, or set this node's clock")


def _offer_refused(tunnel: TunnelStatus, detail: str) -> Cause:
    if detail:
        text = f"{_remote(tunnel)} accepts none of this end's ESP proposals"
        return Cause(Code.NO_PROPOSAL_CHOSEN, text, "set the same options:ipsec_esp on both ends")
    return Cause(
        Code.NO_PROPOSAL_CHOSEN,
        f"{_remote(tunnel)} has no connection for this node, or accepts none of its IKE proposals",
        "look whether the peer has the tunnel with IPsec, and compare options:ipsec_ike",
    )


def _offer_unmatched(tunnel: TunnelStatus, detail: str) -> Cause:
    kind = "esp" if ":ESP:" in detail else "ike"
    return Cause(
        Code.NO_PROPOSAL_CHOSEN,
        f"none of the {kind.upper()} proposals of {_remote(tunnel)} is accepted here: {detail}",
        f"set the same options:ipsec_{kind} on both ends",
    )


def _no_connection(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.NO_PROPOSAL_CHOSEN,
        f"{_remote(tunnel)} asks for a connection that does not fit this end's",
        "compare IKE version, options:local_ip and remote_ip of both ends",
    )


def _selectors(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.SELECTORS_UNACCEPTABLE,
        f"{_remote(tunnel)} and this node want to protect different traffic",
        "set the same tunnel type and options:dst_port on both ends",
    )


def _kernel(tunnel: TunnelStatus, detail: str) -> Cause:
    return Cause(
        Code.KERNEL_REFUSED,
        f"the kernel does not take the SA: {detail}",
        "look whether it has ESP and the cipher (modules esp4, esp6, xfrm_user)",
    )


_CAUSES: Mapping[Symptom, Callable[[TunnelStatus, str], Cause]] = {
    Symptom.SILENT: _silent,
    Symptom.REFUSED: _refused,
    Symptom.UNREACHABLE: _unreachable,
    Symptom.AUTH_SILENT: _auth_silent,
    Symptom.REJECTED: _rejected,
    Symptom.PEER_REFUSED: _peer_refused,
    Symptom.PSK_DIFFERS: _psk_differs,
    Symptom.PSK_ABSENT: _psk_absent,
    Symptom.ISSUER_UNKNOWN: _issuer_unknown,
    Symptom.PEER_EXPIRED: _peer_expired,
    Symptom.PEER_REVOKED: _peer_revoked,
    Symptom.PEER_NAME: _peer_name_mismatch,
    Symptom.PEER_CERTIFICATE: _peer_certificate,
    Symptom.AUTH_METHOD: _auth_method,
    Symptom.OWN_KEY: _own_key,
    Symptom.OWN_CERTIFICATE: _own_certificate,
    Symptom.OFFER_REFUSED: _offer_refused,
    Symptom.OFFER_UNMATCHED: _offer_unmatched,
    Symptom.NO_CONNECTION: _no_connection,
    Symptom.SELECTORS_REFUSED: _selectors,
    Symptom.SELECTORS_UNMATCHED: _selectors,
    Symptom.KERNEL: _kernel,
}

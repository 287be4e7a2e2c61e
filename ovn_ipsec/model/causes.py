"""Why a tunnel is not up: one cause, one remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CauseCode(StrEnum):
    """The kinds of causes; the values are in the JSON status and labels of metrics."""

    ROW = "row"
    """The interface's row cannot be had as it is."""
    CERTIFICATE_MISSING = "certificate-missing"
    CERTIFICATE_UNREADABLE = "certificate-unreadable"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_YET_VALID = "certificate-not-yet-valid"
    CERTIFICATE_UNFIT = "certificate-unfit"
    """This node's certificate, key and CA do not go together, or lack the node's name."""
    CLOCK_SKEW = "clock-skew"
    PEER_REVOKED = "peer-revoked"
    IKE_DOWN = "ike-daemon-down"
    IKE_UNKNOWN = "ike-daemon-unknown"
    """pluto does not answer, so nothing can be said about its SAs."""
    NSS_BROKEN = "nss-broken"
    ADDRESS_ABSENT = "local-address-absent"
    STEP_FAILED = "step-failed"
    """The agent could not do what was needed; the text is its last error."""
    INSTALLING = "installing"
    """Nothing is wrong yet: the connections are about to be loaded."""
    NEGOTIATING = "negotiating"
    """Nothing is wrong yet: the two ends are talking."""
    PEER_SILENT = "peer-silent"
    PEER_NOT_LISTENING = "peer-not-listening"
    PEER_UNREACHABLE = "peer-unreachable"
    IKE_FILTERED = "ike-filtered"
    """The first IKE message is answered, the next is not: udp/4500 or fragments are lost."""
    MTU = "mtu"
    """As before, with certificates: the message that is lost is the large one."""
    ESP_FILTERED = "esp-filtered"
    REJECTED_BY_PEER = "rejected-by-peer"
    PEER_NOT_AUTHENTICATED = "peer-not-authenticated"
    PEER_CERTIFICATE_UNTRUSTED = "peer-certificate-untrusted"
    PEER_CERTIFICATE_EXPIRED = "peer-certificate-expired"
    PEER_CERTIFICATE_REFUSED = "peer-certificate-refused"
    PEER_NAME_MISMATCH = "peer-name-mismatch"
    AUTH_METHOD_MISMATCH = "auth-method-mismatch"
    PSK_MISMATCH = "psk-mismatch"
    NO_PROPOSAL_CHOSEN = "no-proposal-chosen"
    SELECTORS_UNACCEPTABLE = "selectors-unacceptable"
    KERNEL_REFUSED = "kernel-refused-sa"
    KERNEL_STATE_LOST = "kernel-state-lost"
    GUARD_ABSENT = "guard-absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something is not as it should be. Texts are for people and hold no secret."""

    code: CauseCode
    text: str
    remedy: str


class Problem(str):
    """The reason why something cannot be had, for people, which knows of what kind it is."""

    __slots__ = ("code",)

    code: CauseCode

    def __new__(cls, text: str, code: CauseCode) -> Problem:
        made = super().__new__(cls, text)
        made.code = code
        return made


def code_of(problem: str | None) -> CauseCode:
    """Of what kind a reason is; one that does not say is about its row alone."""
    return problem.code if isinstance(problem, Problem) else CauseCode.ROW

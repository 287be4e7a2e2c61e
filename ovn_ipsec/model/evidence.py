"""What pluto's log tells of negotiations that failed. Times: seconds of one monotonic clock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache


class Symptom(StrEnum):
    """What one line of the log shows. "Refused" is the peer's doing, "unmatched" our own."""

    SILENT = "silent"
    """No answer to IKE at all."""
    REFUSED = "refused"
    """ICMP says that nobody listens on the peer's IKE port."""
    UNREACHABLE = "unreachable"
    """This node or a router has no way to the peer."""
    AUTH_SILENT = "auth-silent"
    """IKE_SA_INIT was answered, IKE_AUTH was not."""
    REJECTED = "rejected"
    """The peer does not authenticate us; why, only its own log says."""
    PEER_REFUSED = "peer-refused"
    """We do not authenticate the peer, and pluto does not say why."""
    PSK_DIFFERS = "psk-differs"
    PSK_ABSENT = "psk-absent"
    """There is no pre-shared key here for the peer."""
    ISSUER_UNKNOWN = "issuer-unknown"
    """The peer's certificate is signed by a CA that is not trusted here."""
    PEER_EXPIRED = "peer-expired"
    """The peer's certificate is expired or not yet valid: NSS does not tell which."""
    PEER_REVOKED = "peer-revoked"
    PEER_NAME = "peer-name"
    """The peer's certificate does not hold the name that is expected."""
    PEER_CERTIFICATE = "peer-certificate"
    """The peer's certificate is refused for another reason."""
    AUTH_METHOD = "auth-method"
    """The two ends authenticate in different ways (RSA, ECDSA, PSK)."""
    OWN_KEY = "own-key"
    """pluto could not sign with this node's key."""
    OWN_CERTIFICATE = "own-certificate"
    """pluto did not take this node's certificate."""
    OFFER_REFUSED = "offer-refused"
    """NO_PROPOSAL_CHOSEN from the peer: no common proposal, or no connection there."""
    OFFER_UNMATCHED = "offer-unmatched"
    """No proposal of the peer is acceptable here."""
    NO_CONNECTION = "no-connection"
    """The peer asks, and there is no connection for it here."""
    SELECTORS_REFUSED = "selectors-refused"
    SELECTORS_UNMATCHED = "selectors-unmatched"
    KERNEL = "kernel"
    """The kernel did not take the SA."""


IKE_SYMPTOMS = frozenset(Symptom) - {
    Symptom.OFFER_REFUSED,
    Symptom.OFFER_UNMATCHED,
    Symptom.SELECTORS_REFUSED,
    Symptom.SELECTORS_UNMATCHED,
    Symptom.KERNEL,
}
"""What an established IKE SA disproves. The others may concern its child SAs."""

UNAUTHENTICATED = frozenset(
    {
        Symptom.REJECTED,
        Symptom.PEER_REFUSED,
        Symptom.PSK_DIFFERS,
        Symptom.PSK_ABSENT,
        Symptom.ISSUER_UNKNOWN,
        Symptom.PEER_EXPIRED,
        Symptom.PEER_REVOKED,
        Symptom.PEER_NAME,
        Symptom.PEER_CERTIFICATE,
        Symptom.AUTH_METHOD,
    }
)
"""The peer is there and speaks IKE, and one end does not take the other's word for who it is.
A refused offer is not among these: a node that has just booted may know no connection yet."""

_WEIGHT = {
    Symptom.SILENT: 0,
    Symptom.AUTH_SILENT: 0,
    Symptom.REFUSED: 1,
    Symptom.UNREACHABLE: 1,
    Symptom.REJECTED: 1,
    Symptom.PEER_REFUSED: 1,
    Symptom.PEER_CERTIFICATE: 2,
    Symptom.OFFER_REFUSED: 2,
}
KEPT_S = 60.0
"""For so long a telling symptom is not overwritten by a vaguer one: both ends try in turn, each
attempt says several things, and what one end knows the other does not."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The most telling thing that the log said of a tunnel's connections lately."""

    symptom: Symptom
    detail: str = ""
    """The part of the line that differs from case to case: a name, proposals, an address."""
    seen_s: float = field(default=0.0, compare=False)
    """Not part of equality: the same failure again is nothing new."""

    @property
    def weight(self) -> int:
        """How much it tells: more is more."""
        return _WEIGHT.get(self.symptom, 3)

    def outdoes(self, before: Failure) -> bool:
        """Whether this, which is later, takes the place of the one before."""
        return self.weight >= before.weight or self.seen_s - before.seen_s > KEPT_S


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known from pluto's log at one moment."""

    failures: Mapping[str, Failure] = field(default_factory=dict)
    """By connection stem (``connection_stem``), or by ``@ADDRESS`` of a peer that no connection
    of this node is for."""
    problem: str | None = None
    """Why the log cannot be read; causes are then less specific."""

    @property
    def unauthenticated_s(self) -> float | None:
        """When an authentication last failed; None: none that is known."""
        failures = self.failures.values()
        seen = (each.seen_s for each in failures if each.symptom in UNAUTHENTICATED)
        return max(seen, default=None)


_VERSIONED = re.compile(r"(.+?)(?:-(?:in|out))?-[0-9]+", re.DOTALL)


@lru_cache(maxsize=4096)
def connection_stem(name: str) -> str:
    """What the connections of one tunnel have in common, of whatever role and version."""
    match = _VERSIONED.fullmatch(name)
    return name if match is None else match[1]

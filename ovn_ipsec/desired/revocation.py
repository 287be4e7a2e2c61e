"""Which tunnels a revocation concerns: their connections are withdrawn, not kept (DECISIONS 2).

Names decide, because nobody here sees the certificate of a CA-signed peer; serial numbers only
where a file holds the peer's certificate (``options:remote_cert``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ovn_ipsec.model.facts import CertificateFact, PkiFact, RevocationFact


@dataclass(frozen=True, slots=True)
class RevocationVerdict:
    """Who is revoked, as rows name peers."""

    denied: frozenset[str] = frozenset()
    """Names as ``_canonical`` makes them."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path of a revoked peer's certificate -> the peer's name."""
    warnings: tuple[str, ...] = ()

    def revoked_peer(self, options: Mapping[str, str]) -> str | None:
        """The name of the peer of a row when it is revoked; None when it is not.

        Whatever else may be wrong with the row: its connections must go all the same.
        """
        name = options.get("remote_name")
        if self.denies(name):
            return name
        return self.files.get(options.get("remote_cert", ""))

    def denies(self, name: str | None) -> bool:
        """Whether the list names this one."""
        return name is not None and _canonical(name) in self.denied


def judge_revocation(pki: PkiFact, now: datetime) -> RevocationVerdict:
    """Judge the files by the lists (``now`` in UTC)."""
    lists = pki.revocation
    denied = frozenset(map(_canonical, lists.denied))
    files = {
        path: fact.common_name or path
        for path, fact in pki.remote_certificates.items()
        if _is_revoked(fact, lists, denied)
    }
    warnings = list(lists.problems)
    if lists.next_update is not None and now > lists.next_update:
        warnings.append(
            f"the CRL in other_config:ca_crl should have been replaced by "
            f"{lists.next_update:%Y-%m-%d %H:%M UTC}; later revocations are not known here"
        )
    own = pki.certificate
    if own is not None and _is_revoked(own, lists, denied):
        warnings.append(
            f"this node's certificate is revoked ({own.common_name!a}): peers refuse it; "
            "have the node admitted again"
        )
    return RevocationVerdict(denied, files, tuple(warnings))


def _is_revoked(fact: CertificateFact, lists: RevocationFact, denied: frozenset[str]) -> bool:
    if fact.problem is not None:
        return False
    return (fact.issuer, fact.serial) in lists.serials or _canonical(fact.common_name) in denied


def _canonical(name: str) -> str:
    """IKE ids that pluto takes for one: of any case, dots at the end ignored (its ``same_id``)."""
    return name.rstrip(".").lower()

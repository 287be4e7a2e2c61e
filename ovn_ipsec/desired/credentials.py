"""Which certificates and keys pluto must hold, and who this node and its peers are by them.

Pure. Bad files give a problem and keep what is installed; they never remove it (DECISIONS 2).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ovn_ipsec.model.causes import CauseCode, Problem
from ovn_ipsec.model.conns import Credential, CredentialKind, InstalledCredential
from ovn_ipsec.model.facts import CertificateFact, PkiFact

CA_NICKNAME = "ovs_cert_cacert"
NODE_PREFIX = "ovs_certkey_"
PEER_PREFIX = "ovs_cert_"

_SKEW = timedelta(days=1)
"""A certificate that begins within it is taken for a good one under a clock that is behind."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
"""What an IKE id (``@NAME``), an NSS nickname and a conn file carry unchanged. A colon would
name an NSS token, ``%`` one of libreswan's own words."""


@dataclass(frozen=True, slots=True)
class PeerVerdict:
    """A self-signed peer's certificate file: its names, or why it cannot be used."""

    nickname: str | None = None
    common_name: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class CredentialVerdict:
    """What the certificate files amount to."""

    credentials: tuple[Credential, ...] = ()
    keep: frozenset[str] = frozenset()
    """Nicknames that stay installed although no file provides them now."""
    local_name: str | None = None
    """This node's IKE id; None exactly when ``problem`` is set."""
    local_nickname: str | None = None
    key_is_ecdsa: bool = False
    problem: str | None = None
    """Why this node cannot authenticate with a certificate at all."""
    ca_problem: str | None = None
    """Why it cannot authenticate CA-signed peers; self-signed ones do not need the CA."""
    peers: Mapping[str, PeerVerdict] = field(default_factory=dict)
    """By path of ``options:remote_cert``."""
    warnings: tuple[str, ...] = ()


def name_problem(name: str) -> str | None:
    """Why a common name or ``options:remote_name`` cannot be an IKE id, or None."""
    if not name:
        return "is empty"
    if len(name) > 64:
        return f"has {len(name)} characters; at most 64 are allowed"
    if not _NAME.fullmatch(name):
        return (
            f"{name!a} may hold only letters, digits, '.', '_' and '-', "
            "and begins with a letter, a digit or '_'"
        )
    return None


def judge_credentials(
    pki: PkiFact,
    now: datetime,
    installed: Collection[str] = (),
    *,
    certificates_wanted: bool = True,
) -> CredentialVerdict:
    """Judge the files against each other and the clock (``now`` in UTC).

    ``installed``: nicknames in the NSS database, of which some are kept.
    ``certificates_wanted``: some tunnel authenticates with certificates; while one does,
    removing a file name from OVSDB removes no credential.
    """
    problem = _own_problem(pki, now)
    own = pki.certificate
    ends = [fact for fact in (own, *pki.remote_certificates.values()) if fact is not None]
    roots, ca_problem, warnings = _judge_ca(pki.ca_cert, now, {end.fingerprint for end in ends})
    if not problem and not ca_problem and own and not pki.issued_by_ca:
        ca_problem = Problem(
            f"certificate {own.path!r} is not signed by a CA of {_path(pki.ca_cert)!r}; "
            "get one from that CA, or name the CA that signed it in other_config:ca_cert",
            CauseCode.CERTIFICATE_UNFIT,
        )
        if own.issuer != own.subject:
            problem = ca_problem
    if not problem and not ca_problem and own:
        ca_problem = _san_problem(own)
    local_name = own.common_name if own and not problem else None
    peers, peer_credentials = _judge_peers(pki, now, local_name)
    credentials = [*roots, *peer_credentials]
    if local_name and own and pki.private_key:
        warnings += _expiry_warning(own, now)
        nickname = NODE_PREFIX + local_name
        key = pki.private_key.pem
        credentials.append(
            Credential(nickname, CredentialKind.NODE, own.pem, own.fingerprint, key)
        )
    keep: set[str] = set()
    for nickname in installed:
        kind = _kind_of(nickname)
        if kind is CredentialKind.NODE:
            kept = problem is not None and (own is not None or certificates_wanted)
        elif kind is CredentialKind.CA:
            kept = not roots and (pki.ca_cert is not None or certificates_wanted)
        else:
            kept = any(verdict.problem for verdict in peers.values())
        if kind and kept:
            keep.add(nickname)
    return CredentialVerdict(
        credentials=tuple(credentials),
        keep=frozenset(keep),
        local_name=local_name,
        local_nickname=NODE_PREFIX + local_name if local_name else None,
        key_is_ecdsa=bool(local_name and own and own.key_type == "ec"),
        problem=problem,
        ca_problem=problem or ca_problem,
        peers=peers,
        warnings=warnings,
    )


def right_ca(
    credentials: Collection[Credential], installed: Collection[InstalledCredential]
) -> str:
    """The value of ``rightca`` (DECISIONS 4).

    ``%any``, which lets peers change to another CA one by one, only while every root in NSS
    is one of our CAs or this node itself; else ``%same``, which names the issuer of the
    node's own certificate. pluto takes each self-signed CA in NSS as a root, trusted or not,
    a self-signed peer's certificate too when it says that it is a CA.
    """
    allowed = {c.fingerprint for c in credentials if c.kind is not CredentialKind.PEER}
    foreign = any(
        entry.is_root
        and entry.fingerprint not in allowed
        and entry.nickname != CA_NICKNAME
        and not entry.nickname.startswith(NODE_PREFIX)
        for entry in installed
    )
    return "%same" if foreign else "%any"


def _own_problem(pki: PkiFact, now: datetime) -> str | None:
    certificate, key = pki.certificate, pki.private_key
    missing, unreadable = CauseCode.CERTIFICATE_MISSING, CauseCode.CERTIFICATE_UNREADABLE
    if certificate is None:
        text = "no certificate: set other_config:certificate and private_key of Open_vSwitch"
        return Problem(text, missing)
    if certificate.problem:
        return Problem(f"certificate {certificate.problem}", unreadable)
    if key is None:
        return Problem("no private key: set other_config:private_key of Open_vSwitch", missing)
    if key.problem:
        return Problem(f"private key {key.problem}", unreadable)
    if certificate.public_key_hash != key.public_key_hash:
        return Problem(
            f"private key {key.path!r} does not match certificate {certificate.path!r}; "
            "install the pair that was made together",
            CauseCode.CERTIFICATE_UNFIT,
        )
    return _validity_problem("certificate", certificate, now) or _cn_problem(
        "certificate", certificate
    )


def _judge_ca(
    bundle: CertificateFact | None, now: datetime, ends: Collection[str]
) -> tuple[list[Credential], str | None, tuple[str, ...]]:
    """``ends``: fingerprints of the certificates that this node and its peers have."""
    if bundle is None:
        text = "no CA certificate: set other_config:ca_cert of Open_vSwitch"
        return [], Problem(text, CauseCode.CERTIFICATE_MISSING), ()
    if bundle.problem:
        text = f"CA certificate {bundle.problem}"
        return [], Problem(text, CauseCode.CERTIFICATE_UNREADABLE), ()
    roots: dict[str, Credential] = {}
    warnings: list[str] = []
    for member in bundle.chain:
        refused = _root_problem(member, now)
        if member.fingerprint in ends:
            # NSS holds a certificate once, under one nickname: it cannot be both.
            refused = (
                f"{member.path!r}: {member.subject!a} is a node's own certificate, too; name the "
                "CA that signed it, or none for self-signed nodes"
            )
        if refused:
            warnings.append(f"CA certificate {refused}")
        else:
            # One nickname for all: a CA is looked up by its subject, never by nickname.
            roots[member.fingerprint] = Credential(
                CA_NICKNAME, CredentialKind.CA, member.pem, member.fingerprint
            )
    if not roots:
        expired = all(m.not_after is not None and now > m.not_after for m in bundle.chain)
        code = CauseCode.CERTIFICATE_EXPIRED if expired else CauseCode.CERTIFICATE_UNFIT
        return [], Problem(warnings[0], code), ()
    return list(roots.values()), None, tuple(warnings)


def _root_problem(member: CertificateFact, now: datetime) -> str | None:
    if member.not_after is not None and now > member.not_after:
        return f"{member.path!r}: {member.subject!a} expired {_date(member.not_after)}; renew it"
    if not member.is_ca and member.issuer != member.subject:
        # Trusted as a root, it could issue certificates in any node's name.
        return f"{member.path!r}: {member.subject!a} is not a CA; name the CA's own certificate"
    return None


def _judge_peers(
    pki: PkiFact, now: datetime, local_name: str | None
) -> tuple[dict[str, PeerVerdict], list[Credential]]:
    verdicts: dict[str, PeerVerdict] = {}
    claims: dict[str, set[str]] = defaultdict(set)
    good: dict[str, CertificateFact] = {}
    for path, fact in pki.remote_certificates.items():
        problem = fact.problem
        problem = problem or _validity_problem("remote certificate", fact, now)
        problem = problem or _cn_problem("remote certificate", fact)
        # CAs of further subjects are named ovs_cert_cacert-... in NSS: a peer of such a name
        # would be taken for one of them.
        name = fact.common_name
        reserved = name == "cacert" or name.startswith("cacert-")
        if not problem and (reserved or name == local_name):
            problem = f"remote certificate {path!r} has this node's own or a reserved common name"
        if problem:
            verdicts[path] = PeerVerdict(problem=problem)
            continue
        claims[fact.common_name].add(fact.fingerprint)
        good[path] = fact
    credentials: dict[str, Credential] = {}
    for path, fact in good.items():
        name = fact.common_name
        if len(claims[name]) > 1:
            others = sorted(p for p, f in good.items() if f.common_name == name and p != path)
            verdicts[path] = PeerVerdict(
                problem=f"remote certificates {path!r} and {others[0]!r} differ, yet both are of "
                f"{name}; keep one"
            )
            continue
        nickname = PEER_PREFIX + name
        verdicts[path] = PeerVerdict(nickname, name)
        credentials[nickname] = Credential(
            nickname, CredentialKind.PEER, fact.pem, fact.fingerprint
        )
    return verdicts, list(credentials.values())


def _validity_problem(what: str, fact: CertificateFact, now: datetime) -> str | None:
    own = what == "certificate"
    if fact.not_after is not None and now > fact.not_after:
        expired = CauseCode.CERTIFICATE_EXPIRED if own else CauseCode.PEER_CERTIFICATE_EXPIRED
        return Problem(f"{what} {fact.path!r} expired {_date(fact.not_after)}; renew it", expired)
    if fact.not_before is not None and now < fact.not_before:
        # An authority does not sign for the day after tomorrow.
        skewed = fact.not_before - now <= _SKEW
        return Problem(
            f"{what} {fact.path!r} is not valid before {_date(fact.not_before)}; "
            "check this node's clock",
            CauseCode.CLOCK_SKEW if skewed else CauseCode.CERTIFICATE_NOT_YET_VALID,
        )
    return None


def _cn_problem(what: str, fact: CertificateFact) -> str | None:
    if not fact.common_name:
        text = f"{what} {fact.path!r} has no single common name; its CN must be the node's name"
        return Problem(text, CauseCode.CERTIFICATE_UNFIT)
    refused = name_problem(fact.common_name)
    if refused is None:
        return None
    text = f"{what} {fact.path!r}: common name {refused}"
    return Problem(text, CauseCode.CERTIFICATE_UNFIT)


def _san_problem(fact: CertificateFact) -> str | None:
    """libreswan's peers look for the IKE id among the DNS names, never in the CN."""
    if fact.common_name.lower() in (name.lower() for name in fact.dns_names):
        return None
    return Problem(
        f"certificate {fact.path!r} lacks the subjectAltName DNS:{fact.common_name}: "
        "peers will refuse it; issue it with that name",
        CauseCode.CERTIFICATE_UNFIT,
    )


_WARN_DAYS = 7


def _expiry_warning(fact: CertificateFact, now: datetime) -> tuple[str, ...]:
    if fact.not_after is None or (fact.not_after - now).days >= _WARN_DAYS:
        return ()
    return (f"certificate {fact.path!r} expires {_date(fact.not_after)}; renew it",)


def _kind_of(nickname: str) -> CredentialKind | None:
    if nickname == CA_NICKNAME:
        return CredentialKind.CA
    if nickname.startswith(NODE_PREFIX):
        return CredentialKind.NODE
    return CredentialKind.PEER if nickname.startswith(PEER_PREFIX) else None


def _path(fact: CertificateFact | None) -> str:
    return fact.path if fact else ""


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")

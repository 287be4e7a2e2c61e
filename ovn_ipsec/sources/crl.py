"""Certificate revocation lists (RFC 5280, section 5): what a file of them says, and who signed.

Whatever is wrong with a list is told in words; nothing here raises anything but PemProblem.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ovn_ipsec.model.deny_list import denied_names
from ovn_ipsec.model.facts import CertificateFact
from ovn_ipsec.sources.pem import UNREADABLE, PemProblem

_PEM_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_DAMAGED = "holds a CRL that cannot be read; check `openssl crl`"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One list as it stands there; nothing in it is proven before ``signer`` says by whom."""

    crl: x509.CertificateRevocationList
    issuer: str
    """RFC 4514 string."""
    number: int
    """CRLNumber; -1 without one, which is older than any."""
    this_update: datetime
    next_update: datetime | None
    denied: frozenset[str]
    serials: frozenset[int]

    @property
    def age(self) -> tuple[int, datetime]:
        """Of two lists of one issuer the greater is the newer (RFC 5280, 5.2.3)."""
        return self.number, self.this_update


@dataclass(frozen=True, slots=True)
class RevocationFile:
    """A file of lists. ``problem`` may stand beside lists that are good."""

    path: str
    problem: str | None = None
    lists: tuple[RevocationList, ...] = ()


def revocation_file(path: str, data: bytes) -> RevocationFile:
    """What a file says that holds one list in DER, or any number of them in PEM.

    Raises PemProblem: not one of them can be read.
    """
    blocks: list[bytes] = _PEM_BLOCK.findall(data) if b"-----BEGIN" in data else [data]
    lists: list[RevocationList] = []
    problem = None if blocks else "holds no CRL; convert it with `openssl crl`"
    for block in blocks:
        try:
            lists.append(_read_list(block))
        except PemProblem as error:
            problem = str(error)
    if not lists:
        raise PemProblem(problem or _DAMAGED)
    return RevocationFile(path, f"{path!r} {problem}" if problem else None, tuple(lists))


def signer(candidate: RevocationList, bundle: CertificateFact) -> str | None:
    """The hash of the public key in the bundle that signed the list, None: none of them.

    What is neither a CA nor self-signed is trusted for itself alone: no node may deny another.
    """
    for member in bundle.chain:
        may_sign = member.is_ca or member.issuer == member.subject
        if may_sign and member.subject == candidate.issuer and _verifies(candidate, member):
            return member.public_key_hash
    return None


def _verifies(candidate: RevocationList, member: CertificateFact) -> bool:
    try:
        key = x509.load_pem_x509_certificate(member.pem.encode()).public_key()
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            return False
        return candidate.crl.is_signature_valid(key)
    except (*UNREADABLE, TypeError):
        return False


def _read_list(data: bytes) -> RevocationList:
    try:
        pem = data.startswith(b"-----BEGIN")
        crl = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
        extensions = crl.extensions
        # A delta, or a list of some kinds of certificates only: taken for the whole list, it
        # would readmit everybody whom it leaves out.
        if any(extension.critical for extension in extensions):
            raise PemProblem("holds a CRL with a critical extension; publish a complete CRL")
        return RevocationList(
            crl=crl,
            issuer=crl.issuer.rfc4514_string(),
            number=_number(extensions),
            this_update=crl.last_update_utc,
            next_update=crl.next_update_utc,
            denied=denied_names(extensions),
            serials=frozenset(entry.serial_number for entry in crl),
        )
    except (*UNREADABLE, TypeError) as error:
        raise PemProblem(_DAMAGED) from error


def _number(extensions: x509.Extensions) -> int:
    try:
        return extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return -1

"""Keys, requests and what must hold of a certificate before it is used. No I/O, no clock."""

from __future__ import annotations

import contextlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ovn_ipsec.errors import EnrolmentError
from ovn_ipsec.identity.model import Generation, KeyKind
from ovn_ipsec.model import deny_list
from ovn_ipsec.model.conns import Secret

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_CHASSIS_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
"""What the agent takes as a name, too."""

_CRL_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for data that it cannot make sense of."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Key, certificate and roots that belong together."""

    key_pem: Secret
    certificate: x509.Certificate
    bundle: tuple[x509.Certificate, ...]

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def bundle_pem(self) -> bytes:
        """The roots as PEM, one after the other."""
        pem = serialization.Encoding.PEM
        return b"".join(root.public_bytes(pem) for root in self.bundle)


def make_key(kind: KeyKind) -> Secret:
    """A new private key as PKCS #8 PEM."""
    key: PrivateKey
    if kind is KeyKind.P256:
        key = ec.generate_private_key(ec.SECP256R1())
    elif kind is KeyKind.P384:
        key = ec.generate_private_key(ec.SECP384R1())
    else:
        key = rsa.generate_private_key(65537, 4096 if kind is KeyKind.RSA_4096 else 3072)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Secret(pem.decode())


def make_request(key_pem: Secret, name: str) -> bytes:
    """A PKCS #10 request (DER): common name and SAN DNS name are the chassis id."""
    if not _CHASSIS_ID.fullmatch(name):
        raise EnrolmentError(
            f"external_ids:system-id {name!a} cannot be the name in a certificate: it may have "
            "up to 64 letters, digits, '.', '_' and '-', and begins with a letter, a digit or '_'"
        )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = x509.CertificateSigningRequestBuilder()
    request = builder.subject_name(subject).add_extension(names, critical=False)
    signed = request.sign(_key(key_pem), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def key_hash(key_pem: Secret) -> str:
    """SHA-256 of the public part. Raises EnrolmentError: this is no such key."""
    return _public_hash(_key(key_pem).public_key())


def request_name(csr_der: bytes) -> str:
    """The common name of a request. Raises EnrolmentError: this is no request."""
    try:
        return common_name(x509.load_der_x509_csr(csr_der).subject)
    except _UNREADABLE as error:
        raise EnrolmentError("the waiting request cannot be read") from error


def request_key_hash(csr_der: bytes) -> str:
    """SHA-256 of the key that a request is for. Raises EnrolmentError: this is no request."""
    try:
        csr = x509.load_der_x509_csr(csr_der)
    except _UNREADABLE as error:
        raise EnrolmentError("the waiting request cannot be read") from error
    return public_key_hash(csr)


def public_key_hash(holder: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """SHA-256 of the SubjectPublicKeyInfo. Raises EnrolmentError.

    cryptography looks at a key only when it is asked for: what holds it was loaded all the same.
    """
    try:
        public = holder.public_key()
    except _UNREADABLE as error:
        raise EnrolmentError("the public key cannot be read") from error
    return _public_hash(public)


def request_pem(csr_der: bytes) -> bytes:
    """A request as PEM, for people and their tools."""
    return x509.load_der_x509_csr(csr_der).public_bytes(serialization.Encoding.PEM)


def load_certificate(data: bytes) -> x509.Certificate:
    """One certificate, DER or PEM. Raises EnrolmentError."""
    try:
        if b"-----BEGIN" in data:
            certificate = x509.load_pem_x509_certificate(data)
        else:
            certificate = x509.load_der_x509_certificate(data)
        common_name(certificate.subject)  # it is looked at only when it is asked for
    except _UNREADABLE as error:
        raise EnrolmentError("this is no readable certificate") from error
    return certificate


def load_roots(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM bundle. Raises EnrolmentError."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except _UNREADABLE as error:
        raise EnrolmentError("this is no readable bundle of certificates") from error


def roots_among(members: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
    """The self-signed CAs, in their order: link certificates of a roll-over are no roots."""
    return tuple(member for member in members if _is_root(member))


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER, lower-case hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def is_pinned(certificate: x509.Certificate, expected: str) -> bool:
    """The certificate is the one of this fingerprint."""
    return hmac.compare_digest(fingerprint(certificate), expected)


def bundle_digest(bundle: tuple[x509.Certificate, ...]) -> str:
    """Names a set of roots, whatever their order: SHA-256 (hex) over their sorted SHA-256."""
    parts = sorted(root.fingerprint(hashes.SHA256()) for root in bundle)
    return sha256(b"".join(parts)).hexdigest()


def issuer_of(
    certificate: x509.Certificate, bundle: tuple[x509.Certificate, ...]
) -> x509.Certificate | None:
    """The root that signed the certificate."""
    for root in bundle:
        try:
            certificate.verify_directly_issued_by(root)
        except (*_UNREADABLE, InvalidSignature):
            continue
        if _is_root(root):
            return root
    return None


def signed_lists(pem: bytes, bundle: tuple[x509.Certificate, ...]) -> tuple[bytes, int]:
    """The CRLs of a PEM text that a root of the bundle signed, and how many another one signed.

    Those are left out, not refused: at the begin of a roll-over the new root signs a list before
    every node trusts it, and no node may miss what is revoked then. Raises EnrolmentError: there
    is something else than CRLs in it, or none that counts.
    """
    blocks: list[bytes] = _CRL_BLOCK.findall(pem)
    if not blocks or _CRL_BLOCK.sub(b"", pem).strip():
        raise EnrolmentError("this is no text of PEM CRLs and nothing else")
    try:
        lists = [x509.load_pem_x509_crl(block) for block in blocks]
        good = [each for each in lists if any(_signed(each, root) for root in bundle)]
    except _UNREADABLE as error:
        raise EnrolmentError("one of the CRLs cannot be read") from error
    if not good:
        raise EnrolmentError("none of the trusted roots signed one of the CRLs")
    text = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in good)
    return text, len(lists) - len(good)


def denied_names(pem: bytes) -> frozenset[str]:
    """Whom a text of CRLs cuts off, in lower case. Lists that cannot be read name nobody."""
    found: set[str] = set()
    for block in _CRL_BLOCK.findall(pem):
        with contextlib.suppress(*_UNREADABLE):
            found |= deny_list.denied_names(x509.load_pem_x509_crl(block).extensions)
    return frozenset(found)


def _signed(crl: x509.CertificateRevocationList, root: x509.Certificate) -> bool:
    key = root.public_key()
    if crl.issuer != root.subject or not isinstance(
        key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    ):
        return False
    return _is_root(root) and crl.is_signature_valid(key)


def problems(identity: Identity, name: str, now: datetime | None) -> tuple[str, ...]:
    """Everything that keeps the identity from being used; empty when it is sound.

    ``now`` None leaves out the validity, as for an older identity that is only read.
    """
    certificate = identity.certificate
    found = _name_problems(certificate, name)
    if public_key_hash(certificate) != key_hash(identity.key_pem):
        found.append("it is for another key")
    if _says_ca(certificate):
        found.append("it is a CA's own certificate")
    root = issuer_of(certificate, identity.bundle)
    if root is None:
        found.append("none of the trusted roots signed it")
    if now is not None:
        found += _validity_problems("it", certificate, now)
        if root is not None:
            found += _validity_problems("its root", root, now)
    return tuple(found)


def check(identity: Identity, name: str, now: datetime) -> None:
    """Raises EnrolmentError, with every reason, unless the identity can be used."""
    found = problems(identity, name, now)
    if found:
        raise EnrolmentError(
            f"the certificate for {name!a} is not installed: {'; '.join(found)}; the identity "
            "that is in place stays"
        )


def describe(number: int, identity: Identity) -> Generation:
    """The facts of an identity on disk. Raises EnrolmentError: it is not sound."""
    certificate = identity.certificate
    name = common_name(certificate.subject)
    found = problems(identity, name, None)
    root = issuer_of(certificate, identity.bundle)
    if found or root is None:
        raise EnrolmentError("; ".join(found))
    der = certificate.public_bytes(serialization.Encoding.DER)
    return Generation(
        number=number,
        name=name,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        public_key=public_key_hash(certificate),
        bundle_digest=bundle_digest(identity.bundle),
        issuer=fingerprint(root),
        jitter=int.from_bytes(sha256(der).digest()[:8], "big") / 2**64,
        roots=len(identity.bundle),
    )


def _name_problems(certificate: x509.Certificate, name: str) -> list[str]:
    found = []
    subject = common_name(certificate.subject)
    if not name or subject.lower() != name.lower():
        found.append(f"its common name is {subject!a}, not {name!a}")
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except (*_UNREADABLE, x509.ExtensionNotFound):
        names = []
    if [each.lower() for each in names] != [name.lower()]:
        found.append(f"its DNS names are {names!a}, not {name!a} alone")
    return found


def _validity_problems(what: str, certificate: x509.Certificate, now: datetime) -> list[str]:
    if now < certificate.not_valid_before_utc:
        start = certificate.not_valid_before_utc.isoformat()
        return [f"{what} is valid from {start} only; check this node's clock"]
    if now >= certificate.not_valid_after_utc:
        return [f"{what} ended {certificate.not_valid_after_utc.isoformat()}"]
    return []


def common_name(subject: x509.Name) -> str:
    """The one common name of a subject; empty when there is none, or several."""
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _is_root(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (*_UNREADABLE, InvalidSignature):
        return False
    return _says_ca(certificate)


def _says_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (*_UNREADABLE, x509.ExtensionNotFound):
        return False


def _key(key_pem: Secret) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(key_pem.reveal().encode(), password=None)
    except _UNREADABLE as error:
        raise EnrolmentError("the private key cannot be read") from error
    if not isinstance(key, PrivateKey):
        raise EnrolmentError("the private key is neither RSA nor ECDSA")
    return key


def _public_hash(public: object) -> str:
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise EnrolmentError("the public key is neither RSA nor ECDSA")
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return sha256(der).hexdigest()

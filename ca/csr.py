"""Reads a certificate request (PKCS #10) into plain facts. Pure; decides nothing.

Whatever is wrong with the request itself becomes a fault, a sentence for the requester. Only the
public key is ever taken over into a certificate.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

MAX_CSR_BYTES = 64 * 1024
RSA_BITS = range(3072, 8192 + 1)
"""Above, one request costs more time than it should."""
_MAX_QUOTED = 200
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the parser raises for bytes that somebody else chose."""
_WEAK_HASHES = frozenset({"md5", "sha1"})
_SAN_KINDS: dict[type[x509.GeneralName], str] = {
    x509.RFC822Name: "email",
    x509.IPAddress: "IP",
    x509.UniformResourceIdentifier: "URI",
    x509.DirectoryName: "directory name",
    x509.RegisteredID: "registered id",
    x509.OtherName: "other name",
}

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class KeyKind(StrEnum):
    """The kinds of key that are certified, and that the authority may sign with."""

    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    P256 = "p256"
    P384 = "p384"


@dataclass(frozen=True, slots=True)
class CsrFacts:
    """One request."""

    digest: str
    """SHA-256 (hex) of its DER: tells the same request from another one."""
    names: tuple[str, ...] = ()
    """Every common name and DNS name in it, as written."""
    public_key: PublicKey | None = None
    """None when there is none that may be certified; a fault says why."""
    key_digest: str = ""
    """SHA-256 (hex) of the SubjectPublicKeyInfo."""
    faults: tuple[str, ...] = ()


def read_csr(der: bytes) -> CsrFacts:
    """Never raises: what cannot be read is a fault."""
    digest = sha256(der).hexdigest()
    if len(der) > MAX_CSR_BYTES:
        return CsrFacts(digest, faults=(f"the request is larger than {MAX_CSR_BYTES} bytes",))
    try:
        csr = x509.load_der_x509_csr(der)
        names, faults = _names(csr)
        faults += _extension_faults(csr)
    except _UNREADABLE as error:
        text = str(error)[:_MAX_QUOTED]
        return CsrFacts(digest, faults=(f"not a readable PKCS #10 request: {text}",))
    faults += _signature_faults(csr)
    key, key_faults = read_public_key(csr)
    return CsrFacts(
        digest,
        tuple(names),
        key,
        digest_of_key(key) if key else "",
        (*faults, *key_faults),
    )


def digest_of_key(key: PublicKey) -> str:
    """SHA-256 (hex) of the key's SubjectPublicKeyInfo."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def read_public_key(csr: x509.CertificateSigningRequest) -> tuple[PublicKey | None, list[str]]:
    """The key of a request if it is of a kind that is certified, else why it is not."""
    try:
        key = csr.public_key()
    except _UNREADABLE as error:
        return None, [f"the public key cannot be read: {error}"]
    fault = key_fault(key)
    if fault is None and isinstance(key, PublicKey):
        return key, []
    return None, [fault or "the public key is of an unknown kind"]


def key_fault(key: object) -> str | None:
    """Why a public key is not certified: ECDSA P-256 and P-384 and RSA of 3072 bits up are."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in RSA_BITS:
            return f"an RSA key of {key.key_size} bits: 3072 to 8192 are accepted"
        if key.public_numbers().e < 65537:
            return "an RSA key with a public exponent below 65537"
        return None
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
            return None
        return f"a key on curve {key.curve.name}: P-256 and P-384 are accepted"
    kind = type(key).__name__.removesuffix("PublicKey").strip("_")
    return f"a key of kind {kind}: RSA, P-256 and P-384 are accepted"


def _signature_faults(csr: x509.CertificateSigningRequest) -> list[str]:
    try:
        algorithm = csr.signature_hash_algorithm
        if algorithm is not None and algorithm.name in _WEAK_HASHES:
            return [f"the request is signed with {algorithm.name}, which is broken"]
        valid = csr.is_signature_valid
    except _UNREADABLE as error:
        return [f"the request's own signature cannot be checked: {error}"]
    if not valid:
        return ["the request's own signature is wrong: it was changed, or not made with this key"]
    return []


def _names(csr: x509.CertificateSigningRequest) -> tuple[list[str], list[str]]:
    common = csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = [str(attribute.value) for attribute in common]
    faults = []
    if len(names) > 1:
        faults.append(f"the subject has {len(names)} common names")
    alternative = _extension(csr, x509.SubjectAlternativeName)
    if alternative is None:
        return names, faults
    dns = [name.value for name in alternative if isinstance(name, x509.DNSName)]
    if len(dns) > 1:
        faults.append(f"the alternative name has {len(dns)} DNS names")
    others = (name for name in alternative if not isinstance(name, x509.DNSName))
    kinds = dict.fromkeys(_SAN_KINDS.get(type(name), "unknown") for name in others)
    faults += [f"an alternative name of kind {kind}: only DNS is accepted" for kind in kinds]
    return names + dns, faults


def _extension_faults(csr: x509.CertificateSigningRequest) -> list[str]:
    faults = []
    constraints = _extension(csr, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        faults.append("the request asks for a CA certificate (CA:TRUE)")
    usage = _extension(csr, x509.KeyUsage)
    if usage is not None and (usage.key_cert_sign or usage.crl_sign):
        faults.append("the request asks for the right to sign certificates or CRLs")
    return faults


_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def _extension(csr: x509.CertificateSigningRequest, kind: type[_Extension]) -> _Extension | None:
    try:
        return csr.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None

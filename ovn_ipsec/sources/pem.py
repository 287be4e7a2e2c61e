"""PEM text into facts: one certificate file or one private key file, already read.

Whatever is wrong with the text becomes a ``PemProblem``, whose message names no content.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ovn_ipsec.errors import SourceError
from ovn_ipsec.model.conns import Secret
from ovn_ipsec.model.facts import CertificateFact, PrivateKeyFact

_RSA_MIN_BITS = 2048
"""libreswan refuses smaller ones."""
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for a certificate or a CRL that it cannot make sense of; most are not
even ValueErrors."""


class PemProblem(SourceError):
    """The text of a file is not what it must be; the message says what is wrong with it."""


def certificate_fact(path: str, data: bytes) -> CertificateFact:
    """What a PEM file of one or more certificates says.

    Raises PemProblem: no certificate, damaged, or a kind of key that libreswan cannot use.
    """
    if b"-----BEGIN" not in data:
        raise PemProblem("holds no PEM certificate; convert it with `openssl x509`")
    try:
        members = [_member(path, each) for each in x509.load_pem_x509_certificates(data)]
    except UNREADABLE as error:
        raise PemProblem("holds no readable PEM certificate; check `openssl x509`") from error
    first = members[0]
    return CertificateFact(
        path=path,
        pem=first.pem,
        chain=tuple(members),
        common_name=first.common_name,
        dns_names=first.dns_names,
        fingerprint=first.fingerprint,
        public_key_hash=first.public_key_hash,
        key_type=first.key_type,
        issuer=first.issuer,
        subject=first.subject,
        serial=first.serial,
        not_before=first.not_before,
        not_after=first.not_after,
        is_ca=first.is_ca,
    )


def private_key_fact(path: str, data: bytes) -> PrivateKeyFact:
    """What a PEM file of one unencrypted private key says.

    Raises PemProblem: no key, damaged, encrypted, or a kind that libreswan cannot use.
    """
    if b"-----BEGIN" not in data:
        raise PemProblem("holds no PEM private key; convert it with `openssl pkey`")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise PemProblem(
            "is encrypted with a passphrase; store it decrypted (`openssl pkey`), mode 0600"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PemProblem("holds no readable PEM private key; check `openssl pkey`") from error
    public = key.public_key()
    _check_kind(public)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return PrivateKeyFact(path, pem=Secret(pem.decode()), public_key_hash=_hash(public))


def issued_by(certificate: CertificateFact, bundle: CertificateFact) -> bool:
    """A certificate of the bundle verifies the signature of ``certificate``."""
    leaf = x509.load_pem_x509_certificate(certificate.pem.encode())
    return any(_verifies(leaf, member.pem) for member in bundle.chain)


def _verifies(leaf: x509.Certificate, issuer_pem: str) -> bool:
    issuer = x509.load_pem_x509_certificate(issuer_pem.encode())
    try:
        leaf.verify_directly_issued_by(issuer)
    except (*UNREADABLE, TypeError, InvalidSignature):
        return False
    return True


def _member(path: str, certificate: x509.Certificate) -> CertificateFact:
    public = certificate.public_key()
    _check_kind(public)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return CertificateFact(
        path=path,
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        common_name=str(names[0].value) if len(names) == 1 else "",
        dns_names=_dns_names(certificate),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        public_key_hash=_hash(public),
        key_type="rsa" if isinstance(public, rsa.RSAPublicKey) else "ec",
        issuer=certificate.issuer.rfc4514_string(),
        subject=certificate.subject.rfc4514_string(),
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        is_ca=_is_ca(certificate),
    )


def _check_kind(public: object) -> None:
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < _RSA_MIN_BITS:
            raise PemProblem(
                f"has an RSA key of {public.key_size} bits; make one of at least {_RSA_MIN_BITS}"
            )
    elif isinstance(public, ec.EllipticCurvePublicKey):
        if not isinstance(public.curve, _CURVES):
            raise PemProblem(f"has a key on curve {public.curve.name}; use P-256, P-384 or P-521")
    else:
        raise PemProblem("has a key that libreswan cannot use; make an RSA or ECDSA key")


def _hash(public: object) -> str:
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise PemProblem("has a key that libreswan cannot use; make an RSA or ECDSA key")
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def _dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.value.get_values_for_type(x509.DNSName))


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False

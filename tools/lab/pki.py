"""A throw-away PKI for tests and the demo: CAs, leaves, and every way in which they go wrong."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

DENIED_NAMES = x509.ObjectIdentifier("2.25.225450601092314812325761805458760574043")
"""Of a CRL: the names of revoked nodes, a DER UTF8String, one a line."""

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class KeyType(Enum):
    """What kind of key pair to make."""

    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    P256 = "p256"
    P384 = "p384"


def make_key(kind: KeyType = KeyType.RSA_2048) -> Key:
    """A new private key."""
    if kind is KeyType.P256:
        return ec.generate_private_key(ec.SECP256R1())
    if kind is KeyType.P384:
        return ec.generate_private_key(ec.SECP384R1())
    return rsa.generate_private_key(65537, 3072 if kind is KeyType.RSA_3072 else 2048)


def key_pem(key: Key) -> bytes:
    """PKCS #8 PEM, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def common_name(name: str) -> x509.Name:
    """A subject of this common name alone."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def node_subject(name: str) -> x509.Name:
    """A node's subject: the original finds a common name only before another part (RFC 2253)."""
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "ovn-ipsec lab")
    return x509.Name([organization, *common_name(name)])


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER, lower-case hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def write(self, certificate: Path, key: Path) -> None:
        """Put both into files, the key first and readable by its owner alone."""
        key.touch(mode=0o600)
        key.write_bytes(key_pem(self.key))
        certificate.write_bytes(self.pem)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that signs whatever it is asked to."""

    pair: Pair

    @classmethod
    def create(
        cls,
        name: str = "ovn-ipsec lab CA",
        *,
        kind: KeyType = KeyType.RSA_2048,
        key: Key | None = None,
        starts_in_s: int = -3600,
        lasts_s: int = 10 * 365 * 86400,
    ) -> Authority:
        """A self-signed root. Two of the same ``name`` are a roll-over to a new key."""
        key = key or make_key(kind)
        builder = _builder(common_name(name), common_name(name), key, starts_in_s, lasts_s)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        builder = builder.add_extension(_usage(certificates=True), True)
        return cls(Pair(builder.sign(key, hashes.SHA256()), key))

    @property
    def pem(self) -> bytes:
        """The root as PEM."""
        return self.pair.pem

    def issue(
        self,
        name: str,
        *,
        kind: KeyType = KeyType.RSA_2048,
        key: Key | None = None,
        subject: x509.Name | None = None,
        dns_name: bool = True,
        starts_in_s: int = -3600,
        lasts_s: int = 365 * 86400,
    ) -> Pair:
        """A leaf with CN = SAN DNS = ``name``, as libreswan's certificate ids need it.

        ``starts_in_s`` > 0 gives one that is not yet valid, ``starts_in_s`` + ``lasts_s`` < 0
        one that has expired; ``subject`` replaces the subject and leaves the DNS name.
        """
        key = key or make_key(kind)
        issuer = self.pair.certificate.subject
        builder = _builder(subject or node_subject(name), issuer, key, starts_in_s, lasts_s)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(_usage(certificates=False), True)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.pair.key.public_key()), False
        )
        if dns_name:
            names = x509.SubjectAlternativeName([x509.DNSName(name)])
            builder = builder.add_extension(names, False)
        return Pair(builder.sign(self.pair.key, hashes.SHA256()), key)

    def crl(
        self,
        *,
        denied: Sequence[str] = (),
        serials: Sequence[int] = (),
        number: int | None = 1,
        starts_in_s: int = -60,
        lasts_s: int = 86400,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> bytes:
        """A PEM list that names revoked nodes and certificates.

        ``extensions``: further ones, as (value, critical).
        """
        start = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(seconds=starts_in_s)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.pair.certificate.subject)
            .last_update(start)
            .next_update(start + dt.timedelta(seconds=lasts_s))
        )
        if number is not None:
            builder = builder.add_extension(x509.CRLNumber(number), False)
        if denied:
            value = _utf8_string("\n".join(denied))
            builder = builder.add_extension(x509.UnrecognizedExtension(DENIED_NAMES, value), False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
            builder = builder.add_revoked_certificate(entry.build())
        signed = builder.sign(self.pair.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


def self_signed(
    name: str, *, kind: KeyType = KeyType.RSA_2048, starts_in_s: int = -3600, lasts_s: int = 86400
) -> Pair:
    """A node certificate that signs itself, as ``ovs-pki self-sign`` makes it."""
    key = make_key(kind)
    builder = _builder(node_subject(name), node_subject(name), key, starts_in_s, lasts_s)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
    return Pair(builder.sign(key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, starts_in_s: int, lasts_s: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    start = now + dt.timedelta(seconds=starts_in_s)
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(seconds=lasts_s))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
    )


def _utf8_string(text: str) -> bytes:
    """DER."""
    content = text.encode()
    size = len(content)
    if size < 0x80:
        return bytes((0x0C, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x0C, 0x80 | len(length))) + length + content


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )

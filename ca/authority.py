"""Builds what the authority signs: roots, leaves, link certificates, CRLs. Pure, touches no file.

Every certificate is made from the templates here (RFC 5280). Of a request only the public key
gets in, and the name is the proven one.

A leaf's subject is ``O=..., CN=<chassis id>`` in this order: the original ovs-monitor-ipsec reads
the name from RFC 2253 text, which is in reverse, and finds a CN only when a comma follows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.csr import KeyKind, PrivateKey, PublicKey
from ca.requests import SERVER_NAME

DENIED_NAMES_OID = x509.ObjectIdentifier("2.25.225450601092314812325761805458760574043")
"""The CRL's extension that names revoked nodes: a DER UTF8String, ids in lower case, one a line.

2.25 holds UUIDs, which need no registration (ITU-T X.667). Not critical: others skip it.
"""
_UTF8_STRING = 0x0C
_COUNT_BITS = 64
_NOW_BITS = 40


@dataclass(frozen=True, slots=True)
class Issuer:
    """A root with its private key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def der(self) -> bytes:
        """The root."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def validity(self) -> tuple[datetime, datetime]:
        """Nothing that it signs begins before or ends after."""
        return self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True)
class RevokedSerial:
    """One line of a CRL."""

    serial: str
    at: datetime


def make_key(kind: KeyKind) -> PrivateKey:
    """A new private key."""
    if kind is KeyKind.P256:
        return ec.generate_private_key(ec.SECP256R1())
    if kind is KeyKind.P384:
        return ec.generate_private_key(ec.SECP384R1())
    return rsa.generate_private_key(65537, 4096 if kind is KeyKind.RSA_4096 else 3072)


def key_id(public_key: PublicKey) -> str:
    """The subject key identifier (RFC 5280, 4.2.1.2, method 1) in hex."""
    return x509.SubjectKeyIdentifier.from_public_key(public_key).digest.hex()


def root_subject(organization: str, name: str) -> x509.Name:
    """Stays the same in a roll-over, because pluto compares issuers by name."""
    return _subject(organization, name)


def build_root(
    subject: x509.Name, key: PrivateKey, validity: tuple[datetime, datetime], serial: str
) -> x509.Certificate:
    """A self-signed root that signs leaves only (path length 0)."""
    return _ca_certificate(subject, key.public_key(), key, validity, serial)


def build_link(
    root: x509.Certificate, by: Issuer, validity: tuple[datetime, datetime], serial: str
) -> x509.Certificate:
    """``root``'s name and key, signed by another root of the same name (RFC 4210, 4.4).

    Self-issued, so the other root's path length of 0 allows it (RFC 5280, 4.2.1.9).
    """
    public = root.public_key()
    if not isinstance(public, PublicKey):
        raise TypeError(f"a root with a key of kind {type(public).__name__}")
    return _ca_certificate(root.subject, public, by.key, validity, serial)


def build_leaf(
    chassis_id: str,
    public_key: PublicKey,
    issuer: Issuer,
    organization: str,
    validity: tuple[datetime, datetime],
    serial: str,
) -> x509.Certificate:
    """A node's certificate, for IKE and as TLS client and server."""
    names = x509.SubjectAlternativeName([x509.DNSName(chassis_id)])
    subject = _subject(organization, chassis_id)
    return _leaf(subject, public_key, issuer, validity, serial, names, _NODE_USAGE)


def build_server_leaf(
    names: Iterable[str],
    public_key: PublicKey,
    issuer: Issuer,
    organization: str,
    validity: tuple[datetime, datetime],
    serial: str,
) -> x509.Certificate:
    """A front end's certificate. Its common name is one that no chassis can have."""
    alternative = x509.SubjectAlternativeName([_host(name) for name in names])
    subject = _subject(organization, SERVER_NAME)
    return _leaf(subject, public_key, issuer, validity, serial, alternative, _SERVER_USAGE)


def build_crl(
    issuer: Issuer,
    revoked: Iterable[RevokedSerial],
    denied_names: Iterable[str],
    number: int,
    validity: tuple[datetime, datetime],
) -> x509.CertificateRevocationList:
    """All that is revoked, whichever of our roots signed it: they have one name."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(validity[0])
        .next_update(validity[1])
        .add_extension(_authority_key_id(issuer), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_denied_names(denied_names), critical=False)
    )
    for item in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(int(item.serial, 16))
        builder = builder.add_revoked_certificate(entry.revocation_date(item.at).build())
    return builder.sign(issuer.key, signature_hash(issuer.key))


def crl_number(logged: datetime, entries: int, now: datetime) -> int:
    """Grows with the time of the log's newest entry first, then with the entries, then with time.

    A log that was restored is shorter than the one that was lost, and ends later. Everything but
    the last part comes from the log, so a clock that is put back takes nothing back. Releases that
    began with the entries (``entries << 40 | now``) stayed below 2**104, which one second is here.
    A time has 38 bits until the year 9999: that is 18 octets of 20 (RFC 5280, 5.2.3).
    """
    number = _seconds(logged) << _COUNT_BITS | entries
    return number << _NOW_BITS | _seconds(now)


def signature_hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    """As strong as the key."""
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        return hashes.SHA384()
    return hashes.SHA256()


def _seconds(moment: datetime) -> int:
    return max(int(moment.timestamp()), 0)


def _subject(organization: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _ca_certificate(
    subject: x509.Name,
    public_key: PublicKey,
    by: PrivateKey,
    validity: tuple[datetime, datetime],
    serial: str,
) -> x509.Certificate:
    builder = _builder(subject, subject, public_key, validity, serial)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True, rsa_key=False), critical=True)
        .add_extension(_within_organization(subject), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False
        )
    )
    return builder.sign(by, signature_hash(by))


def _within_organization(subject: x509.Name) -> x509.NameConstraints:
    """Whoever is told to trust this root trusts it for subjects of its organization alone.

    RFC 5280, 4.2.1.10. NSS (3.87, 3.110) and OpenSSL hold to it. Host names and addresses stay
    open: a front end's certificate has some.
    """
    organization = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    permitted = x509.DirectoryName(x509.Name(organization))
    return x509.NameConstraints(permitted_subtrees=[permitted], excluded_subtrees=None)


def _leaf(
    subject: x509.Name,
    public_key: PublicKey,
    issuer: Issuer,
    validity: tuple[datetime, datetime],
    serial: str,
    names: x509.SubjectAlternativeName,
    usage: x509.ExtendedKeyUsage,
) -> x509.Certificate:
    builder = _builder(issuer.certificate.subject, subject, public_key, validity, serial)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False, rsa_key=_is_rsa(public_key)), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(names, critical=False)
        .add_extension(_authority_key_id(issuer), critical=False)
    )
    return builder.sign(issuer.key, signature_hash(issuer.key))


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    public_key: PublicKey,
    validity: tuple[datetime, datetime],
    serial: str,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(int(serial, 16))
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _authority_key_id(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    # The key id alone: with issuer and serial beside it, a link certificate would not do.
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def _is_rsa(key: PublicKey) -> bool:
    return isinstance(key, rsa.RSAPublicKey)


def _key_usage(*, signs: bool, rsa_key: bool) -> x509.KeyUsage:
    # NSS takes no RSA certificate for a server's without key encipherment.
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=rsa_key,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


_NODE_USAGE = x509.ExtendedKeyUsage(
    [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.IPSEC_IKE,
    ]
)
_SERVER_USAGE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _denied_names(names: Iterable[str]) -> x509.UnrecognizedExtension:
    content = "\n".join(sorted(names)).encode()
    return x509.UnrecognizedExtension(DENIED_NAMES_OID, _der(_UTF8_STRING, content))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content

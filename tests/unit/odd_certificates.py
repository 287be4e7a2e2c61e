"""Certificates that libreswan's NSS holds or reads, and that cryptography refuses."""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_SUBJECT_ALT_NAME = x509.ObjectIdentifier("2.5.29.17")
_ONE, _OTHER = x509.ObjectIdentifier("2.5.29.98"), x509.ObjectIdentifier("2.5.29.99")


def _der(*extensions: tuple[x509.ObjectIdentifier, bytes]) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nodeX")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2040, 1, 1, tzinfo=dt.UTC))
    )
    for oid, value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _with(der: bytes, old: bytes, new: bytes) -> bytes:
    assert old in der and len(old) == len(new)
    return der.replace(old, new)


_EC_KEY, _P256 = b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x86\x48\xce\x3d\x03\x01\x07"


def with_odd_key(der: bytes) -> dict[str, bytes]:
    """An ECDSA certificate that loads, with a public key that does not."""
    at = der.index(_P256) + len(_P256) + 4
    return {
        "a key of an unknown type": _with(der, _EC_KEY, b"\x2b" + _EC_KEY[1:]),
        "a key on an unknown curve": _with(der, _P256, b"\x2b" + _P256[1:]),
        "a point that is not on its curve": der[:at] + bytes([der[at] ^ 1]) + der[at + 1 :],
    }


ODD_CERTIFICATES = {
    # The second extension gets the first one's identifier.
    "the same extension twice": _with(
        _der((_ONE, b"\x05\x00"), (_OTHER, b"\x05\x00")), b"\x55\x1d\x62", b"\x55\x1d\x63"
    ),
    "an X.400 address among its names": _der((_SUBJECT_ALT_NAME, b"\x30\x04\xa3\x02\x30\x00")),
    "version 5": _with(_der(), b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x04"),
    "a name that is no UTF-8": _with(_der(), b"nodeX", b"no\xff\xfeX"),
}

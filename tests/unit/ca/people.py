"""Requests as nodes and attackers make them, and an authority to send them to."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from ca import office, roots
from ca.csr import KeyKind
from ca.desk import LocalDesk
from ca.files import Files
from ca.settings import CaSettings
from ca.store import Store
from tests.unit.ca.disk import Disk

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
STATE = Path("/ca")
SETTINGS = CaSettings(name="test CA", key_kind=KeyKind.P256)

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Clock:
    """Goes when told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


class Office:
    """An authority whose disk and clock a test holds in its hands."""

    def __init__(self, settings: CaSettings = SETTINGS, files: Files | None = None) -> None:
        """A new authority, or the one on ``files`` as a new process would open it."""
        self.clock = Clock()
        self.files: Files = files or Disk()
        self._numbers = itertools.count(1)
        if files is None:
            roots.init_authority(self.files, STATE, settings, self.clock(), self.serial)
        self.open()

    def serial(self) -> str:
        """The same ones again in each process: the log must see to it that none is used twice."""
        return f"{next(self._numbers):032x}"

    def open(self) -> None:
        """As a new process would."""
        self.store = Store(self.files, STATE)
        self.desk = LocalDesk(self.store, self.clock, self.serial)

    def token(self, chassis_id: str, *, replace: bool = False, life_s: float = 3600) -> str:
        life = timedelta(seconds=life_s)
        return office.make_token(self.desk, chassis_id, life, replace=replace).text


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """The key of this name, the same in every test."""
    return ec.generate_private_key(ec.SECP256R1())


def public_key_der(name: str) -> bytes:
    """The public key of this name."""
    return key(name).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    """An RSA key of this size."""
    return rsa.generate_private_key(65537, bits)


def csr(
    *names: str,
    own: Key | None = None,
    san: list[x509.GeneralName] | None = None,
    extensions: tuple[x509.ExtensionType, ...] = (),
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
) -> bytes:
    """A request (DER) with these common names."""
    signer = own or key(names[0] if names else "")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if san is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    if isinstance(signer, ed25519.Ed25519PrivateKey):
        return builder.sign(signer, None).public_bytes(Encoding.DER)
    return builder.sign(signer, algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


def serial_of(der: bytes) -> str:
    """As the log spells it."""
    return f"{x509.load_der_x509_certificate(der).serial_number:032x}"

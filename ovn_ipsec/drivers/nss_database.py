"""What is in an NSS database, read from its two SQLite files, and single changes to it.

certutil lists nicknames and trust only, and prints the certificates of a nickname in no
order that tells them apart; the files hold every entry with its label, key id and DER
(PKCS #11 attributes, a column ``a<hex type>`` each: CKA_CLASS 0, CKA_LABEL 3, CKA_VALUE 11,
CKA_ID 102).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from ovn_ipsec.drivers.command import Completed, run
from ovn_ipsec.errors import DriverError, ObservationError

_TIMEOUT_S = 30.0
_HELPER = Path(__file__).with_name("nss_entry.py")
_NO = 3
_ABSENT = 4
_CERTIFICATE = (1).to_bytes(4, "big")
_PRIVATE_KEY = (3).to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate in the database."""

    nickname: str
    der: bytes
    key_id: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER, lower-case hex."""
        return hashlib.sha256(self.der).hexdigest()


@dataclass(frozen=True, slots=True)
class Contents:
    """Every certificate, and every private key: id -> label."""

    entries: tuple[Entry, ...]
    keys: dict[bytes, str]


class NssDatabase:
    """The database in a directory (``sql:`` format, empty password)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._name = f"sql:{directory}"

    def exists(self) -> bool:
        """Both files are there."""
        return all((self._directory / file).exists() for file in ("cert9.db", "key4.db"))

    def create(self) -> None:
        """Make an empty database, as ``ipsec initnss`` does; an existing one is kept."""
        if self.exists():
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _certutil("-N", "-d", self._name, "--empty-password")

    def read(self) -> Contents:
        """What is there now. Raises ObservationError."""
        try:
            certificates = self._rows(
                "cert9.db", "SELECT a3, a11, a102 FROM nssPublic WHERE a0 = ?", _CERTIFICATE
            )
            keys = self._rows(
                "key4.db", "SELECT a102, a3, NULL FROM nssPrivate WHERE a0 = ?", _PRIVATE_KEY
            )
        except sqlite3.Error as error:
            raise ObservationError(
                f"NSS database {self._directory}: cannot be read: {error}; check its files"
            ) from error
        return Contents(
            tuple(Entry(_text(label), der or b"", key or b"") for label, der, key in certificates),
            {key or b"": _text(label) for key, label, _ in keys},
        )

    def trust(self) -> dict[str, str]:
        """Nickname -> trust flags as certutil shows them."""
        flags: dict[str, str] = {}
        for line in _certutil("-L", "-d", self._name).stdout.splitlines():
            nickname, _, trust = line.rstrip().rpartition(" ")
            if trust.count(",") == 2 and "/" not in trust:
                flags.setdefault(nickname.rstrip(), trust)
        return flags

    def add_certificate(self, nickname: str, pem: str, trust: str) -> None:
        """Add a certificate, or set the trust of one that is there."""
        _certutil("-A", "-d", self._name, "-n", nickname, "-t", trust, stdin=pem)

    def add_pair(self, nickname: str, pem: str, key_pem: str) -> None:
        """Add a certificate with its private key.

        Of a subject that is there already the new entry gets the same nickname, whatever
        ``nickname`` says. Key and password reach pk12util through memory that only this
        process and that child can open.
        """
        password = secrets.token_hex(16).encode()
        try:
            bundle = _pkcs12(nickname, pem, key_pem, password)
        except ValueError as error:
            raise DriverError(f"{nickname}: certificate and key make no pair: {error}") from error
        with _in_memory(bundle) as bundle_fd, _in_memory(password + b"\n") as password_fd:
            run(
                [
                    "pk12util",
                    *("-i", f"/proc/self/fd/{bundle_fd}"),
                    *("-d", self._name),
                    *("-w", f"/proc/self/fd/{password_fd}"),
                ],
                timeout_s=_TIMEOUT_S,
                pass_fds=(bundle_fd, password_fd),
            )

    def delete_certificate(self, der: bytes) -> None:
        """Delete exactly this certificate and no key; nothing if it is not there."""
        self._entry(der, "delete", ok_codes=(0, _ABSENT))

    def label(self, der: bytes, nickname: str) -> None:
        """Give exactly this certificate the nickname."""
        self._entry(der, "label", nickname)

    def prefers(self, nickname: str, der: bytes) -> bool:
        """Of the entries of this nickname, NSS (so pluto) would find this one.

        NSS takes the newer by notBefore unless it has expired; equal ones have no stable
        order, so it is asked.
        """
        return self._entry(der, "preferred", nickname, ok_codes=(0, _NO)).returncode == 0

    def delete_key(self, key_id: bytes) -> None:
        """Delete a private key that has no certificate any more."""
        _certutil("-F", "-d", self._name, "-k", key_id.hex())

    def _rows(self, file: str, query: str, kind: bytes) -> list[tuple[bytes | None, ...]]:
        uri = f"{(self._directory / file).as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_TIMEOUT_S)) as database:
            return database.execute(query, (kind,)).fetchall()

    def _entry(self, der: bytes, *argv: str, ok_codes: tuple[int, ...] = (0,)) -> Completed:
        return run(
            [sys.executable, "-I", "-S", str(_HELPER), self._name, *argv],
            timeout_s=_TIMEOUT_S,
            stdin=der.hex(),
            ok_codes=ok_codes,
        )


def _certutil(*argv: str, stdin: str | None = None) -> Completed:
    return run(["certutil", *argv], timeout_s=_TIMEOUT_S, stdin=stdin)


def _pkcs12(nickname: str, pem: str, key_pem: str, password: bytes) -> bytes:
    """Raises ValueError: not a pair, or not what PEM should be."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError("neither RSA nor ECDSA")
    encryption = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(2048)  # it never leaves memory, and the password is random
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password)
    )
    return pkcs12.serialize_key_and_certificates(
        nickname.encode(), key, certificate, None, encryption
    )


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """A descriptor to read ``content`` from, that never was a file."""
    descriptor = os.memfd_create("ovn-ipsec", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _text(label: bytes | None) -> str:
    return (label or b"").decode(errors="replace")

"""The way in without a network: drop NAME.csr, pick up NAME.crt and the bundle.

The file's name is the chassis id. Who may write into the directory may ask for any name, as the
operator who signs vouches for what is in it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.csr import MAX_CSR_BYTES
from ca.errors import StoreError, UsageError
from ca.requests import ByOperator, Desk, RequestDenied, crls_pem

_PUBLIC_FILE = 0o644


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one request."""

    chassis_id: str
    reasons: tuple[str, ...] = ()
    """Why there is no certificate; empty when there is one."""


def sign_file(desk: Desk, path: Path, chassis_id: str, *, replace: bool) -> bytes:
    """The certificate (PEM) for a request in a file (PEM or DER).

    Raises UsageError, RequestDenied, StoreError.
    """
    der = desk.sign(read_request(path), ByOperator(chassis_id, replace))
    return to_pem(der)


def sign_directory(desk: Desk, source: Path, target: Path, *, replace: bool) -> list[Result]:
    """Answer every NAME.csr with NAME.crt, or NAME.denied with the reasons.

    May run again and again: the same request gets the same certificate. Raises StoreError.
    """
    results = []
    for path in _requests(source):
        name = path.stem
        try:
            certificate = sign_file(desk, path, name, replace=replace)
        except (RequestDenied, UsageError) as error:
            reasons = error.reasons if isinstance(error, RequestDenied) else (str(error),)
            _write(target / f"{name}.denied", "".join(f"{r}\n" for r in reasons).encode())
            results.append(Result(name, reasons))
            continue
        _write(target / f"{name}.crt", certificate)
        with contextlib.suppress(OSError):
            (target / f"{name}.denied").unlink()
        results.append(Result(name))
    _write(target / "bundle.pem", bundle_pem(desk))
    _write(target / "crl.pem", crls_pem(desk.crls()))
    return results


def bundle_pem(desk: Desk) -> bytes:
    """Every root to trust, the one that signs first."""
    return b"".join(to_pem(der) for der in desk.bundle())


def to_pem(der: bytes) -> bytes:
    """A certificate as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def read_request(path: Path) -> bytes:
    """A request's DER from a PEM or DER file. Raises UsageError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(2 * MAX_CSR_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if b"-----BEGIN" not in data:
        return data
    try:
        return x509.load_pem_x509_csr(data).public_bytes(Encoding.DER)
    except ValueError as error:
        raise UsageError(f"{path}: not a certificate request: {error}") from error


def _requests(source: Path) -> list[Path]:
    try:
        return sorted(path for path in source.iterdir() if path.suffix == ".csr")
    except OSError as error:
        raise StoreError(f"{source}: cannot be read: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: who picks it up may come at any time."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(descriptor, _PUBLIC_FILE)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error

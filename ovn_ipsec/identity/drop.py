"""The directory way: a request is dropped, a certificate picked up, for air gaps and Ansible.

``NAME.csr`` (PEM) is written by this node; ``NAME.crt`` or ``NAME.denied``, ``bundle.pem`` and
``crl.pem`` are put there by whoever carries them, as ``ovn-ipsec-ca sign --directory`` makes them.
Who may write to the directory decides whom this node trusts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from hashlib import sha256
from pathlib import Path

from cryptography import x509

from ovn_ipsec.errors import BusyError, EnrolmentError
from ovn_ipsec.identity.certificates import (
    fingerprint,
    load_certificate,
    load_roots,
    public_key_hash,
    request_key_hash,
    request_pem,
    roots_among,
)
from ovn_ipsec.identity.est import Credentials, Lists, Roots

_LOG = logging.getLogger(__name__)

BUNDLE = "bundle.pem"
CRL = "crl.pem"
_LOOK_S = 5.0
_MAX_FILE_BYTES = 1 << 20


class DropDirectory:
    """One directory that others read from and write to."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def obtain(self, csr_der: bytes, name: str) -> x509.Certificate:
        """The certificate for this request. Raises BusyError until it is there."""
        request, answer = (self._directory / f"{name}{suffix}" for suffix in (".csr", ".crt"))
        text = request_pem(csr_der)
        if _content(request) != text:
            self._put(request, text)
        found = _content(answer)
        denied = _content(self._directory / f"{name}.denied")
        if denied:
            said = "; ".join(denied[:1000].decode("utf-8", "replace").split("\n")).strip("; ")
            printable = "".join(char if char.isprintable() else "?" for char in said)
            raise EnrolmentError(f"{request}: was denied: {printable}")
        if found is None:
            raise BusyError(f"{answer}: is waited for; sign {request}", _LOOK_S)
        certificate = load_certificate(found)
        if public_key_hash(certificate) != request_key_hash(csr_der):
            raise BusyError(f"{answer}: is for an earlier request; sign {request}", _LOOK_S)
        return certificate

    def forget(self, name: str) -> None:
        """Remove the request, which is answered or given up.

        After a switch of roots it would be signed again, and the authority would take that for a
        renewal. A failure is told and no more: the identity is in order.
        """
        request = self._directory / f"{name}.csr"
        try:
            request.unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("%s: cannot be removed: %s; remove it", request, error.strerror)

    def roots(self) -> Roots:
        """The roots, the one that signs first. Raises BusyError until they are there."""
        path = self._directory / BUNDLE
        found = _content(path)
        if found is None:
            raise BusyError(f"{path}: is waited for; put the authority's roots there", _LOOK_S)
        roots = roots_among(load_roots(found))
        if not roots:
            raise EnrolmentError(f"{path}: holds no root")
        return Roots(roots, fingerprint(roots[0]))

    def lists(self, own: Credentials, known: str | None) -> Lists | None:
        """The CRLs. None: there are no others than those of the tag, or none at all."""
        found = _content(self._directory / CRL)
        if found is None:
            return None
        tag = sha256(found).hexdigest()
        return None if tag == known else Lists(found, tag)

    def _put(self, path: Path, data: bytes) -> None:
        """Others see the whole file or none."""
        try:
            descriptor, name = tempfile.mkstemp(prefix=".", dir=self._directory)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    os.fchmod(file.fileno(), 0o644)  # a request is no secret
                Path(name).replace(path)
            except OSError:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            raise EnrolmentError(
                f"{path}: cannot be written: {error.strerror}; check --drop-directory"
            ) from error


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EnrolmentError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise EnrolmentError(f"{path}: has over {_MAX_FILE_BYTES} bytes")
    return data

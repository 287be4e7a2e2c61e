"""The server's own side of TLS: its certificate, from its own authority, and whom it verifies.

Both change while the server runs: the certificate renews, and a roll-over changes the roots. A
new ``ssl.SSLContext`` then serves the connections that come; those that are there stay.
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ca.requests import Desk


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What the server shows of itself."""

    certificate_pem: bytes
    """The server's certificate, then intermediate ones, if any."""
    key_pem: bytes = field(repr=False)


TlsSource = Callable[[], TlsMaterial]
"""Gives the material to use from now on. Asked every few seconds, from any thread."""


def server_context(material: TlsMaterial, roots: tuple[bytes, ...]) -> ssl.SSLContext:
    """TLS 1.3 alone. A client may show a certificate; it must chain to ``roots`` (DER) then."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    # A resumed session would bring a certificate that nobody has verified this time.
    context.num_tickets = 0
    context.load_verify_locations(cadata=b"".join(roots))
    _load_chain(context, material)
    return context


def _load_chain(context: ssl.SSLContext, material: TlsMaterial) -> None:
    """The ssl module takes keys from files only: this one is in memory, and nobody else's."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(material.certificate_pem + b"\n" + material.key_pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")


class SelfIssued:
    """A ``TlsSource``: a certificate for this server's names from the desk that it serves.

    The key stays in memory: a restarted server makes another and asks again.
    """

    def __init__(
        self, desk: Desk, names: tuple[str, ...], clock: Callable[[], dt.datetime]
    ) -> None:
        """``names``: the DNS names and addresses that nodes call the server by; a UTC clock."""
        self._desk = desk
        self._names = names
        self._clock = clock
        self._lock = threading.Lock()
        self._material: TlsMaterial | None = None
        self._root = b""
        never = dt.datetime.min.replace(tzinfo=dt.UTC)
        self._span = never, never
        """From when until when the present one is shown. The clock may have been ahead."""

    def __call__(self) -> TlsMaterial:
        """The present certificate; another at two thirds of its life, and with a new root."""
        with self._lock:
            now, root = self._clock(), self._desk.bundle()[0]
            good = self._span[0] <= now < self._span[1]
            if self._material is None or not good or root != self._root:
                self._material = self._renewed(now)
                self._root = root
            return self._material

    def _renewed(self, now: dt.datetime) -> TlsMaterial:
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        chain = [
            x509.load_der_x509_certificate(der)
            for der in self._desk.server_certificate(public, self._names)
        ]
        renew_at = now + (chain[0].not_valid_after_utc - now) * 2 / 3
        self._span = chain[0].not_valid_before_utc, renew_at
        pem = serialization.Encoding.PEM
        return TlsMaterial(
            b"".join(member.public_bytes(pem) for member in chain),
            key.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

"""``/status`` and ``/metrics`` for other nodes: mutual TLS with the certificates of IKE.

The node shows the certificate that OVSDB names, and answers whoever has one that the bundle of
OVSDB signed and that is not revoked. What it tells, every node of the cluster may know; liveness
and readiness stay on loopback.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from cryptography import x509

from ovn_ipsec.status.probes import Probes, ProbeServer

PAGES = ("/status", "/metrics")
_HANDSHAKE_S = 5.0
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
"""linux/in.h, linux/in6.h; Python has no names for them."""


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """The node's files as OVSDB names them, and who is revoked."""

    certificate: str
    private_key: str
    ca_cert: str
    denied: frozenset[str] = frozenset()
    """Names of nodes, in lower case."""
    serials: frozenset[tuple[str, int]] = frozenset()
    """(issuer as RFC 4514 string, serial number) of certificates."""


class RemoteProbes:
    """What other nodes may ask."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes

    def answer(self, target: str, now_s: float) -> tuple[HTTPStatus, str, str]:
        """As ``Probes`` does, of fewer pages."""
        if target.partition("?")[0] in PAGES:
            return self._probes.answer(target, now_s)
        return HTTPStatus.NOT_FOUND, "text/plain", f"no such page; there are {' '.join(PAGES)}\n"


class TlsProbeServer(ProbeServer):
    """Listens on an address that may yet come, until ``close``."""

    def __init__(
        self, address: str, port: int, probes: Probes, files: Callable[[], NodeFiles | None]
    ) -> None:
        """``files`` is asked at each connection, by any thread. Raises OSError."""
        self._files = files
        self._context: tuple[object, ssl.SSLContext] | None = None
        super().__init__(address, port, RemoteProbes(probes))

    def server_bind(self) -> None:
        """Also at boot, before the underlay has its address."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            self.socket.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        super().server_bind()

    def get_request(self) -> tuple[Any, Any]:
        """Without the handshake, which would hold up everybody else. Raises OSError."""
        plain, client = super().get_request()
        try:
            context = self._current_context()
            secured = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        except OSError:
            plain.close()
            raise
        return secured, client

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, judge, answer."""
        request.settimeout(_HANDSHAKE_S)
        request.do_handshake()
        files = self._files()
        if files is not None and _admitted(request.getpeercert(binary_form=True), files):
            super().finish_request(request, client_address)

    def _current_context(self) -> ssl.SSLContext:
        files = self._files()
        if files is None:
            raise OSError(None, "OVSDB names no certificate, key and bundle")
        names = (files.certificate, files.private_key, files.ca_cert)
        state = tuple((name, _version(name)) for name in names)
        if self._context is None or self._context[0] != state:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            context.num_tickets = 0  # a resumed session would know no certificate
            context.load_verify_locations(files.ca_cert)
            context.load_cert_chain(files.certificate, files.private_key)
            self._context = (state, context)
        return self._context[1]


def _version(path: str) -> tuple[int, int, int]:
    status = Path(path).stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _admitted(der: bytes | None, files: NodeFiles) -> bool:
    """Whether the owner of a certificate that the bundle signed is not revoked."""
    if der is None:
        return False
    with contextlib.suppress(ValueError):
        certificate = x509.load_der_x509_certificate(der)
        serial = (certificate.issuer.rfc4514_string(), certificate.serial_number)
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        named = {str(name.value).lower() for name in names}
        return serial not in files.serials and bool(named) and not named & files.denied
    return False

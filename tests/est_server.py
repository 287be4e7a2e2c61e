"""A running EST server on loopback, and clients that behave and misbehave."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

from ca.est import listening_socket, serve_until_cancelled
from ca.est_http import Limits
from ca.est_tls import SelfIssued, TlsSource
from ca.requests import Desk
from tools.lab.pki import Pair, key_pem

HOST = "localhost"
EST = "/.well-known/est"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes

    def certificates(self) -> list[x509.Certificate]:
        return pkcs7.load_der_pkcs7_certificates(base64.b64decode(self.body))


class RunningServer:
    """The address of a server, and requests to it."""

    def __init__(self, port: int, roots: bytes) -> None:
        self.port = port
        self.context = self.trusting(roots)

    def trusting(self, roots: bytes) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=roots)
        return context

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPSConnection(
            HOST, self.port, context=context or self.context, timeout=20
        )
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers.items()), response.read())
        finally:
            connection.close()

    def enroll(self, csr: bytes, chassis_id: str, secret: str) -> Answer:
        """``/simpleenroll`` with a join token."""
        basic = base64.b64encode(f"{chassis_id}:{secret}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/pkcs10"}
        body = base64.encodebytes(csr)
        return self.ask("POST", f"{EST}/simpleenroll", body=body, headers=headers)

    def reenroll(self, csr: bytes, context: ssl.SSLContext | None) -> Answer:
        """``/simplereenroll`` with the client certificate of the context."""
        headers = {"Content-Type": "application/pkcs10"}
        body = base64.encodebytes(csr)
        return self.ask(
            "POST", f"{EST}/simplereenroll", body=body, headers=headers, context=context
        )

    def as_node(self, pair: Pair, directory: Path, roots: bytes) -> ssl.SSLContext:
        """A context that shows a certificate."""
        certificate, key = directory / "client.pem", directory / "client.key"
        certificate.write_bytes(pair.pem)
        key.write_bytes(key_pem(pair.key))
        context = self.trusting(roots)
        context.load_cert_chain(certificate, key)
        return context

    def raw(self, data: bytes, *, timeout_s: float = 20) -> bytes:
        """What the server says to some bytes, until it closes."""
        plain = socket.create_connection((HOST, self.port), timeout_s)
        with self.context.wrap_socket(plain, server_hostname=HOST) as secured:
            secured.sendall(data)
            said = b""
            while chunk := _received(secured):
                said += chunk
            return said


def _received(secured: ssl.SSLSocket) -> bytes:
    try:
        return secured.recv(65536)
    except (ConnectionError, ssl.SSLError):
        return b""


@contextmanager
def est_server(
    desk: Desk, *, limits: Limits | None = None, tls: TlsSource | None = None
) -> Iterator[RunningServer]:
    """The server in a thread with a loop of its own, until the block ends."""
    tls = tls or SelfIssued(desk, (HOST, "127.0.0.1"), lambda: dt.datetime.now(dt.UTC))
    loop = asyncio.new_event_loop()
    with listening_socket("127.0.0.1", 0) as listener:
        task = loop.create_task(serve_until_cancelled(desk, tls, listener, limits))
        thread = threading.Thread(target=_run, args=(loop, task), daemon=True)
        thread.start()
        try:
            yield RunningServer(listener.getsockname()[1], b"".join(desk.bundle()))
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join(20)
            assert not thread.is_alive()
            loop.close()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        loop.run_until_complete(loop.shutdown_default_executor())


Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def csr_for(
    *names: str,
    key: Key | None = None,
    sans: list[x509.GeneralName] | None = None,
    ca: bool = False,
) -> bytes:
    """A PKCS #10 request (DER): the first name is the CN, all are SAN DNS names."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    general = [*(x509.DNSName(name) for name in names), *(sans or [])]
    builder = builder.add_extension(x509.SubjectAlternativeName(general), False)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

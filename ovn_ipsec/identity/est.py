"""The node's side of EST (RFC 7030): every byte from the network is bounded and distrusted.

First contact: the roots are fetched without trust, and only the one that the join token names by
fingerprint is kept. Everything after that goes over TLS 1.3 verified against roots on disk.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from ovn_ipsec.errors import BusyError, EnrolmentError, RefusedError, UntrustedError
from ovn_ipsec.identity.certificates import (
    common_name,
    fingerprint,
    is_pinned,
    load_certificate,
    roots_among,
)
from ovn_ipsec.identity.token import JoinToken

SERVER_NAME = "ovn-ipsec authority"
"""Common name of the authority's own certificate. No chassis id has a blank, so a node whose name
is the server's host name cannot pose as the server."""
SIGNING_ROOT_HEADER = "OVN-IPsec-Signing-Root"

_EST = "/.well-known/est"
_ANSWER_MOST_BYTES = 1 << 20
_TIMEOUT_S = 15.0
_TOTAL_S = 60.0
_RETRY_S = 30.0
_POLL_S = 50
"""How long the deny-list's answer may be held back; the authority grants 60."""
_REASON_MOST = 300
_NOT_MODIFIED = 304


@dataclass(frozen=True, slots=True)
class Roots:
    """What ``/cacerts`` says."""

    bundle: tuple[x509.Certificate, ...]
    """The root that signs now first, where the server names it."""
    signing_root: str | None
    """SHA-256 of that root."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Whom to trust, and who we are: PEM files, of one generation."""

    bundle: Path
    certificate: Path | None = None
    private_key: Path | None = None


@dataclass(frozen=True, slots=True)
class Lists:
    """The authority's CRLs, not checked yet."""

    pem: bytes
    tag: str | None
    """Names this answer, for who asks again."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class EstServer:
    """The authority at a URL, e.g. ``https://ca.example:8443``."""

    def __init__(self, url: str, server_name: str | None = None) -> None:
        """``server_name``: what its certificate must say, when it is not the URL's host.

        Raises EnrolmentError: this is no such URL.
        """
        try:
            parts = urlsplit(url)
            self._port = parts.port or 443
        except ValueError as error:
            raise EnrolmentError(f"--url {url!r}: {error}") from error
        if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/"):
            raise EnrolmentError(f"--url {url!r}: give https://HOST or https://HOST:PORT")
        if parts.username or parts.query or parts.fragment:
            raise EnrolmentError("--url: give https://HOST:PORT and nothing else")
        self._host = parts.hostname
        self._url = f"https://{parts.netloc}"
        self._server_name = server_name or self._host

    def first_contact(self, token: JoinToken) -> x509.Certificate:
        """The root that the token names, from a server that nothing is known of."""
        # The fingerprint is the trust: whoever answers can give us this root or none.
        context = _client_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        for root in self._roots(context, verified=False).bundle:
            if is_pinned(root, token.fingerprint):
                return root
        raise EnrolmentError(
            f"{self._url} does not show the root that the join token names (SHA-256 "
            f"{token.fingerprint}); is this the right server, and the token not from before a "
            "roll-over?"
        )

    def roots(self, trusted: Credentials | x509.Certificate) -> Roots:
        """The roots to trust from now on, from a server that proved itself by those so far."""
        return self._roots(_trusting(trusted))

    def enroll(self, csr_der: bytes, token: JoinToken, trusted: x509.Certificate) -> bytes:
        """A certificate (DER) for a join token. Raises RefusedError, BusyError."""
        basic = f"{token.chassis_id}:{token.secret.reveal()}".encode()
        headers = {"Authorization": f"Basic {base64.b64encode(basic).decode()}"}
        return self._certificate("simpleenroll", csr_der, _trusting(trusted), headers)

    def reenroll(self, csr_der: bytes, own: Credentials) -> bytes:
        """A certificate (DER) for the present one. Raises RefusedError, BusyError."""
        return self._certificate("simplereenroll", csr_der, _trusting(own), {})

    def acknowledge(self, digest: str, own: Credentials) -> None:
        """Tell the authority which bundle this node trusts."""
        self._ask("POST", "/ovn-ipsec/bundle", _trusting(own), body=digest.encode())

    def lists(self, own: Credentials, known: str | None) -> Lists | None:
        """The CRLs. With the tag of those that are known: None when there are no others.

        That takes its time: the authority answers when there are, within half a second.
        """
        headers = {"If-None-Match": known, "Prefer": f"wait={_POLL_S}"} if known else {}
        wait_s = _POLL_S if known else 0
        answer = self._ask("GET", "/crl", _trusting(own), headers=headers, wait_s=wait_s)
        if answer.status == _NOT_MODIFIED:
            return None
        return Lists(answer.body, answer.headers.get("etag"))

    def _roots(self, context: ssl.SSLContext, *, verified: bool = True) -> Roots:
        answer = self._ask("GET", f"{_EST}/cacerts", context, verified=verified)
        roots = roots_among(self._certificates(answer))
        if not roots:
            raise EnrolmentError(f"{self._url}: its answer holds no root")
        signing = answer.headers.get(SIGNING_ROOT_HEADER.lower())
        ordered = sorted(roots, key=lambda root: fingerprint(root) != signing)
        return Roots(tuple(ordered), signing)

    def _certificate(
        self, path: str, csr_der: bytes, context: ssl.SSLContext, headers: Mapping[str, str]
    ) -> bytes:
        headers = {"Content-Type": "application/pkcs10", **headers}
        body = base64.encodebytes(csr_der)
        answer = self._ask("POST", f"{_EST}/{path}", context, body=body, headers=headers)
        members = self._certificates(answer)
        if len(members) != 1:
            raise EnrolmentError(f"{self._url}: {len(members)} certificates instead of one")
        return members[0].public_bytes(serialization.Encoding.DER)

    def _certificates(self, answer: _Answer) -> tuple[x509.Certificate, ...]:
        try:
            der = base64.b64decode(b"".join(answer.body.split()), validate=True)
            return tuple(pkcs7.load_der_pkcs7_certificates(der))
        except (binascii.Error, ValueError, UnsupportedAlgorithm) as error:
            raise EnrolmentError(f"{self._url}: its answer is no certs-only PKCS #7") from error

    def _ask(
        self,
        method: str,
        path: str,
        context: ssl.SSLContext,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        verified: bool = True,
        wait_s: float = 0.0,
    ) -> _Answer:
        """``wait_s``: for so long the server was told that it may be silent."""
        connection = _Connection(self._host, self._port, self._server_name, context)
        # Each read has a timeout, but a server may send a byte now and then for ever.
        watchdog = threading.Timer(_TOTAL_S + wait_s, connection.abort)
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.connect()
            connection.sock.settimeout(_TIMEOUT_S + wait_s)
            if verified:
                self._check_server(connection.sock)
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            answer = _Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                _read(response),
            )
        except (OSError, http.client.HTTPException) as error:
            # TLS 1.3: a server that refuses our certificate says so only after the handshake, and
            # its reset may be there before its words.
            refused = isinstance(error, ssl.SSLError | ConnectionResetError | BrokenPipeError)
            raise (UntrustedError if refused else EnrolmentError)(
                f"{self._url}: {_reason(error)}; check that the authority runs there and that "
                "this node's clock is right"
            ) from error
        finally:
            watchdog.cancel()
            connection.close()
        if not (answer.status == _NOT_MODIFIED and headers and "If-None-Match" in headers):
            self._check_status(path, answer)
        return answer

    def _check_server(self, secured: socket.socket) -> None:
        """The certificate is the authority's own, not a node's that has the server's name."""
        der = secured.getpeercert(True) if isinstance(secured, ssl.SSLSocket) else None
        name = common_name(load_certificate(der).subject) if der else ""
        if name != SERVER_NAME:
            raise EnrolmentError(
                f"{self._url}: shows a certificate that is not the authority's own, but of "
                f"{name!a}"
            )

    def _check_status(self, path: str, answer: _Answer) -> None:
        if answer.status in (200, 204):
            return
        said = f"{self._url}{path}: {answer.status}: {_reasons(answer.body)}"
        if answer.status in (429, 503):
            retry = answer.headers.get("retry-after", "")
            seconds = float(retry) if retry.isascii() and retry.isdigit() else _RETRY_S
            raise BusyError(said, min(max(seconds, 1.0), 3600.0))
        if answer.status in (400, 401, 403):
            raise RefusedError(said)
        raise EnrolmentError(said)


class _Connection(http.client.HTTPSConnection):
    """Checks the server's certificate for another name than that of the URL, if told so."""

    def __init__(self, host: str, port: int, server_name: str, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=_TIMEOUT_S, context=context)
        self._tls = context
        self._name = server_name
        self._held: ssl.SSLSocket | None = None
        """Stays when http.client hands the socket over to a response without a length."""

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), _TIMEOUT_S)
        # Headers and body are two writes: the second must not wait for a delayed ACK.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.sock = self._tls.wrap_socket(
                plain, server_hostname=self._name, do_handshake_on_connect=False
            )
        except BaseException:
            plain.close()
            raise
        self._held = self.sock
        self.sock.do_handshake()

    def abort(self) -> None:
        """End what waits for this connection. From any thread."""
        if self._held is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown, which takes the TLS state from under a reader.
                socket.socket.shutdown(self._held, socket.SHUT_RDWR)


def _client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _trusting(trusted: Credentials | x509.Certificate) -> ssl.SSLContext:
    """Verifies the server by these roots, never by those of the system."""
    context = _client_context()
    try:
        if isinstance(trusted, x509.Certificate):
            context.load_verify_locations(cadata=trusted.public_bytes(serialization.Encoding.DER))
            return context
        context.load_verify_locations(cafile=trusted.bundle)
        if trusted.certificate is not None:
            context.load_cert_chain(trusted.certificate, trusted.private_key)
    except OSError as error:  # ssl.SSLError is one
        raise UntrustedError(f"the identity in place cannot be used: {_reason(error)}") from error
    return context


def _read(response: http.client.HTTPResponse) -> bytes:
    body = response.read(_ANSWER_MOST_BYTES + 1)
    if len(body) > _ANSWER_MOST_BYTES:
        raise http.client.HTTPException("the answer is too long")
    return body


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _reasons(body: bytes) -> str:
    """What a refusal says, as one printable line."""
    try:
        said = json.loads(body)["reasons"]
        text = "; ".join(str(reason) for reason in said)
    except (ValueError, KeyError, TypeError):
        text = ""
    printable = "".join(char if char.isprintable() else "?" for char in text)
    return printable[:_REASON_MOST] or "no reason given"

"""EST (RFC 7030) in front of a desk: who asks is found out here, what is answered is not.

| method and path | who | answer |
|---|---|---|
| GET /.well-known/est/cacerts | anybody | roots and what links them, certs-only PKCS #7 |
| GET /.well-known/est/csrattrs | anybody | 204: nothing is asked for |
| POST /.well-known/est/simpleenroll | a join token (HTTP Basic) | the certificate |
| POST /.well-known/est/simplereenroll | the present certificate (TLS) | the certificate |
| GET /crl | anybody | the newest CRL of each root (PEM), also the deny-list of nodes |
| POST /ovn-ipsec/bundle | the present certificate | 204; body: digest of the bundle trusted |

Beyond the RFC: ``cacerts`` names the root that signs now in ``OVN-IPsec-Signing-Root`` (SHA-256),
because PKCS #7 keeps no order. ``cacerts`` and ``crl`` carry an ETag, and a client with a
certificate that sends it back with ``Prefer: wait=SECONDS`` (RFC 7240) gets its answer when there
is something new. Refusals say why as application/problem+json (RFC 9457), in ``reasons``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import json
import logging
import math
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http import HTTPStatus
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from ca.errors import CaError, StoreError
from ca.est_http import Handler, HttpServer, Limits, Request, Response
from ca.est_tls import TlsMaterial, TlsSource, server_context
from ca.requests import (
    ByCertificate,
    ByToken,
    CaBusy,
    Desk,
    RequestDenied,
    Requester,
    crls_pem,
)

_LOG = logging.getLogger(__name__)

EST = "/.well-known/est"
SIGNING_ROOT_HEADER = "OVN-IPsec-Signing-Root"
WAIT_MOST_S = 60
"""How long an answer may be held back; proxies and NAT forget connections that are silent."""
WATCH_S = 0.5
RELOAD_S = 1.0
"""How often the server's own certificate and the roots are looked at."""
WORKERS = 16
"""Desk calls at a time; more of them share one write of the log."""
WAITING_MOST = 1024
STORE_RETRY_S = 30

_T = TypeVar("_T")


class EstFrontEnd:
    """Requests to answers. One per server; ``close`` ends its threads."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="desk")
        self._waiting = 0
        self._cacerts = _Watched(lambda: self._run(self._roots_and_links))
        self._crl = _Watched(lambda: self._run(desk.crls))
        self._routes: dict[str, tuple[str, Handler]] = {
            f"{EST}/cacerts": ("GET", self._get_cacerts),
            f"{EST}/csrattrs": ("GET", self._get_csrattrs),
            f"{EST}/simpleenroll": ("POST", self._enroll),
            f"{EST}/simplereenroll": ("POST", self._reenroll),
            "/crl": ("GET", self._get_crl),
            "/ovn-ipsec/bundle": ("POST", self._acknowledge),
        }

    def close(self) -> None:
        """End the threads after what they do now."""
        self._workers.shutdown(wait=True, cancel_futures=True)

    def _roots_and_links(self) -> tuple[bytes, ...]:
        return (*self._desk.bundle(), *self._desk.cross())

    async def answer(self, request: Request) -> Response:
        """The answer to one request; every refusal has its reasons."""
        method, handler = self._routes.get(request.path, ("", None))
        if handler is None:
            return _problem(HTTPStatus.NOT_FOUND, "there is nothing of this name")
        if request.method != method:
            allow = ("Allow", method)
            return _problem(HTTPStatus.METHOD_NOT_ALLOWED, f"use {method}", headers=(allow,))
        try:
            return await handler(request)
        except RequestDenied as denied:
            _LOG.warning("%s: denied: %a", request.path, str(denied))  # names are data
            return _problem(HTTPStatus.FORBIDDEN, *denied.reasons)
        except CaBusy as busy:
            return _later(str(busy), busy.retry_after_s)
        except StoreError as error:
            _LOG.error("%s: %s", request.path, error)
            return _later("the authority cannot store anything now", STORE_RETRY_S)

    async def _get_cacerts(self, request: Request) -> Response:
        members = await self._cacerts.read(request)
        certificates = [x509.load_der_x509_certificate(der) for der in members]
        body = base64.encodebytes(pkcs7.serialize_certificates(certificates, Encoding.DER))
        headers = (
            ("Content-Type", "application/pkcs7-mime"),
            ("Content-Transfer-Encoding", "base64"),
            (SIGNING_ROOT_HEADER, sha256(members[0]).hexdigest()),
        )
        return _tagged(request, _tag(members), body, headers)

    async def _get_csrattrs(self, _: Request) -> Response:
        return Response(HTTPStatus.NO_CONTENT)

    async def _get_crl(self, request: Request) -> Response:
        crls = await self._crl.read(request)
        headers = (("Content-Type", "application/x-pem-file"),)
        return _tagged(request, _tag(crls), crls_pem(crls), headers)

    async def _enroll(self, request: Request) -> Response:
        requester = _token(request.headers.get("authorization", ""))
        if requester is None:
            challenge = ("WWW-Authenticate", 'Basic realm="join token", charset="UTF-8"')
            reason = "a join token is needed: user name the chassis id, password the token"
            return _problem(HTTPStatus.UNAUTHORIZED, reason, headers=(challenge,))
        return await self._sign(request, requester)

    async def _reenroll(self, request: Request) -> Response:
        if request.peer is None:
            return _problem(HTTPStatus.FORBIDDEN, _NO_CERTIFICATE)
        return await self._sign(request, ByCertificate(request.peer))

    async def _sign(self, request: Request, requester: Requester) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/pkcs10":
            return _problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/pkcs10")
        try:
            # White space may stand between the digits (RFC 8951); anything else may not.
            csr = base64.b64decode(b"".join(request.body.split()), validate=True)
        except binascii.Error:
            return _problem(HTTPStatus.BAD_REQUEST, "the body is not base64 of a PKCS #10 request")
        if not csr:
            return _problem(HTTPStatus.BAD_REQUEST, "the body is empty: send a PKCS #10 request")
        der = await self._run(functools.partial(self._desk.sign, csr, requester))
        certificate = x509.load_der_x509_certificate(der)
        body = base64.encodebytes(pkcs7.serialize_certificates([certificate], Encoding.DER))
        headers = (
            ("Content-Type", "application/pkcs7-mime; smime-type=certs-only"),
            ("Content-Transfer-Encoding", "base64"),
        )
        return Response(HTTPStatus.OK, body, headers)

    async def _acknowledge(self, request: Request) -> Response:
        chassis_id = _common_name(request.peer)
        if chassis_id is None:
            return _problem(HTTPStatus.FORBIDDEN, _NO_CERTIFICATE)
        digest = request.body.strip().decode("ascii", "replace")
        if len(digest) != 64 or not all(char in "0123456789abcdef" for char in digest):
            return _problem(HTTPStatus.BAD_REQUEST, "the body is not a SHA-256 in hexadecimal")
        await self._run(functools.partial(self._desk.acknowledge, chassis_id, digest))
        return Response(HTTPStatus.NO_CONTENT)

    async def _run(self, call: Callable[[], _T]) -> _T:
        """Call the desk, which may wait for the disk, in a thread."""
        if self._waiting >= WAITING_MOST:
            raise CaBusy("too many requests at a time", 5)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, call)
        finally:
            self._waiting -= 1


_NO_CERTIFICATE = "the client's certificate is needed in the TLS handshake"


class _Watched:
    """Something of the desk's that clients may wait for to change; one read serves them all."""

    def __init__(self, read: Callable[[], Awaitable[tuple[bytes, ...]]]) -> None:
        self._read = read
        self._next: asyncio.Task[tuple[bytes, ...]] | None = None

    async def read(self, request: Request) -> tuple[bytes, ...]:
        """The value: at once, or when it is another than the request names, or time is up."""
        value = await self._read()
        loop = asyncio.get_running_loop()
        end = loop.time() + _wait_s(request)
        while loop.time() < end and _tag(value) == request.headers.get("if-none-match"):
            if self._next is None or self._next.done():
                self._next = asyncio.create_task(self._later())
            # Shielded: a client that goes ends its own waiting, not that of the others.
            value = await asyncio.shield(self._next)
        return value

    async def _later(self) -> tuple[bytes, ...]:
        await asyncio.sleep(WATCH_S)
        return await self._read()


def _wait_s(request: Request) -> int:
    """``Prefer: wait=N`` of a client with a certificate; others hold no connection open."""
    if request.peer is None:
        return 0
    for part in request.headers.get("prefer", "").split(","):
        name, _, value = part.strip().partition("=")
        if name.strip().lower() == "wait" and value.isascii() and value.isdigit():
            return min(int(value[:4]), WAIT_MOST_S)
    return 0


def _tag(parts: tuple[bytes, ...]) -> str:
    return f'"{sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest()}"'


def _tagged(
    request: Request, tag: str, body: bytes, headers: tuple[tuple[str, str], ...]
) -> Response:
    if request.headers.get("if-none-match") == tag:
        return Response(HTTPStatus.NOT_MODIFIED, headers=(("ETag", tag),))
    return Response(HTTPStatus.OK, body, (("ETag", tag), *headers))


def _token(authorization: str) -> ByToken | None:
    """The join token of an HTTP Basic header (RFC 7617), None when there is none."""
    scheme, _, coded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(coded.strip(), validate=True).decode("utf-8")
    except ValueError:
        return None
    name, colon, secret = text.partition(":")
    return ByToken(name, secret) if colon and name and secret else None


def _common_name(peer: bytes | None) -> str | None:
    if peer is None:
        return None
    subject = x509.load_der_x509_certificate(peer).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else None


def _problem(
    status: HTTPStatus, *reasons: str, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    body = {"title": status.phrase, "status": status.value, "reasons": reasons}
    kind = ("Content-Type", "application/problem+json")
    return Response(status, json.dumps(body).encode() + b"\n", (kind, *headers))


def _later(reason: str, retry_after_s: float) -> Response:
    seconds = ("Retry-After", str(max(1, math.ceil(retry_after_s))))
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE, reason, headers=(seconds,))


async def serve_until_cancelled(
    desk: Desk, tls: TlsSource, listener: socket.socket, limits: Limits | None = None
) -> None:
    """Answer on ``listener``. Raises CaError: there is no certificate to begin with."""
    front_end = EstFrontEnd(desk)
    contexts = _Contexts(desk, tls)
    await asyncio.to_thread(contexts.reload)
    server = HttpServer(listener, front_end.answer, contexts.latest, limits or Limits())
    beside = [asyncio.create_task(contexts.keep()), asyncio.create_task(_keep_house(desk))]
    try:
        await server.run()
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        front_end.close()


async def _keep_house(desk: Desk) -> None:
    while True:
        try:
            pause_s = await asyncio.to_thread(desk.keep_house)
        except Exception:  # noqa: BLE001 (a fault must not end roll-overs for good)
            _LOG.exception("The authority's own affairs are not in order")
            pause_s = STORE_RETRY_S
        await asyncio.sleep(pause_s)


class _Contexts:
    """The TLS context for connections that come now."""

    def __init__(self, desk: Desk, tls: TlsSource) -> None:
        self._desk = desk
        self._tls = tls
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._roots: tuple[bytes, ...] = ()
        self._material: TlsMaterial | None = None
        self._well = True

    def reload(self) -> ssl.SSLContext:
        """Make another context if anything has changed. Raises CaError, OSError, ValueError."""
        with self._lock:
            material, roots = self._tls(), self._desk.bundle()
            if self._context is None or (material, roots) != (self._material, self._roots):
                self._context = server_context(material, roots)
                self._material, self._roots = material, roots
            return self._context

    async def latest(self) -> ssl.SSLContext:
        """Looks at the roots each time: whom a new one certified may come at once."""
        try:
            if self._context is not None and self._desk.bundle() == self._roots:
                return self._context
        except CaError as error:
            _LOG.error("The roots cannot be read: %s", error)
        return await self._reloaded()

    async def keep(self) -> None:
        """Renew the server's own certificate in time, for ever."""
        while True:
            await asyncio.sleep(RELOAD_S if self._well else STORE_RETRY_S)
            await self._reloaded()

    async def _reloaded(self) -> ssl.SSLContext:
        """What is wrong leaves the last good context in use."""
        try:
            context = await asyncio.to_thread(self.reload)
            self._well = True
            return context
        except Exception:
            self._well = False
            _LOG.exception("The server's certificate cannot be renewed or loaded")
            if self._context is None:
                raise
            return self._context


def listening_socket(address: str, port: int) -> socket.socket:
    """A TCP socket that listens; port 0 takes a free one. Raises CaError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=1024)
    except OSError as error:
        raise CaError(f"{address} port {port}: cannot be listened on: {error.strerror}") from error


def serve(desk: Desk, tls: TlsSource, address: str, port: int) -> None:
    """Answer until SIGTERM or SIGINT. Raises CaError when it cannot begin.

    To be called in the main thread, once the log is set up.
    """
    _raise_descriptor_limit(Limits().connections + 64)
    with listening_socket(address, port) as listener:
        _LOG.info("EST on %s port %s", *listener.getsockname()[:2])
        asyncio.run(_until_signal(serve_until_cancelled(desk, tls, listener)))


async def _until_signal(serving: Awaitable[None]) -> None:
    task = asyncio.ensure_future(serving)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _raise_descriptor_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

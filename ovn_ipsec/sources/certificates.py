"""The PEM files that OVSDB names, as facts. Reads files; never blocks, judges or raises.

A file is read again only when its stat signature changed, so a snapshot of unchanged files
costs one stat each.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ovn_ipsec.model.facts import (
    CertificateFact,
    NodeFact,
    PkiFact,
    PrivateKeyFact,
    TunnelFact,
)
from ovn_ipsec.sources.pem import PemProblem, certificate_fact, issued_by, private_key_fact

_LOG = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 20
CHECK_S = 5.0
"""How often unchanged files are looked at."""
SETTLING_CHECK_S = 1.0
SETTLE_S = 10.0
"""How long files that do not fit each other are taken to be still being written (DECISIONS 2)."""

Signature = tuple[int, int, int, int, int]
"""dev, ino, size, mtime_ns, ctime_ns."""
Fact = TypeVar("Fact", CertificateFact, PrivateKeyFact)


@dataclass(frozen=True, slots=True)
class CredentialPaths:
    """The files that OVSDB names. None: not named."""

    certificate: str | None = None
    private_key: str | None = None
    ca_cert: str | None = None
    remote: frozenset[str] = frozenset()

    @classmethod
    def from_ovsdb(cls, node: NodeFact, tunnels: Iterable[TunnelFact]) -> CredentialPaths:
        """From ``Open_vSwitch:other_config`` and ``Interface:options:remote_cert``."""
        config = node.other_config
        remote = (tunnel.options.get("remote_cert") for tunnel in tunnels)
        return cls(
            certificate=config.get("certificate") or None,
            private_key=config.get("private_key") or None,
            ca_cert=config.get("ca_cert") or None,
            remote=frozenset(path for path in remote if path),
        )


@dataclass(frozen=True, slots=True)
class _Own:
    """The node's own three files at one moment."""

    certificate: CertificateFact | None
    private_key: PrivateKeyFact | None
    ca_cert: CertificateFact | None
    issued_by_ca: bool

    @property
    def readable(self) -> bool:
        facts = (self.certificate, self.private_key, self.ca_cert)
        return all(fact is None or fact.problem is None for fact in facts)

    @property
    def fitting(self) -> bool:
        """Key and certificate are a pair, and the CA issued it or it is self-signed."""
        if self.certificate is None or self.private_key is None:
            return False
        pair = self.certificate.public_key_hash == self.private_key.public_key_hash
        self_signed = self.certificate.issuer == self.certificate.subject
        return pair and (self.ca_cert is None or self.issued_by_ca or self_signed)


class CertificateFiles:
    """Keeps what the files said when they last changed."""

    def __init__(self) -> None:
        self._certificates: dict[str, tuple[Signature, CertificateFact]] = {}
        self._keys: dict[str, tuple[Signature, PrivateKeyFact]] = {}
        self._last_fitting: _Own | None = None
        self._unfitting_since: float | None = None
        self._next_check_s = CHECK_S

    @property
    def next_check_s(self) -> float:
        """Seconds after which ``snapshot`` should be called again, without any other event."""
        return self._next_check_s

    def snapshot(self, paths: CredentialPaths, now_monotonic: float) -> PkiFact:
        """The files as they are now; what is wrong with one is in its ``problem``."""
        own = self._settled(self._own(paths), now_monotonic)
        remote = {path: self._certificate(path) for path in sorted(paths.remote)}
        named = {paths.certificate, paths.ca_cert, *paths.remote}
        for path in self._certificates.keys() - named:
            del self._certificates[path]
        for path in self._keys.keys() - {paths.private_key}:
            del self._keys[path]
        return PkiFact(own.certificate, own.private_key, own.ca_cert, remote, own.issued_by_ca)

    def _own(self, paths: CredentialPaths) -> _Own:
        certificate = self._certificate(paths.certificate) if paths.certificate else None
        ca_cert = self._certificate(paths.ca_cert) if paths.ca_cert else None
        issued = False
        if certificate and ca_cert and not certificate.problem and not ca_cert.problem:
            issued = issued_by(certificate, ca_cert)
        key = self._key(paths.private_key) if paths.private_key else None
        return _Own(certificate, key, ca_cert, issued)

    def _settled(self, own: _Own, now_monotonic: float) -> _Own:
        self._next_check_s = CHECK_S
        if not own.readable or own.certificate is None or own.private_key is None:
            self._unfitting_since = None
            self._next_check_s = SETTLING_CHECK_S if not own.readable else CHECK_S
            return own
        if own.fitting:
            self._unfitting_since = None
            self._last_fitting = own
            return own
        if self._unfitting_since is None:
            self._unfitting_since = now_monotonic
        self._next_check_s = SETTLING_CHECK_S
        if now_monotonic - self._unfitting_since < SETTLE_S and self._last_fitting:
            return self._last_fitting
        return own

    def _certificate(self, path: str) -> CertificateFact:
        return _cached(path, self._certificates, certificate_fact, CertificateFact)

    def _key(self, path: str) -> PrivateKeyFact:
        return _cached(path, self._keys, private_key_fact, PrivateKeyFact)


def _cached(
    path: str,
    cache: dict[str, tuple[Signature, Fact]],
    parse: Callable[[str, bytes], Fact],
    failed: Callable[[str, str], Fact],
) -> Fact:
    known = cache.get(path)
    try:
        if known and known[0] == _signature(Path(path).stat()):
            return known[1]
        signature, data = _read(path)
    except (OSError, ValueError) as error:
        # ValueError: a NUL or a lone surrogate in a path from OVSDB.
        cache.pop(path, None)
        reason = error.strerror if isinstance(error, OSError) else "not a possible path"
        return failed(path, f"{path!r}: cannot be read: {reason}; check the path and its mode")
    except PemProblem as problem:
        cache.pop(path, None)
        return failed(path, f"{path!r} {problem}")
    try:
        fact = parse(path, data)
    except PemProblem as problem:
        fact = failed(path, f"{path!r} {problem}")
    _LOG.info("Read %r%s", path, ": " + fact.problem if fact.problem else "")
    cache[path] = (signature, fact)
    return fact


def _read(path: str) -> tuple[Signature, bytes]:
    """The content with the signature that it had before it was read.

    O_NONBLOCK: opening a FIFO must not wait for a writer.
    """
    if not path.startswith("/"):
        raise PemProblem("is a relative path; give an absolute one")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PemProblem("is not a regular file; name the PEM file itself")
        if status.st_size > MAX_FILE_BYTES:
            raise PemProblem(f"has {status.st_size} bytes; a PEM file is under {MAX_FILE_BYTES}")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise PemProblem(f"has over {MAX_FILE_BYTES} bytes; a PEM file has fewer")
    if not data.strip():
        raise PemProblem("is empty; write the PEM text into it")
    return _signature(status), data


def _signature(status: os.stat_result) -> Signature:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )

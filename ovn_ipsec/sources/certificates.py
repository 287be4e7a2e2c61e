"""The PEM files that OVSDB names, as facts. Reads files; never blocks, judges or raises.

A snapshot of unchanged files costs one stat each (``files``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ovn_ipsec.model.facts import (
    CertificateFact,
    NodeFact,
    PkiFact,
    PrivateKeyFact,
    TunnelFact,
)
from ovn_ipsec.sources.files import ParsedFiles
from ovn_ipsec.sources.pem import certificate_fact, issued_by, private_key_fact
from ovn_ipsec.sources.revocation import Revocations

CHECK_S = 5.0
"""How often unchanged files are looked at."""
CRL_CHECK_S = 2.0
"""The same where there is a CRL: a revoked node is to be cut off soon."""
SETTLING_CHECK_S = 1.0
SETTLE_S = 10.0
"""How long files that do not fit each other are taken to be still being written (DECISIONS 2)."""


@dataclass(frozen=True, slots=True)
class CredentialPaths:
    """The files that OVSDB names. None: not named."""

    certificate: str | None = None
    private_key: str | None = None
    ca_cert: str | None = None
    remote: frozenset[str] = frozenset()
    ca_crl: str | None = None

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
            ca_crl=config.get("ca_crl") or None,
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
        self._certificates = ParsedFiles(certificate_fact, CertificateFact)
        self._keys = ParsedFiles(private_key_fact, PrivateKeyFact)
        self._revocations = Revocations()
        self._last_fitting: _Own | None = None
        self._unfitting_since: float | None = None
        self._next_check_s = CHECK_S

    @property
    def next_check_s(self) -> float:
        """Seconds after which ``snapshot`` should be called again, without any other event."""
        return self._next_check_s

    def snapshot(self, paths: CredentialPaths, now_monotonic: float) -> PkiFact:
        """The files as they are now; what is wrong with one is in its ``problem``."""
        found = self._own(paths)
        own = self._settled(found, now_monotonic)
        if paths.ca_crl:
            self._next_check_s = min(self._next_check_s, CRL_CHECK_S)
        remote = {path: self._certificates.read(path) for path in sorted(paths.remote)}
        self._certificates.forget_others({paths.certificate, paths.ca_cert, *paths.remote})
        self._keys.forget_others({paths.private_key})
        return PkiFact(
            own.certificate,
            own.private_key,
            own.ca_cert,
            remote,
            own.issued_by_ca,
            self._revocations.snapshot(paths.ca_crl, found.ca_cert),
        )

    def _own(self, paths: CredentialPaths) -> _Own:
        certificate = self._certificates.read(paths.certificate) if paths.certificate else None
        ca_cert = self._certificates.read(paths.ca_cert) if paths.ca_cert else None
        issued = False
        if certificate and ca_cert and not certificate.problem and not ca_cert.problem:
            issued = issued_by(certificate, ca_cert)
        key = self._keys.read(paths.private_key) if paths.private_key else None
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

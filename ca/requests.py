"""Who asks for a certificate, and the desk that answers: what front ends and authority share.

A front end (EST, directory, command line, Kubernetes) authenticates the requester and hands over
what was proven, as one of the four requesters below. It decides nothing else: the desk checks
the token or certificate itself, asks the policy, signs and records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.errors import CaError


@dataclass(frozen=True, slots=True)
class ByToken:
    """Somebody who holds a join token: the user name and password of HTTP Basic."""

    chassis_id: str
    secret: str = field(repr=False)
    """The token's secret part, or the whole token text."""


@dataclass(frozen=True, slots=True)
class ByCertificate:
    """The other end of a TLS handshake.

    The TLS layer has verified that the peer holds the key and that the chain ends in a root of
    the bundle. Whether we issued it, and whether it still counts, is the desk's question.
    """

    der: bytes


@dataclass(frozen=True, slots=True)
class ByOperator:
    """An operator at the authority's machine, who vouches for the id."""

    chassis_id: str
    replace: bool = False
    """The id may have a live certificate; it is given another, for this key."""


@dataclass(frozen=True, slots=True)
class ByNode:
    """A Kubernetes Node, which the API server has authenticated.

    The front end has found out which Node asks and which chassis that is. What it missed on the
    way is in ``doubts``, and then nothing is proven.
    """

    node: str
    chassis_id: str
    claimants: tuple[str, ...] = ()
    """Other Nodes that say that they are this chassis."""
    doubts: tuple[str, ...] = ()


Requester = ByToken | ByCertificate | ByOperator | ByNode


class RequestDenied(CaError):
    """The policy says no. Asking again with the same request cannot help."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
        """Every reason, not only the first."""


class CaBusy(CaError):
    """Not now: a rate limit or the cap on waiting requests. Nothing was recorded or used up."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Desk(Protocol):
    """The authority as a front end sees it. Every method may be called from any thread.

    Besides what is named below, each may raise StoreError when the state directory fails (disk
    full, unwritable); then nothing was issued.
    """

    def sign(self, csr_der: bytes, requester: Requester) -> bytes:
        """The certificate (DER) for a PKCS #10 request (DER).

        Returns only after the issuing is on disk. The same request again, by the same id, gives
        the same certificate. May wait some milliseconds for a write that several calls share.

        Raises RequestDenied (final, and recorded) and CaBusy (come again).
        """

    def bundle(self) -> tuple[bytes, ...]:
        """Every root to trust (DER), the one that signs now first. Never empty, cheap.

        A node whose certificate is not from the first root is asked to renew soon.
        """

    def cross(self) -> tuple[bytes, ...]:
        """The link certificates of a roll-over (RFC 4210, 4.4): each root signed by the other.

        For ``/cacerts`` and TLS chains, never for the node's bundle. Empty out of a roll-over.
        """

    def crls(self) -> tuple[bytes, ...]:
        """The newest CRL by each root (DER), in the order of ``bundle``.

        All say the same, names of revoked nodes included: who knows one root only believes its
        own. NSS, too, checks a certificate against the CRL that its issuer's key signed.

        Cheap; changes when a node is revoked or admitted again, and now and then by age.
        """

    def server_certificate(
        self, public_key_der: bytes, names: tuple[str, ...]
    ) -> tuple[bytes, ...]:
        """A certificate for the front end's own TLS, and what links it to an older root.

        ``public_key_der`` is a SubjectPublicKeyInfo, ``names`` are DNS names and IP addresses
        that nodes call the server by. Ask again when ``bundle()[0]`` changes or renewal is due.
        The subject's common name is SERVER_NAME, which no chassis can have.

        Raises RequestDenied for a key or name that cannot be certified.
        """

    def acknowledge(self, chassis_id: str, bundle_digest: str) -> None:
        """A node, authenticated by its certificate, says that it trusts this bundle.

        ``bundle_digest`` is ``bundle_digest(bundle)`` of what the node has installed. Digests of
        other bundles are ignored: the node will learn the present one and come again.
        """

    def keep_house(self) -> float:
        """Do what the roll-over has due; returns the seconds after which to call again.

        A server calls it from one thread for as long as it runs.
        """


SERVER_NAME = "ovn-ipsec authority"
"""Common name of the front end's own certificate. Blanks are not allowed in a chassis id."""


def bundle_digest(bundle: tuple[bytes, ...]) -> str:
    """Names a set of roots, whatever their order: SHA-256 (hex) over their sorted SHA-256."""
    return sha256(b"".join(sorted(sha256(der).digest() for der in bundle))).hexdigest()


def crls_pem(crls: tuple[bytes, ...]) -> bytes:
    """CRLs as one PEM text."""
    return b"".join(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM) for der in crls)

"""What the world says, copied from the sources: values only, no live rows, no judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ovn_ipsec.model.conns import Secret


@dataclass(frozen=True, slots=True)
class TunnelFact:
    """One OVSDB ``Interface`` row of a tunnel type (vswitch schema, table Interface)."""

    name: str
    type: str
    options: Mapping[str, str] = field(repr=False)
    """The column as it is; may hold ``psk``, so it never shows in a repr."""
    ofport: int | None = None
    cfm_fault: bool | None = None
    datapath_type: str = "system"
    """Of the bridge that holds the port; ``netdev`` means that the kernel never sees it."""


@dataclass(frozen=True, slots=True)
class NodeFact:
    """The ``Open_vSwitch`` row: what concerns the whole node."""

    other_config: Mapping[str, str] = field(default_factory=dict)
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CertificateFact:
    """One PEM certificate file as it is now.

    ``problem`` is None when the file was read and parsed; otherwise it says what is wrong with
    it and the other fields are empty. Validity against the clock is for ``desired`` to judge.
    """

    path: str
    problem: str | None = None
    pem: str = ""
    """The first certificate alone, re-encoded."""
    chain: tuple[CertificateFact, ...] = ()
    """Every certificate of the file in order, the first included (a CA bundle has several)."""
    common_name: str = ""
    dns_names: tuple[str, ...] = ()
    fingerprint: str = ""
    """SHA-256 of the DER, lower-case hex."""
    public_key_hash: str = ""
    """SHA-256 of the SubjectPublicKeyInfo, lower-case hex."""
    key_type: str = ""
    """``rsa`` or ``ec``: libreswan's ``authby`` depends on it."""
    issuer: str = ""
    """RFC 4514 string."""
    subject: str = ""
    """RFC 4514 string."""
    serial: int = 0
    not_before: datetime | None = None
    not_after: datetime | None = None
    is_ca: bool = False


@dataclass(frozen=True, slots=True)
class PrivateKeyFact:
    """One PEM private key file as it is now."""

    path: str
    problem: str | None = None
    pem: Secret = field(default_factory=lambda: Secret(""))
    public_key_hash: str = ""


@dataclass(frozen=True, slots=True)
class RevocationFact:
    """Who is revoked, by every list that was believed since the agent began to live.

    A file that is lost, damaged or of an unknown issuer takes nothing back.
    """

    denied: frozenset[str] = frozenset()
    """Names of nodes, in lower case."""
    serials: frozenset[tuple[str, int]] = frozenset()
    """(issuer as RFC 4514 string, serial number) of certificates."""
    next_update: datetime | None = None
    """When the first of the lists should have been replaced by a newer one."""
    problems: tuple[str, ...] = ()
    """What is wrong with the file, and with lists in it."""


@dataclass(frozen=True, slots=True)
class PkiFact:
    """The files that OVSDB names. None: OVSDB names no such file."""

    certificate: CertificateFact | None = None
    private_key: PrivateKeyFact | None = None
    ca_cert: CertificateFact | None = None
    remote_certificates: Mapping[str, CertificateFact] = field(default_factory=dict)
    """By path, for self-signed peers (``options:remote_cert``)."""
    issued_by_ca: bool = False
    """The certificate's signature verifies with a certificate of ``ca_cert``."""
    revocation: RevocationFact = field(default_factory=RevocationFact)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the sources know at one moment."""

    in_sync: bool
    """Every enabled source has reported at least once; nothing is removed before."""
    node: NodeFact = field(default_factory=NodeFact)
    tunnels: tuple[TunnelFact, ...] = ()
    pki: PkiFact = field(default_factory=PkiFact)
    local_addresses: Mapping[str, str | None] = field(default_factory=dict)
    """remote address -> the address this node would send from, None when there is no route."""
    now: datetime | None = None
    """Wall clock in UTC at the snapshot, for certificate validity."""

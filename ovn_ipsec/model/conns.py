"""What must exist, and what does exist: connections, credentials, guard, SAs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property, lru_cache

from ovn_ipsec.model.kernel import Kernel, KernelPolicy, host_prefix

IPSEC_OPTIONS = frozenset({"psk", "remote_cert", "remote_name"})
"""Of a tunnel's ``Interface:options`` (ovs-vswitchd.conf.db(5)): one of them asks for IPsec."""


ANY_LOCAL = "%defaultroute"
"""In place of its own address: which of the node's the peer is reached from decides pluto."""


class Secret:
    """A text that never shows itself: not in repr, str, logs or tracebacks."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself, for the one place that must write it."""
        return self._value

    def __repr__(self) -> str:
        return "<hidden>"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(("Secret", self._value))


class Protocol(StrEnum):
    """Upper-layer protocol of a traffic selector."""

    UDP = "udp"
    TCP = "tcp"
    GRE = "gre"


@dataclass(frozen=True, slots=True)
class Selector:
    """A traffic selector pair of one connection; None is any port (RFC 7296 section 3.13)."""

    protocol: Protocol
    local_port: int | None = None
    remote_port: int | None = None

    def policies(self, local: str, remote: str) -> tuple[KernelPolicy, KernelPolicy]:
        """The two that a transport-mode child SA installs between two addresses, out and in."""
        return _policies(self, local, remote)


@lru_cache(maxsize=1 << 15)
def _policies(selector: Selector, own: str, peer: str) -> tuple[KernelPolicy, KernelPolicy]:
    local, remote = host_prefix(own), host_prefix(peer)
    mine, theirs = selector.local_port, selector.remote_port
    protocol = selector.protocol.value
    return (
        KernelPolicy(local, remote, protocol, mine, theirs, "out"),
        KernelPolicy(remote, local, protocol, theirs, mine, "in"),
    )


@dataclass(frozen=True, slots=True)
class PskAuth:
    """Pre-shared key."""

    psk: Secret


@dataclass(frozen=True, slots=True)
class CertificateAuth:
    """Certificates: CA-signed, or self-signed when ``remote_nickname`` names the peer's own."""

    local_name: str
    remote_name: str
    local_nickname: str
    remote_nickname: str | None = None


Auth = PskAuth | CertificateAuth


@dataclass(frozen=True, slots=True)
class Ends:
    """Which traffic a tunnel's connections are for: it decides their roles and policies."""

    protocol: Protocol
    port: int | None
    """Destination port of the tunnel protocol; None for gre."""
    local: str
    """Numeric address of this end; of a record of the original's also ``ANY_LOCAL``."""
    remote: str
    """Numeric address of the peer."""

    def selectors(self) -> Mapping[str, Selector]:
        """Connection role -> selectors. Roles are part of the wire contract (COMPAT)."""
        return _selectors(self.protocol, self.port)


@dataclass(frozen=True)
class TunnelConfig(Ends):
    """Everything about one tunnel that pluto is told. Its content is its identity."""

    auth: Auth
    keywords: tuple[tuple[str, str], ...]
    """Further libreswan conn keywords, in the order in which they are written."""
    lead: bool = False
    """This end initiates; the other end only after a while of silence (not part of identity)."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that would change the connection (not over ``lead``)."""
        auth = self.auth
        parts: list[str] = [self.protocol, str(self.port), self.local, self.remote]
        if isinstance(auth, PskAuth):
            parts += ["psk", auth.psk.reveal()]
        else:
            parts += ["cert", auth.local_name, auth.remote_name]
            parts += [auth.local_nickname, auth.remote_nickname or ""]
        parts += [f"{key}={value}" for key, value in self.keywords]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@lru_cache(maxsize=64)
def _selectors(protocol: Protocol, port: int | None) -> Mapping[str, Selector]:
    if protocol is Protocol.GRE:
        return {"": Selector(Protocol.GRE)}
    return {
        "in": Selector(protocol, local_port=port),
        "out": Selector(protocol, remote_port=port),
    }


def connection_name(tunnel: str, role: str, version: int) -> str:
    """The name of a pluto connection: ``IF-in-N``, ``IF-out-N``, ``IF-N``."""
    return f"{tunnel}-{role}-{version}" if role else f"{tunnel}-{version}"


def same_connection(record: TunnelConfig, wanted: TunnelConfig) -> bool:
    """Whether a connection made elsewhere (the original's) can stay for what is wanted.

    Selectors and authentication decide. Its further keywords do not: they concern the next
    negotiation, not the traffic that is protected now. ``ANY_LOCAL`` stands for the address that
    pluto resolved it to.
    """
    return (
        record.protocol is wanted.protocol
        and record.port == wanted.port
        and record.local in (wanted.local, ANY_LOCAL)
        and record.remote == wanted.remote
        and record.auth == wanted.auth
    )


@dataclass(frozen=True, slots=True)
class TunnelView:
    """What ``tunnels/show`` prints of a tunnel, besides its state. Never a secret."""

    type: str
    local_ip: str
    remote_ip: str
    address_family: str
    skb_mark: str | None
    local_cert: str | None
    local_name: str | None
    local_key: str | None
    remote_cert: str | None
    remote_name: str | None
    ca_cert: str | None
    psk_set: bool
    options: Mapping[str, str]
    ofport: int | None
    cfm_fault: bool | None


@dataclass(frozen=True, slots=True)
class WantedTunnel:
    """One row with an IPsec option: a connection to have, or the reason why it cannot be had."""

    name: str
    view: TunnelView
    config: TunnelConfig | None
    problem: str | None = None
    """Set exactly when ``config`` is None: why the tunnel is INVALID and what to do.
    What is installed for it stays as it is (DECISIONS 2), unless it is ``withdrawn``."""
    warnings: tuple[str, ...] = ()
    withdrawn: bool = False
    """``config`` is None because the peer is revoked: what is installed must go, SAs and all."""


class CredentialKind(StrEnum):
    """What an NSS entry is for; decides its trust flags."""

    CA = "ca"
    NODE = "node"
    PEER = "peer"


@dataclass(frozen=True, slots=True)
class Credential:
    """One entry that pluto's NSS database must hold, exactly once under its nickname."""

    nickname: str
    kind: CredentialKind
    pem: str
    fingerprint: str
    """SHA-256 of the DER, lower-case hex."""
    key: Secret | None = None
    """PEM private key, for NODE."""


@dataclass(frozen=True, slots=True)
class InstalledCredential:
    """One entry that is in the NSS database."""

    nickname: str
    fingerprint: str
    """SHA-256 of the DER, lower-case hex; empty for a key whose certificate is gone."""
    has_key: bool
    trust: str
    """certutil's flags, e.g. ``CT,,`` or ``u,u,u``."""
    is_root: bool = False
    """A self-signed CA: pluto lets it issue certificates whatever its trust flags are."""


class GuardMode(StrEnum):
    """What the guard does with a tunnel packet that IPsec does not cover."""

    OFF = "off"
    AUDIT = "audit"
    ENFORCE = "enforce"
    ENFORCE_ALWAYS = "enforce-always"


@dataclass(frozen=True, slots=True, order=True)
class GuardPort:
    """A tunnel protocol and port; ``port`` is None for gre."""

    protocol: Protocol
    port: int | None


@dataclass(frozen=True, slots=True, order=True)
class GuardTuple:
    """One (local or any, remote, protocol, port); ``local`` None means any local address."""

    remote: str
    protocol: Protocol
    port: int | None
    local: str | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """What the fail-closed table must say. Closed tuples win over exempt ones."""

    mode: GuardMode
    closed_ports: frozenset[GuardPort]
    """Closed to and from everybody."""
    closed_peers: frozenset[GuardTuple] = frozenset()
    exempt: frozenset[GuardTuple] = frozenset()
    skb_mark: tuple[int, int] | None = None
    """(value, mask): packets that match are dropped unless in ESP, exempt tunnels included."""

    @property
    def digest(self) -> str:
        """SHA-256 over the content: equal guards have equal digests."""
        parts: list[str] = [self.mode, repr(self.skb_mark)]
        parts += [repr((p.protocol.value, p.port)) for p in sorted(self.closed_ports, key=repr)]
        for tuples in (self.closed_peers, self.exempt):
            parts.append("tuples")
            parts += sorted(repr((t.remote, t.protocol.value, t.port, t.local)) for t in tuples)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class GuardCounters:
    """Tunnel packets without IPsec that the guard met, by direction, since the table was made."""

    out_packets: int
    in_packets: int


@dataclass(frozen=True, slots=True)
class ObservedGuard:
    """The table as the kernel has it. ``intact``: exactly what we last put there."""

    present: bool
    intact: bool
    mode: GuardMode | None = None
    digest: str | None = None
    """Of the Guard that the table was made from; None when it is not known."""
    counters: GuardCounters | None = field(default=None, compare=False)
    """They ask for nothing: a table that has met packets is the same as before."""


@dataclass(frozen=True, slots=True)
class ChildSa:
    """An established child SA as pluto tells it."""

    connection: str
    serial: int
    ike_serial: int | None
    spi_in: int | None = None
    spi_out: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    add_time: int | None = None
    """Unix seconds at which it was made."""
    line: str = ""
    """pluto's own line about it, for ``ipsec/status``."""


@dataclass(frozen=True, slots=True)
class IkeSa:
    """An IKE SA, established or being negotiated."""

    connection: str
    serial: int | None
    """None while it is being negotiated: every attempt has another."""
    established: bool
    initiator: bool | None = None
    replied: bool = False
    """Being negotiated from this end, and the peer has replied."""

    @property
    def answered(self) -> bool:
        """The peer has said something."""
        return self.established or self.initiator is False or self.replied


@dataclass(frozen=True)
class ObservedIke:
    """pluto and the kernel's XFRM at one moment. Only an observation that worked makes one."""

    running: bool
    generation: str = ""
    """Changes whenever pluto is another process than before."""
    version: str = ""
    loaded: frozenset[str] = frozenset()
    """Names of every loaded connection, foreign ones included."""
    unoriented: frozenset[str] = frozenset()
    """Loaded connections neither end of which is an address of this node."""
    children: tuple[ChildSa, ...] = ()
    ike_sas: tuple[IkeSa, ...] = ()
    kernel: Kernel = Kernel()

    def children_of(self, connection: str) -> Sequence[ChildSa]:
        """Its child SAs, the newest last."""
        return self._children_of.get(connection, ())

    @cached_property
    def _children_of(self) -> Mapping[str, list[ChildSa]]:
        found: dict[str, list[ChildSa]] = {}
        for child in sorted(self.children, key=lambda child: child.serial):
            found.setdefault(child.connection, []).append(child)
        return found

    def in_kernel(self, child: ChildSa, local: str, remote: str, selector: Selector) -> bool:
        """Whether the kernel has all of a child SA that pluto reports, which does not notice a
        flush."""
        for spi, destination in ((child.spi_in, local), (child.spi_out, remote)):
            if spi is not None and not self.kernel.has_state(spi, destination):
                return False
        return self.kernel.has_policies(selector.policies(local, remote))


@dataclass(frozen=True)
class InstalledTunnel:
    """What our file (or, adopted, the original's) records of a tunnel."""

    name: str
    version: int
    digest: str
    """Empty when the record is the original's: compare ``config`` instead."""
    ends: Ends
    replaced: frozenset[str] = frozenset()
    """Connections that this version took the place of. pluto has them still when an agent was
    killed before it deleted them."""
    config: TunnelConfig | None = None
    """Only for records of the original, for adoption."""
    peer_name: str | None = None
    """Whom its connections authenticate by certificate; None with a pre-shared key."""
    keyless: bool = False
    """Its pre-shared key has been lost."""

    @cached_property
    def connections(self) -> frozenset[str]:
        """The names of its connections."""
        roles = self.ends.selectors()
        return frozenset(connection_name(self.name, role, self.version) for role in roles)


@dataclass(frozen=True, slots=True)
class Unobserved:
    """An observation that failed: the state is unknown, nothing is planned on it."""

    reason: str


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """The certificate that this node authenticates with, or why it cannot."""

    name: str | None
    not_after: datetime | None
    problem: str | None = None
    ca_not_after: datetime | None = None
    """When the first of the CA certificates ends that this node trusts."""


@dataclass(frozen=True, slots=True)
class Desired:
    """The whole wanted state of the node."""

    tunnels: Mapping[str, WantedTunnel] = field(default_factory=dict)
    credentials: tuple[Credential, ...] = ()
    keep_credentials: frozenset[str] = frozenset()
    """Nicknames that stay although no file provides them now (the last good ones)."""
    guard: Guard | None = None
    """None: the guard is not ours to change now (mode unknown before the first snapshot)."""
    closed_by_rows: frozenset[GuardPort | GuardTuple] = frozenset()
    """What of it is there for rows that exist: the rest is always, or still, closed."""
    complete: bool = False
    """Every enabled source has reported once; only then is anything removed."""
    problems: tuple[str, ...] = ()
    """Problems of the node as a whole."""
    certificate: OwnCertificate | None = None
    """None: no file is named and no tunnel needs one."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What exists, per driver; a driver that could not be read is Unobserved."""

    ike: ObservedIke | Unobserved
    installed: Mapping[str, InstalledTunnel] | Unobserved
    credentials: tuple[InstalledCredential, ...] | Unobserved
    guard: ObservedGuard | Unobserved

"""What the status answers from: one moment of the node, complete and immutable.

Times ending in ``_s`` are monotonic seconds of the agent's own clock. Everything here may be
shown to anybody who may ask: it holds no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ovn_ipsec.model.causes import Cause
from ovn_ipsec.model.conns import (
    GuardCounters,
    GuardMode,
    OwnCertificate,
    TunnelView,
)
from ovn_ipsec.model.enrolment import Enrolment
from ovn_ipsec.model.kernel import KernelPolicy, KernelState
from ovn_ipsec.model.work import Work


class TunnelState(StrEnum):
    """The words that ``tunnels/show`` has always used, and scripts look for."""

    CONFIGURED = "CONFIGURED"
    """Its connections are recorded and given to pluto (up or not is told by its SAs)."""
    INIT = "INIT"
    """Valid, but nothing of it is installed yet."""
    REMOVED = "REMOVED"
    """No longer wanted, still installed."""
    INVALID = "INVALID"
    """Cannot be configured; the reason says why."""


class Subject(StrEnum):
    """What an observation is about, in the words of the texts."""

    IKE = "IKE daemon and kernel SAs"
    INSTALLED = "installed connections"
    CREDENTIALS = "NSS database"
    GUARD = "guard table"


@dataclass(frozen=True, slots=True)
class Stale:
    """An observation that failed; what the snapshot says of its subject is older than itself."""

    subject: Subject
    reason: str
    read_at_s: float | None
    """When the values shown were read; None: never, nothing is known."""


@dataclass(frozen=True, slots=True)
class ActiveConnection:
    """One connection with an established child SA (the newest, while a rekey leaves two)."""

    name: str
    line: str
    """As pluto says it."""
    bytes_in: int
    bytes_out: int
    add_time: int | None = None
    """Unix seconds at which its child SA was made."""
    spi_in: int | None = None
    """Of the SA towards this node; after a rekey another."""


@dataclass(frozen=True, slots=True)
class SaDetail:
    """What is read of a connection's newest child SA only when somebody asks for a refresh."""

    cipher: str | None = None
    rekey_in_s: int | None = None
    """From when it was read; None: the other end rekeys, or it is not said."""


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """One tunnel: what is wanted of it and what of it exists."""

    name: str
    version: int
    """Of the installed connections; 0 when none was ever installed."""
    state: TunnelState
    view: TunnelView | None
    """None: a removed tunnel of which only its record is left."""
    reason: str | None = None
    """Why it is INVALID."""
    withdrawn: bool = False
    """It is INVALID because the peer is revoked, so nothing of it is kept."""
    error: str | None = None
    """What went wrong when it was last acted on; None when that went well."""
    warnings: tuple[str, ...] = ()
    policies: tuple[KernelPolicy, ...] = ()
    states: tuple[KernelState, ...] = ()
    connections: tuple[ActiveConnection, ...] = ()
    missing: tuple[str, ...] = ()
    """Connections that should be up and are not."""
    ike_up: bool = False
    """There is an established IKE SA of one of its connections."""
    negotiating: bool = False
    """There is half of an IKE SA."""
    unoriented: bool = False
    """pluto finds neither end among this node's addresses."""
    silent: bool = False
    """Traffic goes out, fresh child SAs were asked for, and nothing has ever come in."""
    cause: Cause | None = None
    """Why it is not up, or up in vain; None when all is well."""
    unloaded: tuple[str, ...] = ()
    """Connections that pluto should have and has not."""
    answering: bool = False
    """The peer has answered IKE, as far as pluto's present IKE SAs tell."""
    answered_at_s: float | None = None
    """When it was last found answering while connections were missing."""
    unanswered_since_s: float | None = None
    """pluto has waited for the peer's first reply since then; None: it does not wait."""
    silent_at_s: float | None = None
    """When it had last waited for long (``status.tunnel.SILENCE_S``)."""
    lost_at_s: float | None = None
    """When it ceased to be encrypted; None: it is, or has not been since the agent started."""
    refused_at_s: float | None = None
    """When pluto's log last told, while it was down, that one end does not authenticate the
    other; None: it has not."""
    encrypted_before: bool = False
    """There were SAs with the peer when the agent started, and it has not been up since."""

    @property
    def up(self) -> bool:
        """Every connection of its version has a child SA."""
        return self.state is TunnelState.CONFIGURED and not self.missing

    @property
    def encrypted(self) -> bool:
        """Its packets go through SAs; also of an INVALID tunnel, whose working SAs are kept."""
        return bool(self.connections) and not self.missing


@dataclass(frozen=True, slots=True)
class IkeStatus:
    """pluto as a process, and all of the kernel's IPsec policies and SAs, foreign ones too."""

    running: bool
    version: str
    read_at_s: float
    policies: tuple[KernelPolicy, ...] = ()
    states: tuple[KernelState, ...] = ()


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """The guard's table in the kernel."""

    present: bool
    intact: bool
    mode: GuardMode | None
    counters: GuardCounters | None
    read_at_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The node at one moment."""

    taken_at_s: float
    taken_at: datetime
    """Wall clock, UTC."""
    complete: bool = False
    """Every source has reported; before that, missing tunnels mean nothing."""
    tunnels: tuple[TunnelStatus, ...] = ()
    ike: IkeStatus | None = None
    """None: never read, so unknown."""
    guard: GuardStatus | None = None
    """None: never read, so unknown."""
    problems: tuple[str, ...] = ()
    stale: tuple[Stale, ...] = ()
    ike_error: str | None = None
    """Why pluto could not be started."""
    credential_error: str | None = None
    """Why a certificate could not be put into the NSS database or taken out."""
    log_problem: str | None = None
    """Why pluto's log cannot be read, so that causes are less specific."""
    details: Mapping[str, SaDetail] = field(default_factory=dict)
    """By connection, as of ``details_at_s``; one that has come up since is absent."""
    details_at_s: float = 0.0
    work: Work = Work()
    causes: tuple[Cause, ...] = ()
    """What is wrong with the node as a whole."""
    guard_wanted: GuardMode | None = None
    """None: unknown before OVSDB has been read."""
    certificate: OwnCertificate | None = None
    """None: no file is named and no tunnel needs one."""
    enrolment: Enrolment | None = None
    """None: this node's identity is not from ``ovn-ipsec enroll``."""
    first_complete_s: float | None = None
    """When every source had reported, and pluto and the kernel could be read, for the first
    time."""

    def unread(self, subject: Subject) -> Stale | None:
        """Why the last observation of this failed; None: it did not."""
        return next((stale for stale in self.stale if stale.subject is subject), None)

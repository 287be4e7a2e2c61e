"""What to do: the steps of a plan, and what came of each."""

from __future__ import annotations

from dataclasses import dataclass

from ovn_ipsec.model.conns import Credential, Guard, TunnelConfig


@dataclass(frozen=True, slots=True)
class SetGuard:
    """Replace our nftables table in one transaction."""

    guard: Guard


@dataclass(frozen=True, slots=True)
class InstallCredential:
    """Put an NSS entry in place; exactly one entry of its nickname remains, no SA is touched."""

    credential: Credential


@dataclass(frozen=True, slots=True)
class RemoveCredential:
    """Delete an NSS entry of ours with its key."""

    nickname: str


@dataclass(frozen=True, slots=True)
class StartIke:
    """Start pluto, which is down."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Tell pluto that addresses of this node have changed (``whack --listen``)."""


@dataclass(frozen=True, slots=True)
class AddConnection:
    """Load a tunnel's connections; they are not loaded now. A lead end also initiates."""

    tunnel: str
    version: int
    config: TunnelConfig


@dataclass(frozen=True, slots=True)
class ReplaceConnection:
    """Delete the old connections, load and initiate the new ones, back to back."""

    tunnel: str
    old_names: tuple[str, ...]
    version: int
    config: TunnelConfig


@dataclass(frozen=True, slots=True)
class RecordConnection:
    """Write our record of connections that are already loaded as wanted (adoption)."""

    tunnel: str
    version: int
    config: TunnelConfig


@dataclass(frozen=True, slots=True)
class DropConnection:
    """Delete a tunnel's connections, their SAs, and our record of it."""

    tunnel: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InitiateConnection:
    """Have pluto negotiate connections that are loaded and not up.

    ``renew``: they are up, and get fresh child SAs beside the old ones.
    """

    tunnel: str
    names: tuple[str, ...]
    reason: str = ""
    renew: bool = False


@dataclass(frozen=True, slots=True)
class DeleteSa:
    """Delete one IKE or child SA by pluto's serial number (a duplicate)."""

    tunnel: str
    serial: int


Step = (
    SetGuard
    | InstallCredential
    | RemoveCredential
    | StartIke
    | Listen
    | AddConnection
    | ReplaceConnection
    | RecordConnection
    | DropConnection
    | InitiateConnection
    | DeleteSa
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one step; ``error`` None means done."""

    step: Step
    error: str | None = None

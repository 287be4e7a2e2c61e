"""What the issued log says, entry by entry, and its JSON. Pure.

An entry is written once and never changed. All of the authority's memory but its keys and
settings is what these entries add up to (``ca.inventory``).
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, get_type_hints


class How(StrEnum):
    """What proved the requester's identity."""

    TOKEN = "token"  # noqa: S105 (not a password)
    CERTIFICATE = "certificate"
    OPERATOR = "operator"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Issued:
    """A node's certificate was signed."""

    at: datetime
    serial: str
    """Hex, as everywhere."""
    chassis_id: str
    """As the first certificate of the id spelled it."""
    how: How
    csr: str
    """SHA-256 of the request."""
    key: str
    """SHA-256 of the public key."""
    issuer: str
    """Key id of the root."""
    not_before: datetime
    not_after: datetime
    der: bytes
    token: str = ""
    """Handle of the join token that was used up."""
    replaces: tuple[str, ...] = ()
    """Serials that an operator's word replaced: they renew no more."""


@dataclass(frozen=True, slots=True)
class Denied:
    """A request was refused; the same request with the same proof is refused for ever."""

    at: datetime
    chassis_id: str
    """Claimed by the requester, who may not have proven it."""
    how: How
    csr: str
    proof: str
    """Digest of request and proof together."""
    proven: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Revoked:
    """Certificates were revoked."""

    at: datetime
    chassis_id: str
    serials: tuple[str, ...]
    node: bool
    """The node itself: its name is on the deny-list until it is admitted again."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An operator lets a revoked node come back, by whatever proof it has."""

    at: datetime
    chassis_id: str


@dataclass(frozen=True, slots=True)
class NodeBound:
    """A chassis id is this Kubernetes Node's for as long as it has a live certificate."""

    at: datetime
    chassis_id: str
    node: str


@dataclass(frozen=True, slots=True)
class TokenMade:
    """A join token was made. Its secret is not in here, only a digest."""

    at: datetime
    handle: str
    chassis_id: str
    digest: str
    expires: datetime
    replace: bool
    """May be used although the id has a live certificate."""


@dataclass(frozen=True, slots=True)
class ServerIssued:
    """A certificate for the front end's own TLS was signed."""

    at: datetime
    serial: str
    names: tuple[str, ...]
    key: str
    issuer: str
    not_before: datetime
    not_after: datetime
    der: bytes


@dataclass(frozen=True, slots=True)
class RootAdded:
    """A root is in the bundle from now on. The first one signs at once."""

    at: datetime
    key_id: str
    der: bytes
    cross: tuple[bytes, ...] = ()
    """The new root signed by the one that signs now, and that one signed by the new."""


@dataclass(frozen=True, slots=True)
class SigningSwitched:
    """Certificates are signed by this root from now on."""

    at: datetime
    key_id: str
    forced: bool
    laggards: tuple[str, ...]
    """Live nodes that had not acknowledged the bundle."""


@dataclass(frozen=True, slots=True)
class RootRetired:
    """A root left the bundle; its key is destroyed."""

    at: datetime
    key_id: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A node trusts this bundle."""

    at: datetime
    chassis_id: str
    bundle: str
    renewal: bool
    """It said so by asking for a certificate, not by naming the bundle."""


@dataclass(frozen=True, slots=True)
class Restored:
    """The state comes from a backup: join tokens made before count as used."""

    at: datetime


Entry = (
    Issued
    | Denied
    | Revoked
    | Admitted
    | NodeBound
    | TokenMade
    | ServerIssued
    | RootAdded
    | SigningSwitched
    | RootRetired
    | Acknowledged
    | Restored
)

_KINDS: dict[str, type[Entry]] = {
    "issued": Issued,
    "denied": Denied,
    "revoked": Revoked,
    "admitted": Admitted,
    "node-bound": NodeBound,
    "token-made": TokenMade,
    "server-issued": ServerIssued,
    "root-added": RootAdded,
    "signing-switched": SigningSwitched,
    "root-retired": RootRetired,
    "acknowledged": Acknowledged,
    "restored": Restored,
}
_WORDS = {kind: word for word, kind in _KINDS.items()}
_TYPES = {kind: get_type_hints(kind) for kind in _KINDS.values()}
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in _KINDS.values()}


def to_json(entry: Entry) -> dict[str, Any]:
    """The entry as JSON values, ``kind`` first."""
    values: dict[str, Any] = {"kind": _WORDS[type(entry)]}
    for name in _FIELDS[type(entry)]:
        value = getattr(entry, name)
        if isinstance(value, datetime):
            value = value.isoformat()
        elif isinstance(value, bytes):
            value = b64encode(value).decode()
        elif isinstance(value, tuple):
            value = [b64encode(v).decode() if isinstance(v, bytes) else v for v in value]
        values[name] = value
    return values


def from_json(values: dict[str, Any]) -> Entry:
    """Undo ``to_json``. Raises ValueError, KeyError or TypeError for anything else."""
    kind = _KINDS[values["kind"]]
    return kind(**{name: _read(_TYPES[kind][name], values[name]) for name in _FIELDS[kind]})


def _read(kind: Any, value: Any) -> Any:
    if kind is datetime:
        return datetime.fromisoformat(value)
    if kind is bytes:
        return b64decode(value, validate=True)
    if kind == tuple[bytes, ...]:
        return tuple(b64decode(item, validate=True) for item in value)
    if kind == tuple[str, ...]:
        return tuple(str(item) for item in value)
    if kind is How:
        return How(value)
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


def dump(values: dict[str, Any]) -> bytes:
    """The one spelling of a JSON object that is hashed."""
    return json.dumps(values, separators=(",", ":"), ensure_ascii=True).encode()

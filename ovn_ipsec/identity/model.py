"""What enrolment knows, and what it may do next. Data alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class KeyKind(StrEnum):
    """The key that the node makes."""

    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    P256 = "p256"
    P384 = "p384"


class Way(StrEnum):
    """How the node proves who it is."""

    TOKEN = "token"  # noqa: S105 (not a password)
    CERTIFICATE = "certificate"
    DIRECTORY = "directory"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True, slots=True)
class Generation:
    """One complete identity on disk. Its files never change."""

    number: int
    name: str
    """The certificate's common name."""
    not_before: datetime
    not_after: datetime
    public_key: str
    """SHA-256 of the SubjectPublicKeyInfo."""
    bundle_digest: str
    issuer: str
    """SHA-256 of the root, of the bundle, that signed the certificate."""
    jitter: float
    """From 0 up to 1: this certificate's place in the spread of renewals."""
    roots: int = 1
    """How many the bundle has: two during a roll-over."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A key and request that wait for their certificate."""

    name: str
    public_key: str


@dataclass(frozen=True, slots=True)
class HeardRoots:
    """The authority's roots, as they were heard of without having been asked for."""

    digest: str
    signing_root: str


@dataclass(frozen=True, slots=True)
class Facts:
    """The world as it is now."""

    chassis_id: str | None
    """``external_ids:system-id``; None while unknown."""
    problem: str | None = None
    """Why the chassis id is unknown."""
    pointed_at: int | None = None
    """The generation whose files OVSDB names."""
    generations: tuple[Generation, ...] = ()
    """Sound ones, oldest first."""
    damaged: tuple[int, ...] = ()
    """Numbers of those that do not verify."""
    pending: Pending | None = None
    ways: frozenset[Way] = frozenset()
    """The ways that are open now: whether there is a token, an address, a directory."""
    heard: HeardRoots | None = None
    token: str | None = None
    """Digest of the token, if there is one."""
    denied: bool = False
    """The deny-list names this node."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make a key and a request for it."""

    name: str


@dataclass(frozen=True, slots=True)
class DropPending:
    """Forget the waiting key and request."""

    name: str


@dataclass(frozen=True, slots=True)
class Obtain:
    """Hand in the waiting request, verify what comes back, install it as a generation."""

    way: Way
    current: int | None
    """The generation that authenticates, or whose roots are trusted."""
    token: str | None = None
    """Digest of the token that is to be used."""


@dataclass(frozen=True, slots=True)
class Point:
    """Have OVSDB name the files of this generation, in one transaction."""

    number: int


@dataclass(frozen=True, slots=True)
class RefreshBundle:
    """Ask for the roots; when they are others, install them with the same key and certificate."""

    current: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Tell the authority which bundle this node trusts."""

    current: int
    digest: str


@dataclass(frozen=True, slots=True)
class Prune:
    """Delete generations that nothing uses any more."""

    numbers: tuple[int, ...]


Action = Prepare | DropPending | Obtain | Point | RefreshBundle | Acknowledge | Prune


class Level(StrEnum):
    """How the identity is doing."""

    OK = "ok"
    RENEWING = "renewing"
    WAITING = "waiting"
    """There is none yet, and nothing has failed; or OVSDB does not name it yet."""
    ALARM = "alarm"
    """There is none, or half of the time left for the renewal has gone."""


@dataclass(frozen=True, slots=True)
class Retry:
    """After failures of one kind of action."""

    failures: int
    not_before: datetime
    problem: str
    waiting: bool = False
    """It did not fail: the authority asked to come again, or has not answered yet."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the process remembers; all of it may be lost."""

    retries: Mapping[str, Retry] = field(default_factory=dict)
    """By the action's class name."""
    failed: Way | None = None
    """By this way it failed last, so that the other one, if there is one, is next."""
    token_seen: str | None = None
    """Digest of the one that was used or refused; ``state.json`` has it for the next process."""
    token_tried: str | None = None
    token_refused: bool = False
    """The one that was tried last was."""
    bundle_checked_at: datetime | None = None
    signing_root: str | None = None
    """SHA-256 of the root that signs now, as last heard."""
    signing_root_since: datetime | None = None
    pointed_since: datetime | None = None
    acknowledged: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Intervals that may be set."""

    bundle_interval: timedelta = timedelta(hours=1)
    check_interval: timedelta = timedelta(seconds=30)
    """How often OVSDB and the directory are looked at when nothing else is due."""
    settle: timedelta = timedelta(seconds=10)
    """How long the agent has for a new bundle before it is acknowledged as trusted."""
    retry_least: timedelta = timedelta(seconds=1)
    retry_most: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, when to look again, and what to say about it."""

    action: Action | None
    wake_at: datetime
    level: Level
    reason: str
    current: Generation | None = None
    renew_at: datetime | None = None
    in_place: bool = False
    """There is a valid identity, and OVSDB names it."""

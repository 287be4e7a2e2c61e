"""What the planner remembers from one plan to the next. Times: seconds of one monotonic clock."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ovn_ipsec.model.steps import (
    AddConnection,
    DeleteSa,
    InitiateConnection,
    InstallCredential,
    Listen,
    Outcome,
    RecordConnection,
    RemoveCredential,
    ReplaceConnection,
    SetGuard,
    StartIke,
    Step,
)

RETRY_FIRST_S = 1.0
RETRY_LAST_S = 60.0


@dataclass(frozen=True, slots=True)
class Retry:
    """A step that failed: how often in a row, not before when again, and why."""

    failures: int
    not_before: float
    error: str
    content: str = ""
    """Digest of what was to be loaded; empty when the step was to load nothing."""


@dataclass(frozen=True, slots=True)
class TunnelMemory:
    """One tunnel's recent past."""

    was_up: bool = False
    down_since: float | None = None
    attempts: int = 0
    """Initiations since the tunnel went down."""
    next_attempt: float = 0.0
    broken_since: float | None = None
    """The kernel has lacked what pluto reports since then."""
    repairs: int = 0
    settle_until: float = 0.0
    """After a repair: no judgement about the kernel before."""
    surplus_since: float | None = None
    tidied: int = 0
    """How often in a row the deletion of one surplus child SA changed nothing."""
    tidied_serial: int | None = None
    inbound_seen: tuple[int, int, float] | None = None
    """(bytes in, bytes out, time) when inbound traffic last grew."""
    renewals: int = 0
    """Fresh child SAs asked for because nothing came in."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many tunnels of the node are missing, and when one last came up."""

    missing: int = 0
    """For not long."""
    progress_at: float | None = None
    lasting: int = 0
    """Missing for long, with nothing wrong that this node knows of."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Everything remembered. Starts empty: a restarted agent knows nothing and breaks nothing."""

    generation: str = ""
    """The pluto that was there at the last plan."""
    ike_down_since: float | None = None
    crowd: Crowd = Crowd()
    replace_after: float = 0.0
    """Not before: the next wave of replacements of tunnels that carry traffic."""
    initiate_after: float = 0.0
    """Not before: the wave of initiations that follows a full one."""
    patient_after: float = 0.0
    """Not before: the next wave of those that are in no hurry."""
    listen_at: float = 0.0
    listens: int = 0
    tunnels: Mapping[str, TunnelMemory] = field(default_factory=dict)
    retries: Mapping[str, Retry] = field(default_factory=dict)

    def error_of(self, tunnel: str) -> str | None:
        """Why the last step for a tunnel failed; None when it did not."""
        for key in (f"tunnel:{tunnel}", f"sa:{tunnel}"):
            if (retry := self.retries.get(key)) is not None:
                return retry.error
        return None

    def node_errors(self) -> tuple[str, ...]:
        """Why steps that concern the whole node failed the last time."""
        return tuple(
            retry.error
            for key, retry in self.retries.items()
            if not key.startswith(("tunnel:", "sa:"))
        )

    def step_error(self, prefix: str) -> str | None:
        """Why a step of the node failed the last time; ``prefix`` of its ``retry_key``."""
        errors = (retry.error for key, retry in self.retries.items() if key.startswith(prefix))
        return next(errors, None)

    def may_try(self, key: str, now: float, content: str = "") -> bool:
        """Whether a step that may have failed before is due again.

        Content that could not be loaded delays neither other content nor the drop.
        """
        retry = self.retries.get(key)
        return retry is None or retry.content != content or now >= retry.not_before


def retry_key(step: Step) -> str:
    """Whose fault it is when this step fails."""
    if isinstance(step, SetGuard):
        return "guard"
    if isinstance(step, StartIke):
        return "ike"
    if isinstance(step, Listen):
        return "listen"
    if isinstance(step, InstallCredential):
        return f"credential:{step.credential.nickname}:{step.credential.fingerprint}"
    if isinstance(step, RemoveCredential):
        return f"credential:{step.nickname}"
    if isinstance(step, InitiateConnection | DeleteSa):
        return f"sa:{step.tunnel}"
    return f"tunnel:{step.tunnel}"


def _content(step: Step) -> str:
    """``Retry.content`` of a step."""
    if isinstance(step, AddConnection | ReplaceConnection | RecordConnection):
        return step.config.digest
    return ""


def remember(memory: Memory, outcomes: Iterable[Outcome], now: float) -> Memory:
    """The memory after steps were applied: failures back off, a success clears them.

    Initiations and SA deletes have a pace of their own in TunnelMemory, and so has Listen; their
    failure is kept as the tunnel's or the node's error, but delays nothing else, and neither do
    they end the back-off of a load that failed.
    """
    retries = dict(memory.retries)
    for outcome in outcomes:
        key = retry_key(outcome.step)
        if outcome.error is None:
            retries.pop(key, None)
            if key.startswith("tunnel:"):
                retries.pop(f"sa:{key.removeprefix('tunnel:')}", None)
            continue
        content = _content(outcome.step)
        before = retries.get(key)
        failures = before.failures + 1 if before and before.content == content else 1
        delay = min(RETRY_LAST_S, RETRY_FIRST_S * 2 ** (failures - 1))
        if isinstance(outcome.step, InitiateConnection | DeleteSa | Listen):
            delay = 0.0
        retries[key] = Retry(failures, now + delay, outcome.error, content)
    return replace(memory, retries=retries)


def forget_failures(memory: Memory, keys: Iterable[str]) -> Memory:
    """Of steps that are not due any more: what failed has come right, or is wanted no longer."""
    gone = memory.retries.keys() & set(keys)
    if not gone:
        return memory
    retries = {key: retry for key, retry in memory.retries.items() if key not in gone}
    return replace(memory, retries=retries)


def addresses_changed(memory: Memory) -> Memory:
    """After an address or route event pluto is told at once, whatever the back-off was."""
    return replace(memory, listen_at=0.0, listens=0)


def spread(key: str, attempt: int) -> float:
    """A fraction in [0, 1) that differs from tunnel to tunnel, end to end and try to try."""
    digest = hashlib.sha256(f"{key}\0{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32

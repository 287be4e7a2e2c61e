"""Says from a snapshot whether the node is ready, and why not. Pure.

Ready (DECISIONS 12): the guard is there, pluto answers, the own certificate is valid, every
wanted connection is loaded, and no peer that answers IKE, or was encrypted when the agent started,
is unencrypted. A peer that is silent is told and makes nothing unready: one chassis without power
must not hold up an update of all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ovn_ipsec.model.conns import GuardMode
from ovn_ipsec.model.snapshot import (
    Snapshot,
    Subject,
    TunnelState,
    TunnelStatus,
)
from ovn_ipsec.settings import ReadyWhen
from ovn_ipsec.status.json_report import JsonValue
from ovn_ipsec.status.tunnel import SILENCE_S

ANSWERED_FOR_S = 60.0
"""Half-open IKE SAs come and go: a peer that answered so recently still counts as answering."""
PATIENCE_S = 300.0
"""How long a peer that was encrypted before the agent started is waited for, while others are up.
Longer silence means that it went away meanwhile."""
SILENT_FOR_S = 400.0
"""A silent peer is asked again after 300 s at most: so long its silence is believed."""
GRACE_S = 60.0
"""After a tunnel went down its peer counts as silent for so long: it takes some time until it is
asked again, and the loss of one chassis must not make all others unready meanwhile."""
OLD_AFTER_S = 60.0
"""A snapshot this old says nothing about now. The loop makes one each 11 s, or later when it is
busy with many tunnels."""
_NAMED = 10
_LISTED = 20
_NAME_CHARS = 160


class PeerState(StrEnum):
    """One tunnel, as far as readiness goes."""

    ENCRYPTED = "encrypted"
    SILENT = "silent"
    ANSWERING = "answers IKE and is not encrypted"
    LOST = "was encrypted before the restart and is not"
    UNCLEAR = "not encrypted, and not silent"
    """It is being negotiated for the first time, or the peer refuses: a refused IKE SA is gone
    before anybody looks."""
    NOT_LOADED = "not loaded"
    INVALID = "cannot be configured"


@dataclass(frozen=True, slots=True)
class Readiness:
    """The verdict, with everything that was weighed."""

    ready: bool
    reasons: tuple[str, ...]
    """Why not; empty when ready."""
    peers: tuple[tuple[PeerState, str], ...]
    """Each wanted tunnel: its state, and its name with the peer and what is known."""

    def named(self, state: PeerState) -> tuple[str, ...]:
        """The tunnels in this state."""
        return tuple(name for its, name in self.peers if its is state)


def readiness(
    snapshot: Snapshot, now_s: float, when: ReadyWhen = ReadyWhen.ANSWERING
) -> Readiness:
    """Judge the snapshot at this moment (the agent's monotonic clock)."""
    wanted = [
        tunnel
        for tunnel in snapshot.tunnels
        # Nobody waits for the encryption of a revoked peer.
        if tunnel.state is not TunnelState.REMOVED and not tunnel.withdrawn
    ]
    proven = any(tunnel.encrypted for tunnel in wanted)
    states = tuple(
        (_judge(tunnel, snapshot, now_s, proven=proven), _described(tunnel)) for tunnel in wanted
    )
    tolerated = {PeerState.ENCRYPTED}
    if when is ReadyWhen.ANSWERING:
        tolerated.add(PeerState.SILENT)
    reasons = _node_reasons(snapshot, now_s)
    for state in PeerState:
        names = [name for its, name in states if its is state]
        if names and state not in tolerated:
            reasons.append(f"{_tunnels(len(names))} {state}: {_listed(names)}")
    return Readiness(not reasons, tuple(reasons), states)


def started(snapshot: Snapshot) -> tuple[str, ...]:
    """Why the first complete tick has not been made yet; empty when it has."""
    if snapshot.first_complete_s is not None:
        return ()
    reasons = [f"{stale.subject}: {_short(stale.reason)}" for stale in snapshot.stale]
    if not snapshot.complete:
        reasons.append("not all sources have reported yet")
        reasons += [_short(problem) for problem in snapshot.problems]
    return tuple(reasons[:_NAMED]) or ("the first look at the node is not done yet",)


def render_readiness(verdict: Readiness, snapshot: Snapshot) -> str:
    """The body of ``/readyz`` for people: the verdict, the numbers, each reason on a line."""
    lines = ["ready" if verdict.ready else "not ready"]
    lines += [f"reason: {reason}" for reason in verdict.reasons]
    numbers = (f"{len(verdict.named(state))} {state}" for state in PeerState)
    lines.append(f"tunnels: {len(verdict.peers)}; " + ", ".join(numbers))
    if silent := verdict.named(PeerState.SILENT):
        lines.append(f"silent: {_listed(silent)}")
    if snapshot.guard is not None:
        lines.append(f"guard: {snapshot.guard.mode or 'absent'}")
    if snapshot.certificate is not None and snapshot.certificate.not_after is not None:
        until = snapshot.certificate.not_after.isoformat(timespec="seconds")
        lines.append(f"certificate: {snapshot.certificate.name}, valid until {until}")
    return "".join(f"{_plain(line)}\n" for line in lines)


def json_readiness(verdict: Readiness, snapshot: Snapshot, now_s: float) -> dict[str, JsonValue]:
    """The same for programs."""
    certificate = snapshot.certificate
    until = certificate.not_after if certificate else None
    return {
        "ready": verdict.ready,
        "reasons": list(verdict.reasons),
        "tunnels": {
            "wanted": len(verdict.peers),
            "revoked": sum(tunnel.withdrawn for tunnel in snapshot.tunnels),
            **{state.name.lower(): len(verdict.named(state)) for state in PeerState},
        },
        "silent": list(verdict.named(PeerState.SILENT)[:_NAMED]),
        "unencrypted": [_short(name) for name in _unencrypted(snapshot)[:_LISTED]],
        # All of them: who knows which rows there are can tell whether they were read.
        "read": {
            tunnel.name: _short(tunnel.view.remote_ip)
            for tunnel in snapshot.tunnels
            if tunnel.view and tunnel.state is not TunnelState.REMOVED
        },
        "guard": _guard_in_force(snapshot),
        "certificate_not_after": until.isoformat() if until else None,
        "age_s": round(max(0.0, now_s - snapshot.taken_at_s), 3),
    }


def _guard_in_force(snapshot: Snapshot) -> str | None:
    """Its mode; None: unknown, so that nobody takes a table that may drop for none."""
    guard = snapshot.guard
    if guard is None or snapshot.unread(Subject.GUARD):
        return None
    if not guard.present:
        return str(GuardMode.OFF)
    return str(guard.mode) if guard.intact and guard.mode else None


def _unencrypted(snapshot: Snapshot) -> list[str]:
    """Peers by the name that they prove, for who has to know them in the whole cluster."""
    return [
        tunnel.view.remote_name or tunnel.name if tunnel.view else tunnel.name
        for tunnel in snapshot.tunnels
        if tunnel.state is not TunnelState.REMOVED
        and not tunnel.withdrawn
        and not tunnel.encrypted
    ]


def _node_reasons(snapshot: Snapshot, now_s: float) -> list[str]:
    reasons = list(started(snapshot))
    age_s = now_s - snapshot.taken_at_s
    if age_s > OLD_AFTER_S:
        reasons.append(f"the node was last looked at {age_s:.0f} s ago")
    if (guard := _guard_reason(snapshot)) is not None:
        reasons.append(guard)
    if (ike := _ike_reason(snapshot)) is not None:
        reasons.append(ike)
    if snapshot.certificate is not None and snapshot.certificate.problem is not None:
        reasons.append(f"own certificate: {_short(snapshot.certificate.problem)}")
    return reasons


def _guard_reason(snapshot: Snapshot) -> str | None:
    guard = snapshot.guard
    if guard is None or snapshot.unread(Subject.GUARD):
        return "guard: its table cannot be read"
    if snapshot.guard_wanted is GuardMode.OFF:
        return None
    if not guard.present:
        return "guard: absent"
    if not guard.intact:
        return "guard: changed by somebody else"
    if snapshot.guard_wanted not in (None, guard.mode):
        return f"guard: {guard.mode} instead of {snapshot.guard_wanted}"
    return None


def _ike_reason(snapshot: Snapshot) -> str | None:
    if stale := snapshot.unread(Subject.IKE):
        return f"IKE daemon: does not answer: {_short(stale.reason)}"
    if snapshot.ike is None:
        return "IKE daemon: not asked yet"
    return None if snapshot.ike.running else "IKE daemon: not running"


def _judge(tunnel: TunnelStatus, snapshot: Snapshot, now_s: float, *, proven: bool) -> PeerState:
    """``proven``: some tunnel is up, so what is down is not this node's fault altogether."""
    if tunnel.encrypted and not tunnel.unloaded:
        return PeerState.ENCRYPTED
    if tunnel.state is TunnelState.INVALID:
        return PeerState.INVALID
    if tunnel.state is TunnelState.INIT or tunnel.unloaded:
        return PeerState.NOT_LOADED
    heard = (tunnel.answered_at_s, tunnel.refused_at_s)
    if tunnel.answering or any(s is not None and now_s - s < ANSWERED_FOR_S for s in heard):
        return PeerState.ANSWERING
    if tunnel.encrypted_before:
        since_s = snapshot.first_complete_s or now_s
        if not proven or now_s - since_s < PATIENCE_S:
            return PeerState.LOST
    return PeerState.SILENT if _is_silent(tunnel, snapshot, now_s) else PeerState.UNCLEAR


def _is_silent(tunnel: TunnelStatus, snapshot: Snapshot, now_s: float) -> bool:
    since_s, silent_at_s, lost_at_s = (
        tunnel.unanswered_since_s,
        tunnel.silent_at_s,
        tunnel.lost_at_s,
    )

    def believed(at_s: float | None, for_s: float) -> bool:
        """Not once the peer has been heard of again."""
        refused_s = tunnel.refused_at_s
        if at_s is None or (refused_s is not None and refused_s >= at_s):
            return False
        return now_s - at_s < for_s

    waits = since_s is not None and snapshot.taken_at_s - since_s >= SILENCE_S
    return waits or believed(silent_at_s, SILENT_FOR_S) or believed(lost_at_s, GRACE_S)


def _described(tunnel: TunnelStatus) -> str:
    words = [tunnel.name]
    if tunnel.view is not None:
        ends = [tunnel.view.remote_name, tunnel.view.remote_ip]
        words.append(f"({', '.join(end for end in ends if end)})")
    why = tunnel.reason or tunnel.error
    return _short(" ".join(words) + (f": {why}" if why else ""))


def _tunnels(count: int) -> str:
    return "1 tunnel" if count == 1 else f"{count} tunnels"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return "; ".join(names[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _short(text: str) -> str:
    return text if len(text) <= _NAME_CHARS else f"{text[:_NAME_CHARS]}..."


def _plain(text: str) -> str:
    """One line: names and reasons hold what is in OVSDB."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )

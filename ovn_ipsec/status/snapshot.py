"""Puts wanted and observed state together into what the status tells. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from datetime import datetime

from ovn_ipsec.model.conns import (
    Desired,
    InstalledTunnel,
    Observed,
    ObservedGuard,
    ObservedIke,
    Unobserved,
)
from ovn_ipsec.model.snapshot import GuardStatus, IkeStatus, Snapshot, Stale, Subject
from ovn_ipsec.status.tunnel import Look, judge


def take_snapshot(
    desired: Desired,
    observed: Observed,
    *,
    records: Mapping[str, InstalledTunnel],
    errors: Mapping[str, str],
    silent: Set[str] = frozenset(),
    previous: Snapshot | None,
    now_s: float,
    wall: datetime,
) -> Snapshot:
    """The state of the node after a tick; why something is not up adds ``causes.diagnose``.

    ``records``: tunnel -> what is installed now (after the tick's steps).
    ``errors``: tunnel -> text of its last failed step; a tunnel whose last steps went well is
    absent. ``silent``: tunnels into which nothing comes although traffic goes out.
    ``previous`` provides the last good values of what could not be observed this time;
    ``Snapshot.stale`` then tells so, with the time at which they were read.
    """
    old = {} if previous is None else {status.name: status for status in previous.tunnels}
    seen = observed.ike if isinstance(observed.ike, ObservedIke) else None
    look = None if seen is None else Look(seen, previous, now_s)
    names = [*desired.tunnels, *sorted(records.keys() - desired.tunnels.keys())]
    tunnels = tuple(
        judge(
            name,
            desired.tunnels.get(name),
            records.get(name),
            old.get(name),
            look,
            error=errors.get(name),
            silent=name in silent,
        )
        for name in names
    )
    first = None if previous is None else previous.first_complete_s
    if first is None and desired.complete and seen is not None:
        first = now_s
    return Snapshot(
        taken_at_s=now_s,
        taken_at=wall,
        complete=desired.complete,
        tunnels=tunnels,
        ike=_ike(observed.ike, previous, now_s),
        guard=_guard(observed.guard, previous, now_s),
        problems=desired.problems,
        stale=_stale(observed, previous),
        guard_wanted=desired.guard.mode if desired.guard else None,
        certificate=desired.certificate,
        first_complete_s=first,
    )


def redate(snapshot: Snapshot, observed: Observed, now_s: float, wall: datetime) -> Snapshot:
    """The same state, found unchanged now but for the guard's counters."""
    ike = snapshot.ike
    return replace(
        snapshot,
        taken_at_s=now_s,
        taken_at=wall,
        ike=ike if ike is None or snapshot.unread(Subject.IKE) else replace(ike, read_at_s=now_s),
        guard=_guard(observed.guard, snapshot, now_s),
    )


def _ike(
    observed: ObservedIke | Unobserved, previous: Snapshot | None, now_s: float
) -> IkeStatus | None:
    if isinstance(observed, Unobserved):
        return None if previous is None else previous.ike
    return IkeStatus(
        running=observed.running,
        version=observed.version,
        read_at_s=now_s,
        policies=observed.kernel.ordered_policies,
        states=observed.kernel.states,
    )


def _guard(
    observed: ObservedGuard | Unobserved, previous: Snapshot | None, now_s: float
) -> GuardStatus | None:
    if isinstance(observed, Unobserved):
        return None if previous is None else previous.guard
    return GuardStatus(
        present=observed.present,
        intact=observed.intact,
        mode=observed.mode,
        counters=observed.counters,
        read_at_s=now_s,
    )


def _stale(observed: Observed, previous: Snapshot | None) -> tuple[Stale, ...]:
    subjects = (
        (Subject.IKE, observed.ike),
        (Subject.INSTALLED, observed.installed),
        (Subject.CREDENTIALS, observed.credentials),
        (Subject.GUARD, observed.guard),
    )
    return tuple(
        Stale(subject, seen.reason, _last_read_s(subject, previous))
        for subject, seen in subjects
        if isinstance(seen, Unobserved)
    )


def _last_read_s(subject: Subject, previous: Snapshot | None) -> float | None:
    """When a subject was last read: with the previous snapshot, unless stale already then."""
    if previous is None:
        return None
    for stale in previous.stale:
        if stale.subject is subject:
            return stale.read_at_s
    return previous.taken_at_s

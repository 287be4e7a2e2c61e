"""Decides the next step of a roll-out from what the cluster says. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from ovn_ipsec.cluster.report import Report

OLD_AFTER_S = 900.0
_NAMED = 5


class Goal(StrEnum):
    """What the cluster is to become."""

    ENABLE = "enable"
    DISABLE = "disable"


class GuardStage(StrEnum):
    """``NB_Global:options:ovn-ipsec-guard``."""

    AUDIT = "audit"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One chassis."""

    name: str
    hostname: str
    report: Report | None
    """None: it has never reported."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The databases at one moment."""

    ipsec: bool
    guard: GuardStage | None
    nodes: tuple[ClusterNode, ...]


@dataclass(frozen=True, slots=True)
class SetGuard:
    """Tell every guard."""

    stage: GuardStage | None


@dataclass(frozen=True, slots=True)
class SetIpsec:
    """Have OVN put the IPsec option into every tunnel, or take it away."""

    on: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """For nodes, each with what it lacks."""

    lacking: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The goal is reached."""


Step = SetGuard | SetIpsec | Wait | Done
_Judge = Callable[[Report, Collection[str]], str]
"""What a report lacks, without tunnels to those ignored."""


def next_step(goal: Goal, cluster: Cluster, now_s: float, ignored: Collection[str] = ()) -> Step:
    """The one thing to do now (``now_s``: Unix time).

    No guard enforces before all is encrypted, none is opened where it enforces and IPsec is on
    already, and IPsec goes only when every guard lets plaintext pass.
    """
    to_audit = SetGuard(GuardStage.AUDIT)
    if goal is Goal.ENABLE and cluster.ipsec:
        if cluster.guard is GuardStage.AUDIT:
            enforce = SetGuard(GuardStage.ENFORCE)
            return _wait(cluster, now_s, ignored, _not_encrypted) or enforce
        if cluster.guard is None:
            return SetGuard(GuardStage.ENFORCE)
        return _wait(cluster, now_s, ignored, _not_whole) or Done()
    if goal is Goal.DISABLE and not cluster.ipsec:
        if cluster.guard is None:
            return Done()
        return _wait(cluster, now_s, ignored, _still_asking) or SetGuard(None)
    if cluster.guard is not GuardStage.AUDIT:
        return to_audit
    waiting = _wait(cluster, now_s, ignored, _not_auditing)
    return waiting or SetIpsec(on=goal is Goal.ENABLE)


def lacks(node: ClusterNode, cluster: Cluster, now_s: float, ignored: Collection[str]) -> str:
    """What this node lacks at the cluster's present stage; empty when nothing."""
    if cluster.ipsec:
        judge = _not_encrypted if cluster.guard is GuardStage.AUDIT else _not_whole
    else:
        judge = _still_asking if cluster.guard is None else _not_auditing
    return _judged(node, cluster, now_s, ignored, judge)


def _wait(cluster: Cluster, now_s: float, ignored: Collection[str], judge: _Judge) -> Wait | None:
    names = {
        name
        for node in cluster.nodes
        for name in (node.name, node.hostname)
        if not {node.name, node.hostname}.isdisjoint(ignored)
    }
    lacking = tuple(
        (node.name, why)
        for node in cluster.nodes
        if node.name not in names and (why := _judged(node, cluster, now_s, names, judge))
    )
    return Wait(lacking) if lacking else None


def _judged(
    node: ClusterNode,
    cluster: Cluster,
    now_s: float,
    ignored: Collection[str],
    judge: _Judge,
) -> str:
    report = node.report
    if report is None:
        return "has not reported; does `ovn-ipsec cluster follow` run there?"
    age_s = now_s - report.at_s
    if age_s > OLD_AFTER_S:
        return f"reported {age_s / 60:.0f} minutes ago for the last time"
    if report.problem:
        return report.problem
    if (report.ipsec, report.stage) != (cluster.ipsec, cluster.guard or ""):
        return "has not heard of this step yet"
    return judge(report, ignored)


def _not_auditing(report: Report, ignored: Collection[str]) -> str:
    if report.guard in ("audit", "off"):
        return ""
    return f"its guard is in mode {report.guard}, not audit (agent without --guard-follow?)"


def _not_enforcing(report: Report, ignored: Collection[str]) -> str:
    if report.guard in ("enforce", "enforce-always"):
        return ""
    return f"its guard is in mode {report.guard}, not enforce"


def _not_encrypted(report: Report, ignored: Collection[str]) -> str:
    if report.plain:
        return f"{report.plain} tunnels have no IPsec option yet"
    missing = report.wanted - report.encrypted
    others = [name for name in report.waiting if name not in ignored]
    if not others and missing <= len(report.waiting):
        return ""
    more = missing - len(others)
    named = ", ".join(others[:_NAMED]) or "peers that it does not name"
    return f"{missing} of {report.wanted} tunnels are not encrypted: to {named}" + (
        " and others" if more > 0 or len(others) > _NAMED else ""
    )


def _not_whole(report: Report, ignored: Collection[str]) -> str:
    """What ``enable`` promises of each node."""
    return _not_enforcing(report, ignored) or _not_encrypted(report, ignored)


def _still_asking(report: Report, ignored: Collection[str]) -> str:
    return f"{report.asking} tunnels still ask for IPsec" if report.asking else ""
